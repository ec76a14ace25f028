"""What ends a trial or a search early.

A trial: its score at a quarter, half and three quarters of its own length, against the others'. A search: its time, or
that nothing is left to gain.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial, TrialState

from bertft_core.base.clock import DAY

_TERMINATOR_FROM = 20  # completed trials; Optuna's own default for its terminator
STARTUP = 4  # scores at a rung before anything is given up there


class HalvingPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving at given rungs: at each, the better half of the scores seen there goes on.

    The stopping form of ASHA (Li et al. 2020, arXiv 1810.05934) with a reduction factor of 2. Optuna's own
    SuccessiveHalvingPruner wants rungs in geometric progression and gives the second trial up when it is worse
    than the first; here the rungs are where schedules of unfreezing change their phase, and the first four
    scores at a rung are let through.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether `trial`'s last score lies in the lower half of the scores at its rung. Ties go on."""
        rung = trial.last_step
        if rung is None:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        seen = [t for t in study.get_trials(deepcopy=False, states=states) if rung in t.intermediate_values]
        others = [t.intermediate_values[rung] for t in seen if t.number != trial.number]
        own = trial.intermediate_values[rung]
        if len(others) < STARTUP:
            return False
        better = sum(value > own for value in others if value == value)
        return better >= (len(others) + 2) // 2  # more than half of all, this one included


def noise(score: float, rows: int) -> float:
    """Standard error of an accuracy-like score in [0, 1] on `rows` validation rows (binomial)."""
    return math.sqrt(max(score * (1 - score), 0.0) / rows)


def spent(seconds: float, timeout: float | None) -> str:
    """Why the search ends, "" while there is time."""
    return f"search.timeout: {timeout:g} s are spent" if timeout is not None and seconds >= timeout else ""


@dataclass(kw_only=True)
class Clock:
    """One coordinator's view of a study's time, which is stored as {"spent": seconds, "at": time of the last entry}.

    Time in which several coordinators work counts once: each adds what passed since the last entry of anybody, or
    since its own start. limit: seconds, or None.
    """

    limit: float | None
    _since: tuple[float, float] | None = None  # monotonic and wall clock of the start or the last entry
    _deadline: float = math.inf

    def start(self, stored: Mapping[str, Any]) -> None:
        """Begin to count, once."""
        if self._since is None:
            self._mark(float(stored.get("spent", 0.0)))

    def entry(self, stored: Mapping[str, Any]) -> dict[str, float]:
        """What to store now, in place of `stored`."""
        self.start(stored)
        spent_now = self.spent(stored)
        self._mark(spent_now)
        return {"spent": spent_now, "at": max(time.time(), _last(stored))}

    def spent(self, stored: Mapping[str, Any]) -> float:
        """Seconds up to this moment."""
        before = float(stored.get("spent", 0.0))
        if self._since is None:
            return before
        began, began_wall = self._since
        passed = time.time() - max(_last(stored), began_wall)
        return before + min(max(passed, 0.0), time.monotonic() - began)

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed, by the last entry and the time since; reads no storage."""
        return time.monotonic() >= self._deadline

    def _mark(self, spent_now: float) -> None:
        self._since = (time.monotonic(), time.time())
        if self.limit is not None:
            self._deadline = self._since[0] + self.limit - spent_now


def _last(stored: Mapping[str, Any]) -> float:
    """When the last entry was made; 0 where a clock that was wrong by more than a day says a time to come."""
    at = float(stored.get("at", 0.0))
    return at if at <= time.time() + DAY else 0.0


def exhausted(completed: Sequence[FrozenTrial], rows: int, seed: int) -> str:
    """Why the search ends, "" while there is something to gain.

    Makarova et al. 2022 (A. Makarova, Automatic termination for hyperparameter optimization): stop when an upper
    bound on what is still to be gained (Optuna's RegretBoundEvaluator, a Gaussian process) falls below the
    statistical error of the best trial's score. Asked from 20 completed trials; scores must lie in [0, 1].
    """
    if len(completed) < _TERMINATOR_FROM:
        return ""
    best = max(t.value for t in completed if t.value is not None)
    error = noise(best, rows)
    gain = float(RegretBoundEvaluator(seed=seed).evaluate(list(completed), StudyDirection.MAXIMIZE))
    if gain >= error:
        return ""
    return f"search.stop_early: at most {gain:.4f} is left to gain, one standard error of the best score is {error:.4f}"
