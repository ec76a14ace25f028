"""The TF-IDF baseline: what a linear model on word counts reaches on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.evaluation.scores.label_sets import set_scores
from bertft_core.evaluation.scores.metrics import Floats, Ints, check_metric, scores

FLOOR_ROWS = 50_000  # training rows at most: the fit stays under ten minutes and 2 GB
STRENGTHS = (1.0, 10.0, 100.0)  # C, the inverse of the L2 penalty
_RARE = 2  # bigrams seen in one training row only cannot generalise and are 80 % of the vocabulary
_SMALL = 1_000  # below this many training rows every term counts
_MAX_ITER = 100
_TOLERANCE = 1e-3  # of the gradient; scores on BBC News are equal to those at 1e-5


@dataclass(frozen=True, kw_only=True)
class FloorResult:
    """probabilities float32 [n_test, C]; params chosen on validation; validation_score, higher is better."""

    probabilities: npt.NDArray[np.float32]
    params: dict[str, Any]
    validation_score: float

    def __str__(self) -> str:
        return f"TF-IDF floor: validation score {self.validation_score:.4f}, {self.params}"


def tfidf_floor(
    texts_train: Sequence[str],
    y_train: Any,
    texts_val: Sequence[str],
    y_val: Any,
    texts_test: Sequence[str],
    metric: str,
    seed: int,
    n_classes: int | None = None,
) -> FloorResult:
    """Fit word 1-2-gram TF-IDF (sublinear) + logistic regression; stop words and C are chosen on validation.

    Texts of pairs come joined by the caller. Labels are class indices; ties go to the lower validation log
    loss. More than FLOOR_ROWS training rows are sampled by `seed`. Texts without words give the class prior.

    Raises DataError when validation has no rows.
    """
    check_metric(metric)
    y, v = np.asarray(y_train, dtype=np.int64), np.asarray(y_val, dtype=np.int64)
    width = n_classes or int(max(y.max(), v.max(initial=0))) + 1
    kept = np.arange(len(y))
    if len(y) > FLOOR_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(len(y), FLOOR_ROWS, replace=False))
    train = [texts_train[int(i)] for i in kept]
    best = _prior(y[kept], v, len(texts_test), width, metric)
    for stop_words in (None, "english"):
        best = max(
            [best, *_candidates(train, y[kept], texts_val, v, texts_test, stop_words, metric, width)],
            key=lambda candidate: candidate[0],
        )
    (score, _), params, probabilities = best
    return FloorResult(
        probabilities=probabilities.astype(np.float32),
        params={**params, "train_rows": len(kept)},
        validation_score=score,
    )


Candidate = tuple[tuple[float, float], dict[str, Any], npt.NDArray[Any]]


def _candidates(
    train: Sequence[str],
    y: Ints,
    texts_val: Sequence[str],
    y_val: Ints,
    texts_test: Sequence[str],
    stop_words: str | None,
    metric: str,
    width: int,
) -> list[Candidate]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        stop_words=stop_words,
        min_df=_RARE if len(train) >= _SMALL else 1,
        dtype=np.float32,
    )
    try:
        x_train = vectorizer.fit_transform(train)
    except ValueError:  # "empty vocabulary": no text holds a word
        return []
    x_val, x_test = vectorizer.transform(texts_val), vectorizer.transform(texts_test)
    found: list[Candidate] = []
    for strength, model in _fitted(x_train, y):
        p_val = _widen(model.predict_proba(x_val), model.classes_, width)
        params = {"model": "tfidf", "stop_words": stop_words, "C": strength, "features": int(x_train.shape[1])}
        p_test = _widen(model.predict_proba(x_test), model.classes_, width) if len(texts_test) else p_val[:0]
        found.append((_rank(y_val, p_val, metric), params, p_test))
    return found


def _fitted(x: Any, y: Ints) -> Any:
    """Yield (C, fitted model), each started from the last: three fits cost about one and a half."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="lbfgs", max_iter=_MAX_ITER, tol=_TOLERANCE, warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():  # a floor stopped at 100 iterations is still a floor
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        yield strength, model


def _rank(y: Ints, probabilities: npt.NDArray[Any], metric: str) -> tuple[float, float]:
    found = scores(y, probabilities, [str(i) for i in range(probabilities.shape[1])], ranking=False)
    return found.score(metric), -found.log_loss


def _prior(y: Ints, y_val: Ints, n_test: int, width: int, metric: str) -> Candidate:
    prior = np.bincount(y, minlength=width) / len(y)
    rank = _rank(y_val, np.tile(prior, (len(y_val), 1)), metric)
    return rank, {"model": "class prior"}, np.tile(prior, (n_test, 1))


def _widen(probabilities: npt.NDArray[Any], seen: Ints, width: int) -> npt.NDArray[Any]:
    """Probabilities over all `width` classes; those without a training row get 0."""
    wide = np.zeros((len(probabilities), width), dtype=np.float64)
    wide[:, seen] = probabilities
    wide /= wide.sum(axis=1, keepdims=True)
    return wide


def set_floor(
    texts_train: Sequence[str],
    y_train: Any,
    texts_val: Sequence[str],
    y_val: Any,
    texts_test: Sequence[str],
    metric: str,
    seed: int,
) -> FloorResult:
    """Fit word 1-2-gram TF-IDF and a regression per class; C is chosen on validation, one for all classes.

    Labels are 0 and 1 [n, C]. A class of which every or no training row is gets its share; texts without words too.
    """
    y = np.asarray(y_train)
    kept = np.arange(len(y))
    if len(y) > FLOOR_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(len(y), FLOOR_ROWS, replace=False))
    y, names = y[kept], [str(i) for i in range(y.shape[1])]
    found: list[tuple[tuple[float, float], dict[str, Any], Floats]] = []
    shares = y.mean(axis=0)
    for params, p_val, p_test in [
        ({"model": "class shares"}, np.tile(shares, (len(texts_val), 1)), np.tile(shares, (len(texts_test), 1))),
        *_label_candidates([texts_train[int(i)] for i in kept], y, texts_val, texts_test),
    ]:
        scored = set_scores(y_val, p_val, names, ranking=False)
        found.append(((scored.score(metric), -scored.log_loss), params, p_test))
    (score, _), params, probabilities = max(found, key=lambda candidate: candidate[0])
    chosen = {**params, "train_rows": len(kept)}
    return FloorResult(probabilities=probabilities.astype(np.float32), params=chosen, validation_score=score)


def _label_candidates(
    train: Sequence[str], y: Any, texts_val: Sequence[str], texts_test: Sequence[str]
) -> list[tuple[dict[str, Any], Floats, Floats]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    rare = _RARE if len(train) >= _SMALL else 1
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, dtype=np.float32)
    try:
        x = vectorizer.fit_transform(train)
    except ValueError:  # "empty vocabulary": no text holds a word
        return []
    others = [vectorizer.transform(texts_val), vectorizer.transform(texts_test)]
    found = []
    for strength in STRENGTHS:
        columns = [_column(x, y[:, c], others, strength) for c in range(y.shape[1])]
        p_val, p_test = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
        found.append(({"model": "tfidf", "C": strength}, p_val, p_test))
    return found


def _column(x: Any, own: Any, others: Sequence[Any], strength: float) -> list[Floats]:
    """Probabilities of one class on each of the other matrices."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if own.min() == own.max():
        return [np.full(m.shape[0], float(own[0])) for m in others]
    model = LogisticRegression(solver="lbfgs", max_iter=_MAX_ITER, tol=_TOLERANCE, C=strength)
    with warnings.catch_warnings():  # a floor stopped at 100 iterations is still a floor
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, own)
    return [model.predict_proba(m)[:, 1] if m.shape[0] else np.zeros(0) for m in others]
