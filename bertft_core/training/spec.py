"""What a fit needs to know: values that cross the border to the trainer process as JSON. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from bertft_core.base.errors import ConfigError
from bertft_core.base.files import MANIFEST
from bertft_core.base.hashes import encoder_fingerprint, hash_file, hash_json
from bertft_core.config.fit import AUTO, FITS_VERSION, TrainingConfig, class_weight_faults, target_faults
from bertft_core.config.metrics import METRICS
from bertft_core.model.feature_plan import FeaturePlan

PREFIX_BYTES = {"float32": 4, "float16": 2}  # of one number of the prefix cache
# what a fit's numbers do not depend on; of the folders, their contents are hashed
_NOT_IN_KEY = ("output", "checkpoint_seconds", "measure_latency", "tokens", "pretrained", "prefix_root")


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One fit.

    training: the settings of the configuration, with this machine's values and this fit's seed in place of `auto` and
    the configured ones. tokens: a folder of <split>.arrow. output: a folder of this fit alone.
    features: what the head reads, None for the stock head on texts in one piece. multi_label: a row may have any
    number of the classes. rows: trains on that many (stratified, by content hash), None: on all.
    keep_model: leaves output/model. checkpoint_seconds: between two checkpoints; 0 writes one after every step.
    measure_latency: times the fitted model at the end. prefix_root: the folder in which hidden states below the trained
    layers are kept, unless training.prefix_cache is off.

    Raises ConfigError for what this data or encoder rules out; the section `training` has checked itself.
    """

    training: TrainingConfig
    pretrained: str
    tokens: str
    output: str
    classes: tuple[str, ...]
    features: FeaturePlan | None = None
    multi_label: bool = False
    metric: str = "macro_f1"
    rows: int | None = None
    keep_model: bool = True
    checkpoint_seconds: float = 20.0
    measure_latency: bool = False
    prefix_root: str = ""

    def __post_init__(self) -> None:
        training = self.training
        faults = [
            f"training.{key} must be settled for this machine before a fit, was auto"
            for key in ("precision", "device", "prefix_cache", "processes")
            if getattr(training, key) == AUTO
        ]
        faults += [
            f"training.{key} must be settled for these rows before a fit, was auto"
            for key in ("lr", "epochs")
            if getattr(training, key) == AUTO
        ]
        if self.metric not in METRICS:
            faults.append(f"evaluation.metric must be one of {METRICS}, was {self.metric!r}")
        faults += target_faults(training.loss, self.metric, multi_label=self.multi_label)
        if not isinstance(training.class_weights, str):
            faults += class_weight_faults(training.class_weights, self.classes)
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            faults.append(f"two or more different classes are needed, found {self.classes}")
        if faults:
            raise ConfigError("; ".join(faults))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "training": self.training.model_dump(mode="json"),
            "classes": list(self.classes),
            "features": self.features.to_json() if self.features else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        plan = FeaturePlan.from_json(value["features"]) if value["features"] else None
        training, classes = TrainingConfig(**value["training"]), tuple(value["classes"])
        return cls(**{**value, "training": training, "classes": classes, "features": plan})

    def key(self) -> str:
        """Hash of everything that the numbers depend on: contents of the folders, not where they lie; FITS_VERSION.

        But for the number of processes, which a checkpoint and a result say themselves.
        """
        value = {name: part for name, part in self.to_json().items() if name not in _NOT_IN_KEY}
        del value["training"]["prefix_cache_gb"], value["training"]["processes"]
        value["tokens"] = hash_file(Path(self.tokens) / MANIFEST)
        is_folder = Path(self.pretrained).is_dir()
        value["pretrained"] = encoder_fingerprint(self.pretrained) if is_folder else self.pretrained
        return hash_json({**value, "version": FITS_VERSION})


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """What `auto` means on one machine. *_step: seconds of the training step that was timed, None where none was.

    gpus: devices that trainers may be spread over, 0 on a CPU. threads: of all `processes` of a fit together.
    """

    precision: str
    device: str
    threads: int
    float32_step: float | None = None
    bfloat16_step: float | None = None
    gpus: int = 0
    processes: int = 1

    def __str__(self) -> str:
        timed = ""
        if self.float32_step and self.bfloat16_step:
            timed = f" (a bfloat16 step is {self.float32_step / self.bfloat16_step:.1f} times as fast as float32 here)"
        fits = f", fits in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.precision} on {self.device}, {self.threads} threads{fits}{timed}"


def micro_batch_line(facts: Mapping[str, Any]) -> str:
    """What a fit's progress says about memory, for people. ``facts``: micro_batch and batch, rows."""
    rows, whole = facts["micro_batch"], facts["batch"]
    return f"memory does not hold {whole} rows together: {rows} at a time, gradients are summed over the same batch"
