"""What a fit is told and what it answers: values that cross the process border as JSON. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from bertft_core.errors import ConfigError
from bertft_core.fit_config import Phases, read_unfreezing
from bertft_core.model.layers import LayerRates, layer_rates
from bertft_core.state import MANIFEST, encoder_fingerprint, hash_file, hash_json
from bertft_core.training.rates import RateCurve

Metric = Literal["macro_f1", "accuracy", "log_loss"]
PREFIX_BYTES = {"float32": 4, "float16": 2}  # of one number of the prefix cache
METRICS = ("macro_f1", "accuracy", "log_loss")


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One fit. ``tokens`` is a folder of <split>.arrow, ``output`` belongs to this fit alone.

    ``rows`` trains on that many rows (stratified, by content hash); ``keep_model`` leaves output/model.
    ``checkpoint_seconds`` 0 writes a checkpoint after every step. ``measure_latency`` times the fitted model
    at the end. ``prefix_cache`` off, or the number type in which hidden states below the trained layers are kept
    in the folder ``prefix_root``, which holds at most ``prefix_cache_gb`` (10^9 bytes). Raises ConfigError on
    impossible values.
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
    class_weights: str = "none"
    label_smoothing: float = 0.0
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

    def __post_init__(self) -> None:
        choices = (
            ("training.prefix_cache", self.prefix_cache, ("off", *PREFIX_BYTES)),
            ("training.class_weights", self.class_weights, ("none", "balanced", "sqrt")),
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
        faults += self._rate_faults()
        if not 0 <= self.label_smoothing < 1:
            faults.append(f"training.label_smoothing must lie in [0, 1), was {self.label_smoothing}")
        if not self.max_grad_norm > 0:
            faults.append(f"training.max_grad_norm must be above 0, was {self.max_grad_norm}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            faults.append(f"two or more different classes are needed, found {self.classes}")
        if faults:
            raise ConfigError("; ".join(faults))

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
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**{**value, "classes": tuple(value["classes"])})

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
    """One epoch (counted from 1): scores on the whole validation split after ``step`` updates."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    accuracy: float
    macro_f1: float
    depth: int
    seconds: float

    def score(self, metric: str) -> float:
        """The value that is compared, higher is better (log loss negated)."""
        return {"macro_f1": self.macro_f1, "accuracy": self.accuracy, "log_loss": -self.validation_loss}[metric]


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
