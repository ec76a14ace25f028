"""The training loss and the validation scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


def classification_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats, in float32: targets are labels [n] or class weights [n, C] (soft)."""
    return functional.cross_entropy(logits.float(), targets)


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
