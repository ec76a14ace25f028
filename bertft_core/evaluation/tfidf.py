"""A TF-IDF model as a value: words with their weights, saved as JSON and safetensors, rebuilt with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import read_json, write_json

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

TERMS, ARRAYS = "tfidf.json", "tfidf.safetensors"  # the two files of a saved model
_FORMAT = 1
_SLAB = 20_000  # texts whose words are held at once: about 1.5 kB each of 60 words


@dataclass(frozen=True, kw_only=True, eq=False)
class TfidfModel:
    """Word 1-2-gram TF-IDF (sublinear, rows of length 1) and a linear model over it, V terms and C classes.

    terms: V words and pairs of words, lower case, in the order of the columns. stop_words: scikit-learn's list
    "english" is left out, or None. idf [V]; coefficients [C, V]; intercepts [C], where a class without a training
    row has -inf; float32. multi_label: each class has its own logistic regression.

    Raises ArtifactError for arrays of other sizes.
    """

    terms: tuple[str, ...]
    stop_words: str | None
    idf: Singles
    coefficients: Singles
    intercepts: Singles
    multi_label: bool

    def __post_init__(self) -> None:
        n_classes, n_terms = len(self.intercepts), len(self.terms)
        if self.idf.shape != (n_terms,) or self.coefficients.shape != (n_classes, n_terms):
            raise ArtifactError(
                f"a TF-IDF model of {n_terms} terms and {n_classes} classes wants idf ({n_terms},) and coefficients "
                f"({n_classes}, {n_terms}), found {self.idf.shape} and {self.coefficients.shape}"
            )

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Class probabilities [n, C], of multi-label rows each class for itself; those of pairs come joined by a space.

        A text's answer does not depend on the others.
        """
        if not texts or self._vectorizer is None:
            return self.answers(np.zeros((len(texts), len(self.terms)), dtype=np.float32))
        left = iter(texts)
        slabs = iter(lambda: list(islice(left, _SLAB)), [])
        return np.concatenate([self.answers(self._vectorizer.transform(slab)) for slab in slabs])

    def answers(self, matrix: Any) -> Floats:
        """`probabilities` of rows [n, V] that are TF-IDF already, sparse or not."""
        scores = np.asarray(matrix @ self.coefficients.T, dtype=np.float64) + self.intercepts
        if self.multi_label:
            with np.errstate(over="ignore"):  # exp(inf): a class that no training row has
                return np.asarray(1 / (1 + np.exp(-scores)))
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    @cached_property
    def _vectorizer(self) -> Any:
        if not self.terms:  # no training text holds a word
            return None
        found = vectorizer(self.stop_words, vocabulary={term: place for place, term in enumerate(self.terms)})
        found.idf_ = self.idf
        return found

    def save(self, folder: Path | str) -> None:
        """Write `TERMS` and `ARRAYS` into `folder`."""
        from safetensors.numpy import save_file

        arrays = {"idf": self.idf, "coefficients": self.coefficients, "intercepts": self.intercepts}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, Path(folder) / ARRAYS)
        facts = {"format": _FORMAT, "multi_label": self.multi_label, "stop_words": self.stop_words}
        write_json(Path(folder) / TERMS, {**facts, "terms": list(self.terms)})

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """The model that `save` wrote. Raises ArtifactError when it is missing, damaged or of another format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            facts = read_json(Path(folder) / TERMS)
            if facts.pop("format") != _FORMAT:
                raise ValueError(f"format must be {_FORMAT}: use the bertft that wrote it")
            arrays = load_file(Path(folder) / ARRAYS)
            values: dict[str, Any] = {**facts, **arrays, "terms": tuple(facts["terms"])}
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as fault:
            raise ArtifactError(f"{folder}: no TF-IDF model ({type(fault).__name__}: {fault})") from fault


def vectorizer(stop_words: str | None, **settings: Any) -> Any:
    """scikit-learn's vectorizer of a `TfidfModel`, for a fit (min_df) or with the vocabulary of one."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, stop_words=stop_words, dtype=np.float32, **settings)
