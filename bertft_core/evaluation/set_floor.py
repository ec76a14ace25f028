"""The floor of multi-label rows: TF-IDF with one logistic regression for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertft_core.evaluation.floor import FLOOR_ROWS, STRENGTHS, FloorResult
from bertft_core.evaluation.metrics import Floats
from bertft_core.evaluation.sets import set_scores

_RARE, _SMALL, _MAX_ITER, _TOLERANCE = 2, 1_000, 100, 1e-3  # as in `floor`


def set_floor(
    texts_train: Sequence[str], y_train: Any, texts_val: Sequence[str], y_val: Any, texts_test: Sequence[str],
    metric: str, seed: int,
) -> FloorResult:  # fmt: skip
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
        *_candidates([texts_train[int(i)] for i in kept], y, texts_val, texts_test),
    ]:
        scored = set_scores(y_val, p_val, names, ranking=False)
        found.append(((scored.score(metric), -scored.log_loss), params, p_test))
    (score, _), params, probabilities = max(found, key=lambda candidate: candidate[0])
    chosen = {**params, "train_rows": len(kept)}
    return FloorResult(probabilities=probabilities.astype(np.float32), params=chosen, validation_score=score)


def _candidates(
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
