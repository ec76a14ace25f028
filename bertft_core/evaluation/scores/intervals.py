"""Intervals and paired tests over test rows, so that no score stands without its uncertainty.

The bootstrap is stratified by true class and percentile (Efron & Tibshirani 1993, chapter 13); shares have
Wilson intervals, AUROC has DeLong's. What is undefined, or has no spread to judge by, has no interval (None).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.counts import Floats, Ints, count_scores, counts
from bertft_core.evaluation.scores.labels import Labels, MultiLabels, Predictions
from bertft_core.evaluation.scores.metrics import BINS, confidence_bins
from bertft_core.evaluation.scores.resampling import resampled_counts, resampled_sums

_ROUNDING = 1e-12  # two sums of equal terms in another order differ by less

Interval = tuple[float, float]


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


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn. level in (0, 1); resamples: how many; seed: of their draws."""

    level: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a share (Wilson 1927), within [0, 1]; sound even for 0 or n successes.

    >>> tuple(round(x, 3) for x in wilson(95, 100))
    (0.888, 0.978)
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_lower(successes: Any, n: Any, level: float = 0.95) -> Floats:
    """One-sided lower Wilson bounds of many shares at once, arrays of equal shape, n >= 1."""
    z2 = NormalDist().inv_cdf(level) ** 2
    rows = np.asarray(n, dtype=np.float64)
    share = np.asarray(successes, dtype=np.float64) / rows
    spread = np.sqrt(z2 * (share * (1 - share) / rows + z2 / (4 * rows**2)))
    return np.asarray((share + z2 / (2 * rows) - spread) / (1 + z2 / rows), dtype=np.float64)


def mcnemar(a_only: int, b_only: int, alternative: Literal["two-sided", "greater"] = "two-sided") -> float:
    """Exact McNemar p-value of rows only one model gets right (Dietterich 1998); 1.0 for none.

    "greater" asks whether a is right more often than b.
    """
    from scipy.stats import binomtest

    discordant = a_only + b_only
    return float(binomtest(a_only, discordant, 0.5, alternative).pvalue) if discordant else 1.0


def paired_difference(
    labels: Labels, a: Predictions, b: Predictions, metric: str, bootstrap: Bootstrap | None = None
) -> PairedDifference:
    """score(a) - score(b) on the same rows, with its paired bootstrap interval; positive: a is better.

    The bootstrap is stratified where a row has one class. Of multi-label rows one is right where its whole set is.
    """
    how = bootstrap or Bootstrap()
    low, high = _percentiles(labels.resampled_differences(metric, a, b, how.resamples, how.seed), how.level)
    right_a, right_b = labels.is_right(a), labels.is_right(b)
    return PairedDifference(
        difference=labels.difference(metric, a, b),
        low=low,
        high=high,
        n=len(labels),
        a_only=int((right_a & ~right_b).sum()),
        b_only=int((right_b & ~right_a).sum()),
    )


def paired_permutation(
    labels: Labels, a: Predictions, b: Predictions, metric: str, permutations: int = RESAMPLES, seed: int = 0
) -> float:
    """One-sided p-value of score(a) > score(b): exchanging the two models' answers row by row.

    (1 + exchanges with at least the observed difference) / (1 + permutations): at most the nominal error for
    any number of rows when the models' answers are exchangeable (Phipson & Smyth 2010, arXiv 1603.05766).
    """
    observed = labels.difference(metric, a, b)
    drawn = labels.exchanged_differences(metric, a, b, permutations, seed)
    return float((1 + (drawn >= observed - _ROUNDING).sum()) / (1 + permutations))


def headline_intervals(
    labels: Labels, predictions: Predictions, bootstrap: Bootstrap | None = None
) -> dict[str, Interval | None]:
    """An interval for each headline score, by its name in `metrics.Scores`, in that score's own direction.

    accuracy: Wilson. auroc: DeLong. ece: see `_ece_interval`. The others: percentile bootstrap, stratified where a row
    has one class; resamples in which MCC is undefined are left out. None: the score is undefined, or no resample
    differs (no error seen, say), so that there is no spread to judge by. average_precision has no interval: it would
    have to sort every resample. Multi-label: accuracy, log loss, macro and micro F1 only.
    """
    how, n, is_right = bootstrap or Bootstrap(), len(labels), labels.is_right(predictions)
    level = how.level
    intervals: dict[str, Interval | None] = {}
    accuracy = wilson(int(is_right.sum()), n, level)
    if isinstance(labels, MultiLabels):
        for metric in ("macro_f1", "micro_f1", "log_loss"):
            draws = labels.resampled_scores(metric, predictions, how.resamples, how.seed)
            low, high = _percentiles(-draws if metric == "log_loss" else draws, level)
            intervals[metric] = (low, high) if high - low > _ROUNDING else None
        return {**intervals, "accuracy": accuracy}
    y, guess, n_classes = labels.values, predictions.decided, len(labels.classes)
    support, confidence = np.bincount(y, minlength=n_classes), labels.confidence(predictions)
    ((hits, decided),) = resampled_counts(y, [guess], n_classes, how.resamples, np.random.default_rng(how.seed))
    intervals = {name: _spread(draws, level) for name, draws in count_scores(hits, decided, support).items()}
    if np.isnan(count_scores(*counts(y, guess, n_classes), support)["mcc"]):
        intervals["mcc"] = None
    # each row's confidence minus rightness, in the column of its bin: sums / n give the terms of the ECE
    gaps = np.zeros((n, BINS))
    gaps[np.arange(n), confidence_bins(confidence)] = confidence - is_right
    values = np.column_stack([labels.losses(predictions), labels.briers(predictions), gaps])
    means = resampled_sums(y, values, how.resamples, np.random.default_rng(how.seed)) / n
    return intervals | {
        "accuracy": accuracy,
        "log_loss": _spread(means[:, 0], level),
        "brier": _spread(means[:, 1], level),
        "ece": _ece_interval(gaps.sum(axis=0) / n, means[:, 2:], level),
        "auroc": auroc_interval(y, predictions.probabilities, level),
    }


def auroc_interval(labels: Ints, probabilities: Floats, level: float = 0.95) -> Interval | None:
    """DeLong's interval of the macro one-vs-rest AUROC on the logit scale, class counts taken as given.

    Each class's AUROC is a mean over positive and over negative rows (DeLong, DeLong & Clarke-Pearson 1988),
    so the macro AUROC is a sum over rows, whose variance adds up over the true classes; for two classes that
    is DeLong's own. None when undefined, when a class has one row only, or when the ranking is perfect.
    """
    from scipy.special import expit, logit

    n_rows = np.bincount(labels)
    if (n_rows > 0).sum() < 2 or (n_rows == 1).any():
        return None
    parts = _placements(labels, probabilities)
    area = float(parts.sum() / 2)
    if not 0 < area < 1:
        return None
    variance = sum(len(own) * own.var(ddof=1) for own in (parts[labels == c] for c in np.flatnonzero(n_rows)))
    reach = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))


def _placements(y: Ints, p: Floats) -> Floats:
    """Each row's part [n] in the macro AUROC; the parts of positive rows add up to it, and so do the negatives'."""
    from scipy.stats import rankdata

    present = np.unique(y)
    parts = np.zeros(len(y))
    for column in present:
        own, score = y == column, p[:, column]
        ranks = rankdata(score)
        negatives_below = ranks[own] - rankdata(score[own])
        positives_above = own.sum() - (ranks[~own] - rankdata(score[~own]))
        pairs = own.sum() * (~own).sum() * len(present)
        parts[own] += negatives_below / pairs
        parts[~own] += positives_above / pairs
    return parts


def _ece_interval(terms: Floats, drawn: Floats, level: float) -> Interval | None:
    """Interval of the ECE sum |terms| [BINS] from resampled terms [resamples, BINS], bins fixed.

    ECE is biased upwards (a sum of absolute values, Kumar et al. 2019, arXiv 1909.10155) and a resample doubles
    the bias: the percentile interval of a calibrated model holds its true ECE, 0, next to never. Low end: the
    ECE less what noise alone gives (the triangle inequality makes that safe); high end: the ECE plus the
    resamples' upper spread about their mean. The interval is therefore wide rather than wrong.
    """
    ece, tail = np.abs(terms).sum(), (1 + level) / 2
    resampled = np.abs(drawn).sum(axis=1)
    if resampled.max() - resampled.min() <= _ROUNDING:
        return None
    noise = np.quantile(np.abs(drawn - terms).sum(axis=1), tail)
    return float(max(0.0, ece - noise)), float(ece + np.quantile(resampled - resampled.mean(), tail))


def _spread(draws: Floats, level: float) -> Interval | None:
    """Percentiles of the defined draws; None when they do not differ."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0 or defined.max() - defined.min() <= _ROUNDING:
        return None
    return _percentiles(defined, level)


def _percentiles(draws: Floats, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
