"""The training loss and the validation scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


def class_weights(mode: str, targets: NDArray[Any], n_classes: int) -> NDArray[np.float32] | None:
    """Weight [C] of each class in the loss, None for mode none; their mean over the rows of ``targets`` is 1.

    balanced: n / (C * n_c), n_c rows of class c of the C classes that occur; sqrt: its root, scaled. ``targets``
    are labels [n] or shares [n, C] (soft: n_c is the sum of the shares). A class that never occurs weighs 0.

    >>> class_weights("balanced", np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.667, 2.0]
    """
    if mode == "none":
        return None
    counts = np.bincount(targets, minlength=n_classes) if targets.ndim == 1 else targets.sum(axis=0, dtype=np.float64)
    inverse = np.divide(1.0, counts, out=np.zeros(n_classes), where=counts > 0)
    raw = np.sqrt(inverse) if mode == "sqrt" else inverse
    scaled: NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return scaled


def classification_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross entropy in nats, in float32: targets are labels [n] or class weights [n, C] (soft).

    ``weights`` [C] weigh each row by its class (soft: by the mean under its target). The sum is divided by the rows,
    not by the batch's own weights as torch does, so that a row counts the same in every batch. ``smoothing`` e makes
    the target (1 - e) * target + e / C (Szegedy et al. 2016, arXiv 1512.00567 section 7).
    """
    if weights is None:
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    rows = functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
    return (rows * (weights[targets] if targets.ndim == 1 else targets @ weights)).mean()


@dataclass(frozen=True, kw_only=True)
class ValidationScores:
    """Scores on one split: log loss in nats, accuracy and macro F1 in [0, 1]."""

    log_loss: float
    accuracy: float
    macro_f1: float

    def by_metric(self, metric: str) -> float:
        """The value that is compared, higher is better (log loss negated)."""
        return {"macro_f1": self.macro_f1, "accuracy": self.accuracy, "log_loss": -self.log_loss}[metric]


def validation_scores(
    logits: NDArray[np.float32], labels: NDArray[np.integer], weights: NDArray[np.float32] | None = None
) -> ValidationScores:
    """Scores of logits [n, C] against labels [n]; log loss uses ``weights`` [n, C] where given.

    Macro F1 is the mean over the classes that occur in ``labels``.
    """
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if weights is None:
        log_loss = -log_p[np.arange(len(labels)), labels].mean()
    else:
        log_loss = -(weights * log_p).sum(axis=1).mean()
    predicted, n_classes = values.argmax(axis=1), values.shape[1]
    hits = np.bincount(labels[predicted == labels], minlength=n_classes)
    support = np.bincount(labels, minlength=n_classes)
    f1 = 2 * hits / np.maximum(1, support + np.bincount(predicted, minlength=n_classes))
    return ValidationScores(
        log_loss=float(log_loss),
        accuracy=float((predicted == labels).mean()),
        macro_f1=float(f1[support > 0].mean()),
    )
