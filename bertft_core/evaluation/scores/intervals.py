"""Intervals and paired tests over test rows, so that no score stands without its uncertainty.

The bootstrap is stratified by true class and percentile (Efron & Tibshirani 1993, chapter 13); shares have
Wilson intervals, AUROC has DeLong's. What is undefined, or has no spread to judge by, has no interval (None).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np

from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.label_sets import (
    are_sets,
    check_sets,
    decided_sets,
    difference_draws,
    exchange_p_value,
    from_sums,
    row_values,
)
from bertft_core.evaluation.scores.metrics import (
    BINS,
    Floats,
    Ints,
    check_metric,
    check_rows,
    confidence_bins,
    count_scores,
    decisions,
    row_briers,
    row_losses,
)
from bertft_core.evaluation.scores.resampling import (
    counts,
    flipped_sums,
    resampled_counts,
    resampled_sums,
    swapped_counts,
)

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


class _Model(NamedTuple):
    guess: Ints  # [n] decided classes
    losses: Floats  # [n] log loss of each row


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
    predicted: Any = None,
) -> Interval:
    """Stratified percentile bootstrap interval of a score (higher is better; log loss negated)."""
    y, p = check_rows(labels, probabilities, classes)
    models = [_Model(decisions(p, predicted), row_losses(y, p, weights))]
    return _percentiles(_draws(y, models, len(classes), check_metric(metric), resamples, seed), level)


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
    predicted_a: Any = None,
    predicted_b: Any = None,
) -> PairedDifference:
    """score(a) - score(b) on the same rows, with its paired, stratified bootstrap interval.

    labels [n] class indices, p_a and p_b [n, C]; level in (0, 1). Positive: a is better, log loss included. Of
    multi-label rows labels and decisions are 0 and 1 [n, C]; a row is right where its whole set is, and the bootstrap
    is not stratified.
    predicted_a and predicted_b [n]: decisions that are not simply the most probable class.

    Raises DataError or ArtifactError as `metrics.scores` does.
    """
    if are_sets(labels):
        return _set_difference(labels, p_a, p_b, classes, metric, level, resamples, seed, predicted_a, predicted_b)
    y, models = _models(labels, p_a, p_b, classes, weights, predicted_a, predicted_b)
    low, high = _percentiles(_draws(y, models, len(classes), check_metric(metric), resamples, seed), level)
    right_a, right_b = (model.guess == y for model in models)
    return PairedDifference(
        difference=_difference(y, models, len(classes), metric),
        low=low,
        high=high,
        n=len(y),
        a_only=int((right_a & ~right_b).sum()),
        b_only=int((right_b & ~right_a).sum()),
    )


def paired_permutation(
    labels: Any,
    p_a: Any,
    p_b: Any,
    classes: Sequence[str],
    metric: str,
    permutations: int = RESAMPLES,
    seed: int = 0,
    weights: Any = None,
    predicted_a: Any = None,
    predicted_b: Any = None,
) -> float:
    """One-sided p-value of score(a) > score(b): exchanging the two models' answers row by row.

    (1 + exchanges with at least the observed difference) / (1 + permutations): at most the nominal error for
    any number of rows when the models' answers are exchangeable (Phipson & Smyth 2010, arXiv 1603.05766).

    Raises DataError or ArtifactError as `metrics.scores` does.
    """
    if are_sets(labels):
        values = _set_values(labels, p_a, p_b, classes, metric, predicted_a, predicted_b)
        return exchange_p_value(metric, *values, permutations, seed)
    y, models = _models(labels, p_a, p_b, classes, weights, predicted_a, predicted_b)
    a, b = models
    observed = _difference(y, models, len(classes), check_metric(metric))
    rng = np.random.default_rng(seed)
    if metric == "log_loss":
        drawn = flipped_sums(b.losses - a.losses, permutations, rng) / len(y)
    else:
        support = np.bincount(y, minlength=len(classes))
        swapped = swapped_counts(y, a.guess, b.guess, len(classes), permutations, rng)
        drawn = _lead([count_scores(*c, support)[metric] for c in swapped])
    return float((1 + (drawn >= observed - _ROUNDING).sum()) / (1 + permutations))


def headline_intervals(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    weights: Any = None,
    predicted: Any = None,
) -> dict[str, Interval | None]:
    """An interval for each headline score, by its name in `metrics.Scores`, in that score's own direction.

    accuracy: Wilson. auroc: DeLong. ece: see `_ece_interval`. The others: stratified percentile bootstrap;
    resamples in which MCC is undefined are left out. None: the score is undefined, or no resample differs
    (no error seen, say), so that there is no spread to judge by. average_precision has no interval: it would
    have to sort every resample.

    Raises DataError or ArtifactError as `metrics.scores` does.
    """
    y, p = check_rows(labels, probabilities, classes)
    guess, n_classes = decisions(p, predicted), len(classes)
    ((hits, decided),) = resampled_counts(y, [guess], n_classes, resamples, np.random.default_rng(seed))
    drawn = count_scores(hits, decided, np.bincount(y, minlength=n_classes))
    gaps = _binned_gaps(y, p, guess)
    values = np.column_stack([row_losses(y, p, weights), row_briers(y, p, weights), gaps])
    means = resampled_sums(y, values, resamples, np.random.default_rng(seed)) / len(y)
    found = {name: _spread(draws, level) for name, draws in drawn.items()}
    if np.isnan(count_scores(*counts(y, guess, n_classes), np.bincount(y, minlength=n_classes))["mcc"]):
        found["mcc"] = None
    return found | {
        "accuracy": wilson(int((guess == y).sum()), len(y), level),
        "log_loss": _spread(means[:, 0], level),
        "brier": _spread(means[:, 1], level),
        "ece": _ece_interval(gaps.sum(axis=0) / len(y), means[:, 2:], level),
        "auroc": auroc_interval(y, p, level),
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


def _binned_gaps(y: Ints, p: Floats, guess: Ints) -> Floats:
    """Confidence minus rightness of each row in the column of its bin [n, BINS]; sums / n give the ECE's terms."""
    confidence = p[np.arange(len(y)), guess]
    gaps = np.zeros((len(y), BINS))
    gaps[np.arange(len(y)), confidence_bins(confidence)] = confidence - (guess == y)
    return gaps


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


def _set_values(
    labels: Any, p_a: Any, p_b: Any, classes: Sequence[str], metric: str, predicted_a: Any, predicted_b: Any
) -> tuple[Floats, Floats]:
    y, a = check_sets(labels, p_a, classes)
    _, b = check_sets(labels, p_b, classes)
    guesses = decided_sets(a, predicted_a), decided_sets(b, predicted_b)
    return row_values(metric, y, a, guesses[0]), row_values(metric, y, b, guesses[1])


def _set_difference(
    labels: Any,
    p_a: Any,
    p_b: Any,
    classes: Sequence[str],
    metric: str,
    level: float,
    resamples: int,
    seed: int,
    predicted_a: Any,
    predicted_b: Any,
) -> PairedDifference:
    a, b = _set_values(labels, p_a, p_b, classes, metric, predicted_a, predicted_b)
    low, high = _percentiles(difference_draws(metric, a, b, resamples, seed), level)
    y = np.asarray(labels).astype(bool)
    right_a, right_b = (
        (decided_sets(p, says) == y).all(axis=1) for p, says in ((p_a, predicted_a), (p_b, predicted_b))
    )
    n = len(y)
    return PairedDifference(
        difference=float(from_sums(metric, a.sum(axis=0), n) - from_sums(metric, b.sum(axis=0), n)),
        low=low,
        high=high,
        n=n,
        a_only=int((right_a & ~right_b).sum()),
        b_only=int((right_b & ~right_a).sum()),
    )


def _models(
    labels: Any, p_a: Any, p_b: Any, classes: Sequence[str], weights: Any, predicted_a: Any, predicted_b: Any
) -> tuple[Ints, list[_Model]]:
    y, a = check_rows(labels, p_a, classes)
    _, b = check_rows(labels, p_b, classes)
    given = ((a, predicted_a), (b, predicted_b))
    return y, [_Model(decisions(p, predicted), row_losses(y, p, weights)) for p, predicted in given]


def _difference(y: Ints, models: Sequence[_Model], n_classes: int, metric: str) -> float:
    """Score of the first model less that of the second."""
    if metric == "log_loss":
        return float(_lead([-model.losses for model in models]).mean())
    support = np.bincount(y, minlength=n_classes)
    return float(_lead([count_scores(*counts(y, m.guess, n_classes), support)[metric] for m in models]))


def _draws(y: Ints, models: Sequence[_Model], n_classes: int, metric: str, resamples: int, seed: int) -> Floats:
    """Resampled scores [resamples] of one model, or of the first less the second on the same resampled rows."""
    rng = np.random.default_rng(seed)
    if metric == "log_loss":
        gains = _lead([-model.losses for model in models])
        return resampled_sums(y, gains[:, None], resamples, rng)[:, 0] / len(y)
    support = np.bincount(y, minlength=n_classes)
    drawn = resampled_counts(y, [model.guess for model in models], n_classes, resamples, rng)
    return np.asarray(_lead([count_scores(*c, support)[metric] for c in drawn]), dtype=np.float64)


def _lead(values: Sequence[Any]) -> Any:
    """The first value, less the second one if there is one."""
    return values[0] - values[1] if len(values) == 2 else values[0]


def _spread(draws: Floats, level: float) -> Interval | None:
    """Percentiles of the defined draws; None when they do not differ."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0 or defined.max() - defined.min() <= _ROUNDING:
        return None
    return _percentiles(defined, level)


def _percentiles(draws: Floats, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
