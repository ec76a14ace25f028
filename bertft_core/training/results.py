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


LEAST_LEARNT = 0.02
UNTRAINED = "did not train"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A fit that completed or was pruned at a rung.

    ``score`` (higher is better) and ``log_loss`` are the best epoch's on validation; of a pruned fit without
    a finished epoch, the last rung's. ``rungs`` holds (fraction, score). ``model_dir`` is "" without a kept
    model. ``latency_ms`` (`machine.one_row_milliseconds`) is None where it was not asked for; ``size_bytes``
    (`machine.weight_bytes`) is None in results of older versions only. ``prefix``: `prefix.PrefixFigures` of the frozen
    prefix, None where none was kept.

    ``chance_loss``: the training loss of answering every row by the class frequencies alone (`losses.chance_loss`).
    ``learnt``: how much of the way from there to right answers the loss went at its lowest, on training or on
    validation rows, whichever went further: McFadden's pseudo R². Both are None without a finished epoch, and in
    results of older versions. ``wrapper``: the prefix that was taken off the names of the encoder's weights.
    ``strength``: C of a head by logistic regression (`linear_probe`), None of a fit by steps. ``processes``: how many
    fitted together.
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
    chance_loss: float | None = None
    learnt: float | None = None
    wrapper: str = ""
    strength: float | None = None
    processes: int = 1

    def __str__(self) -> str:
        by = f"epoch {self.best_epoch}, {counted(self.steps, 'step')}"
        if self.processes > 1:
            by += f" in {self.processes} processes"
        where = f"{by if self.strength is None else f'a logistic head of C {self.strength:g}'}, {self.seconds:.0f} s"
        return f"{self.state}: {self.fault or f'score {self.score:.4f}'} at {where}"

    @property
    def fault(self) -> str:
        """Why the score of a fit that ran to its end says nothing: it did not train. "" where it did.

        Rule: neither training nor validation loss came nearer to right answers than class frequencies alone are by
        `LEAST_LEARNT`. Fits that answer one class everywhere stay below 0.005, one that begins to learn passes 0.03
        (docs/techniques/evidence.md, Table 3).
        """
        if self.state != "complete" or self.learnt is None or self.learnt >= LEAST_LEARNT:
            return ""
        lowest = min(epoch.train_loss for epoch in self.history)
        return (
            f"{UNTRAINED}: the training loss was {lowest:.4f} at its lowest, class frequencies alone give "
            f"{self.chance_loss:.4f}; "
            + ("raise training.lr or training.epochs" if self.strength is None else "the encoder tells them not apart")
        )

    @property
    def note(self) -> str:
        """What was mended in the encoder's files as they were read, "" for nothing."""
        if not self.wrapper:
            return ""
        return f"the names of the encoder's weights begin with {self.wrapper!r}, a wrapper's: it was taken off"

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


@dataclass(frozen=True, kw_only=True)
class FinishedFit:
    """result.json of a fit that is over. key: of its spec."""

    key: str
    result: TrainingResult
