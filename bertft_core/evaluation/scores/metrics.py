"""Scores of probabilities against labels, one label per row: of decisions, of probabilities, of rankings.

What is undefined stays None and no number is made up for it: recall, F1, AUROC and average precision of a class
without rows, precision of a class never predicted, MCC when one class is all there is. Macro and weighted
scores are taken over the classes that have rows; there a class never predicted counts with precision 0, as in
scikit-learn, so that never predicting a class cannot raise the macro precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.config.metrics import METRICS, as_score

BINS = 15  # of calibration error and reliability diagram (Guo et al. 2017, arXiv 1706.04599)
# float32's epsilon, scikit-learn's clip for float32 probabilities: an exact 0 costs 15.9 nats, not infinity
_FLOOR_PROBABILITY = float(np.finfo(np.float32).eps)
_SUM_TOLERANCE = 1e-3  # float32 softmax over 150 classes sums to 1 within 1e-5

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class: precision, recall, F1, AUROC, average precision in [0, 1], None where undefined; row counts."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int
    auroc: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """A bin of rows of like confidence: mean confidence and accuracy in [0, 1], and its rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores over n rows; those of decisions follow the decisions, the others the probabilities.

    Shares in [0, 1], higher is better: accuracy to weighted_precision, auroc, average_precision (both
    one-vs-rest, mean over the classes where defined). mcc in [-1, 1], None when undefined. Lower is better:
    log_loss in nats, >= 0; brier in [0, 2], the squared error summed over all classes (Brier 1950: for two
    classes twice the one-column form); ece in [0, 1]. confusion[i][j] counts rows of class i decided as j.

    micro_f1 and ranking are of multi-label rows only (`sets.set_scores`), which have no confusion.
    """

    n: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float
    weighted_f1: float
    macro_precision: float
    weighted_precision: float
    mcc: float | None
    log_loss: float
    brier: float
    ece: float
    auroc: float | None
    average_precision: float | None
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    micro_f1: float | None = None
    ranking: float | None = None

    @property
    def is_multi(self) -> bool:
        """Whether the rows have sets of labels."""
        return self.micro_f1 is not None

    @property
    def macro_recall(self) -> float | None:
        """Balanced accuracy under its other name."""
        return self.balanced_accuracy

    @property
    def weighted_recall(self) -> float:
        """Accuracy under its other name: recalls weighted by their classes' rows."""
        return self.accuracy

    def score(self, metric: str) -> float:
        """The metric as a score, higher is better: log loss is negated."""
        if metric == "micro_f1" and self.micro_f1 is None:
            return self.accuracy  # which it is where each row has one label
        return as_score(metric, float(getattr(self, check_metric(metric))))

    def __str__(self) -> str:
        shares = f"accuracy {self.accuracy:.4f}, macro F1 {self.macro_f1:.4f}"
        return f"{shares}, log loss {self.log_loss:.4f}, n {self.n}"


def check_metric(metric: str) -> str:
    """`metric` itself. Raises DataError when it is none of METRICS."""
    if metric not in METRICS:
        raise DataError(f"evaluation.metric must be one of {', '.join(METRICS)}, was {metric!r}")
    return metric


def check_rows(labels: Any, probabilities: Any, classes: Sequence[object]) -> tuple[Ints, Floats]:
    """labels as int64 [n] in [0, C), probabilities as float64 [n, C], finite, in [0, 1], rows summing to 1.

    Raises DataError for no rows or an unknown label, ArtifactError for anything that is no distribution.
    """
    y = np.asarray(labels, dtype=np.int64)
    p = np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or len(y) == 0:
        raise DataError(f"scoring wants at least one labelled row, found an array of shape {y.shape}")
    if p.shape != (len(y), len(classes)):
        raise ArtifactError(f"wanted probabilities of shape ({len(y)}, {len(classes)}), found {p.shape}")
    if y.min() < 0 or y.max() >= len(classes):
        raise DataError(f"labels must lie in 0..{len(classes) - 1}, found {y.min()}..{y.max()}")
    faulty = ~np.isfinite(p).all(axis=1) | (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if faulty.any():
        first = int(np.argmax(faulty))
        raise ArtifactError(
            f"{int(faulty.sum())} of {len(y)} rows of probabilities are no distribution (not finite, "
            f"negative, or not summing to 1); the first is row {first}: {p[first][:5].tolist()}"
        )
    return y, p


def decisions(probabilities: Floats, predicted: Any = None) -> Ints:
    """The decided classes [n]: `predicted` itself, or the most probable class where None.

    Raises ArtifactError when `predicted` is no row of class indices as long as the probabilities.
    """
    if predicted is None:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    n, n_classes = probabilities.shape
    guess = np.asarray(predicted, dtype=np.int64)
    if guess.shape != (n,) or (n and not 0 <= guess.min() <= guess.max() < n_classes):
        raise ArtifactError(f"wanted {n} decisions in 0..{n_classes - 1}, found {guess[:5].tolist()} ({guess.shape})")
    return guess


def scores(
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    weights: Any = None,
    predicted: Any = None,
    *,
    ranking: bool = True,
) -> Scores:
    """Score probabilities [n, C] against labels [n] (class indices).

    Soft weights [n, C] enter log loss and Brier score: both are then the mean over a label drawn from them.
    `predicted` [n]: the decisions, where they differ from the most probable class (thresholds, costs).
    `ranking` False leaves out AUROC and average precision (None): they cost more than all the rest.

    >>> scores([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["no", "yes"]).accuracy
    1.0

    Raises DataError for no rows or an unknown label, ArtifactError for rows that are no distribution.
    """
    y, p = check_rows(labels, probabilities, classes)
    guess = decisions(p, predicted)
    table = confusion(y, guess, len(classes))
    counted = {k: float(v) for k, v in count_scores(np.diag(table), table.sum(axis=0), table.sum(axis=1)).items()}
    mcc = counted.pop("mcc")
    ranked = _ranking(y, p) if ranking else [(None, None)] * len(classes)
    return Scores(
        n=len(y),
        **counted,
        mcc=None if np.isnan(mcc) else mcc,
        log_loss=float(row_losses(y, p, weights).mean()),
        brier=float(row_briers(y, p, weights).mean()),
        ece=sum(abs(b.confidence - b.accuracy) * b.rows for b in _reliability(y, p, guess, BINS)) / len(y),
        auroc=_mean([auroc for auroc, _ in ranked]),
        average_precision=_mean([precision for _, precision in ranked]),
        per_class=_per_class(table, classes, ranked),
        confusion=tuple(tuple(int(v) for v in row) for row in table),
    )


def count_scores(hits: Any, predicted: Any, support: Ints) -> dict[str, Any]:
    """The scores that depend on counts of rows only, each [...]; MCC is nan where undefined.

    hits and predicted [..., C]: rows decided rightly by class and rows decided as each class; support [C]:
    rows of each class. Leading axes are resamples. MCC: Gorodkin 2004, equation 8.
    """
    seen = support > 0
    h, p, s = hits[..., seen], predicted[..., seen], support[seen]
    n, shares = s.sum(), s / s.sum()
    f1, precision = class_f1(h, p, s), h / np.maximum(p, 1)
    right = h.sum(axis=-1)
    spread = (n**2 - (np.asarray(predicted, dtype=np.float64) ** 2).sum(axis=-1)) * float(n**2 - (s**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        mcc = np.where(spread > 0, (right * n - p @ s) / np.sqrt(spread), np.nan)
    return {
        "accuracy": right / n,
        "balanced_accuracy": (h / s).mean(axis=-1),
        "macro_f1": f1.mean(axis=-1),
        "weighted_f1": f1 @ shares,
        "macro_precision": precision.mean(axis=-1),
        "weighted_precision": precision @ shares,
        "mcc": mcc,
    }


def class_f1(hits: Any, predicted: Any, support: Any) -> Any:
    """F1 of each class from counts [..., C] as in `count_scores`; 0 for a class that neither occurs nor is decided."""
    return 2 * hits / np.maximum(1, support + predicted)


def confusion(labels: Ints, predicted: Ints, n_classes: int) -> Ints:
    """Counts [C, C]: true class by row, predicted class by column."""
    flat = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def row_losses(labels: Ints, probabilities: Floats, weights: Any = None) -> Floats:
    """Log loss in nats of each row, [n]; against soft weights [n, C] (normalised to sum 1) when given."""
    logs = np.log(np.clip(probabilities, _FLOOR_PROBABILITY, 1.0))
    if weights is None:
        return np.asarray(-logs[np.arange(len(labels)), labels], dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray(-(w * logs).sum(axis=1) / w.sum(axis=1), dtype=np.float64)


def row_briers(labels: Ints, probabilities: Floats, weights: Any = None) -> Floats:
    """Squared error summed over the classes, [n]; its mean over the label's distribution for soft weights [n, C].

    With w the label's distribution: sum_k w_k |p - e_k|^2 = |p|^2 - 2 w.p + 1.
    """
    w = np.eye(probabilities.shape[1])[labels] if weights is None else np.asarray(weights, dtype=np.float64)
    expected = (w * probabilities).sum(axis=1) / w.sum(axis=1)
    return np.asarray((probabilities**2).sum(axis=1) - 2 * expected + 1, dtype=np.float64)


def reliability(labels: Any, probabilities: Any, predicted: Any = None, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in bins of equally many rows, from least to most confident.

    Confidence is the probability of the decided class; ECE = sum over the bins of rows / n * |accuracy -
    confidence| (Guo et al. 2017, arXiv 1706.04599; equal mass: Nixon et al. 2019, arXiv 1904.01685). Rows of
    equal confidence share a bin, so the result does not depend on the order of rows; bins may then be fewer.

    Raises DataError or ArtifactError as `scores` does.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y, p = check_rows(labels, p, range(p.shape[-1]))
    return _reliability(y, p, decisions(p, predicted), bins)


def confidence_bins(confidence: Floats, bins: int = BINS) -> Ints:
    """The equal-mass bin [n] in 0..bins-1 of each row; ties go to the bin of their first row."""
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    return np.asarray(below * bins // max(1, len(confidence)), dtype=np.int64)


def _reliability(y: Ints, p: Floats, guess: Ints, bins: int) -> tuple[ReliabilityBin, ...]:
    confidence = p[np.arange(len(y)), guess]
    bin_of = confidence_bins(confidence, bins)
    rows = np.bincount(bin_of, minlength=bins)
    total, right = (np.bincount(bin_of, weights=v, minlength=bins) for v in (confidence, guess == y))
    return tuple(
        ReliabilityBin(confidence=float(total[b] / rows[b]), accuracy=float(right[b] / rows[b]), rows=int(rows[b]))
        for b in np.flatnonzero(rows)
    )


def _ranking(y: Ints, p: Floats) -> list[tuple[float | None, float | None]]:
    """AUROC and average precision of each class against the rest; None unless both kinds of rows are there."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: list[tuple[float | None, float | None]] = []
    for column in range(p.shape[1]):
        own = y == column
        if own.all() or not own.any():
            found.append((None, None))
        else:
            score = p[:, column]
            found.append((float(roc_auc_score(own, score)), float(average_precision_score(own, score))))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def _per_class(
    table: Ints, classes: Sequence[str], ranked: Sequence[tuple[float | None, float | None]]
) -> tuple[ClassScores, ...]:
    support, predicted, hits = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    return tuple(
        ClassScores(
            name=str(name),
            precision=float(hits[i] / predicted[i]) if predicted[i] else None,
            recall=float(hits[i] / support[i]) if support[i] else None,
            f1=float(2 * hits[i] / (support[i] + predicted[i])) if support[i] else None,
            support=int(support[i]),
            predicted=int(predicted[i]),
            auroc=ranked[i][0],
            average_precision=ranked[i][1],
        )
        for i, name in enumerate(classes)
    )
