from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from bertft_core.base.errors import DataError
from bertft_core.base.text import plain
from bertft_core.evaluation.gate.checks import (
    Part,
    calibration_check,
    groups_check,
    label_set_check,
    latency_check,
    part_checks,
    parts_of,
    seen_rows_check,
    size_check,
    upper_bound,
)
from bertft_core.evaluation.scores.labels import Predictions, labels_of


def part(n: int, gained: int, lost: int, kind: str = "class", name: str = "a") -> Part:
    return Part(kind=kind, name=name, n=n, gained=gained, lost=lost)


def found_parts(labels, ours, theirs, classes, slices, groups=None) -> list[Part]:
    rows = labels_of(labels, classes, groups=groups)
    kind = bool if rows.multi_label else np.int64
    answers = (Predictions(probabilities=None, decided=np.asarray(said, dtype=kind)) for said in (ours, theirs))
    return parts_of(rows, *answers, slices)


def one(parts: list[Part], kind: str = "class", most: float = 0.05, level: float = 0.95):
    (check,) = part_checks(parts, {kind: most}, level)
    return check


def test_parts_count_the_rows_only_one_model_gets_right() -> None:
    found = found_parts(
        [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], ["a", "b", "never seen"], {"short": np.array([True] * 3 + [False])}
    )
    first, second = found[:2]
    assert (first.f1_gain, second.f1_gain) == (pytest.approx(2 / 3 - 1 / 2), pytest.approx(-1 / 2))
    plain = [replace(g, f1_gain=None) for g in found]
    assert plain == [part(2, 1, 0), part(2, 0, 1, name="b"), part(3, 1, 1, "slice", "short")]


def test_parts_of_sets_of_labels() -> None:
    found = found_parts([[1, 0], [1, 1], [0, 0]], [[1, 0], [0, 1], [0, 0]], [[1, 1], [1, 1], [1, 0]], ["a", "b"], {})
    assert [(g.n, g.gained, g.lost) for g in found] == [(2, 0, 1), (1, 0, 0)]
    assert [g.f1_gain for g in found] == [pytest.approx(2 / 3 - 4 / 5), pytest.approx(1 - 2 / 3)]


@pytest.mark.parametrize("mask", [[True, False], [0, 1, 0, 1]])
def test_slice_that_is_no_mask_over_the_rows_is_refused(mask: list[object]) -> None:
    with pytest.raises(DataError, match="slice 'short' wants one boolean for each of 4 rows"):
        found_parts([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], ["a", "b"], {"short": mask})


def test_upper_bound_is_zero_where_mcnemars_statistic_equals_z() -> None:
    error = NormalDist().cdf(-2.0)  # (0 gained - 4 lost) / sqrt(4) = -2, whatever the number of rows
    for n in (10, 1000):
        assert upper_bound(part(n, 0, 4), error) == pytest.approx(0.0, abs=1e-9)


def test_upper_bound_inverts_the_score_test_of_the_constrained_likelihood() -> None:
    from scipy.optimize import minimize_scalar

    n, gained, lost = 80, 3, 14
    delta = upper_bound(part(n, gained, lost), 0.01)

    def loss(q: float) -> float:  # q: share of lost rows; of gained ones q + delta
        rest = 1 - 2 * q - delta
        return -(gained * math.log(q + delta) + lost * math.log(q) + (n - gained - lost) * math.log(rest))

    q = minimize_scalar(loss, bounds=(max(0.0, -delta) + 1e-9, (1 - delta) / 2 - 1e-9), options={"xatol": 1e-12}).x
    statistic = (gained - lost - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))
    assert statistic == pytest.approx(NormalDist().inv_cdf(0.01), abs=1e-4)


def test_class_shown_to_lose_more_than_allowed_fails() -> None:
    check = one([part(100, 30, 0), part(100, 0, 30, name="tech")])
    assert not check.passed and "worse recall in 'tech' -0.3000 on 100 rows (0 gained, 30 lost)" in check.detail
    assert "promotion.max_class_loss" in check.detail


def test_recall_that_a_champion_has_by_answering_one_class_everywhere_is_no_loss() -> None:
    labels = np.repeat([0, 1], 100)
    better = np.where(np.arange(200) % 5 == 0, 1 - labels, labels)  # 80 % of either class
    forgiven = found_parts(labels, better, np.ones(200, int), ["a", "b"], {})
    check = one(forgiven)
    assert check.passed and "lowest of 2: 'b' -0.2000 on 100 rows (0 gained, 20 lost, F1 +0.1333)" in check.detail
    harmed = found_parts(labels, better, labels, ["a", "b"], {})
    assert not one(harmed).passed


def test_class_that_loses_less_than_shown_passes() -> None:
    check = one([part(100, 0, 6)])  # 6 points lost, but the upper bound lies near -2
    assert check.passed and "-0.0600" in check.detail
    assert upper_bound(part(100, 0, 6), 0.05) > -0.05


def test_many_parts_correct_the_error_of_each() -> None:
    lost = part(100, 1, 13)
    assert not one([lost]).passed
    assert one([lost, *(part(100, 5, 5, name=str(i)) for i in range(99))]).passed


def test_slices_and_classes_share_one_correction() -> None:
    parts = [part(100, 5, 5), *(part(100, 5, 5, "slice", str(i)) for i in range(4))]
    for check in part_checks(parts, {"class": 0.05, "slice": 0.1}, 0.95):
        assert "error 1 % for each of 5 classes and slices" in check.detail


def test_slice_under_30_rows_is_listed_and_cannot_veto() -> None:
    check = one([part(29, 0, 29, "slice", "tiny"), part(40, 1, 1, "slice", "large")], "slice")
    assert check.passed and "too small to judge: 'tiny' (29 rows)" in check.detail


def test_class_too_small_for_a_total_loss_to_be_shown_is_listed() -> None:
    check = one([part(4, 0, 4)])  # 0.5 ** 4 = 0.0625 > 0.05
    assert check.passed and "'a' (4 rows)" in check.detail and "no class has enough rows" in check.detail
    assert not one([part(5, 0, 5)]).passed  # 0.5 ** 5 = 0.031


def test_equal_models_are_vetoed_no_more_often_than_the_level_says() -> None:
    rng = np.random.default_rng(0)
    vetoes = 0
    for _ in range(2000):
        discordant = rng.binomial([8, 15, 30, 60, 90], 0.3)
        lost = rng.binomial(discordant, 0.5)
        rows = zip([8, 15, 30, 60, 90], discordant, lost, strict=True)
        vetoes += not one([part(n, int(d - k), int(k), name=str(n)) for n, d, k in rows], most=0.01).passed
    assert vetoes / 2000 <= 0.055


def test_long_list_of_parts_is_cut() -> None:
    check = one([part(50, 0, 40, name=str(i)) for i in range(12)])
    assert "and 7 more" in check.detail


def test_calibration_blocks_only_where_more_than_the_allowed_gain_is_shown() -> None:
    assert calibration_check(0.06, 0.03, 0.02, 0.02, 0.95).passed  # 0.03 more, but shown are 0.02 alone
    check = calibration_check(0.06, 0.03, 0.021, 0.02, 0.95)
    assert not check.passed and "ECE 0.0600 against 0.0300, +0.0300, at least +0.0210 at 5 % error" in check.detail


def test_rows_of_one_group_lose_together_as_one_row_does() -> None:
    labels, lost = np.zeros(400, int), np.arange(400) < 30
    ours = np.where(lost, 1, 0)
    independent = found_parts(labels, ours, labels, ["a", "b"], {"all": np.ones(400, bool)})
    assert not one(independent[1:], "slice", 0.01).passed
    one_customer = found_parts(labels, ours, labels, ["a", "b"], {"all": np.ones(400, bool)}, np.arange(400) // 30)
    check = one(one_customer[1:], "slice", 0.01)
    assert check.passed and "on 400 rows in 14 groups (0 gained, 30 lost)" in check.detail
    assert one_customer[1].design_effect == 30 and one_customer[1].loss_p(0.01) > 0.4


def test_many_groups_that_lose_are_a_loss() -> None:
    labels = np.zeros(400, int)
    ours = np.where(np.arange(400) % 10 == 0, 1, 0)  # a row of each of 40 groups
    (_, everyone) = found_parts(labels, ours, labels, ["a", "b"], {"all": np.ones(400, bool)}, np.arange(400) // 10)
    assert not one([everyone], "slice", 0.01).passed and everyone.loss_p(0.01) < 0.001


def test_a_loss_of_everything_is_shown_however_small_the_error() -> None:
    labels = np.zeros(200, int)
    lost = found_parts(labels, 1 - labels, labels, ["a", "b"], {"all": np.ones(200, bool)}, np.arange(200))
    (check,) = part_checks(lost, {"slice": 0.05}, level=0.99999)  # less than one of 10,000 exchanges
    assert not check.passed and "worse accuracy" in check.detail


def test_slice_of_few_groups_is_too_small_to_judge() -> None:
    labels = np.zeros(120, int)
    (_, few) = found_parts(labels, 1 - labels, labels, ["a", "b"], {"few": np.ones(120, bool)}, np.arange(120) // 30)
    assert few.units == 4 and "too small to judge: 'few' (120 rows in 4 groups)" in one([few], "slice", 0.01).detail


def test_groups_below_the_least_number_fail_with_both_numbers() -> None:
    assert groups_check(500, 10, 10).passed
    check = groups_check(500, 9, 10)
    assert not check.passed and "500 rows in 9 groups" in check.detail and "wanted 10 groups or more" in check.detail


def test_budgets_hold_up_to_the_number_itself() -> None:
    assert latency_check(5.0, 5.0).passed and not latency_check(5.1, 5.0).passed
    assert size_check(90.0, 90.0).passed and not size_check(90.1, 90.0).passed
    assert "promotion.max_latency_ms" in latency_check(5.1, 5.0).detail


def test_label_sets_compare_without_order() -> None:
    assert label_set_check(["a", "b"], ["b", "a"]).passed
    check = label_set_check(["a", "c"], ["a", "b"])
    assert not check.passed and check.detail == "another label set: new 'c'; gone 'b'"


def test_seen_rows_fail_only_where_none_is_left() -> None:
    assert seen_rows_check(12, 500).passed and "12 of 500" in seen_rows_check(12, 500).detail
    assert not seen_rows_check(500, 500).passed


def test_plain_text_opens_no_cell_line_tag_or_emphasis() -> None:
    assert plain("a | b\n<b>*c*_[d](e)") == "a \\| b &lt;b>\\*c\\*\\_\\[d\\](e)"
