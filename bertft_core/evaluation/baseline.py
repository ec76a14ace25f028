"""The TF-IDF baseline: what a linear model on word counts reaches on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.evaluation.scores.counts import Floats, Ints
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import check_metric

BASELINE_ROWS = 50_000  # training rows at most: the fit stays under ten minutes and 2 GB
STRENGTHS = (1.0, 10.0, 100.0)  # C, the inverse of the L2 penalty
_RARE = 2  # bigrams seen in one training row only cannot generalise and are 80 % of the vocabulary
_SMALL = 1_000  # below this many training rows every term counts
_SOLVER: dict[str, Any] = {
    "solver": "lbfgs",
    "max_iter": 100,
    "tol": 1e-3,  # of the gradient; scores on BBC News are equal to those at 1e-5
}
Candidate = tuple[dict[str, Any], Floats, Floats]  # parameters, probabilities on validation and on test rows


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """probabilities float32 [n_test, C]; params chosen on validation; validation_score, higher is better."""

    probabilities: npt.NDArray[np.float32]
    params: dict[str, Any]
    validation_score: float


def tfidf_baseline(
    texts: Mapping[str, Sequence[str]], labels: Mapping[str, Any], n_classes: int, metric: str, seed: int
) -> Baseline:
    """Fit word 1-2-gram TF-IDF (sublinear) and logistic regressions; what has a choice is chosen on validation.

    texts: of the splits train, validation and test; those of pairs come joined. labels: of train and validation, class
    indices [n] or, multi-label, 0 and 1 [n, C]. Chosen are C and, where a row has one class, whether stop words count;
    ties go to the lower validation log loss. More than BASELINE_ROWS training rows are sampled by `seed`. Texts
    without words give the classes' shares.

    Raises DataError when validation has no rows.
    """
    check_metric(metric)
    y = np.asarray(labels["train"], dtype=np.int64)
    multi_label, rows = y.ndim == 2, np.arange(len(y))
    if len(y) > BASELINE_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(y), BASELINE_ROWS, replace=False))
    validation = labels_of(labels["validation"], range(n_classes))
    train, y, others = [texts["train"][int(i)] for i in rows], y[rows], (texts["validation"], texts["test"])
    shares = y.mean(axis=0) if multi_label else np.bincount(y, minlength=n_classes) / len(y)
    name = "class shares" if multi_label else "class prior"
    p_validation, p_test = (np.tile(shares, (len(part), 1)) for part in others)
    candidates: list[Candidate] = [({"model": name}, p_validation, p_test)]
    if multi_label:
        candidates += _multi_label_fits(train, y, others)
    else:
        for stop_words in (None, "english"):
            candidates += _fits(train, y, others, stop_words, n_classes)

    def rank(candidate: Candidate) -> tuple[float, float]:
        scores = validation.scores(validation.predictions(candidate[1]), ranking=False)
        return scores.score(metric), -scores.log_loss

    params, p_validation, p_test = max(candidates, key=rank)
    return Baseline(
        probabilities=p_test.astype(np.float32),
        params={**params, "train_rows": len(rows)},
        validation_score=rank((params, p_validation, p_test))[0],
    )


def _matrices(train: Sequence[str], others: Sequence[Sequence[str]], stop_words: str | None) -> list[Any]:
    """TF-IDF of the training texts and of the others; empty where no text holds a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        stop_words=stop_words,
        min_df=_RARE if len(train) >= _SMALL else 1,
        dtype=np.float32,
    )
    try:
        own = vectorizer.fit_transform(train)
    except ValueError:  # "empty vocabulary"
        return []
    return [own, *(vectorizer.transform(part) for part in others)]


def _fits(
    train: Sequence[str], y: Ints, others: Sequence[Sequence[str]], stop_words: str | None, n_classes: int
) -> Iterator[Candidate]:
    """One regression over the classes a strength, each started from the last: three cost about one and a half."""
    from sklearn.linear_model import LogisticRegression

    if not (matrices := _matrices(train, others, stop_words)):
        return
    x, model = matrices[0], LogisticRegression(warm_start=True, **_SOLVER)
    for strength in STRENGTHS:
        _fit(model.set_params(C=strength), x, y)
        params = {"model": "tfidf", "stop_words": stop_words, "C": strength, "features": int(x.shape[1])}
        answers = []
        for part in matrices[1:]:
            wide = np.zeros((part.shape[0], n_classes))  # a class without a training row gets 0
            if len(wide):
                wide[:, model.classes_] = model.predict_proba(part)
            answers.append(wide / wide.sum(axis=1, keepdims=True))
        yield params, answers[0], answers[1]


def _multi_label_fits(train: Sequence[str], y: Ints, others: Sequence[Sequence[str]]) -> Iterator[Candidate]:
    """A regression a class and strength. A class of which every or no training row is gets its share."""
    from sklearn.linear_model import LogisticRegression

    if not (matrices := _matrices(train, others, None)):
        return
    for strength in STRENGTHS:
        columns = []
        for own in y.T:
            if own.min() == own.max():
                columns.append([np.full(part.shape[0], float(own[0])) for part in matrices[1:]])
                continue
            model = LogisticRegression(C=strength, **_SOLVER)
            _fit(model, matrices[0], own)
            columns.append([model.predict_proba(m)[:, 1] if m.shape[0] else np.zeros(0) for m in matrices[1:]])
        p_validation, p_test = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
        yield {"model": "tfidf", "C": strength}, p_validation, p_test


def _fit(model: Any, x: Any, y: Ints) -> None:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # a baseline stopped at 100 iterations is still a baseline
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
