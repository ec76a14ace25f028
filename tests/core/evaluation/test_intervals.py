from __future__ import annotations

import time

import numpy as np
import pytest

from bertft_core.evaluation.intervals import bootstrap_interval, mcnemar, paired_difference, wilson
from bertft_core.evaluation.metrics import scores


def model(y: np.ndarray, classes: int, right: float, seed: int) -> np.ndarray:
    """Probabilities of a model that is right on a share `right` of the rows."""
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(y)) < right, y, (y + rng.integers(1, classes, len(y))) % classes)
    p = np.full((len(y), classes), 0.1 / (classes - 1))
    p[np.arange(len(y)), guess] = 0.9
    return p


def plain_bootstrap(y: np.ndarray, a: np.ndarray, b: np.ndarray, metric: str, resamples: int) -> np.ndarray:
    """The definition, row by row: resample within each true class, score both, subtract."""
    rng, names = np.random.default_rng(99), [str(i) for i in range(a.shape[1])]
    strata = [np.flatnonzero(y == c) for c in np.unique(y)]
    out = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(s, len(s)) for s in strata])
        one, two = (scores(y[rows], p[rows], names, ranking=False).score(metric) for p in (a, b))
        out.append(one - two)
    return np.quantile(out, [0.025, 0.975])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_paired_difference_agrees_with_a_row_by_row_bootstrap(metric: str) -> None:
    y = np.random.default_rng(0).integers(0, 3, 300)
    a, b = model(y, 3, 0.9, 1), model(y, 3, 0.8, 2)
    found = paired_difference(y, a, b, list("abc"), metric)
    names = list("abc")
    assert found.difference == pytest.approx(scores(y, a, names).score(metric) - scores(y, b, names).score(metric))
    low, high = plain_bootstrap(y, a, b, metric, 1000)
    width = high - low
    assert found.low == pytest.approx(low, abs=0.12 * width) and found.high == pytest.approx(high, abs=0.12 * width)


def test_paired_difference_counts_rows_only_one_model_gets_right() -> None:
    eye = np.eye(2)
    found = paired_difference([0, 0, 1, 1], eye[[0, 0, 1, 0]], eye[[0, 1, 0, 0]], ["a", "b"], "accuracy", resamples=200)
    assert (found.a_only, found.b_only, found.n, found.difference) == (2, 0, 4, 0.5)


def test_paired_difference_of_equal_models_is_exactly_zero() -> None:
    y = np.arange(100) % 4
    p = model(y, 4, 0.7, 3)
    for metric in ("accuracy", "macro_f1", "log_loss"):
        found = paired_difference(y, p, p, list("abcd"), metric, resamples=500)
        assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_paired_difference_is_antisymmetric_and_seeded() -> None:
    y = np.arange(200) % 4
    a, b = model(y, 4, 0.8, 3), model(y, 4, 0.7, 4)
    one = paired_difference(y, a, b, list("abcd"), "macro_f1", seed=5)
    assert one == paired_difference(y, a, b, list("abcd"), "macro_f1", seed=5)
    assert one.difference == -paired_difference(y, b, a, list("abcd"), "macro_f1").difference


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_bootstrap_of_25000_rows_takes_less_than_ten_seconds(metric: str) -> None:
    y = np.arange(25_000) % 20
    a, b = model(y, 20, 0.9, 1), model(y, 20, 0.88, 2)
    start = time.perf_counter()
    paired_difference(y, a, b, [str(i) for i in range(20)], metric, resamples=10_000 if metric != "log_loss" else 1_000)
    assert time.perf_counter() - start < 10


def test_bootstrap_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        y = np.arange(200) % 2
        low, high = bootstrap_interval(y, model(y, 2, 0.8, seed), ["a", "b"], "accuracy", resamples=500, seed=seed)
        hits += low <= 0.8 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_wilson_by_hand_and_at_the_ends() -> None:
    assert wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    low, high = wilson(10, 10)
    assert low == pytest.approx(0.7225, abs=1e-4) and high == 1.0
    assert wilson(0, 10)[0] == 0.0


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
