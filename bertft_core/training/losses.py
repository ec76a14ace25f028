"""The training loss and the validation scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bertft_core.config.fit import ADJUSTED, FOCAL, TrainingConfig
from bertft_core.evaluation.scores.counts import class_f1


def class_weights(mode: str | Sequence[float], targets: NDArray[Any], n_classes: int) -> NDArray[np.float32] | None:
    """Weight [C] of each class in the loss, None for mode none; their mean over the rows of ``targets`` is 1.

    balanced: n / (C * n_c), n_c rows of class c of the C classes that occur; sqrt: its root, scaled; numbers [C]:
    themselves, scaled. ``targets`` are labels [n] or shares [n, C] (soft: n_c is the sum of the shares). A class that
    never occurs weighs 0 by a rule.

    >>> class_weights("balanced", np.array([0, 0, 0, 1]), 2).astype(float).round(3).tolist()
    [0.667, 2.0]
    """
    if mode == "none":
        return None
    counts = _counts(targets, n_classes)
    inverse = np.divide(1.0, counts, out=np.zeros(n_classes), where=counts > 0)
    if not isinstance(mode, str):
        raw = np.asarray(mode, dtype=np.float64)
    else:
        raw = np.sqrt(inverse) if mode == "sqrt" else inverse
    scaled: NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return scaled


def multi_label_weights(mode: str | Sequence[float], targets: NDArray[Any]) -> NDArray[np.float32] | None:
    """Weights [2, C] of a class's "no" and "yes" in a multi-label loss, None for mode none; their mean over all is 1.

    ``targets`` are 0 and 1 [n, C]. A "yes" weighs, over a "no" of the same class: balanced, the rows without the class
    over those with it (at least half a row each); sqrt, the root of that; numbers [C], themselves.

    >>> multi_label_weights("balanced", np.array([[1, 0], [0, 1], [0, 1], [0, 0]])).astype(float).round(3).tolist()
    [[0.8, 0.8], [2.4, 0.8]]
    """
    if mode == "none":
        return None
    yes = targets.sum(axis=0, dtype=np.float64)
    no = len(targets) - yes
    if not isinstance(mode, str):
        ratio = np.asarray(mode, dtype=np.float64)
    else:
        ratio = (np.maximum(no, 0.5) / np.maximum(yes, 0.5)) ** (0.5 if mode == "sqrt" else 1.0)
    mean = (no + yes * ratio).sum() / targets.size
    scaled: NDArray[np.float32] = (np.stack([np.ones_like(ratio), ratio]) / mean).astype(np.float32)
    return scaled


def log_priors(targets: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Logarithm [C] of each class's share of the training rows; a class without a row counts as half a one.

    ``targets`` as in `class_weights`.

    >>> np.exp(log_priors(np.array([0, 0, 0, 1]), 2)).astype(float).round(3).tolist()
    [0.75, 0.25]
    """
    counts = np.maximum(_counts(targets, n_classes), 0.5)
    shares: NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return shares


def _counts(targets: NDArray[Any], n_classes: int) -> NDArray[Any]:
    return np.bincount(targets, minlength=n_classes) if targets.ndim == 1 else targets.sum(axis=0, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingLoss:
    """The loss of a fit, in nats and float32: the mean over the rows of a batch.

    cross_entropy; ``gamma``: focal (Lin et al. 2017, arXiv 1708.02002, equation 4); ``adjustment`` [C], tau * log
    prior: added to the logits (Menon et al. 2021, arXiv 2007.07314, equation 10), in training only. Targets are labels
    [n] or class weights [n, C] (soft), and every loss is then the expected one over a label drawn from them.

    ``weights`` [C] weigh a row's loss by its label. The sum is divided by the rows, not by the batch's own weights as
    torch does, so that a row counts the same in every batch. ``smoothing`` e makes the target (1 - e) * target + e / C
    (Szegedy et al. 2016, arXiv 1512.00567 section 7).

    ``multi_label``: targets are 0 and 1 [n, C], each class a question of its own: binary cross entropy of sigmoids, or
    its focal form, the mean over rows and classes; smoothing moves a target towards 1/2; ``weights`` are [2, C], of a
    class's "no" and "yes" (`multi_label_weights`).
    """

    weights: torch.Tensor | None = None
    smoothing: float = 0.0
    gamma: float | None = None
    adjustment: torch.Tensor | None = None
    multi_label: bool = False

    @classmethod
    def of(
        cls,
        training: TrainingConfig,
        classes: Sequence[str],
        targets: NDArray[Any],
        device: torch.device,
        *,
        multi_label: bool,
    ) -> Self:
        """As the configuration has it, for training rows with these targets: labels [n], or weights [n, C]."""
        given, n_classes = training.class_weights, len(classes)
        mode = given if isinstance(given, str) else [given.get(name, 1.0) for name in classes]
        weights = multi_label_weights(mode, targets) if multi_label else class_weights(mode, targets, n_classes)
        adjustment = training.tau * log_priors(targets, n_classes) if training.loss == ADJUSTED else None
        return cls(
            weights=None if weights is None else torch.from_numpy(weights).to(device),
            smoothing=training.label_smoothing,
            gamma=training.focal_gamma if training.loss == FOCAL else None,
            adjustment=None if adjustment is None else torch.from_numpy(adjustment).to(device),
            multi_label=multi_label,
        )

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits [n, C]."""
        logits = logits.float()
        if self.multi_label:
            return _multi_label_loss(logits, targets, self.gamma, self.smoothing, self.weights)
        if self.adjustment is not None:
            logits = logits + self.adjustment
        weights, smoothing = self.weights, self.smoothing
        if weights is not None and targets.ndim == 2:  # the targets carry them
            targets, weights, smoothing = _smoothed(targets * weights, smoothing), None, 0.0
        if self.gamma is None and weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        if self.gamma is None:
            rows = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        else:
            rows = _focal_rows(logits, targets, self.gamma, smoothing)
        return (rows if weights is None else rows * weights[targets]).mean()


def _focal_rows(logits: torch.Tensor, targets: torch.Tensor, gamma: float, smoothing: float) -> torch.Tensor:
    """-sum_c q_c (1 - p_c)^gamma log p_c of each row, [n]; q is the smoothed target."""
    n_classes = logits.shape[1]
    q = functional.one_hot(targets, n_classes).float() if targets.ndim == 1 else targets
    q = _smoothed(q, smoothing)
    log_p = functional.log_softmax(logits, dim=1)
    return -(q * _missed(log_p, gamma) * log_p).sum(dim=1)


def _missed(log_p: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma; 1 - p >= 1e-12, since the derivative at p = 1 is infinite for gamma < 1."""
    return (1 - log_p.exp()).clamp_min(1e-12) ** gamma


def _smoothed(q: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Targets [..., C] of any sum, the share `smoothing` of each sum spread evenly over the classes."""
    return (1 - smoothing) * q + smoothing / q.shape[-1] * q.sum(dim=-1, keepdim=True)


def _multi_label_loss(
    logits: torch.Tensor, targets: torch.Tensor, gamma: float | None, smoothing: float, weights: torch.Tensor | None
) -> torch.Tensor:
    if gamma is None and weights is None:
        return functional.binary_cross_entropy_with_logits(logits, (1 - smoothing) * targets + smoothing / 2)
    both = torch.stack([1 - targets, targets], dim=-1)  # [n, C, 2]: a target over "no" and "yes"
    if weights is not None:
        both = both * weights.T
    both = _smoothed(both, smoothing)
    log_p = torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], dim=-1)
    if gamma is not None:
        both = both * _missed(log_p, gamma)
    return -(both * log_p).sum(dim=-1).mean()


def chance_loss(loss: TrainingLoss, targets: NDArray[Any], n_classes: int) -> tuple[float, float]:
    """(the least mean loss that one and the same answer to all rows has, the loss of right answers).

    The first is what class frequencies alone are worth: for cross entropy the entropy of the class shares. The second
    is 0 where every row has one label, the mean entropy of the targets where they are soft. ``targets`` as in
    `class_weights`. Every loss here is linear in the target, so that the rows' mean target stands for them all.
    """
    device = next((part.device for part in (loss.weights, loss.adjustment) if part is not None), None)
    shares = torch.from_numpy(_counts(targets, n_classes) / len(targets)).float()[None].to(device)
    answer = torch.zeros_like(shares, requires_grad=True)
    search = torch.optim.LBFGS([answer], max_iter=200, line_search_fn="strong_wolfe")

    def descend() -> torch.Tensor:
        search.zero_grad()
        value = loss(answer, shares)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(descend)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        chance, least = float(loss(answer, shares)), 0.0
        if targets.ndim == 2 and not loss.multi_label:
            rows = torch.from_numpy(np.asarray(targets, dtype=np.float32)).to(device)
            wanted = rows if loss.weights is None else rows * loss.weights
            shift = 0.0 if loss.adjustment is None else loss.adjustment
            least = float(loss(wanted.clamp_min(1e-6).log() - shift, rows))
    return chance, least


def validation_scores(
    logits: NDArray[np.float32],
    labels: NDArray[np.integer],
    weights: NDArray[np.float32] | None = None,
    *,
    multi_label: bool = False,
) -> dict[str, float]:
    """Metrics by name, of logits [n, C] against labels [n]; log_loss, in nats, uses soft ``weights`` [n, C] if given.

    Macro F1 is the mean over the classes that occur. ``multi_label``: ``weights`` are the labels, 0 and 1 [n, C], a
    class is predicted from probability 1/2 on; log_loss is the binary cross entropy, mean over rows and classes,
    accuracy the share of rows whose whole set is right, micro_f1 that of all classes' counts together.
    """
    values, everyone = logits.astype(np.float64), np.arange(logits.shape[1])
    if multi_label:
        assert weights is not None, "rows of several labels have a number for each class"
        is_true, guess = weights > 0.5, values >= 0
        log_loss = np.logaddexp(0.0, np.where(is_true, -values, values)).mean()
    else:
        is_true, guess = labels[:, None] == everyone, values.argmax(axis=1)[:, None] == everyone
        shifted = values - values.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        own = log_p[np.arange(len(labels)), labels] if weights is None else (weights * log_p).sum(axis=1)
        log_loss = -own.mean()
    hits, decided, support = (flags.sum(axis=0) for flags in (is_true & guess, guess, is_true))
    f1 = class_f1(hits, decided, support)[support > 0]
    scores = {
        "log_loss": float(log_loss),
        "accuracy": float((guess == is_true).all(axis=1).mean()),
        "macro_f1": float(f1.mean()) if len(f1) else 0.0,
    }
    if multi_label:
        scores["micro_f1"] = float(class_f1(hits.sum(), decided.sum(), support.sum()))
    return scores
