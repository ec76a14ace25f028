"""A blend: one answer from two models' probabilities, log-linearly. numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError

Floats = npt.NDArray[np.float64]
# float32's epsilon, at which log loss clips too: beyond it one model's certainty would outvote any other
LEAST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Weights of the encoder's and the TF-IDF model's logits, each >= 0, not both 0, and a bias for each class.

    A row of one class: softmax(encoder * log p + tfidf * log q + bias), the logarithmic opinion pool (Genest & Zidek
    1986, doi 10.1214/ss/1177013825); weights that sum to more than 1 make more confident, so a temperature is part of
    them. Multi-label: the same of each class's log odds, through a sigmoid. Probabilities are clipped at float32's
    epsilon. bias: nats by class, () for none.

    Raises ArtifactError for impossible weights.
    """

    encoder: float
    tfidf: float
    bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        weights = (self.encoder, self.tfidf)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ArtifactError(f"a blend wants two finite weights >= 0, not both 0, found {self}")
        if not all(map(math.isfinite, self.bias)):
            raise ArtifactError(f"a blend wants a finite bias for each class, found {self.bias}")

    def __str__(self) -> str:
        biases = f", class biases from {min(self.bias):+.2f} to {max(self.bias):+.2f}" if self.bias else ""
        return f"encoder {self.encoder:.3g}, TF-IDF {self.tfidf:.3g}{biases}"

    def mix(self, encoder: Any, tfidf: Any, *, multi_label: bool = False) -> Floats:
        """Probabilities [n, C] of the blend from those of both models [n, C]; a row that holds nan stays nan.

        >>> Blend(encoder=1.0, tfidf=1.0).mix([[0.6, 0.4]], [[0.6, 0.4]]).round(3).tolist()
        [[0.692, 0.308]]
        """
        scores = self.encoder * logits(encoder, multi_label=multi_label)
        scores += self.tfidf * logits(tfidf, multi_label=multi_label)
        if self.bias:
            if len(self.bias) != scores.shape[1]:
                raise ArtifactError(f"the blend has biases of {len(self.bias)} classes, the model {scores.shape[1]}")
            scores += self.bias
        return probabilities_of(scores, multi_label=multi_label)

    @property
    def is_fitted(self) -> bool:
        """Whether the weights come from validation rows."""
        return self != TFIDF_ALONE

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The blend with the weights of a JSON mapping. Raises ArtifactError, KeyError or TypeError."""
        weights = {name: float(value[name]) for name in ("encoder", "tfidf")}
        return cls(**weights, bias=tuple(map(float, value.get("bias", ()))))


TFIDF_ALONE = Blend(encoder=0.0, tfidf=1.0)  # the encoder is not even asked


def logits(probabilities: Any, *, multi_label: bool) -> Floats:
    """Log probabilities [n, C], of multi-label rows log odds, clipped at `LEAST`."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST, 1 - LEAST if multi_label else 1.0)
    return np.asarray(np.log(p) - (np.log1p(-p) if multi_label else 0.0))


def probabilities_of(scores: Floats, *, multi_label: bool) -> Floats:
    """softmax over the classes of logits [..., C]; multi-label: the sigmoid of each."""
    if multi_label:
        return np.asarray(1 / (1 + np.exp(-scores)))
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
