"""What a fit answers, epoch by epoch. Without torch: searches, pages and tables read these values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

from bertft_core.base.text import counted


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


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A fit that completed or was pruned at a rung.

    ``score`` (higher is better) and ``log_loss`` are the best epoch's on validation; of a pruned fit without
    a finished epoch, the last rung's. ``rungs`` holds (fraction, score). ``model_dir`` is "" without a kept
    model. ``latency_ms`` (`machine.one_row_milliseconds`) is None where it was not asked for; ``size_bytes``
    (`machine.weight_bytes`) is None in results of older versions only. ``prefix``: `prefix.PrefixFigures` of the frozen
    prefix, None where none was kept.
    """

    state: str
    score: float
    log_loss: float
    seconds: float
    reason: str = ""
    best_epoch: int = 0
    steps: int = 0
    history: tuple[EpochResult, ...] = ()
    rungs: tuple[tuple[float, float], ...] = ()
    weights_digest: str = ""
    model_dir: str = ""
    latency_ms: float | None = None
    size_bytes: int | None = None
    prefix: dict[str, Any] | None = None

    def __str__(self) -> str:
        where = f"epoch {self.best_epoch}, {counted(self.steps, 'step')}, {self.seconds:.0f} s"
        return f"{self.state}: score {self.score:.4f} at {where}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; keys that belong to something else are left out."""
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value or f.default is MISSING}
        known["history"] = tuple(EpochResult(**h) for h in value.get("history", ()))
        known["rungs"] = tuple((float(a), float(b)) for a, b in value.get("rungs", ()))
        return cls(**known)
