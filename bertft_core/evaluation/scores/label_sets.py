"""Scores of multi-label rows: a row has any number of the classes, each is decided by its own probability.

All scores that decide are functions of sums over rows, so a bootstrap resample is a row of weights and an exchange of
two models' answers a row of signs: the tests are those of `intervals`, for sums. What is undefined stays None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.evaluation.scores.metrics import (
    BINS,
    ClassScores,
    Floats,
    ReliabilityBin,
    Scores,
    check_metric,
    class_f1,
    confidence_bins,
    scores,
)
from bertft_core.evaluation.scores.resampling import flipped_sums, resampled_sums

_FLOOR_PROBABILITY = float(np.finfo(np.float32).eps)  # as in `metrics`: an exact 0 costs 15.9 nats
_ROUNDING = 1e-12
Flags = npt.NDArray[np.bool_]
Interval = tuple[float, float]


def are_sets(labels: Any) -> bool:
    """Whether labels are those of multi-label rows: 0 and 1 [n, C] instead of class indices [n]."""
    return np.ndim(labels) == 2


def check_sets(labels: Any, probabilities: Any, classes: Sequence[object]) -> tuple[Flags, Floats]:
    """labels as bool [n, C], probabilities as float64 [n, C] in [0, 1].

    Raises DataError for no rows or other labels than 0 and 1, ArtifactError for anything that is no probability.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 2 or len(y) == 0 or y.shape[1] != len(classes) or not np.isin(y, (0, 1)).all():
        raise DataError(f"wanted one or more rows of 0 and 1 for {len(classes)} classes, found an array {y.shape}")
    if p.shape != y.shape:
        raise ArtifactError(f"wanted probabilities of shape {y.shape}, found {p.shape}")
    faulty = ~((p >= 0) & (p <= 1)).all(axis=1)
    if faulty.any():
        first = int(np.argmax(faulty))
        raise ArtifactError(f"{int(faulty.sum())} rows hold no probabilities; the first is {first}: {p[first][:5]}")
    return y.astype(bool), p


def decided_sets(probabilities: Any, predicted: Any = None) -> Flags:
    """The decided classes bool [n, C]: `predicted` itself, or those of probability 1/2 or more."""
    if predicted is None:
        return np.asarray(np.asarray(probabilities) >= 0.5)
    guess = np.asarray(predicted)
    if guess.shape != np.shape(probabilities):
        raise ArtifactError(f"wanted decisions of shape {np.shape(probabilities)}, found {guess.shape}")
    return guess.astype(bool)


def row_set_losses(y: Flags, p: Floats) -> Floats:
    """Binary cross entropy in nats of each row, the mean over the classes, [n]."""
    own = np.where(y, p, 1 - p)
    return np.asarray(-np.log(np.clip(own, _FLOOR_PROBABILITY, 1.0)).mean(axis=1), dtype=np.float64)


def set_scores(
    labels: Any, probabilities: Any, classes: Sequence[str], predicted: Any = None, *, ranking: bool = True
) -> Scores:
    """Score probabilities [n, C] against labels 0 and 1 [n, C].

    accuracy: rows whose whole set is right (subset accuracy). log_loss and brier: mean over rows and classes. ece: of
    all (row, class) probabilities together. ranking: label ranking average precision (Schapire & Singer 2000) over the
    rows with a label. balanced_accuracy and mcc have no meaning here (None), confusion is empty.

    Raises DataError or ArtifactError as `check_sets`.
    """
    y, p = check_sets(labels, probabilities, classes)
    guess = decided_sets(p, predicted)
    hits, decided, support = (v.sum(axis=0) for v in (y & guess, guess, y))
    seen, counted = support > 0, _counted(hits, decided, support)
    shares = support[seen] / max(1, support.sum())
    precision = hits[seen] / np.maximum(1, decided[seen])
    per_class = _per_class(y, p, guess, classes, ranking)
    bins = set_reliability(y, p)
    return Scores(
        n=len(y),
        accuracy=float((guess == y).all(axis=1).mean()),
        balanced_accuracy=None,
        macro_f1=float(counted["macro_f1"]),
        weighted_f1=float(class_f1(hits, decided, support)[seen] @ shares),
        macro_precision=float(precision.mean()) if seen.any() else 0.0,
        weighted_precision=float(precision @ shares),
        mcc=None,
        log_loss=float(row_set_losses(y, p).mean()),
        brier=float(((p - y) ** 2).mean()),
        ece=sum(abs(b.confidence - b.accuracy) * b.rows for b in bins) / y.size,
        auroc=_mean([c.auroc for c in per_class]),
        average_precision=_mean([c.average_precision for c in per_class]),
        per_class=per_class,
        confusion=(),
        micro_f1=float(counted["micro_f1"]),
        ranking=_ranking(y, p) if ranking else None,
    )


def set_reliability(labels: Any, probabilities: Any) -> tuple[ReliabilityBin, ...]:
    """Probability against frequency of all (row, class) pairs, in bins of equally many; rows count pairs."""
    y, p = np.asarray(labels, dtype=bool).ravel(), np.asarray(probabilities, dtype=np.float64).ravel()
    bin_of = confidence_bins(p)
    pairs = np.bincount(bin_of, minlength=BINS)
    total, right = (np.bincount(bin_of, weights=v, minlength=BINS) for v in (p, y.astype(np.float64)))
    return tuple(
        ReliabilityBin(confidence=float(total[b] / pairs[b]), accuracy=float(right[b] / pairs[b]), rows=int(pairs[b]))
        for b in np.flatnonzero(pairs)
    )


def _counted(hits: Any, decided: Any, support: Any) -> dict[str, Any]:
    """Macro and micro F1 from counts [..., C]; macro over the classes with rows, 0 where there is no label at all."""
    seen = support > 0
    f1 = np.where(seen, class_f1(hits, decided, support), 0.0)
    return {
        "macro_f1": f1.sum(axis=-1) / np.maximum(1, seen.sum(axis=-1)),
        "micro_f1": class_f1(hits.sum(axis=-1), decided.sum(axis=-1), support.sum(axis=-1)),
    }


def _per_class(y: Flags, p: Floats, guess: Flags, classes: Sequence[str], ranking: bool) -> tuple[ClassScores, ...]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    found = []
    for i, name in enumerate(classes):
        own, said = y[:, i], guess[:, i]
        hits, support, decided = int((own & said).sum()), int(own.sum()), int(said.sum())
        is_ranked = ranking and 0 < support < len(own)
        found.append(
            ClassScores(
                name=str(name),
                precision=hits / decided if decided else None,
                recall=hits / support if support else None,
                f1=2 * hits / (support + decided) if support else None,
                support=support,
                predicted=decided,
                auroc=float(roc_auc_score(own, p[:, i])) if is_ranked else None,
                average_precision=float(average_precision_score(own, p[:, i])) if is_ranked else None,
            )
        )
    return tuple(found)


def _ranking(y: Flags, p: Floats) -> float | None:
    from sklearn.metrics import label_ranking_average_precision_score

    kept = y.any(axis=1)
    return float(label_ranking_average_precision_score(y[kept], p[kept])) if kept.any() else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


# ---- resampling


def row_values(metric: str, y: Flags, p: Floats, guess: Flags) -> Floats:
    """What each row adds to the sums that `metric` is made of, [n, K]."""
    if check_metric(metric) == "log_loss":
        return np.asarray(-row_set_losses(y, p)[:, None])
    if metric == "accuracy":
        return np.asarray((guess == y).all(axis=1)[:, None], dtype=np.float64)
    return np.hstack([y & guess, guess, y]).astype(np.float64)


def from_sums(metric: str, sums: Any, n: int) -> Any:
    """The score (higher is better) from sums [..., K] over n rows."""
    if metric in ("log_loss", "accuracy"):
        return sums[..., 0] / n
    hits, decided, support = np.split(sums, 3, axis=-1)
    return _counted(hits, decided, support)[metric]


def resampled_scores(metric: str, values: Floats, resamples: int, seed: int) -> Floats:
    """Scores [resamples] of plain bootstrap resamples of rows with values [n, K]."""
    n = len(values)
    drawn = resampled_sums(np.zeros(n, dtype=np.int64), values, resamples, np.random.default_rng(seed))
    return np.asarray(from_sums(metric, drawn, n), dtype=np.float64)


def difference_draws(metric: str, a: Floats, b: Floats, resamples: int, seed: int) -> Floats:
    """Scores of a less those of b on the same resampled rows, [resamples]."""
    n, width = len(a), a.shape[1]
    both = np.hstack([a, b])
    drawn = resampled_sums(np.zeros(n, dtype=np.int64), both, resamples, np.random.default_rng(seed))
    return np.asarray(from_sums(metric, drawn[:, :width], n) - from_sums(metric, drawn[:, width:], n))


def exchange_p_value(metric: str, a: Floats, b: Floats, permutations: int, seed: int) -> float:
    """One-sided p-value of score(a) > score(b): exchanging the two models' answers row by row (as in `intervals`)."""
    n = len(a)
    observed = from_sums(metric, a.sum(axis=0), n) - from_sums(metric, b.sum(axis=0), n)
    middle, half = (a + b).sum(axis=0) / 2, flipped_sums((a - b) / 2, permutations, np.random.default_rng(seed))
    drawn = from_sums(metric, middle + half, n) - from_sums(metric, middle - half, n)
    return float((1 + (drawn >= observed - _ROUNDING).sum()) / (1 + permutations))


def any_scores(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    weights: Any = None,
    predicted: Any = None,
    *,
    ranking: bool = True,
) -> Scores:
    """`metrics.scores` of rows with one label, `set_scores` of multi-label ones."""
    if are_sets(labels):
        return set_scores(labels, probabilities, classes, predicted, ranking=ranking)
    return scores(labels, probabilities, classes, weights, predicted, ranking=ranking)
