"""Scores of probabilities against labels: accuracy, macro F1, log loss, per class, confusion.

A class without rows has no recall and no F1 (they stay None); macro F1 averages the classes that have rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.errors import ArtifactError, DataError

METRICS = ("macro_f1", "accuracy", "log_loss")
# float32's epsilon, scikit-learn's clip for float32 probabilities: an exact 0 costs 15.9 nats, not infinity
_FLOOR_PROBABILITY = float(np.finfo(np.float32).eps)
_SUM_TOLERANCE = 1e-3  # float32 softmax over 150 classes sums to 1 within 1e-5

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class: precision, recall and F1 in [0, 1] or None where undefined; counts of rows."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores over n rows. accuracy and macro_f1 in [0, 1]; log_loss in nats, >= 0, lower is better.

    confusion[i][j] counts rows of class i predicted as class j.
    """

    n: int
    accuracy: float
    macro_f1: float
    log_loss: float
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]

    def score(self, metric: str) -> float:
        """The metric as a score, higher is better: log loss is negated."""
        return -self.log_loss if metric == "log_loss" else float(getattr(self, check_metric(metric)))

    def __str__(self) -> str:
        shares = f"accuracy {self.accuracy:.4f}, macro F1 {self.macro_f1:.4f}"
        return f"{shares}, log loss {self.log_loss:.4f}, n {self.n}"


def check_metric(metric: str) -> str:
    """`metric` itself. Raises DataError when it is none of METRICS."""
    if metric not in METRICS:
        raise DataError(f"evaluation.metric must be one of {', '.join(METRICS)}, was {metric!r}")
    return metric


def check_rows(labels: Any, probabilities: Any, classes: Sequence[str]) -> tuple[Ints, Floats]:
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


def scores(labels: Any, probabilities: Any, classes: Sequence[str], weights: Any = None) -> Scores:
    """Score probabilities [n, C] against labels [n] (class indices) or soft weights [n, C] (log loss only).

    >>> scores([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["no", "yes"]).accuracy
    1.0

    Raises DataError for no rows or an unknown label, ArtifactError for rows that are no distribution.
    """
    y, p = check_rows(labels, probabilities, classes)
    table = confusion(y, p.argmax(axis=1), len(classes))
    rows = _per_class(table, classes)
    present = [r.f1 for r in rows if r.f1 is not None]
    return Scores(
        n=len(y),
        accuracy=float(np.trace(table) / len(y)),
        macro_f1=float(np.mean(present)),
        log_loss=float(row_losses(y, p, weights).mean()),
        per_class=rows,
        confusion=tuple(tuple(int(v) for v in row) for row in table),
    )


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


def _per_class(table: Ints, classes: Sequence[str]) -> tuple[ClassScores, ...]:
    support, predicted, hits = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    return tuple(
        ClassScores(
            name=str(name),
            precision=float(hits[i] / predicted[i]) if predicted[i] else None,
            recall=float(hits[i] / support[i]) if support[i] else None,
            f1=float(2 * hits[i] / (support[i] + predicted[i])) if support[i] else None,
            support=int(support[i]),
            predicted=int(predicted[i]),
        )
        for i, name in enumerate(classes)
    )
