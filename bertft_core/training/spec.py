"""What a fit is told and what it answers: values that cross the process border as JSON. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_args

from bertft_core.base.errors import ConfigError
from bertft_core.base.files import MANIFEST
from bertft_core.base.hashes import encoder_fingerprint, hash_file, hash_json
from bertft_core.config.fit import WEIGHTINGS, Loss, Phases, class_weight_faults, read_unfreezing, target_faults
from bertft_core.config.metrics import METRICS, as_score
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.layers import LayerRates, layer_rates
from bertft_core.training.schedules import RateCurve

PREFIX_BYTES = {"float32": 4, "float16": 2}  # of one number of the prefix cache


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One fit. ``tokens`` is a folder of <split>.arrow, ``output`` belongs to this fit alone.

    ``rows`` trains on that many rows (stratified, by content hash); ``keep_model`` leaves output/model.
    ``checkpoint_seconds`` 0 writes a checkpoint after every step. ``measure_latency`` times the fitted model
    at the end. ``prefix_cache`` off, or the number type in which hidden states below the trained layers are kept
    in the folder ``prefix_root``, which holds at most ``prefix_cache_gb`` (10^9 bytes). Raises ConfigError on
    impossible values. ``multi_label``: a row may have any number of the classes. ``features``: what the head reads,
    None for the stock head on texts in one piece.
    """

    pretrained: str
    tokens: str
    output: str
    classes: tuple[str, ...]
    lr: float
    batch_size: int
    epochs: int
    alpha: float = 0.95
    embedding_rate: str = "layerwise"
    head_multiplier: float = 1.0
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    unfreezing: str | Phases = "gradual"
    schedule: str = "linear"
    cut_fraction: float = 0.1
    ratio: float = 32.0
    phase_restart: bool = False
    seed: int = 13
    max_grad_norm: float = 1.0
    dropout: float | None = None
    attention_dropout: float = 0.0
    loss: str = "cross_entropy"
    focal_gamma: float = 2.0
    tau: float = 1.0
    class_weights: str | dict[str, float] = "none"
    label_smoothing: float = 0.0
    patience: int | None = None
    precision: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    metric: str = "macro_f1"
    rows: int | None = None
    keep_model: bool = True
    checkpoint_seconds: float = 20.0
    measure_latency: bool = False
    prefix_cache: str = "off"
    prefix_root: str = ""
    prefix_cache_gb: float = 20.0
    features: FeaturePlan | None = None
    multi_label: bool = False

    def __post_init__(self) -> None:
        choices = (
            ("training.prefix_cache", self.prefix_cache, ("off", *PREFIX_BYTES)),
            ("training.loss", self.loss, get_args(Loss)),
            ("training.precision", self.precision, ("float32", "bfloat16")),
            ("training.device", self.device, ("cpu", "cuda")),
            ("evaluation.metric", self.metric, METRICS),
        )
        faults = [
            f"{key} must be one of {allowed}, was {value!r}" for key, value, allowed in choices if value not in allowed
        ]
        for key, value in (("batch_size", self.batch_size), ("epochs", self.epochs)):
            if not isinstance(value, int) or value < 1:
                faults.append(f"training.{key} must be a whole number from 1, was {value!r}")
        faults += self._loss_faults()
        faults += self._rate_faults()
        if not self.max_grad_norm > 0:
            faults.append(f"training.max_grad_norm must be above 0, was {self.max_grad_norm}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            faults.append(f"two or more different classes are needed, found {self.classes}")
        if faults:
            raise ConfigError("; ".join(faults))

    def _loss_faults(self) -> list[str]:
        weights = self.class_weights
        faults = target_faults(self.loss, self.metric, self.multi_label)
        if not 0 <= self.label_smoothing < 1:
            faults.append(f"training.label_smoothing must lie in [0, 1), was {self.label_smoothing}")
        for key in ("focal_gamma", "tau"):
            if not 0 < getattr(self, key) < math.inf:
                faults.append(f"training.{key} must be above 0, was {getattr(self, key)}")
        if isinstance(weights, str) and weights not in WEIGHTINGS:
            faults.append(f"training.class_weights must be one of {WEIGHTINGS} or by class, was {weights!r}")
        elif not isinstance(weights, str):
            faults += class_weight_faults(weights, self.classes)
        if self.patience is not None and self.patience < 1:
            faults.append(f"training.patience must be 1 or more, was {self.patience}")
        return faults

    def _rate_faults(self) -> list[str]:
        """Faults of unfreezing, curve and rates; phases that came as lists (from JSON) become tuples."""
        faults = []
        try:
            object.__setattr__(self, "unfreezing", read_unfreezing(self.unfreezing))
        except ValueError as fault:
            faults.append(f"training.unfreezing {fault}, was {self.unfreezing!r}")
        for part in (lambda: self.curve, lambda: self.layer_rates(1)):
            try:
                part()
            except ConfigError as fault:
                faults.append(str(fault))
        return faults

    def layer_rates(self, n_layers: int) -> LayerRates:
        """Peak rate of each level of an encoder of so many layers. Raises ConfigError on impossible values."""
        return layer_rates(
            n_layers, self.lr, self.alpha, embedding_rate=self.embedding_rate, head_multiplier=self.head_multiplier
        )

    @property
    def curve(self) -> RateCurve:
        """The rate over the fit, or over each phase. Raises ConfigError on impossible values."""
        return RateCurve(
            schedule=self.schedule,
            warmup_fraction=self.warmup_fraction,
            cut_fraction=self.cut_fraction,
            ratio=self.ratio,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        plan = self.features.to_json() if self.features else None
        return {**asdict(self), "classes": list(self.classes), "features": plan}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        plan = FeaturePlan.from_json(value["features"]) if value.get("features") else None
        return cls(**{**value, "classes": tuple(value["classes"]), "features": plan})

    def key(self) -> str:
        """Hash of everything that the numbers depend on: contents of the folders, not where they lie."""
        value = self.to_json()
        for name in (
            "output",
            "checkpoint_seconds",
            "measure_latency",
            "tokens",
            "pretrained",
            "prefix_root",
            "prefix_cache_gb",
        ):
            value.pop(name)
        if self.features is None:  # then the fit is what it was before there was a choice
            del value["features"]
        value["tokens"] = hash_file(Path(self.tokens) / MANIFEST)
        is_folder = Path(self.pretrained).is_dir()
        value["pretrained"] = encoder_fingerprint(self.pretrained) if is_folder else self.pretrained
        return hash_json(value)


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """What `auto` means on one machine. *_step: seconds of the training step that was timed, None where none was.

    gpus: devices that trainers may be spread over, 0 on a CPU.
    """

    precision: str
    device: str
    threads: int
    float32_step: float | None = None
    bfloat16_step: float | None = None
    gpus: int = 0

    def __str__(self) -> str:
        timed = ""
        if self.float32_step and self.bfloat16_step:
            timed = f" (a bfloat16 step is {self.float32_step / self.bfloat16_step:.1f} times as fast as float32 here)"
        return f"{self.precision} on {self.device}, {self.threads} threads{timed}"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict`."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One epoch (counted from 1): scores on the whole validation split after ``step`` updates.

    ``micro_batch``: rows that went through the model at a time as it ended, where memory did not hold a whole batch.
    """

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    accuracy: float
    macro_f1: float
    depth: int
    seconds: float
    micro_batch: int | None = None
    micro_f1: float | None = None

    def score(self, metric: str) -> float:
        """The value that is compared, higher is better (log loss negated)."""
        return as_score(metric, self.validation_loss if metric == "log_loss" else float(getattr(self, metric)))


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A fit that completed or was pruned at a rung.

    ``score`` (higher is better) and ``log_loss`` are the best epoch's on validation; of a pruned fit without
    a finished epoch, the last rung's. ``rungs`` holds (fraction, score). ``model_dir`` is "" without a kept
    model. ``latency_ms`` (`cost.one_row_milliseconds`) is None where it was not asked for, ``size_bytes``
    (`cost.weight_bytes`) only in results of older versions. ``prefix``: `prefix.PrefixFigures` of the frozen prefix,
    None where none was kept.
    """

    state: str
    reason: str
    score: float
    log_loss: float
    best_epoch: int
    steps: int
    history: tuple[EpochResult, ...]
    rungs: tuple[tuple[float, float], ...]
    weights_digest: str
    model_dir: str
    seconds: float
    latency_ms: float | None = None
    size_bytes: int | None = None
    prefix: dict[str, Any] | None = None

    def __str__(self) -> str:
        where = f"epoch {self.best_epoch}, {self.steps} steps, {self.seconds:.0f} s"
        return f"{self.state}: score {self.score:.4f} at {where}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json` (and of dataclasses.asdict)."""
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value or f.default is MISSING}
        known["history"] = tuple(EpochResult(**h) for h in value["history"])
        known["rungs"] = tuple((float(a), float(b)) for a, b in value["rungs"])
        return cls(**known)


def micro_batch_line(facts: Mapping[str, Any]) -> str:
    """What a fit's progress says about memory, for people. ``facts``: micro_batch and batch, rows."""
    rows, whole = facts["micro_batch"], facts["batch"]
    return f"memory does not hold {whole} rows together: {rows} at a time, gradients are summed over the same batch"
