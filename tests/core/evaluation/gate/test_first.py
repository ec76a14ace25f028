"""A first version: better than what knows nothing of the text, and beside the TF-IDF baseline as the rule asks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.baseline import class_shares
from bertft_core.evaluation.gate.checks import Check, uncompared_check
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import PromotionDecision, decide

CLASSES = tuple("abcde")
Y = np.arange(300) % 5


def rule(**settings: Any) -> PromotionRule:
    return PromotionRule(**{"resamples": 2000, "max_class_loss": None} | settings)


def answers(right: int, y: Any = Y, sure: float = 0.9) -> np.ndarray:
    """Probabilities of 5 classes, the first `right` rows decided rightly, the others one class on."""
    said = np.where(np.arange(len(y)) < right, y, (y + 1) % 5)
    return np.eye(5)[said] * (sure - (1 - sure) / 4) + (1 - sure) / 4


def guesses(seed: int, y: Any = Y) -> np.ndarray:
    """Probabilities of a model that reads nothing and guesses."""
    return np.eye(5)[np.random.default_rng(seed).integers(0, 5, len(y))] * 0.75 + 0.05


def judge(p: Any, baseline: Any, given: PromotionRule | None = None, *, y: Any = Y, **more: Any) -> PromotionDecision:
    rows = GateRows(labels=y, classes=CLASSES, baseline=baseline, shares=class_shares(y, 5), **more)
    return decide(given or rule(), rows, Model(name="version 1", p=p))


def failed(decision: PromotionDecision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


def test_a_version_as_good_as_the_baseline_is_promoted_with_the_numbers() -> None:
    found = judge(answers(280), answers(283))
    assert found.promote and found.test == "first" and found.difference is None and found.interval is None
    assert found.reason.startswith("no champion yet; macro F1 0.9333 on 300 rows; ")
    assert "; better than the majority class: macro F1 0.9333 against 0.0667" in found.reason
    assert "not shown to be worse than the TF-IDF baseline: macro F1 0.9333 against 0.9433, -0.0100" in found.reason
    assert found.baseline_score == pytest.approx(0.9433, abs=1e-3) and found.majority_score == pytest.approx(1 / 15)
    assert found.baseline_interval is not None and found.baseline_interval[0] < -0.01 < found.baseline_interval[1]


def test_a_champion_that_cannot_be_compared_with_is_said_first_and_not_denied() -> None:
    fault = uncompared_check("version 1: another label set: new 'eggs'")
    lead = "not compared with the champion: version 1: another label set: new 'eggs' (promotion.champion_unavailable: "
    slow = Check(name="label set", passed=False, detail="another label set")
    for right, checks, wanted in (
        (280, [fault], "promote); macro F1 0.9333 on 300 rows; "),
        (15, [fault], "promote); not worth promoting: "),
        (280, [fault, slow], "promote); another label set"),
    ):
        rows = GateRows(labels=Y, classes=CLASSES, baseline=answers(283), shares=class_shares(Y, 5))
        found = decide(rule(), rows, Model(name="version 2", p=answers(right)), own_checks=checks)
        assert found.reason.startswith(f"{lead}{wanted}") and "no champion" not in found.reason
        assert found.promote is (right == 280 and len(checks) == 1) and found.test == "first"


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "log_loss"])
def test_a_version_shown_worse_than_the_baseline_is_not_worth_promoting(metric: str) -> None:
    found = judge(answers(240), answers(290), rule(metric=metric))
    assert not found.promote and failed(found) == ["TF-IDF baseline"]
    assert found.reason.startswith("not worth promoting: worse than the TF-IDF baseline: ")
    assert found.baseline_difference is not None and found.baseline_difference < 0


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "log_loss"])
def test_one_class_everywhere_is_not_worth_promoting(metric: str) -> None:
    found = judge(np.tile(np.eye(5)[2] * 0.75 + 0.05, (300, 1)), answers(290), rule(metric=metric))
    assert failed(found) == ["TF-IDF baseline", "majority class", "chance"]
    said = found.reason.removeprefix("not worth promoting: worse than the TF-IDF baseline: ")
    assert " the majority class: " in said and said.endswith("(also failed: chance)")


def test_guessing_beats_the_majority_class_by_macro_f1_but_not_its_own_answers_dealt_at_random() -> None:
    """Five equal classes: always one of them gives macro F1 0.07, guessing 0.2; no baseline is there to tell."""
    noise = [judge(guesses(seed), guesses(100 + seed)) for seed in range(20)]
    assert sum("majority class" not in failed(found) for found in noise) >= 10  # the majority class alone would not do
    assert all("chance" in failed(found) for found in noise)


def test_a_version_that_knows_nothing_is_promoted_no_more_often_than_the_level_says() -> None:
    """95 % over a period of one night: at most 5 % of 200 models that guess, 10 % being 3 standard errors more."""
    night = rule(resamples=400, per="night")
    promoted = sum(judge(guesses(seed), guesses(1000 + seed), night).promote for seed in range(200))
    assert promoted <= 20


def test_four_rows_lost_of_few_show_nothing() -> None:
    """0.5 ** 4 = 0.0625, and the interval holds 0; with ten rows 0.001 is shown."""
    y = np.arange(60) % 5
    few, ten = (judge(answers(60 - n, y), answers(60, y), rule(metric="accuracy"), y=y) for n in (4, 10))
    assert few.baseline_interval is not None and few.baseline_interval[1] > 0 and few.promote
    assert failed(ten) == ["TF-IDF baseline"]


def test_better_asks_for_a_gain_that_is_shown() -> None:
    strict = rule(baseline="better")
    equal, gained = judge(answers(280), answers(278), strict), judge(answers(290), answers(230), strict)
    assert failed(equal) == ["TF-IDF baseline"] and "not distinguishable from the TF-IDF baseline" in equal.reason
    assert gained.promote and "better than the TF-IDF baseline" in gained.reason


def test_off_asks_neither_and_minima_still_hold() -> None:
    free = rule(baseline="off")
    poor = judge(answers(15), answers(290), free)
    assert poor.promote and not poor.checks and poor.baseline_score is None
    missed = judge(answers(15), answers(290), replace(free, min_score={"accuracy": 0.5}))
    assert missed.reason.startswith("not worth promoting: accuracy 0.0500 misses the minimum of 0.5000")


def test_a_missed_minimum_is_said_with_what_else_is_not_worth_it() -> None:
    found = judge(answers(200), answers(290), rule(min_score={"macro_f1": 0.95}))
    assert failed(found) == ["minimum macro_f1", "TF-IDF baseline"]
    assert "misses the minimum of 0.9500" in found.reason and "worse than the TF-IDF baseline" in found.reason


@pytest.mark.parametrize("absent", ["baseline", "shares"])
def test_answers_that_are_not_there_fail_and_are_named(absent: str) -> None:
    rows = replace(
        GateRows(labels=Y, classes=CLASSES, baseline=answers(280), shares=class_shares(Y, 5)), **{absent: None}
    )
    found = decide(rule(), rows, Model(name="version 1", p=answers(290)))
    assert not found.promote and "are not there, but promotion.baseline is not_worse" in found.reason


def test_the_test_against_a_champion_is_none_of_the_first_versions() -> None:
    asked = rule(test="non_inferiority", margin=0.2)
    assert judge(answers(280), answers(280), asked).promote
    assert failed(judge(answers(240), answers(290), asked)) == ["TF-IDF baseline"]
    assert judge(answers(280), answers(280), rule(min_gain=0.9)).promote


def test_soft_labels_weigh_in_the_log_loss_of_both() -> None:
    """Against labels that are half another class the sure baseline loses though both decide alike."""
    soft = (np.eye(5)[Y] + np.eye(5)[(Y + 1) % 5]) / 2
    unsure = (np.eye(5)[Y] * 0.5 + np.eye(5)[(Y + 1) % 5] * 0.4) * 0.9 + 0.038
    by_loss = rule(metric="log_loss")
    assert failed(judge(unsure, answers(300, sure=0.99), by_loss)) == ["TF-IDF baseline"]
    assert judge(unsure, answers(300, sure=0.99), by_loss, weights=soft).promote


def test_multi_label_rows_have_each_class_prior_as_the_answer_that_knows_nothing() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((300, 3)) < (0.6, 0.3, 0.2)).astype(int)
    good, nothing = y * 0.8 + 0.1, np.tile((0.7, 0.2, 0.1), (300, 1))
    rows = GateRows(labels=y, classes=list("abc"), baseline=good, shares=class_shares(y, 3))
    assert rows.shares == pytest.approx(y.mean(axis=0))
    for metric in ("micro_f1", "macro_f1", "accuracy", "log_loss"):
        first = decide(rule(metric=metric), rows, Model(name="version 1", p=good))
        assert first.promote, first.reason
        constant = decide(rule(metric=metric), rows, Model(name="version 1", p=nothing))
        assert {"majority class", "chance", "TF-IDF baseline"} == set(failed(constant)), (metric, constant.reason)


def test_whoever_is_champion_afterwards_is_named_where_the_baseline_is_better() -> None:
    rows = GateRows(labels=Y, classes=CLASSES, baseline=answers(295), shares=class_shares(Y, 5))
    poor, fair, good = (Model(name=f"version {n}", p=answers(right)) for n, right in ((1, 150), (2, 230), (3, 296)))
    asked = rule(per="night")
    kept, promoted = decide(asked, rows, poor, poor), decide(asked, rows, fair, poor)
    assert not kept.promote and "warning: version 1 is worse than the TF-IDF baseline: macro F1" in kept.reason
    assert promoted.promote and "warning: version 2 is worse than the TF-IDF baseline" in promoted.reason
    assert "warning" not in decide(asked, rows, good, fair).reason
    assert "warning" not in decide(replace(asked, baseline="off"), rows, fair, poor).reason


def test_decision_survives_a_trip_through_json_and_one_of_an_older_bertft_is_read() -> None:
    found = judge(answers(280), answers(283))
    document = json.loads(json.dumps(found.to_json()))
    assert PromotionDecision.from_json(document) == found
    for name in ("baseline_score", "baseline_difference", "baseline_interval", "majority_score"):
        del document[name]
    assert PromotionDecision.from_json(document).baseline_interval is None
