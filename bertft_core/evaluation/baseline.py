"""The TF-IDF baseline: what a linear model on word counts reaches on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any

import numpy as np

from bertft_core.evaluation.scores.counts import Floats, Ints
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import check_metric
from bertft_core.evaluation.tfidf import Singles, TfidfModel, vectorizer

BASELINE_ROWS = 50_000  # of train, and of validation, at most: the fit stays under ten minutes and 2 GB
STRENGTHS = (1.0, 10.0, 100.0)  # C, the inverse of the L2 penalty
_RARE = 2  # bigrams seen in one training row only cannot generalise and are 80 % of the vocabulary
_BYTES = 2_000_000_000  # of the coefficients at most: of many classes the most frequent words alone count
_OF_ONE = 200  # bytes a coefficient: L-BFGS keeps 25 numbers of each
_OF_MANY = 8  # the same where a row has several labels: each is fitted alone
_SMALL = 1_000  # below this many training rows every term counts
_SOLVER: dict[str, Any] = {
    "solver": "lbfgs",
    "max_iter": 100,
    "tol": 1e-3,  # of the gradient; scores on BBC News are equal to those at 1e-5
}
Weights = tuple[Singles, Singles]  # coefficients [C, V], intercepts [C]
Candidate = tuple[dict[str, Any], TfidfModel, Floats]  # parameters, model, its probabilities on validation rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """model; params chosen on validation; validation_score, higher is better. probabilities by split, [n, C], of
    validation and test rows.
    """

    model: TfidfModel
    params: dict[str, Any]
    validation_score: float
    probabilities: dict[str, Floats]


def tfidf_baseline(
    texts: Mapping[str, Sequence[str]], labels: Mapping[str, Any], n_classes: int, metric: str, seed: int
) -> Baseline:
    """Fit word 1-2-gram TF-IDF (sublinear) and logistic regressions; what has a choice is chosen on validation.

    texts: of the splits train, validation and test; those of pairs come joined. labels: of train and validation, class
    indices [n] or, multi-label, 0 and 1 [n, C]. Chosen are C and, where a row has one class, whether stop words count;
    ties go to the lower validation log loss. Of more than BASELINE_ROWS training or validation rows so many are sampled
    by `seed`, to fit and to choose; every validation and test row is answered. Texts without words give the classes'
    shares.

    Raises DataError when validation has no rows.
    """
    check_metric(metric)
    train, y = _sampled(texts["train"], np.asarray(labels["train"], dtype=np.int64), seed)
    chosen_on, targets = _sampled(texts["validation"], np.asarray(labels["validation"]), seed)
    multi_label, validation = y.ndim == 2, labels_of(targets, range(n_classes))
    lists = (None,) if multi_label else (None, "english")
    fits = (_fits(train, y, chosen_on, stop_words, n_classes) for stop_words in lists)

    def rank(candidate: Candidate) -> tuple[float, float]:
        scores = validation.scores(validation.predictions(candidate[2]), ranking=False)
        return scores.score(metric), -scores.log_loss

    # a chain: each model is as large as words times classes, and the best one alone is kept
    candidates = chain([_shares(y, n_classes, len(validation))], chain.from_iterable(fits))
    params, model, on_validation = max(candidates, key=rank)
    is_whole = len(chosen_on) == len(texts["validation"])
    return Baseline(
        model=model,
        params={**params, "train_rows": len(y)},
        validation_score=rank((params, model, on_validation))[0],
        probabilities={
            "validation": on_validation if is_whole else model.probabilities(texts["validation"]),
            "test": model.probabilities(texts["test"]),
        },
    )


def _sampled(texts: Sequence[str], targets: Any, seed: int) -> tuple[list[str], Any]:
    """At most BASELINE_ROWS rows in their order, by `seed`; the others are read and not kept."""
    if len(targets) <= BASELINE_ROWS:
        return list(texts), targets
    rows = np.sort(np.random.default_rng(seed).choice(len(targets), BASELINE_ROWS, replace=False))
    is_chosen = np.zeros(len(targets), dtype=bool)
    is_chosen[rows] = True
    return list(compress(texts, is_chosen.tolist())), targets[rows]


def class_shares(targets: Any, n_classes: int) -> Floats:
    """Shares of the classes [C] among class indices [n] or rows of 0 and 1 [n, C], n >= 1: an answer without a text."""
    y = np.asarray(targets)
    shares = y.mean(axis=0) if y.ndim == 2 else np.bincount(y, minlength=n_classes) / len(y)
    return np.asarray(shares, dtype=np.float64)


def _shares(y: Ints, n_classes: int, n_validation: int) -> Candidate:
    """A model without words: the classes' shares of the training rows."""
    multi_label = y.ndim == 2
    shares = class_shares(y, n_classes)
    with np.errstate(divide="ignore"):
        intercepts = np.log(shares) - (np.log(1 - shares) if multi_label else 0.0)
    name = "class shares" if multi_label else "class prior"
    model = _model((), None, (np.zeros(0), np.zeros((n_classes, 0)), intercepts), multi_label=multi_label)
    return {"model": name}, model, model.answers(np.zeros((n_validation, 0)))


def _fits(
    train: Sequence[str], y: Ints, validation: Sequence[str], stop_words: str | None, n_classes: int
) -> Iterator[Candidate]:
    """A model a strength; none where no training text holds a word."""
    multi_label = y.ndim == 2
    most = max(1, _BYTES // (n_classes * (_OF_MANY if multi_label else _OF_ONE)))
    words = vectorizer(stop_words, min_df=_RARE if len(train) >= _SMALL else 1, max_features=most)
    try:
        x = words.fit_transform(train)
    except ValueError:  # "empty vocabulary"
        return
    on_validation, terms = words.transform(validation), tuple(map(str, words.get_feature_names_out()))
    for strength, weights in _regressions(x, y) if multi_label else _regression(x, y, n_classes):
        model = _model(terms, stop_words, (words.idf_, *weights), multi_label=multi_label)
        params = {"model": "tfidf", "C": strength}
        if not multi_label:
            params |= {"stop_words": stop_words, "features": len(terms)}
        yield params, model, model.answers(on_validation)


def _regression(x: Any, y: Ints, n_classes: int) -> Iterator[tuple[float, Weights]]:
    """One regression over the classes a strength, each started from the last: three cost about one and a half."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True, **_SOLVER)
    for strength in STRENGTHS:
        _fit(model.set_params(C=strength), x, y)
        coefficients = np.zeros((n_classes, x.shape[1]), dtype=np.float32)
        intercepts = np.full(n_classes, -np.inf, dtype=np.float32)
        intercepts[model.classes_] = 0.0
        own = model.classes_ if len(model.coef_) > 1 else model.classes_[1:]  # of two: against the first
        coefficients[own], intercepts[own] = model.coef_, model.intercept_
        yield strength, (coefficients, intercepts)


def _regressions(x: Any, y: Ints) -> Iterator[tuple[float, Weights]]:
    """A regression a class and strength. A class of which every or no training row is gets its share."""
    from sklearn.linear_model import LogisticRegression

    for strength in STRENGTHS:
        coefficients = np.zeros((y.shape[1], x.shape[1]), dtype=np.float32)
        intercepts = np.zeros(y.shape[1], dtype=np.float32)
        for column, own in enumerate(y.T):
            if own.min() == own.max():
                intercepts[column] = np.inf if own[0] else -np.inf
                continue
            model = LogisticRegression(C=strength, **_SOLVER)
            _fit(model, x, own)
            coefficients[column], intercepts[column] = model.coef_[0], model.intercept_[0]
        yield strength, (coefficients, intercepts)


def _model(
    terms: tuple[str, ...], stop_words: str | None, arrays: tuple[Any, Any, Any], *, multi_label: bool
) -> TfidfModel:
    idf, coefficients, intercepts = (np.asarray(array, dtype=np.float32) for array in arrays)
    return TfidfModel(
        terms=terms,
        stop_words=stop_words,
        idf=idf,
        coefficients=coefficients,
        intercepts=intercepts,
        multi_label=multi_label,
    )


def _fit(model: Any, x: Any, y: Ints) -> None:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # a baseline stopped at 100 iterations is still a baseline
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
