"""What a search answers, trial by trial. No optuna here: pictures, pages and tables read these values alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A finished trial. `score` is its best validation score (higher is better), None when it has none.

    state: "complete", "pruned" or "fail" (the last two with `reason`). params by the names of search.space
    (training fields without "training."). history: the epochs as mappings. rungs: (fraction of the trial's own
    length, score). depth: levels that were thawed when it ended (0 = head only). started, finished: seconds since
    1970. latency_ms (one row) and size_bytes are None where the search does not ask for them.
    """

    slot: int
    number: int
    state: str
    reason: str
    params: dict[str, Any]
    score: float | None
    log_loss: float | None
    seconds: float
    history: tuple[dict[str, Any], ...] = ()
    rungs: tuple[tuple[float, float], ...] = ()
    depth: int | None = None
    seed: int = 0
    host: str = ""
    started: float = 0.0
    finished: float = 0.0
    latency_ms: float | None = None
    size_bytes: int | None = None

    def __str__(self) -> str:
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.params.items())
        value = "no score" if self.score is None else f"score {self.score:.4f}"
        return f"trial {self.slot}: {self.state}, {value} ({shown})" + (f": {self.reason}" if self.reason else "")


def ranked(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The complete trials with a finite score, best first: by score, then lower log loss, then slot."""
    done = [(r.score, r) for r in results if r.state == "complete" and r.score is not None and math.isfinite(r.score)]
    return [r for _, r in sorted(done, key=lambda pair: (-pair[0], pair[1].log_loss or 0.0, pair[1].slot))]
