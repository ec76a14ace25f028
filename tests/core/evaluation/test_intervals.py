from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from bertft_core.base.text import NO_SPREAD
from bertft_core.evaluation.scores import intervals
from bertft_core.evaluation.scores.intervals import (
    Bootstrap,
    PairedDifference,
    auroc_interval,
    mcnemar,
    wilson,
    wilson_lower,
)
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import Scores


def scores(labels, probabilities, classes, weights=None, predicted=None, *, ranking=True) -> Scores:
    rows = labels_of(labels, classes, weights)
    return rows.scores(rows.predictions(probabilities, predicted), ranking=ranking)


def paired_difference(labels, p_a, p_b, classes, metric, predicted_a=None, **how) -> PairedDifference:
    rows = labels_of(labels, classes)
    a, b = rows.predictions(p_a, predicted_a), rows.predictions(p_b)
    return intervals.paired_difference(rows, a, b, metric, Bootstrap(**how))


def paired_permutation(labels, p_a, p_b, classes, metric, permutations, seed=0, weights=None, predicted_a=None):
    rows = labels_of(labels, classes, weights)
    a, b = rows.predictions(p_a, predicted_a), rows.predictions(p_b)
    return intervals.paired_permutation(rows, a, b, metric, permutations, seed)


def headline_intervals(labels, probabilities, classes, predicted=None, **how) -> dict[str, tuple[float, float] | None]:
    rows = labels_of(labels, classes)
    return intervals.headline_intervals(rows, rows.predictions(probabilities, predicted), Bootstrap(**how))


def model(y: np.ndarray, classes: int, right: float, seed: int) -> np.ndarray:
    """Probabilities of a model that is right on a share `right` of the rows."""
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(y)) < right, y, (y + rng.integers(1, classes, len(y))) % classes)
    p = np.full((len(y), classes), 0.1 / (classes - 1))
    p[np.arange(len(y)), guess] = 0.9
    return p


def plain_bootstrap(y: np.ndarray, a: np.ndarray, b: np.ndarray, metric: str, resamples: int) -> np.ndarray:
    """The definition, row by row: resample the rows, score both, subtract."""
    rng, names = np.random.default_rng(99), [str(i) for i in range(a.shape[1])]
    out = []
    for _ in range(resamples):
        rows = rng.choice(len(y), len(y))
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


def test_paired_difference_of_models_that_decide_alike_is_zero_but_not_for_certain() -> None:
    """With none of n rows decided differently, a difference of 3 / n is still possible (the rule of three)."""
    for n in (100, 400):
        y = np.arange(n) % 4
        p = model(y, 4, 0.7, 3)
        for metric in ("accuracy", "macro_f1"):
            found = paired_difference(y, p, p, list("abcd"), metric, resamples=2000)
            assert found.difference == 0.0 and found.interval is not None
            assert -4 / n < found.low < -1 / n and 1 / n < found.high < 4 / n
        found = paired_difference(y, p, p, list("abcd"), "log_loss", resamples=500)
        assert (found.difference, found.interval) == (0.0, None)
        assert str(found) == f"+0.0000 {NO_SPREAD}, {n} rows"


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
    start = time.process_time()
    paired_difference(y, a, b, [str(i) for i in range(20)], metric, resamples=10_000 if metric != "log_loss" else 1_000)
    assert time.process_time() - start < 10


def test_bootstrap_interval_covers_the_true_recall_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        y = np.arange(200) % 2
        found = headline_intervals(y, model(y, 2, 0.8, seed), ["a", "b"], resamples=500, seed=seed)
        low, high = found["balanced_accuracy"]
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
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


def test_mcnemar_one_sided_by_hand() -> None:
    assert mcnemar(0, 0, "greater") == 1.0
    assert mcnemar(9, 1, "greater") == pytest.approx(11 / 1024)
    assert mcnemar(1, 9, "greater") == pytest.approx(1023 / 1024)


def test_wilson_lower_agrees_with_scipy() -> None:
    cases = [(0, 3), (3, 3), (95, 100), (24_000, 25_000)]
    wanted = [binomtest(k, n, alternative="greater").proportion_ci(0.95, method="wilson").low for k, n in cases]
    assert wilson_lower(*np.transpose(cases)) == pytest.approx(wanted, abs=1e-9)


def softer(p: np.ndarray, seed: int) -> np.ndarray:
    """The same model with confidences that differ from row to row."""
    spread = np.random.default_rng(seed).uniform(0.0, 0.9, (len(p), 1))
    return p * (1 - spread) + spread / p.shape[1]


def test_headline_intervals_agree_with_a_row_by_row_bootstrap() -> None:
    rng, names = np.random.default_rng(1), list("abc")
    y = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    p = softer(model(y, 3, 0.8, 1), 2)
    guess = np.where(p[:, 2] > 0.25, 2, p.argmax(axis=1))
    found = headline_intervals(y, p, names, predicted=guess)
    drawn = []
    for _ in range(800):
        rows = rng.choice(len(y), len(y))
        drawn.append(scores(y[rows], p[rows], names, predicted=guess[rows], ranking=False))
    point = scores(y, p, names, predicted=guess)
    for name in ("balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "mcc", "log_loss", "brier"):
        low, high = np.quantile([getattr(d, name) for d in drawn], [0.025, 0.975])
        assert found[name] == pytest.approx((low, high), abs=0.15 * (high - low)), name
        assert found[name][0] < getattr(point, name) < found[name][1], name


def test_headline_intervals_hold_every_score_they_are_named_after() -> None:
    y = np.arange(90) % 3
    p = softer(model(y, 3, 0.8, 4), 5)
    found, point = headline_intervals(y, p, list("abc"), resamples=500), scores(y, p, list("abc"))
    assert set(found) == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "weighted_f1",
        "macro_precision",
        "weighted_precision",
        "mcc",
        "log_loss",
        "brier",
        "ece",
        "auroc",
    }
    for name, interval in found.items():
        assert interval is not None and interval[0] <= getattr(point, name) <= interval[1], name


def test_headline_intervals_without_any_error_are_wide_where_rows_are_few() -> None:
    rows = labels_of([0, 1, 1], ["a", "b"])
    answers = rows.predictions(np.eye(2)[[0, 1, 1]])
    found = intervals.headline_intervals(rows, answers, Bootstrap(resamples=200))
    assert found["accuracy"] == pytest.approx(wilson(3, 3))
    for name in ("macro_f1", "balanced_accuracy", "mcc"):
        low, high = found[name]
        assert high == 1.0 and low < 0.7, name
    reasons = intervals.why_no_interval(rows, answers, found)
    assert reasons["log_loss"] == NO_SPREAD
    assert (
        {name for name, pair in found.items() if pair is None} == {"log_loss", "brier", "ece", "auroc"} <= set(reasons)
    )


def test_answers_of_one_class_have_a_macro_f1_interval_and_an_mcc_reason() -> None:
    y = np.arange(60) % 3
    rows = labels_of(y, list("abc"))
    constant, right = rows.predictions(np.tile([0.5, 0.3, 0.2], (60, 1))), rows.predictions(np.eye(3)[y])
    found = intervals.headline_intervals(rows, constant, Bootstrap(resamples=500))
    assert found["macro_f1"][0] < 1 / 6 < found["macro_f1"][1] and found["mcc"] is None
    assert intervals.why_no_interval(rows, constant, found)["mcc"] == "undefined: all answers are of one class"
    paired = intervals.paired_difference(rows, constant, right, "macro_f1")
    assert paired.difference == pytest.approx(1 / 6 - 1) and paired.low < paired.difference < paired.high < 0


def test_headline_intervals_of_one_class_leave_undefined_scores_without_an_interval() -> None:
    p = softer(np.eye(2)[[0, 0, 1, 0, 1]], 1)
    found = headline_intervals([0] * 5, p, ["a", "b"], resamples=200)
    assert found["mcc"] is None and found["auroc"] is None and found["brier"] is not None


def test_headline_intervals_of_25000_rows_take_less_than_a_millisecond_per_resample() -> None:
    y = np.arange(25_000) % 5
    p = softer(model(y, 5, 0.9, 1), 2)
    start = time.process_time()
    headline_intervals(y, p, list("abcde"), resamples=1_000)
    assert time.process_time() - start < 1.0


def test_ece_interval_of_calibrated_models_holds_zero_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.5, 1, 300)
        y = (rng.random(300) < confidence).astype(int)
        found = headline_intervals(y, np.column_stack([1 - confidence, confidence]), ["a", "b"], resamples=150)
        hits += found["ece"][0] == 0.0
    assert hits / 120 >= 0.92


def test_auroc_interval_by_hand() -> None:
    # positives 0.9, 0.6, negatives 0.7, 0.2: parts of positives 1, 1/2, of negatives 1/2, 1; area 3/4
    p1 = np.array([0.9, 0.6, 0.7, 0.2])
    low, high = auroc_interval(np.array([1, 1, 0, 0]), np.column_stack([1 - p1, p1]))
    deviation = np.sqrt(0.125 / 2 + 0.125 / 2)
    reach = 1.959964 * deviation / (0.75 * 0.25)
    assert (np.log(low / (1 - low)), np.log(high / (1 - high))) == pytest.approx((np.log(3) - reach, np.log(3) + reach))


def test_auroc_interval_of_four_classes_agrees_with_a_row_by_row_bootstrap() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(4, 400, p=[0.4, 0.3, 0.2, 0.1])
    p = rng.dirichlet(np.ones(4), 400)
    p[np.arange(400), y] += 0.3
    p /= p.sum(axis=1, keepdims=True)
    strata, hot, drawn = [np.flatnonzero(y == c) for c in range(4)], np.eye(4)[y], []
    for _ in range(400):
        rows = np.concatenate([rng.choice(s, len(s)) for s in strata])
        drawn.append(roc_auc_score(hot[rows], p[rows], average="macro"))
    low, high = auroc_interval(y, p)
    wanted = np.quantile(drawn, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.2 * (wanted[1] - wanted[0]))
    assert low < roc_auc_score(hot, p, average="macro") < high


def test_auroc_interval_is_none_without_a_spread_to_judge_by() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    assert auroc_interval(np.array([0, 0, 1, 1]), p) is None  # perfect
    assert auroc_interval(np.array([0, 0, 0, 1]), p) is None  # one row of a class
    assert auroc_interval(np.array([1, 1, 1, 1]), p) is None


def test_paired_difference_follows_decisions_that_are_not_the_argmax() -> None:
    y, p = np.arange(40) % 2, np.tile([0.6, 0.4], (40, 1))
    found = paired_difference(y, p, p, ["a", "b"], "accuracy", resamples=200, predicted_a=y)
    assert (found.difference, found.a_only, found.b_only) == (0.5, 20, 0)


def exact_permutation(y: np.ndarray, a: np.ndarray, b: np.ndarray, metric: str) -> float:
    """The share of all 2^n exchanges with at least the observed difference."""
    names, differences = [str(i) for i in range(a.shape[1])], []
    for flips in itertools.product([False, True], repeat=len(y)):
        swap = np.array(flips)[:, None]
        one, two = (scores(y, p, names, ranking=False) for p in (np.where(swap, b, a), np.where(swap, a, b)))
        differences.append(one.score(metric) - two.score(metric))
    return float(np.mean(np.array(differences) >= differences[0] - 1e-12))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_paired_permutation_agrees_with_all_exchanges(metric: str) -> None:
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    a, b = softer(model(y, 3, 0.9, 2), 1), softer(model(y, 3, 0.4, 4), 2)
    wanted = exact_permutation(y, a, b, metric)
    assert 0.01 < wanted < 0.9
    assert paired_permutation(y, a, b, list("abc"), metric, 20_000) == pytest.approx(wanted, abs=0.015)


def test_paired_permutation_of_accuracy_is_the_one_sided_mcnemar() -> None:
    y = np.arange(400) % 2
    a, b = model(y, 2, 0.9, 1), model(y, 2, 0.86, 2)
    pair = paired_difference(y, a, b, ["a", "b"], "accuracy", resamples=100)
    wanted = mcnemar(pair.a_only, pair.b_only, "greater")
    assert paired_permutation(y, a, b, ["a", "b"], "accuracy", 20_000) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_paired_permutation_of_equal_models_is_one_and_of_a_sure_gain_is_the_least_possible(metric: str) -> None:
    y = np.arange(100) % 4
    best, worst = model(y, 4, 1.0, 1), model(y, 4, 0.3, 2)
    assert paired_permutation(y, best, best, list("abcd"), metric, 500) == 1.0
    assert paired_permutation(y, best, worst, list("abcd"), metric, 500) == pytest.approx(1 / 501)
    assert paired_permutation(y, worst, best, list("abcd"), metric, 500) == 1.0


def test_paired_permutation_of_exchangeable_models_rejects_no_more_often_than_it_says() -> None:
    rejected = 0
    for seed in range(300):
        y = np.arange(60) % 2
        a, b = model(y, 2, 0.8, 2 * seed), model(y, 2, 0.8, 2 * seed + 1)
        rejected += paired_permutation(y, a, b, ["a", "b"], "macro_f1", 300, seed) <= 0.1
    assert 0.03 <= rejected / 300 <= 0.14


def test_paired_permutation_uses_soft_weights_and_given_decisions() -> None:
    y, p = np.arange(30) % 2, np.tile([0.6, 0.4], (30, 1))
    right, wrong = np.eye(2)[y] * 0.6 + 0.2, np.eye(2)[1 - y] * 0.6 + 0.2
    assert paired_permutation(y, p, p, ["a", "b"], "accuracy", 500, predicted_a=y) == pytest.approx(1 / 501)
    turned = np.eye(2)[1 - y]
    assert paired_permutation(y, right, wrong, ["a", "b"], "log_loss", 500, weights=turned) == 1.0
