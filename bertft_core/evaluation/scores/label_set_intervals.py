"""Intervals of the scores of multi-label rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertft_core.evaluation.scores.intervals import Interval, wilson
from bertft_core.evaluation.scores.label_sets import check_sets, decided_sets, resampled_scores, row_values

_ROUNDING = 1e-12


def set_intervals(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    *,
    level: float,
    resamples: int,
    seed: int,
    predicted: Any = None,
    weights: Any = None,
) -> dict[str, Interval | None]:
    """Percentile bootstrap intervals of the scores that may decide, Wilson for accuracy; log loss in its own sense.

    `weights` is ignored: sets have none.
    """
    y, p = check_sets(labels, probabilities, classes)
    guess = decided_sets(p, predicted)
    found: dict[str, Interval | None] = {}
    for metric in ("macro_f1", "micro_f1", "log_loss"):
        draws = resampled_scores(metric, row_values(metric, y, p, guess), resamples, seed)
        draws = -draws if metric == "log_loss" else draws
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        found[metric] = (float(low), float(high)) if high - low > _ROUNDING else None
    right = (guess == y).all(axis=1)
    return {**found, "accuracy": wilson(int(right.sum()), len(y), level)}
