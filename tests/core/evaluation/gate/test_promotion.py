from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, ConfigError, DataError
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import Check, latency_check
from bertft_core.evaluation.gate.comparison import GateRows, Model, detectable
from bertft_core.evaluation.gate.decision import PromotionDecision, decide
from bertft_core.evaluation.scores.intervals import PairedDifference

CLASSES = ("a", "b")
Y = np.arange(400) % 2


def rule(**settings: Any) -> PromotionRule:
    """Accuracy, few resamples, one decision at 5 %, classes unchecked."""
    return PromotionRule(**{"metric": "accuracy", "resamples": 2000, "per": "night", "max_class_loss": None} | settings)


def model(errors: int, offset: int = 0, confidence: float = 0.9, y: np.ndarray = Y) -> np.ndarray:
    """Probabilities wrong on exactly `errors` rows, starting at row `offset`."""
    guess = y.copy()
    guess[offset : offset + errors] ^= 1
    p = np.full((len(y), 2), 1 - confidence)
    p[np.arange(len(y)), guess] = confidence
    return p


def judge(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    given_rule: PromotionRule | None = None,
    *,
    says: tuple[Any, Any] = (None, None),
    champion_name: str = "the champion",
    anchor: np.ndarray | None = None,
    slices: dict[str, Any] | None = None,
    **others: Any,
) -> PromotionDecision:
    return decide(
        given_rule or rule(),
        GateRows(labels=Y, classes=CLASSES, slices=slices or {}),
        Model(name="the challenger", p=challenger, predicted=says[0]),
        None if champion is None else Model(name=champion_name, p=champion, predicted=says[1]),
        None if anchor is None else Model(name="version 1", p=anchor),
        **others,
    )


def judge_rows(
    given_rule: PromotionRule, y: Any, challenger: np.ndarray, champion: np.ndarray | None, classes: Sequence[str]
) -> PromotionDecision:
    rival = None if champion is None else Model(name="the champion", p=champion)
    rows = GateRows(labels=np.asarray(y), classes=classes)
    return decide(given_rule, rows, Model(name="the challenger", p=challenger), rival)


def named(decision: PromotionDecision, name: str) -> Check:
    return next(c for c in decision.checks if c.name == name)


def test_clearly_better_challenger_is_promoted_with_both_scores_in_the_reason() -> None:
    found = judge(model(10), model(60, 200), champion_name="version 4")
    assert found.promote and found.reason.startswith("better than version 4: accuracy 0.9750 against 0.8500, +0.1250")
    assert found.interval is not None and found.interval[0] > 0


def test_better_challenger_is_kept_back_when_it_misses_the_minimum() -> None:
    assert not judge(model(10), model(60, 200), rule(min_score={"accuracy": 0.99})).promote


def test_slightly_better_challenger_is_not_distinguishable() -> None:
    found = judge(model(18), model(20, 200), champion_name="version 4")
    assert not found.promote and found.reason.startswith("not distinguishable from version 4: accuracy 0.9550 against")
    assert "could have been shown (80 % power)" in found.reason


def test_worse_challenger_is_called_worse() -> None:
    found = judge(model(60), model(10, 200))
    assert not found.promote and found.reason.startswith("worse than the champion")


def test_gain_shown_but_not_above_the_wanted_one_is_refused() -> None:
    found = judge(model(10), model(60, 200), rule(min_gain=0.1))
    assert not found.promote and "not shown to gain more than 0.1 (promotion.min_gain)" in found.reason


def test_a_tie_is_never_promoted() -> None:
    found = judge(model(20), model(20, 200))
    assert not found.promote and found.reason.startswith("a tie")


def test_same_weights_or_answers_are_never_promoted() -> None:
    by_digest = judge(model(10), model(60, 200), same_weights=True)
    by_answers = judge(model(10), model(10), rule(test="non_inferiority", margin=0.5))
    assert not by_digest.promote and not by_answers.promote
    assert "same model" in by_digest.reason and "same model" in by_answers.reason


def test_log_loss_decides_when_it_is_the_metric() -> None:
    by_loss = rule(metric="log_loss")
    assert judge(model(10, confidence=0.97), model(10, confidence=0.7), by_loss).promote
    assert not judge(model(10, confidence=0.7), model(10, confidence=0.97), by_loss).promote


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_eight_rows_gained_and_none_lost_are_too_few_for_one_decision_of_a_month(metric: str) -> None:
    """0.5 ** 8 = 0.0039 > 0.05 / 30, though the bootstrap's bound alone lies above 0; 0.5 ** 10 is below."""
    month = rule(metric=metric, per="month", resamples=5000)
    found = judge(model(12), model(20), month)
    assert not found.promote and found.interval is not None and found.interval[0] > 0
    assert judge(model(12), model(20), rule(metric=metric)).promote
    assert judge(model(10), model(20), month).promote


def test_exact_mcnemar_is_shown_for_every_metric() -> None:
    detail = named(judge(model(12), model(20), rule(metric="macro_f1")), "superiority").detail
    assert (
        "only the challenger is right on 8 rows, only the champion on 0: exact McNemar p, two-sided, 0.0078" in detail
    )


def test_error_of_one_decision_is_a_share_of_the_periods() -> None:
    alphas = [round(rule(per=p).alpha, 6) for p in ("night", "week", "month", "year")]
    assert alphas == [0.05, 0.007143, 0.001667, 0.000137] and rule(per="year").allowed == 365


def test_reason_and_check_tell_which_decision_of_the_period_it_is() -> None:
    found = judge(model(10), model(60, 200), rule(per="month"), spent=3)
    assert found.promote and (found.spent, found.allowed) == (3, 30)
    assert "decision 4 of 30 in the error budget of this month" in found.reason
    assert "at most 0.167 % in this decision and 5 % over the month" in named(found, "error budget").detail


def test_spent_budget_keeps_the_champion_but_every_check_is_still_shown() -> None:
    found = judge(model(10), model(60, 200), rule(per="month"), spent=30)
    assert not found.promote
    assert found.reason.startswith("the error budget of this month is spent (30 of 30 decisions taken)")
    assert named(found, "superiority").passed


def test_small_loss_within_the_margin_is_promoted_by_non_inferiority() -> None:
    margin = rule(test="non_inferiority", margin=0.05)
    found = judge(model(21), model(20, 15), margin)
    assert found.promote and found.reason.startswith("not worse than the champion by 0.05 or more")
    assert not judge(model(21), model(20, 15)).promote


def test_loss_that_may_reach_the_margin_is_not_promoted() -> None:
    found = judge(model(24), model(20, 200), rule(test="non_inferiority", margin=0.02))
    assert not found.promote and "not distinguishable from the champion within 0.02" in found.reason
    assert "an equal model needs a margin of about" in found.reason


def test_non_inferiority_counts_losses_that_few_rows_cannot_show() -> None:
    """No row differs: with 200 rows a loss of 3 / 200 is still possible, with 400 one of 3 / 400 (rule of three)."""
    margin = rule(test="non_inferiority", margin=0.01)
    for n, promoted in ((200, False), (400, True)):
        y = Y[:n]
        a, b = model(8, confidence=0.9, y=y), model(8, confidence=0.8, y=y)
        assert judge_rows(margin, y, a, b, CLASSES).promote is promoted


def test_the_lost_row_joins_a_class_that_has_rows() -> None:
    y = np.array([2] * 25 + [1] * 20)
    p = np.eye(3)[y] * 0.7 + 0.1
    q = np.eye(3)[y] * 0.4 + 0.2
    assert judge_rows(rule(test="non_inferiority", margin=0.4, metric="macro_f1"), y, p, q, list("abc")).promote


def test_small_losses_cannot_add_up_past_the_anchor() -> None:
    margin = rule(test="non_inferiority", margin=0.04)
    found = judge(model(34), model(26), margin, anchor=model(10))
    assert named(found, "non-inferiority").passed and not found.promote
    assert found.reason.startswith("worse than version 1")


def test_anchor_is_not_asked_under_superiority() -> None:
    assert judge(model(10), model(60, 200), anchor=model(0)).promote


def test_class_that_is_lost_blocks_a_challenger_better_over_all() -> None:
    y = np.repeat([0, 1, 2], [300, 60, 40])
    champion, challenger = y.copy(), y.copy()
    champion[:120] = 2
    challenger[300:330] = 0
    a, b = (np.eye(3)[g] * 0.7 + 0.1 for g in (challenger, champion))
    found = judge_rows(rule(max_class_loss=0.05), y, a, b, ["x", "tech", "z"])
    assert named(found, "superiority").passed and not found.promote and "worse recall in 'tech' -0.5000" in found.reason
    assert judge_rows(rule(), y, a, b, ["x", "tech", "z"]).promote


def test_slice_that_is_lost_blocks_only_where_slices_are_checked() -> None:
    short = np.zeros(400, dtype=bool)
    short[:30] = True
    given = {"challenger": model(30), "champion": model(120, 200), "slices": {"short": short}}
    assert judge(given_rule=rule(), **given).promote
    found = judge(given_rule=rule(max_slice_loss=0.1), **given)
    assert not found.promote and "worse accuracy in 'short' -1.0000 on 30 rows" in found.reason


def test_calibration_is_checked_where_asked() -> None:
    a, b = model(10, confidence=0.6), model(0, confidence=0.875)
    b[::8] = b[::8, ::-1]  # the champion is right on 7 of 8 rows, evenly: its calibration error is about 0
    assert judge(a, b).promote
    found = judge(a, b, rule(max_ece_gain=0.1))
    assert not found.promote and found.reason.startswith("worse calibrated: ECE 0.3750 against 0.0")


def test_budget_that_was_not_measured_blocks() -> None:
    limited = rule(max_latency_ms=5.0)
    found = judge(model(10), model(60, 200), limited)
    assert not found.promote and "not measured" in found.reason and "promotion.max_latency_ms" in found.reason
    assert judge(model(10), model(60, 200), limited, own_checks=[latency_check(4.0, 5.0)]).promote


def test_failed_check_of_the_caller_blocks_with_or_without_a_champion() -> None:
    failed = Check(name="label set", passed=False, detail="another label set: new 'c'")
    for champion, lead in ((model(60, 200), ""), (None, "no champion yet: ")):
        found = judge(model(10), champion, rule(baseline="off"), own_checks=[failed])
        assert not found.promote and found.reason.startswith(f"{lead}another label set: new 'c'")


def test_reason_names_the_other_failed_checks() -> None:
    found = judge(model(60), model(10, 200), rule(min_score={"accuracy": 0.9}, max_class_loss=0.05))
    assert "(also failed: superiority, classes)" in found.reason


def test_decisions_that_are_not_the_argmax_are_what_is_judged() -> None:
    good, bad = model(10).argmax(axis=1), model(60, 200).argmax(axis=1)
    found = judge(model(60, 200), model(10), says=(good, bad))
    assert found.promote and (found.challenger_score, found.champion_score) == (0.975, 0.85)
    assert "only the challenger is right on 60 rows" in named(found, "superiority").detail


def test_detectable_difference_is_the_usual_two_point_eight_standard_errors() -> None:
    """4 % discordance on 500 rows: 2.5 points (one-sided 2.5 % = two-sided 5 %)."""
    shown = PairedDifference(difference=0.0, low=-0.02, high=0.02, n=500, a_only=10, b_only=10)
    assert detectable(rule(level=0.975), shown) == pytest.approx(2.8016 * np.sqrt(0.04 / 500), rel=1e-4)
    assert detectable(rule(level=0.95, per="month"), shown) == pytest.approx(3.7768 * np.sqrt(0.04 / 500), rel=1e-3)


def test_detectable_difference_without_discordance_is_the_least_count_mcnemar_accepts() -> None:
    shown = PairedDifference(difference=0.0, low=0.0, high=0.0, n=100, a_only=0, b_only=0)
    assert detectable(rule(), shown) == 0.05  # 0.5 ** 5 = 0.031


def test_equal_challengers_are_promoted_about_as_rarely_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(200):
        guesses = [np.where(rng.random(400) < 0.85, Y, 1 - Y) for _ in range(2)]
        p = [np.eye(2)[g] * 0.8 + 0.1 for g in guesses]
        promoted += judge(p[0], p[1], rule(resamples=400)).promote
    assert promoted / 200 <= 0.10  # 5 % expected at most; 10 % is 3 standard errors above


def test_decision_survives_a_trip_through_json() -> None:
    for found in (judge(model(10), model(60, 200)), judge(model(10), None)):
        assert PromotionDecision.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_markdown_shows_the_verdict_and_every_check_with_names_escaped() -> None:
    found = judge(model(10), model(60, 200), rule(max_class_loss=0.05), champion_name="a|b <script>")
    text = found.to_markdown("release of *x*")
    assert text.startswith("## release of \\*x\\*\n\n**Promoted**: better than a\\|b &lt;script>")
    rows = [line for line in text.splitlines() if "✓ passed" in line or "✗ failed" in line]
    assert len(rows) == len(found.checks) and all(line.replace("\\|", "").count("|") == 4 for line in rows)


def test_markdown_of_a_kept_champion_shows_what_failed() -> None:
    text = judge(model(18), model(20, 200)).to_markdown("x")
    assert "**Not promoted**" in text and "| superiority | ✗ failed |" in text


def test_no_rows_and_no_distribution_are_refused() -> None:
    with pytest.raises(DataError):
        judge_rows(rule(), [], np.zeros((0, 2)), None, CLASSES)
    with pytest.raises(ArtifactError):
        judge(np.full((400, 2), 0.9), None)


@pytest.mark.parametrize(
    ("faulty", "key"),
    [
        ({"metric": "f1"}, "promotion.metric"),
        ({"level": 1.0}, "promotion.level"),
        ({"per": "decade"}, "promotion.per must be one of night, week, month, year"),
        ({"test": "equality"}, "promotion.test must be one of superiority, non_inferiority"),
        ({"champion_unavailable": "drop"}, "promotion.champion_unavailable"),
        ({"min_gain": -0.1}, "promotion.min_gain"),
        ({"test": "non_inferiority"}, "promotion.margin must be set"),
        ({"margin": 0.01}, "promotion.margin belongs to non_inferiority"),
        ({"test": "non_inferiority", "margin": float("nan")}, "promotion.margin must lie in"),
        ({"test": "non_inferiority", "margin": 0.01, "min_gain": 0.1}, "promotion.min_gain belongs to superiority"),
        ({"max_class_loss": 0.0}, "promotion.max_class_loss"),
        ({"max_slice_loss": 1.0}, "promotion.max_slice_loss"),
        ({"max_ece_gain": -0.1}, "promotion.max_ece_gain"),
        ({"max_latency_ms": 0.0}, "promotion.max_latency_ms"),
        ({"max_size_mb": -1.0}, "promotion.max_size_mb"),
        ({"min_score": {"f2": 0.5}}, "promotion.min_score.f2"),
        ({"min_score": {"log_loss": 0.5}}, "write -0.5"),
        ({"resamples": 5}, "promotion.resamples"),
    ],
)
def test_rule_refuses_a_value_out_of_range(faulty: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        PromotionRule(**faulty)


def test_rule_reports_all_faults_at_once() -> None:
    with pytest.raises(ConfigError, match="promotion.level.*promotion.max_size_mb"):
        PromotionRule(level=2.0, max_size_mb=0.0)


def test_resamples_grow_with_what_the_level_needs() -> None:
    assert (rule().draws, rule(per="month").draws, PromotionRule(level=0.99).draws) == (2000, 3000, 15_000)
