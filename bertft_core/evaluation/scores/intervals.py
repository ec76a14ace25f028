"""Intervals and paired tests over test rows, so that no score stands without its uncertainty.

Scores of decisions and means over rows have percentiles of resamples (`labels`, `resampling`), which pseudo rows and
Student's quantile widen where classes or groups are few; shares have Wilson intervals, AUROC has DeLong's. Where rows
belong to groups (data.group), groups are what is drawn and exchanged. What is undefined, or has no spread to judge by,
has no interval (None), and `why_no_interval` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from bertft_core.base.text import NO_SPREAD, rows_text
from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.counts import Floats, Ints
from bertft_core.evaluation.scores.labels import Labels, MultiLabels, Predictions
from bertft_core.evaluation.scores.metrics import BINS, confidence_bins
from bertft_core.evaluation.scores.resampling import flipped_sums, group_sums, running, widening

_ROUNDING = 1e-12  # two sums of equal terms in another order differ by less

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """score(a) - score(b) on the same n rows, its interval, and the rows that only one of them gets right.

    groups: how many groups the rows belong to, None where each stands for itself. low equals high only where no
    resample differs; then `interval` is None.
    """

    difference: float
    low: float
    high: float
    n: int
    a_only: int
    b_only: int
    groups: int | None = None

    @property
    def interval(self) -> Interval | None:
        """(low, high), None where there is no spread to judge by: the difference is the same on every row."""
        return (self.low, self.high) if self.high - self.low > _ROUNDING else None

    def __str__(self) -> str:
        spread = f"[{self.low:+.4f}, {self.high:+.4f}]" if self.interval else NO_SPREAD
        return f"{self.difference:+.4f} {spread}, {rows_text(self.n, self.groups)}"


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


def share_interval(is_right: Any, groups: Any, level: float = 0.95) -> Interval:
    """Wilson interval of the share of right rows, is_right [n], of rows that belong to `groups` [n] (None: to none).

    With groups n is the effective number of rows (`effective_rows`).
    """
    right = np.asarray(is_right, dtype=np.float64)
    n = len(right)
    if groups is None:
        return wilson(int(right.sum()), n, level)
    share, tail = right.mean(), (1 + level) / 2
    effective = effective_rows(right, np.unique(groups, return_inverse=True)[1], tail)[-1]
    low, below = (wilson_lower(part * effective, effective, tail) for part in (share, 1 - share))
    return max(0.0, float(low)), min(1.0, 1 - float(below))


def effective_rows(is_right: Any, groups: Any, tail: float) -> Floats:
    """How many independent rows the first 1, 2, … n rows of groups [n] are worth for their share of right ones, [n].

    p (1 - p) over the variance of the share between groups, times (z / t)^2 at the quantile `tail` for a variance
    estimated from the groups (Korn & Graubard 1998, Survey Methodology 24:193). One right and one wrong pseudo group of
    half a group's weight each enter that variance: groups that are all alike do not prove that the next one is.
    """
    one = np.asarray(is_right, dtype=np.float64)
    right, rows = running(groups, one), running(groups, np.ones(len(one)))  # of each row's group so far
    n, units = np.arange(1, len(one) + 1), np.cumsum(rows == 1)
    size = n / units
    rest = (np.cumsum(one) + size / 2) / (n + size)  # the share with the pseudo groups
    # sum over the groups of (right - rest * rows)^2, each square by what a further row adds to it
    squares = np.cumsum(one * (2 * right - 1)) + rest**2 * np.cumsum(2 * rows - 1)
    squares -= 2 * rest * np.cumsum(right + one * (rows - 1))
    variance = (squares + size**2 * ((1 - rest) ** 2 + rest**2) / 2) / (n + size) ** 2
    return np.asarray(np.minimum(n, rest * (1 - rest) / variance) / widening(units + 1, tail) ** 2)


def exchange_p(nets: Any, draws: int = RESAMPLES, seed: int = 0) -> float:
    """One-sided p-value that the sum of `nets` [units] exceeds 0 by chance alone: their signs flipped at random.

    (1 + flips with at least the observed sum) / (1 + draws), as in `paired_permutation`; 1.0 where all are 0.
    """
    values = np.asarray(nets, dtype=np.float64)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    drawn = flipped_sums(values, draws, np.random.default_rng(seed))
    return float((1 + (drawn >= values.sum() - _ROUNDING).sum()) / (1 + draws))


def accuracy_p(
    labels: Labels, a: Predictions, b: Predictions, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """p-value that a and b are right equally often: exact McNemar; with groups, by exchanging whole groups."""
    gains = labels.is_right(a).astype(np.int64) - labels.is_right(b)
    if labels.groups is None:
        return mcnemar(int((gains > 0).sum()), int((gains < 0).sum()), alternative)
    nets = group_sums(gains.astype(np.float64), labels.groups)
    greater = exchange_p(nets)
    return greater if alternative == "greater" else min(1.0, 2 * min(greater, exchange_p(-nets)))


def paired_difference(
    labels: Labels, a: Predictions, b: Predictions, metric: str, bootstrap: Bootstrap | None = None
) -> PairedDifference:
    """score(a) - score(b) on the same rows, with its paired interval from resamples; positive: a is better.

    Of multi-label rows one is right where its whole set is.
    """
    how = bootstrap or Bootstrap()
    difference = labels.difference(metric, a, b)
    draws = labels.resampled_differences(metric, a, b, how.resamples, how.seed)
    ends = (-np.inf, np.inf) if metric == "log_loss" else (-1.0, 1.0)
    low, high = _percentiles(draws, difference, how.level, labels.n_groups or len(labels), ends)
    right_a, right_b = labels.is_right(a), labels.is_right(b)
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        n=len(labels),
        a_only=int((right_a & ~right_b).sum()),
        b_only=int((right_b & ~right_a).sum()),
        groups=labels.n_groups,
    )


def paired_permutation(
    labels: Labels, a: Predictions, b: Predictions, metric: str, permutations: int = RESAMPLES, seed: int = 0
) -> float:
    """One-sided p-value of score(a) > score(b): exchanging the two models' answers row by row, or group by group.

    (1 + exchanges with at least the observed difference) / (1 + permutations): at most the nominal error for
    any number of rows when the models' answers are exchangeable (Phipson & Smyth 2010, arXiv 1603.05766).
    """
    observed = labels.difference(metric, a, b)
    drawn = labels.exchanged_differences(metric, a, b, permutations, seed)
    return float((1 + (drawn >= observed - _ROUNDING).sum()) / (1 + permutations))


def ece_gain_bound(
    labels: Labels, a: Predictions, b: Predictions, level: float, bootstrap: Bootstrap | None = None
) -> float:
    """Lower bound, one-sided at `level`, of ECE(a) - ECE(b) on the same rows: a is shown to be worse by this much.

    Bins fixed, resampled in pairs. A resample's ECE is too large (see `_ece_interval`), a little alike for both models:
    the resamples are moved so that their mean is the difference seen.
    """
    how = bootstrap or Bootstrap()
    gaps = [_gaps(labels, model) for model in (a, b)]
    drawn = labels.resampled_means(np.hstack(gaps), how.resamples, how.seed)
    one, two = (np.abs(part).sum(axis=1) for part in np.split(drawn, 2, axis=1))
    seen = np.abs(gaps[0].mean(axis=0)).sum() - np.abs(gaps[1].mean(axis=0)).sum()
    gains = one - two
    units = labels.n_groups or len(labels)
    return float(seen + np.quantile(gains - gains.mean(), 1 - level) * widening(units, level))


def headline_intervals(
    labels: Labels, predictions: Predictions, bootstrap: Bootstrap | None = None
) -> dict[str, Interval | None]:
    """An interval for each headline score, by its name in `metrics.Scores`, in that score's own direction.

    accuracy: Wilson. auroc: DeLong. ece: see `_ece_interval`. The others: percentiles of resamples. None: see
    `why_no_interval`. Multi-label: accuracy, log loss, macro and micro F1 only.
    """
    how, units = bootstrap or Bootstrap(), labels.n_groups or len(labels)
    is_right, scores = labels.is_right(predictions), labels.scores(predictions, ranking=False)
    intervals: dict[str, Interval | None] = {}
    (drawn,) = labels.resampled_scores([predictions], how.resamples, how.seed)
    for name, draws in drawn.items():
        value = getattr(scores, name)
        ends = (-1.0 if name == "mcc" else 0.0, 1.0)
        intervals[name] = None if value is None else _spread(draws, float(value), how.level, units, ends)
    intervals["accuracy"] = share_interval(is_right, labels.groups, how.level)
    losses = labels.losses(predictions)
    if isinstance(labels, MultiLabels):
        means = labels.resampled_means(losses[:, None], how.resamples, how.seed)
        return intervals | {"log_loss": _spread(means[:, 0], float(losses.mean()), how.level, units, (0.0, np.inf))}
    briers, gaps = labels.briers(predictions), _gaps(labels, predictions)
    means = labels.resampled_means(np.column_stack([losses, briers, gaps]), how.resamples, how.seed)
    return intervals | {
        "log_loss": _spread(means[:, 0], float(losses.mean()), how.level, units, (0.0, np.inf)),
        "brier": _spread(means[:, 1], float(briers.mean()), how.level, units, (0.0, 2.0)),
        "ece": _ece_interval(gaps.mean(axis=0), means[:, 2:], how.level, units),
        "auroc": auroc_interval(labels.values, predictions.probabilities, how.level, labels.groups),
    }


def why_no_interval(
    labels: Labels, predictions: Predictions, intervals: Mapping[str, Interval | None]
) -> dict[str, str]:
    """For each score whose interval is None, and for those that have none at all, the reason in words."""
    one_group = labels.n_groups == 1
    spread = "no interval: all rows are of one group" if one_group else NO_SPREAD
    reasons = {name: spread for name, pair in intervals.items() if pair is None}
    if labels.multi_label:
        some = "no interval where a row has several labels"
        return reasons | dict.fromkeys(("weighted_f1", "ranking", "auroc", "average_precision", "brier", "ece"), some)
    y, n_classes = labels.values, len(np.unique(labels.values))
    if "mcc" in reasons:
        whose = "rows" if n_classes == 1 else "answers"
        reasons["mcc"] = f"undefined: all {whose} are of one class"
    if "auroc" in reasons and n_classes == 1:
        reasons["auroc"] = "undefined: all rows are of one class"
    elif "auroc" in reasons and (np.bincount(y)[np.unique(y)] == 1).any():
        reasons["auroc"] = "no interval: a class has one row only"
    elif "auroc" in reasons and not one_group:
        reasons["auroc"] = "no interval: the ranking is perfect, or wholly wrong"
    return reasons | {"average_precision": "no interval: every resample would have to be ranked anew"}


def auroc_interval(labels: Ints, probabilities: Floats, level: float = 0.95, groups: Any = None) -> Interval | None:
    """DeLong's interval of the macro one-vs-rest AUROC on the logit scale, class counts taken as given.

    Each class's AUROC is a mean over positive and over negative rows (DeLong, DeLong & Clarke-Pearson 1988),
    so the macro AUROC is a sum over rows, whose variance adds up over the true classes; for two classes that
    is DeLong's own. Of rows in `groups` [n] the sums of whole groups vary (Obuchowski 1997, Biometrics 53:567). None
    when undefined, when a class has one row only, or when the ranking is perfect.
    """
    from scipy.special import expit, logit

    n_rows = np.bincount(labels)
    if (n_rows > 0).sum() < 2 or (n_rows == 1).any():
        return None
    parts = _placements(labels, probabilities)
    area = float(parts.sum() / 2)
    if not 0 < area < 1:
        return None
    tail = (1 + level) / 2
    z = NormalDist().inv_cdf(tail)
    if groups is None:
        variance = sum(len(own) * own.var(ddof=1) for own in (parts[labels == c] for c in np.flatnonzero(n_rows)))
    else:
        means = np.bincount(labels, weights=parts) / np.maximum(1, n_rows)
        sums = group_sums(parts - means[labels], groups)
        variance, z = (sums**2).sum(), z * widening(len(sums), tail)
    if variance <= _ROUNDING**2:
        return None
    reach = z * np.sqrt(variance) / (area * (1 - area))
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


def _gaps(labels: Labels, predictions: Predictions) -> Floats:
    """Each row's confidence less its rightness, in the column of its bin [n, BINS]; their means make up the ECE.

    Multi-label: over all (row, class) pairs, the mean over a row's classes.
    """
    if isinstance(labels, MultiLabels):
        p, is_right = predictions.probabilities, labels.values
        rows = np.repeat(np.arange(len(labels)), p.shape[1])
    else:
        p, is_right, rows = labels.confidence(predictions), labels.is_right(predictions), np.arange(len(labels))
    gaps = np.zeros((len(labels), BINS))
    np.add.at(gaps, (rows, confidence_bins(p.ravel())), (p - is_right).ravel() * (len(labels) / p.size))
    return gaps


def _ece_interval(terms: Floats, drawn: Floats, level: float, units: int) -> Interval | None:
    """Interval of the ECE sum |terms| [BINS] from resampled terms [resamples, BINS], bins fixed.

    ECE is biased upwards (a sum of absolute values, Kumar et al. 2019, arXiv 1909.10155) and a resample doubles
    the bias: the percentile interval of a calibrated model holds its true ECE, 0, next to never. Low end: the
    ECE less what noise alone gives (the triangle inequality makes that safe); high end: the ECE plus the
    resamples' upper spread about their mean. The interval is therefore wide rather than wrong.
    """
    ece, tail = np.abs(terms).sum(), (1 + level) / 2
    resampled, wider = np.abs(drawn).sum(axis=1), widening(units, tail)
    if resampled.max() - resampled.min() <= _ROUNDING:
        return None
    noise = np.quantile(np.abs(drawn - terms).sum(axis=1), tail)
    above = np.quantile(resampled - resampled.mean(), tail)
    return float(max(0.0, ece - noise * wider)), float(ece + above * wider)


def _spread(draws: Floats, value: float, level: float, units: int, ends: Interval) -> Interval | None:
    """Percentiles of the defined draws within the score's least and largest value; None when they do not differ."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0 or defined.max() - defined.min() <= _ROUNDING:
        return None
    return _percentiles(defined, value, level, units, ends)


def _percentiles(draws: Floats, value: float, level: float, units: int, ends: Interval) -> Interval:
    """Percentiles of the draws about their median, as much wider as so few units want, never without `value` itself."""
    tail = (1 + level) / 2
    low, middle, high = np.quantile(draws, [1 - tail, 0.5, tail])
    wider = widening(units, tail) if high > low else 1.0
    below, above = middle + (low - middle) * wider, middle + (high - middle) * wider
    return max(min(float(below), value), ends[0]), min(max(float(above), value), ends[1])
