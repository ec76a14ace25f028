"""What a search answers, trial by trial. No optuna here: pictures, pages and tables read these values alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bertft_core.training.results import UNTRAINED, TrainingResult


@dataclass(frozen=True, kw_only=True)
class TrialFailure:
    """A trial that ended without a result of training. limit: the time limit that it passed, if that was why."""

    state: str
    reason: str
    seconds: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A finished trial.

    state: "complete", "pruned" or "fail" (the last two with `reason`). params by the names of search.space
    (training fields without "training."). fit: what training answered, None where it gave no result. depth: levels
    that were thawed when it ended (0 = head only). started, finished: seconds since 1970.
    """

    slot: int
    number: int
    state: str
    reason: str
    params: dict[str, Any]
    fit: TrainingResult | None
    seconds: float
    depth: int | None = None
    seed: int = 0
    host: str = ""
    started: float = 0.0
    finished: float = 0.0

    @property
    def score(self) -> float | None:
        """The best validation score (higher is better), None without one and where the fit did not train."""
        return self.fit.score if self.fit and not self.reason.startswith(UNTRAINED) else None

    @property
    def log_loss(self) -> float | None:
        """Validation log loss that goes with the score."""
        return self.fit.log_loss if self.fit else None

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of one row, None where the search does not ask for them."""
        return self.fit.latency_ms if self.fit else None

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the weights."""
        return self.fit.size_bytes if self.fit else None

    def __str__(self) -> str:
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.params.items())
        value = "no score" if self.score is None else f"score {self.score:.4f}"
        return f"trial {self.slot}: {self.state}, {value} ({shown})" + (f": {self.reason}" if self.reason else "")


def untrained(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials that ran to their end and did not train, best score first: what is left where no trial trained."""
    found = [(r.fit.score, r) for r in results if r.reason.startswith(UNTRAINED) and r.fit]
    return [r for _, r in sorted(found, key=lambda pair: (-pair[0], pair[1].slot))]


def ranked(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The complete trials with a finite score, best first: by score, then lower log loss, then slot."""
    done = [(r.score, r) for r in results if r.state == "complete" and r.score is not None and math.isfinite(r.score)]
    return [r for _, r in sorted(done, key=lambda pair: (-pair[0], pair[1].log_loss or 0.0, pair[1].slot))]
