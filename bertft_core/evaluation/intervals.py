"""Intervals and paired tests over test rows, so that no score stands without its uncertainty.

The bootstrap is stratified by true class and percentile (Efron & Tibshirani 1993, chapter 13). Accuracy and
macro F1 depend on the rows only through counts, so resampling draws counts (multinomial) instead of rows:
10,000 resamples of 25,000 rows take well under a second. Log loss resamples rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertft_core.evaluation.metrics import Floats, Ints, check_metric, check_rows, row_losses, scores

RESAMPLES = 10_000
_BLOCK = 4_000_000  # resampled cells held at once: 32 MB of indices


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """score(a) - score(b) on the same n rows, its interval, and the rows that only one of them gets right."""

    difference: float
    low: float
    high: float
    n: int
    a_only: int
    b_only: int

    def __str__(self) -> str:
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}], n {self.n}"


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927), within [0, 1]; sound even for 0 or n successes.

    >>> tuple(round(x, 3) for x in wilson(95, 100))
    (0.888, 0.978)
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(a_only: int, b_only: int) -> float:
    """Exact two-sided McNemar p-value of rows only one model gets right (Dietterich 1998); 1.0 for none."""
    from scipy.stats import binomtest

    discordant = a_only + b_only
    return float(binomtest(min(a_only, b_only), discordant, 0.5).pvalue) if discordant else 1.0


def bootstrap_interval(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    metric: str,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weights: Any = None,
) -> tuple[float, float]:
    """Stratified percentile bootstrap interval of a score (higher is better; log loss negated)."""
    y, p = check_rows(labels, probabilities, classes)
    rng = np.random.default_rng(seed)
    if check_metric(metric) == "log_loss":
        draws = _resampled_means(y, -row_losses(y, p, weights), resamples, rng)
    else:
        draws = _resampled_scores(y, [p.argmax(axis=1)], len(classes), metric, resamples, rng)[0]
    return _percentiles(draws, level)


def paired_difference(
    labels: Any,
    p_a: Any,
    p_b: Any,
    classes: Sequence[str],
    metric: str,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weights: Any = None,
) -> PairedDifference:
    """score(a) - score(b) on the same rows, with its paired, stratified bootstrap interval.

    labels [n] class indices, p_a and p_b [n, C]; level in (0, 1). Positive: a is better, log loss included.

    Raises DataError or ArtifactError as `metrics.scores` does.
    """
    y, a = check_rows(labels, p_a, classes)
    _, b = check_rows(labels, p_b, classes)
    rng = np.random.default_rng(seed)
    guess_a, guess_b = a.argmax(axis=1), b.argmax(axis=1)
    if check_metric(metric) == "log_loss":
        gains = row_losses(y, b, weights) - row_losses(y, a, weights)
        difference, draws = float(gains.mean()), _resampled_means(y, gains, resamples, rng)
    else:
        difference = scores(y, a, classes).score(metric) - scores(y, b, classes).score(metric)
        draw_a, draw_b = _resampled_scores(y, [guess_a, guess_b], len(classes), metric, resamples, rng)
        draws = draw_a - draw_b
    low, high = _percentiles(draws, level)
    right_a, right_b = guess_a == y, guess_b == y
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        n=len(y),
        a_only=int((right_a & ~right_b).sum()),
        b_only=int((right_b & ~right_a).sum()),
    )


def _resampled_scores(
    y: Ints, guesses: Sequence[Ints], n_classes: int, metric: str, resamples: int, rng: np.random.Generator
) -> list[Floats]:
    """One [resamples] array of scores per model, all on the same resampled rows.

    Within a true class, rows with equal guesses are interchangeable: resampling them is one multinomial.
    """
    present, support = np.unique(y, return_counts=True)
    hits = [np.zeros((resamples, len(present))) for _ in guesses]
    predicted = [np.zeros((resamples, n_classes)) for _ in guesses]
    for column, (label, n) in enumerate(zip(present, support, strict=True)):
        cells, counts = np.unique(np.stack([g[y == label] for g in guesses], axis=1), axis=0, return_counts=True)
        drawn = rng.multinomial(n, counts / n, size=resamples)
        for model in range(len(guesses)):
            for cell, guess in enumerate(cells[:, model]):
                predicted[model][:, guess] += drawn[:, cell]
            hits[model][:, column] = drawn[:, cells[:, model] == label].sum(axis=1)
    if metric == "accuracy":
        return [h.sum(axis=1) / len(y) for h in hits]
    return [(2 * h / (support + p[:, present])).mean(axis=1) for h, p in zip(hits, predicted, strict=True)]


def _resampled_means(y: Ints, values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    total = np.zeros(resamples)
    for label in np.unique(y):
        stratum = values[y == label]
        block = max(1, _BLOCK // len(stratum))
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            picks = rng.integers(0, len(stratum), size=(size, len(stratum)), dtype=np.int32)
            total[start : start + size] += stratum[picks].sum(axis=1)
    return total / len(y)


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
