from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import fbeta_score, log_loss

from bertft_core.base.errors import ConfigError, DataError
from bertft_core.evaluation.policy.calibration import (
    Objective,
    PolicySettings,
    coverage_curve,
    fit_abstention,
    fit_policy,
    fit_temperature,
    fit_thresholds,
    threshold_gain,
)
from bertft_core.evaluation.policy.decisions import DecisionPolicy, apply_temperature, decide_by_thresholds
from bertft_core.evaluation.scores.counts import count_scores, counts
from bertft_core.evaluation.scores.labels import labels_of


def rows(n: int, classes: int, seed: int, heat: float = 1.0, prior: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities with Gaussian class signals, then made `heat` times too confident.

    prior: how much rarer than the first class the last one is.
    """
    rng, share = np.random.default_rng(seed), np.linspace(prior, 1, classes)
    share /= share.sum()
    y = rng.choice(classes, n, p=share)
    z = rng.normal(0, 1, (n, classes))
    z[np.arange(n), y] += 1.5
    z = (1.5 * z + np.log(share)) * heat
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return y, p / p.sum(axis=1, keepdims=True)


def test_temperature_by_hand() -> None:
    # three of four right at p = 0.9: the best is p = 0.75, so T = logit 0.9 / logit 0.75 = log 9 / log 3 = 2
    assert fit_temperature([0, 0, 0, 1], np.tile([0.9, 0.1], (4, 1))) == pytest.approx(2.0, abs=1e-4)


def test_temperature_finds_how_much_too_confident_a_model_is() -> None:
    y, p = rows(20_000, 4, 0, heat=2.5)
    assert fit_temperature(y, p) == pytest.approx(2.5, rel=0.05)


def test_temperature_of_doubled_logits_is_two_and_keeps_the_argmax() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 2, (50_000, 3))
    true, said = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (z, 2 * z))
    y = (rng.random((50_000, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(max=2)
    found = fit_temperature(y, said)
    assert found == pytest.approx(2.0, rel=0.02)
    assert fit_temperature(y, said, weights=true) == pytest.approx(2.0, rel=1e-4)  # no luck of the draw in it
    assert np.array_equal(apply_temperature(said, found).argmax(axis=1), said.argmax(axis=1))


def test_temperature_agrees_with_a_search_over_scikit_learns_log_loss() -> None:
    y, p = rows(300, 3, 1, heat=0.6)
    best = minimize_scalar(lambda t: log_loss(y, apply_temperature(p, t)), bounds=(0.1, 5), method="bounded")
    assert fit_temperature(y, p) == pytest.approx(best.x, rel=1e-3)


def test_temperature_of_soft_weights_by_hand() -> None:
    assert fit_temperature([0], [[0.9, 0.1]], weights=[[3, 1]]) == pytest.approx(2.0, abs=1e-4)


def test_temperature_is_clamped_when_all_rows_are_right_or_all_are_wrong() -> None:
    p = np.array([[0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    assert fit_temperature([0, 1, 1], p) == 0.05
    assert fit_temperature([1, 0, 0], p) == 20.0


def test_temperature_of_no_rows_is_refused() -> None:
    with pytest.raises(DataError, match="at least one labelled row"):
        fit_temperature([], np.zeros((0, 2)))


def test_temperature_survives_an_exact_zero() -> None:
    p = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, 0.1]], dtype=np.float32)
    assert 1.0 < fit_temperature([1, 0, 0], p) <= 20.0


def best_single_threshold(y: np.ndarray, p1: np.ndarray, beta: float) -> float:
    """The best macro F-beta over every cut between two neighbouring scores."""
    ordered = np.unique(p1)
    return max(fbeta_score(y, p1 > t, beta=beta, average="macro") for t in (ordered[1:] + ordered[:-1]) / 2)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_binary_thresholds_are_as_good_as_the_best_of_every_cut(beta: float) -> None:
    y, p = rows(150, 2, 3, prior=6)
    found = fit_thresholds(y, p, "f_beta", beta)
    assert found is not None and sum(found) == pytest.approx(1.0)
    value = fbeta_score(y, decide_by_thresholds(p, found), beta=beta, average="macro")
    assert value == pytest.approx(best_single_threshold(y, p[:, 1], beta))


@pytest.mark.parametrize(("objective", "score"), [("balanced_accuracy", "balanced_accuracy"), ("f_beta", "macro_f1")])
def test_thresholds_of_three_classes_come_close_to_a_grid_search(objective: Objective, score: str) -> None:
    y, p = rows(120, 3, 4, prior=8)
    steps = np.linspace(-3, 3, 41)

    def value(thresholds: tuple[float, ...]) -> float:
        guess, support = decide_by_thresholds(p, thresholds), np.bincount(y, minlength=3)
        return float(count_scores(*counts(y, guess, 3), support)[score])

    grid = max(value((1.0, np.exp(a), np.exp(b))) for a, b in itertools.product(steps, steps))
    found = fit_thresholds(y, p, objective)
    assert found is not None and value(found) >= grid - 0.01
    assert value(found) > value((1.0, 1.0, 1.0))


def test_thresholds_stay_with_the_plain_argmax_when_no_cut_is_better() -> None:
    p1 = np.array([0.2, 0.3, 0.7, 0.8])
    assert fit_thresholds([0, 0, 1, 1], np.column_stack([1 - p1, p1]), "f_beta") is None


def test_thresholds_of_tied_probabilities_or_one_class_are_the_plain_argmax() -> None:
    assert fit_thresholds([0, 1, 1], np.full((3, 2), 0.5), "f_beta") is None
    _, p = rows(30, 3, 5)
    assert fit_thresholds(np.zeros(30, dtype=int), p, "balanced_accuracy") is None


@pytest.mark.parametrize("classes", [3, 4])
def test_thresholds_leave_a_class_without_rows_where_it_is(classes: int) -> None:
    y, p = rows(100, classes, 6, prior=5)
    y[y == classes - 1] = 0
    found = fit_thresholds(y, p, "balanced_accuracy")
    assert found is not None and found[-1] == found[0] != found[1]


def test_thresholds_do_not_divide_rows_that_differ_by_rounding() -> None:
    # the best cut lies between 0.3 and the number next to it; without it, to decide all from 0.3 upwards as 1
    p1 = np.array([0.1, 0.3, np.nextafter(0.3, 1), 0.4])
    found = fit_thresholds([0, 0, 1, 1], np.column_stack([1 - p1, p1]), "balanced_accuracy")
    assert found is not None and decide_by_thresholds(np.column_stack([1 - p1, p1]), found).tolist() == [0, 0, 0, 1]


def test_thresholds_decide_exact_zeros_as_they_were_fitted() -> None:
    # class 2 has probability 0 throughout; only beside an unsure rival is it right
    y, p = np.repeat([0, 2], 5), np.repeat(np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]], dtype=np.float32), 5, axis=0)
    found = fit_thresholds(y, p, "f_beta")
    assert found is not None and decide_by_thresholds(p, found).tolist() == y.tolist()


def test_thresholds_take_the_cut_nearest_to_one_half_among_equals() -> None:
    # between 0.3 and 0.4 and between 0.1 and 0.2 the rows 0 and 1 are divided equally well
    p1 = np.array([0.1, 0.2, 0.3, 0.4, 0.45])
    found = fit_thresholds([0, 1, 0, 1, 1], np.column_stack([1 - p1, p1]), "balanced_accuracy")
    assert found is not None and 0.3 < found[1] < 0.4


def test_threshold_gain_proves_a_gain_for_rare_classes_and_none_for_a_model_that_is_best_already() -> None:
    gain, p_value = threshold_gain(*rows(2_000, 2, 7, prior=9), "balanced_accuracy", 1.0)
    assert gain > 0.02 and p_value < 0.01
    assert threshold_gain(*rows(500, 5, 8), "balanced_accuracy", 1.0)[1] > 0.05


def alike(groups: int, each: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and groups of rows that are one row each group, answers that know nothing of the labels."""
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, classes, groups), rng.dirichlet(np.ones(classes) * 3, groups)
    group = np.repeat(np.arange(groups), each)
    return y[group], p[group], group


def test_rows_of_a_group_prove_thresholds_together_and_not_each_alone() -> None:
    draws = [alike(25, 10, 3, seed) for seed in range(40)]
    as_groups, as_rows = (
        sum(
            gain > 0 and p_value <= 0.05
            for gain, p_value in (threshold_gain(y, p, "f_beta", 1.0, g if known else None) for y, p, g in draws)
        )
        for known in (True, False)
    )
    assert as_rows > 20 and as_groups <= 5  # of 40 at 5 %: 2 are expected, 6 or more come up in 1 of 70 series
    y, p = rows(2_000, 2, 7, prior=9)
    gain, p_value = threshold_gain(y, p, "balanced_accuracy", 1.0, np.arange(2_000) % 100)
    assert gain > 0.02 and p_value < 0.01  # what is there is found in 100 groups too


def test_policy_says_that_there_are_too_few_groups_for_thresholds() -> None:
    y, p = rows(2_000, 2, 7, prior=9)
    settings = PolicySettings(thresholds="balanced_accuracy")
    nine, ten = (fit_policy(y, p, settings, groups=[f"customer {i % n}" for i in range(2_000)]) for n in (9, 10))
    assert nine.thresholds is None and "only 9 groups of validation rows, 10 are wanted: thresholds" in nine.notes[1]
    assert ten.thresholds is not None


def test_rows_of_a_group_do_not_prove_an_accuracy_that_other_groups_lack() -> None:
    """Groups are wholly right or wrong: what is promised for 0.9 holds for other groups in 19 of 20 draws, or so."""
    broken = {True: 0, False: 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(40), 10)
        y = (rng.random(40) < 0.85)[group].astype(int)  # right for 85 % of the groups, at one confidence
        p = np.tile([0.2, 0.8], (400, 1))
        for known in broken:
            broken[known] += fit_abstention(y, p, None, 0.9, group if known else None) is not None
    assert broken[False] > 10 and broken[True] <= 5
    y, p = rows(3_000, 2, 9)
    alone, apart = (fit_abstention(y, p, None, 0.95, groups) for groups in (None, np.arange(3_000)))
    assert alone is not None and apart == pytest.approx(alone, abs=0.02)  # groups of one row are rows


def test_coverage_curve_by_hand() -> None:
    p1 = np.array([0.9, 0.8, 0.8, 0.6])
    coverage, accuracy = coverage_curve([1, 1, 0, 0], np.column_stack([1 - p1, p1]))
    assert coverage == pytest.approx([0.25, 0.75, 1.0])
    assert accuracy == pytest.approx([1.0, 2 / 3, 0.5])


def test_abstention_is_the_widest_coverage_whose_lower_bound_suffices() -> None:
    y, p = rows(3_000, 2, 9)
    below = fit_abstention(y, p, None, 0.95)
    guess, confidence = p.argmax(axis=1), p.max(axis=1)

    def lower(threshold: float) -> float:
        kept = confidence >= threshold
        test = binomtest(int((guess == y)[kept].sum()), int(kept.sum()), alternative="greater")
        return float(test.proportion_ci(0.95, method="wilson").low)

    assert below is not None and lower(below) >= 0.95
    assert all(lower(t) < 0.95 for t in confidence[confidence < below])


@pytest.mark.parametrize(("wanted", "below"), [(0.696, 0.0), (0.697, 0.9), (0.973, 0.9), (0.974, None)])
def test_abstention_by_hand(wanted: float, below: float | None) -> None:
    # 100 rows at 0.9, all right, and 100 at 0.6, half right. One-sided Wilson bounds, z^2 = 2.7055: for 100 of 100
    # it is 100 / 102.7055 = 0.9737, for 150 of 200 it is (0.75 + 0.00676 - 0.05081) / 1.01353 = 0.6965
    p1 = np.repeat([0.9, 0.6], 100)
    y = np.r_[np.ones(100), np.arange(100) % 2].astype(int)
    assert fit_abstention(y, np.column_stack([1 - p1, p1]), None, wanted) == below


def test_abstention_keeps_its_promise_on_other_rows() -> None:
    y, p = rows(3_000, 3, 10)
    policy = DecisionPolicy(abstain_below=fit_abstention(y, p, None, 0.95))
    y, p = rows(20_000, 3, 11)
    found = policy.apply(p)
    kept = ~found.abstain
    assert 0.2 < kept.mean() < 0.95 and (found.predicted == y)[kept].mean() >= 0.945


def test_abstention_is_zero_when_every_row_may_be_answered_and_none_when_no_share_is_enough() -> None:
    y = np.arange(200) % 2
    p = np.eye(2)[y] * 0.5 + 0.25
    assert fit_abstention(y, p, None, 0.95) == 0.0
    assert fit_abstention(1 - y, p, None, 0.95) is None
    assert fit_abstention(y[:3], p[:3], None, 0.95) is None  # three right rows prove little


def test_policy_of_few_rows_stays_off_with_a_reason() -> None:
    y, p = rows(199, 2, 0, heat=3)
    settings = PolicySettings(thresholds="f_beta", abstain_accuracy=0.9)
    found = fit_policy(y, p, settings)
    assert found == DecisionPolicy(fitted_on=199, notes=found.notes)
    assert found.notes[0].startswith("only 199 validation rows, 200 are wanted")
    assert fit_policy([], np.zeros((0, 2)), settings).fitted_on == 0


def test_policy_lowers_log_loss_on_other_rows() -> None:
    policy = fit_policy(*rows(500, 3, 1, heat=2), PolicySettings())
    y, p = rows(5_000, 3, 2, heat=2)
    names = list("abc")
    labels = labels_of(y, names)
    before, after = (labels.scores(labels.predictions(each)) for each in (p, policy.apply(p).probabilities))
    assert after.log_loss < before.log_loss and after.ece < before.ece and after.accuracy == before.accuracy


def test_policy_keeps_temperature_one_when_the_rows_do_not_determine_it() -> None:
    y = np.arange(300) % 2
    p = np.eye(2)[y] * 0.5 + 0.25
    found = fit_policy(y, p, PolicySettings())
    assert found.temperature == 1.0 and "stays 1" in found.notes[0]


def test_policy_keeps_temperature_one_when_none_lowers_the_loss() -> None:
    p = np.eye(2, dtype=np.float32)[np.zeros(1000, dtype=int)]  # saturated: no temperature moves an exact 0
    y = (np.arange(1000) == 0).astype(int)
    found = fit_policy(y, p, PolicySettings())
    assert found.temperature == 1.0 and "none lowers the validation log loss of 0.0159" in found.notes[0]
    assert np.array_equal(found.apply(p).probabilities, p)


@pytest.mark.parametrize(
    ("row", "below", "note"), [([0.8, 0.2], 0.0, "abstains never"), ([0.2, 0.8], None, "abstention stays off")]
)
def test_policy_of_one_class_all_right_or_all_wrong_changes_no_decision(
    row: list[float], below: float | None, note: str
) -> None:
    settings = PolicySettings(thresholds="f_beta", abstain_accuracy=0.9)
    found = fit_policy(np.zeros(200, dtype=int), np.tile(row, (200, 1)), settings)
    assert found == DecisionPolicy(abstain_below=below, fitted_on=200, notes=found.notes)
    assert found.notes[2].startswith(note)


def test_policy_of_a_calibrated_model_has_temperature_one() -> None:
    y = (np.arange(400) % 4 == 0).astype(int)  # a quarter of class 1, said with 0.25
    found = fit_policy(y, np.tile([0.75, 0.25], (400, 1)), PolicySettings())
    assert found.temperature == pytest.approx(1.0, abs=1e-4)


def test_policy_leaves_thresholds_off_unless_they_help_on_other_rows() -> None:
    y, p = rows(500, 5, 8)
    settings = PolicySettings(thresholds="balanced_accuracy")
    assert fit_thresholds(y, p, "balanced_accuracy") is not None  # on its own rows something always helps
    found = fit_policy(y, p, settings)
    assert found.thresholds is None and "not shown to help" in found.notes[1]
    assert fit_policy(*rows(2_000, 2, 7, prior=9), settings).thresholds is not None


def test_policy_carries_costs_and_fits_abstention_to_their_decisions() -> None:
    y, p = rows(2_000, 2, 3)
    costs = ((0.0, 1.0), (9.0, 0.0))
    found = fit_policy(y, p, PolicySettings(temperature=False, costs=costs, abstain_accuracy=0.9))
    decided = DecisionPolicy(costs=costs).apply(p)
    assert found.costs == costs and found.abstain_below == fit_abstention(y, p, decided.predicted, 0.9)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"thresholds": "accuracy"}, "decision.thresholds"),
        ({"beta": 0.0}, "decision.beta"),
        ({"costs": ((0, 1),)}, "decision.costs"),
        ({"costs": ((0, 1), (1, 0)), "thresholds": "f_beta"}, "keep one"),
        ({"abstain_accuracy": 1.0}, "decision.abstain_accuracy"),
    ],
)
def test_settings_refuse_values_out_of_range(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PolicySettings(**fields)  # type: ignore[arg-type]


def test_policy_refuses_costs_of_another_size_and_unknown_labels() -> None:
    y, p = rows(300, 3, 0)
    with pytest.raises(ConfigError, match="one row per class, wanted 3, found 2"):
        fit_policy(y, p, PolicySettings(costs=((0, 1), (1, 0))))
    with pytest.raises(DataError, match=r"0\.\.2"):
        fit_policy(y + 1, p, PolicySettings())
