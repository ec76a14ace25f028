"""Fits a blend of encoder and TF-IDF on validation rows, and says whether it is shown to help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bertft_core.evaluation.policy.blend import Blend, Floats, logits, probabilities_of
from bertft_core.evaluation.scores.intervals import paired_permutation
from bertft_core.evaluation.scores.labels import Labels, MultiLabels, labels_of
from bertft_core.evaluation.scores.resampling import FOLDS, folds_of

BLEND_LEVEL = 0.05  # one-sided
_PERMUTATIONS = 2_000
_PRIOR = (0.5, 0.5)  # the weights that the fit is drawn to: the equal mixture
_PRIOR_DEVIATION = 0.5  # of each weight around it
_BIAS_DEVIATION = 1.0  # nats, of each class's bias around 0


@dataclass(frozen=True, kw_only=True)
class BlendGain:
    """What a blend gains over the encoder alone on rows that neither was fitted on.

    log_loss: nats a row, positive where the blend is better, with its one-sided p-value. score: of the deciding metric.
    """

    log_loss: float
    p_value: float
    score: float
    metric: str

    @property
    def is_shown(self) -> bool:
        """Log loss falls beyond chance and the deciding metric does not."""
        return self.log_loss > 0 and self.p_value <= BLEND_LEVEL and self.score >= 0

    def __str__(self) -> str:
        return (
            f"cross-fitted against the encoder alone: log loss {-self.log_loss:+.4f}, p {self.p_value:.3g}, "
            f"{self.metric} {self.score:+.4f}"
        )


def fit_blend(labels: Labels, encoder: Any, tfidf: Any) -> Blend:
    """The blend of least log loss on these rows, drawn to the equal mixture without biases as by a normal prior.

    encoder, tfidf: probabilities [n, C]. The loss is convex. The prior weighs as much as a few rows; without it, rows
    that are all right would want infinite weights, and a class without a row a bias of minus infinity.
    """
    x = np.stack([logits(p, multi_label=labels.multi_label) for p in (encoder, tfidf)])
    weights, bias = _weights(x, labels, _PRIOR, with_bias=True)
    return Blend(encoder=float(weights[0]), tfidf=float(weights[1]), bias=tuple(map(float, bias)))


def _weights(x: Floats, labels: Labels, prior: tuple[float, ...], *, with_bias: bool) -> tuple[Floats, Floats]:
    """Least penalised log loss of the logits x [K, n, C]: weights [K] >= 0 and biases [C], all 0 unless `with_bias`."""
    from scipy.optimize import minimize

    if isinstance(labels, MultiLabels):
        targets = labels.values.astype(np.float64)
    else:
        targets = np.eye(x.shape[2])[labels.values] if labels.weights is None else np.asarray(labels.weights, float)
        targets = targets / targets.sum(axis=1, keepdims=True)
    count, biases = len(prior), x.shape[2] if with_bias else 0
    center = np.concatenate([prior, np.zeros(biases)])
    deviation = np.concatenate([np.full(count, _PRIOR_DEVIATION), np.full(biases, _BIAS_DEVIATION)])

    def loss(found: Floats) -> tuple[float, Floats]:
        scores = np.tensordot(found[:count], x, axes=1)
        if with_bias:
            scores += found[count:]
        top = np.logaddexp(0, scores).sum() if labels.multi_label else np.logaddexp.reduce(scores, axis=1).sum()
        over = probabilities_of(scores, multi_label=labels.multi_label) - targets
        away = (found - center) / deviation
        slope = np.concatenate([np.einsum("knc,nc->k", x, over), over.sum(axis=0)[:biases]])
        return float(top - (scores * targets).sum() + away @ away / 2), slope + away / deviation

    bounds = [(0, None)] * count + [(None, None)] * biases
    found = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:count], found[count:]


def blend_gain(labels: Labels, encoder: Any, tfidf: Any, metric: str) -> BlendGain:
    """Blend and encoder alone, both fitted on four fifths of the rows, on the fifth; all five together.

    The encoder alone gets a weight too, its temperature: what calibration alone would do is no gain of the blend.
    """
    x = np.stack([logits(p, multi_label=labels.multi_label) for p in (encoder, tfidf)])
    blended, alone = np.empty_like(x[0]), np.empty_like(x[0])
    fold = folds_of(labels.values, labels.groups)
    for own in (fold == k for k in range(FOLDS)):
        soft = None if labels.weights is None else labels.weights[~own]
        rest = labels_of(labels.values[~own], labels.classes, soft)
        for answers, models, prior in ((blended, x, _PRIOR), (alone, x[:1], (1.0,))):
            weights, bias = _weights(models[:, ~own], rest, prior, with_bias=answers is blended)
            scores = np.tensordot(weights, models[:, own], axes=1)
            answers[own] = probabilities_of(scores + bias if bias.size else scores, multi_label=labels.multi_label)
    a, b = labels.predictions(blended), labels.predictions(alone)
    return BlendGain(
        log_loss=labels.difference("log_loss", a, b),
        p_value=paired_permutation(labels, a, b, "log_loss", _PERMUTATIONS),
        score=labels.difference(metric, a, b),
        metric=metric,
    )
