"""When a search ends before its last slot: its time is spent, or what is left to gain is below the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial

MIN_TRIALS = 20  # completed ones; Optuna's own default for its terminator


def noise(score: float, rows: int) -> float:
    """Standard error of an accuracy-like score in [0, 1] on `rows` validation rows (binomial)."""
    return math.sqrt(max(score * (1 - score), 0.0) / rows)


def spent(seconds: float, timeout: float | None) -> str:
    """Why the search ends, "" while there is time."""
    return f"search.timeout: {timeout:g} s are spent" if timeout is not None and seconds >= timeout else ""


def exhausted(completed: Sequence[FrozenTrial], rows: int, seed: int) -> str:
    """Why the search ends, "" while there is something to gain.

    Makarova et al. 2022 (A. Makarova, Automatic termination for hyperparameter optimization): stop when an upper
    bound on what is still to be gained (Optuna's RegretBoundEvaluator, a Gaussian process) falls below the
    statistical error of the best trial's score. Asked from 20 completed trials; scores must lie in [0, 1].
    """
    if len(completed) < MIN_TRIALS:
        return ""
    best = max(t.value for t in completed if t.value is not None)
    error = noise(best, rows)
    gain = float(RegretBoundEvaluator(seed=seed).evaluate(list(completed), StudyDirection.MAXIMIZE))
    if gain >= error:
        return ""
    return f"search.stop_early: at most {gain:.4f} is left to gain, one standard error of the best score is {error:.4f}"
