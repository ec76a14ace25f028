"""Rows that belong together (data.group) count as one: whole groups are drawn and exchanged."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.comparison import compare
from bertft_core.evaluation.gate.comparison import LEAST_GROUPS, GateRows, Model
from bertft_core.evaluation.gate.decision import decide
from bertft_core.evaluation.report import EvaluationReport, RowTexts, evaluate
from bertft_core.evaluation.scores.intervals import (
    Bootstrap,
    ece_gain_bound,
    headline_intervals,
    paired_difference,
    paired_permutation,
    share_interval,
    wilson,
)
from bertft_core.evaluation.scores.labels import Labels, Predictions, labels_of

CLASSES = ("a", "b", "c")
COPIES = 7


def said(y: np.ndarray, right: float, seed: int) -> np.ndarray:
    """Probabilities of a model that is right on a share `right` of the rows."""
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(y)) < right, y, (y + rng.integers(1, 3, len(y))) % 3)
    p = rng.uniform(0.05, 0.2, (len(y), 3))
    p[np.arange(len(y)), guess] += 0.8
    return p / p.sum(axis=1, keepdims=True)


def rows(n: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = np.arange(n) % 3
    return y, said(y, 0.85, 1), said(y, 0.75, 2)


def copied(y: np.ndarray, *p: np.ndarray) -> tuple[Labels, list[Predictions]]:
    """Each row seven times, the copies being one group."""
    labels = labels_of(np.repeat(y, COPIES), CLASSES, groups=np.repeat(np.arange(len(y)), COPIES))
    return labels, [labels.predictions(np.repeat(v, COPIES, axis=0)) for v in p]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_copies_of_rows_in_one_group_tell_no_more_than_the_rows_themselves(metric: str) -> None:
    y, p, q = rows()
    single = labels_of(y, CLASSES)
    many, both = copied(y, p, q)
    wanted = paired_difference(single, single.predictions(p), single.predictions(q), metric)
    found = paired_difference(many, *both, metric)
    assert found.difference == pytest.approx(wanted.difference) and (found.n, found.groups) == (240 * COPIES, 240)
    width = wanted.high - wanted.low
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.08 * width)
    as_rows = paired_difference(labels_of(many.values, CLASSES), *both, metric)
    assert as_rows.high - as_rows.low < 0.5 * width


def test_headline_intervals_of_copies_are_those_of_the_rows() -> None:
    y, p, _ = rows()
    single = labels_of(y, CLASSES)
    wanted = headline_intervals(single, single.predictions(p), Bootstrap(resamples=4000))
    many, (answers,) = copied(y, p)
    found = headline_intervals(many, answers, Bootstrap(resamples=4000))
    for name, pair in wanted.items():
        assert pair is not None and found[name] == pytest.approx(pair, abs=0.12 * (pair[1] - pair[0])), name


def test_share_of_groups_that_are_all_right_is_not_certain() -> None:
    groups = np.arange(500) // 50
    low, high = share_interval(np.ones(500), groups)
    assert high == 1.0 and low < wilson(500, 500)[0] and 0.6 < low < 0.9
    assert share_interval(np.ones(500), None) == wilson(500, 500)


def exact(labels: Any, a: np.ndarray, b: np.ndarray, groups: np.ndarray, metric: str) -> float:
    """The share of all exchanges of whole groups with at least the observed difference."""
    truth, found = labels_of(labels, CLASSES), []
    for flips in itertools.product([False, True], repeat=int(groups.max()) + 1):
        swap = np.array(flips)[groups][:, None]
        one, two = (truth.predictions(v) for v in (np.where(swap, b, a), np.where(swap, a, b)))
        found.append(truth.difference(metric, one, two))
    return float(np.mean(np.array(found) >= found[0] - 1e-12))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_permutation_agrees_with_all_exchanges_of_groups(metric: str) -> None:
    y, p, q = rows(24)
    groups = np.arange(24) // 3
    wanted = exact(y, p, q, groups, metric)
    labels = labels_of(y, CLASSES, groups=[f"customer {g}" for g in groups])
    found = paired_permutation(labels, labels.predictions(p), labels.predictions(q), metric, 20_000)
    assert 0.01 < wanted < 0.9 and found == pytest.approx(wanted, abs=0.015)


def test_permutation_of_sets_of_labels_agrees_with_all_exchanges_of_groups() -> None:
    rng = np.random.default_rng(3)
    y, groups = (rng.random((24, 3)) < 0.4).astype(int), np.arange(24) // 3
    p, q = (np.clip(y * 0.5 + rng.uniform(0, 0.5 + wrong, (24, 3)), 0, 1) for wrong in (0.3, 0.5))
    labels = labels_of(y, CLASSES, groups=groups)
    found = paired_permutation(labels, labels.predictions(p), labels.predictions(q), "macro_f1", 20_000)
    assert found == pytest.approx(exact(y, p, q, groups, "macro_f1"), abs=0.015)
    pair = paired_difference(labels, labels.predictions(p), labels.predictions(q), "macro_f1")
    assert pair.groups == 8 and pair.interval is not None and pair.low < pair.difference < pair.high


def test_equal_models_of_alike_groups_differ_no_more_often_than_the_level_says() -> None:
    by_groups = by_rows = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        groups, y = np.repeat(np.arange(20), 10), np.tile([0, 1], 100)
        right = [np.where(rng.random(200) < 0.9, rng.random(20)[groups] < 0.8, rng.random(200) < 0.8) for _ in "ab"]
        labels = labels_of(y, ("a", "b"), groups=groups)
        both = [labels.predictions(np.eye(2)[np.where(r, y, 1 - y)]) for r in right]
        by_groups += paired_permutation(labels, *both, "macro_f1", 300, seed) <= 0.1
        by_rows += paired_permutation(labels_of(y, ("a", "b")), *both, "macro_f1", 300, seed) <= 0.1
    assert by_groups / 300 <= 0.15 and by_rows / 300 >= 0.2


def gate(groups: Any, **settings: Any) -> Any:
    y = np.arange(400) % 2
    wrong, right = np.where(np.arange(400) % 5 == 0, 1 - y, y), y
    rule = PromotionRule(**{"per": "night", "resamples": 1000, "metric": "macro_f1"} | settings)
    models = (Model(name=name, p=np.eye(2)[v] * 0.8 + 0.1) for name, v in (("version 2", right), ("version 1", wrong)))
    return decide(rule, GateRows(labels=y, classes=("a", "b"), groups=groups), *models)


def test_gate_promotes_on_enough_groups_and_names_their_number() -> None:
    found = gate(np.arange(400) // 10)
    assert found.promote and found.groups == 40 and "on 400 rows in 40 groups" in found.reason
    assert gate(np.arange(400) // 10, metric="accuracy").promote
    assert gate(None).groups is None and "on 400 rows;" in gate(None).reason


def test_gate_promotes_nothing_on_fewer_groups_than_ten() -> None:
    few = gate(np.arange(400) % (LEAST_GROUPS - 1))
    assert not few.promote and "400 rows in 9 groups" in few.reason and "wanted 10 groups or more" in few.reason
    assert next(check.name for check in few.checks if not check.passed) == "groups"
    strict = gate(np.arange(400) % 12, per="year")  # an error of 1 / 7,300 and no p-value below 1 / 4,096
    assert not strict.promote and "wanted 13 groups or more" in strict.reason


def test_a_lost_group_is_possible_where_none_is_seen() -> None:
    """400 rows show that less than 1 % are lost, 40 groups of them do not (the rule of three)."""
    loose = {"test": "non_inferiority", "margin": 0.03, "metric": "accuracy", "max_class_loss": None}
    y = np.arange(400) % 2
    p, q = (np.eye(2)[y] * (2 * sure - 1) + 1 - sure for sure in (0.9, 0.8))
    models = (Model(name="version 2", p=p), Model(name="version 1", p=q))
    rule = PromotionRule(per="night", resamples=1000, **loose)
    promoted = [
        decide(rule, GateRows(labels=y, classes=("a", "b"), groups=of), *models).promote
        for of in (None, np.arange(400) // 10)
    ]
    assert promoted == [True, False]


def test_calibration_error_is_judged_by_what_is_shown() -> None:
    y, p, q = rows(600)
    labels = labels_of(y, CLASSES)
    a, b = labels.predictions(p), labels.predictions(q)
    seen = labels.scores(a).ece - labels.scores(b).ece
    bound = ece_gain_bound(labels, a, b, 0.95, Bootstrap(resamples=2000))
    assert seen - 0.1 < bound < seen
    assert ece_gain_bound(labels, a, a, 0.95, Bootstrap(resamples=500)) == pytest.approx(0.0, abs=1e-12)


def test_report_and_comparison_say_how_many_groups_there_are() -> None:
    y, p, q = rows()
    labels = labels_of(y, CLASSES, groups=np.arange(240) // 8)
    one, two = labels.predictions(p), labels.predictions(q)
    how = Bootstrap(resamples=300)
    found = evaluate(labels, one, RowTexts(texts=["t"] * 240), baseline=two, bootstrap=how)
    assert found.groups == 30 and "on 240 rows in 30 groups" in str(found)
    assert "score (240 rows in 30 groups)" in found.to_markdown()
    assert "only 240 test rows in 30 groups: the intervals are wide" in found.warnings
    older = {key: value for key, value in found.to_json().items() if key not in ("groups", "no_interval")}
    assert EvaluationReport.from_json(older).groups is None
    document = compare(labels, one, two, how).to_json()
    assert document["groups"] == 30 and document["differences"]["accuracy"]["groups"] == 30


def test_as_many_groups_as_rows_are_wanted() -> None:
    with pytest.raises(DataError, match="wanted a group for each of 3 rows, found 2"):
        labels_of([0, 1, 2], CLASSES, groups=["x", "y"])
