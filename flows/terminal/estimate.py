"""Seconds that a search still needs. Pure arithmetic."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial at work: the fraction of it that is done, after so many seconds."""

    fraction: float
    seconds: float

    def left(self, typical: float) -> float:
        """Seconds to its end at its own pace; before its first progress, what a typical trial would have left."""
        if self.fraction <= 0:
            return max(0.0, typical - self.seconds)
        return self.seconds * (1 - min(1.0, self.fraction)) / self.fraction


def seconds_left(finished: Sequence[float], running: Sequence[Running], waiting: int, workers: int) -> float | None:
    """Seconds until the last trial ends; None until one has finished.

    Rule: a waiting trial takes the mean of the finished ones (pruned ones too: some of the next will be pruned)
    and goes to the worker that is free first; a running one goes on at its own pace.

    >>> seconds_left([10.0], [Running(fraction=0.5, seconds=4)], waiting=2, workers=2)
    14.0
    """
    if not finished:
        return None
    typical = fmean(finished)
    free = [r.left(typical) for r in running]
    free += [0.0] * (max(1, workers) - len(free))
    heapq.heapify(free)
    for _ in range(waiting):
        heapq.heapreplace(free, free[0] + typical)
    return max(free)


def shown_time(seconds: float | None) -> str:
    """The time in a few characters, "…" when it is unknown.

    >>> [shown_time(s) for s in (None, 8, 80, 800, 8000)]
    ['…', '8 s', '1 min', '13 min', '2 h 13 min']
    """
    if seconds is None:
        return "…"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds < 59.5 else "1 min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
