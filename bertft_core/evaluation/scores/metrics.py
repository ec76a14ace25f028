"""The values that scores are: of all rows, of a class, of a bin of like confidence.

What is undefined stays None and no number is made up for it: recall, F1, AUROC and average precision of a class
without rows, precision of a class never predicted, MCC when one class is all there is. Macro and weighted
scores are taken over the classes that have rows; there a class never predicted counts with precision 0, as in
scikit-learn, so that never predicting a class cannot raise the macro precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import DataError
from bertft_core.config.metrics import METRICS, as_score
from bertft_core.evaluation.scores.counts import Floats, Ints

BINS = 15  # of calibration error and reliability diagram (Guo et al. 2017, arXiv 1706.04599)
LARGEST_CONFUSION = 500  # classes; the table of 5,000 has 25 million cells, 180 MB of JSON


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
    classes twice the one-column form); ece in [0, 1]. confusion[i][j] counts rows of class i decided as j; empty above
    LARGEST_CONFUSION classes.

    micro_f1 and ranking are of multi-label rows only (`labels.MultiLabels`), which have no confusion.
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
    def multi_label(self) -> bool:
        """Whether a row has any number of the classes."""
        return self.micro_f1 is not None

    def score(self, metric: str) -> float:
        """The metric as a score, higher is better: log loss is negated."""
        if metric == "micro_f1" and self.micro_f1 is None:
            return self.accuracy  # which it is where each row has one label
        return as_score(metric, float(getattr(self, check_metric(metric))))


def check_metric(metric: str) -> str:
    """`metric` itself. Raises DataError when it may not decide."""
    if metric not in METRICS:
        raise DataError(f"evaluation.metric must be one of {', '.join(METRICS)}, was {metric!r}")
    return metric


def confidence_bins(confidence: Floats, bins: int = BINS) -> Ints:
    """The equal-mass bin [n] in 0..bins-1 of each row; ties go to the bin of their first row."""
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    return np.asarray(below * bins // max(1, len(confidence)), dtype=np.int64)


def reliability_bins(confidence: Floats, is_right: npt.NDArray[Any], bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Confidence [n] against how often it is right [n], in bins of equally many, from least to most confident.

    ECE = sum over the bins of rows / n * |accuracy - confidence| (Guo et al. 2017, arXiv 1706.04599; equal mass: Nixon
    et al. 2019, arXiv 1904.01685). Rows of equal confidence share a bin, so the result does not depend on the order of
    rows; bins may then be fewer.
    """
    bin_of = confidence_bins(confidence, bins)
    rows = np.bincount(bin_of, minlength=bins)
    total, right = (np.bincount(bin_of, weights=v, minlength=bins) for v in (confidence, is_right))
    return tuple(
        ReliabilityBin(confidence=float(total[b] / rows[b]), accuracy=float(right[b] / rows[b]), rows=int(rows[b]))
        for b in np.flatnonzero(rows)
    )


def calibration_error(bins: tuple[ReliabilityBin, ...], n: int) -> float:
    """Expected calibration error in [0, 1] of the bins of n rows."""
    return sum(abs(b.confidence - b.accuracy) * b.rows for b in bins) / n
