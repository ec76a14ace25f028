from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bertft_core.errors import ConfigError
from bertft_core.evaluation.promotion import PromotionDecision, PromotionRule, decide

CLASSES = ("a", "b")
Y = np.arange(400) % 2
RULE = PromotionRule(metric="accuracy", resamples=2000)


def model(errors: int, offset: int = 0, confidence: float = 0.9) -> np.ndarray:
    """Probabilities wrong on exactly `errors` rows, starting at row `offset`."""
    guess = Y.copy()
    guess[offset : offset + errors] ^= 1
    p = np.full((len(Y), 2), 1 - confidence)
    p[np.arange(len(Y)), guess] = confidence
    return p


def judge(challenger: np.ndarray, champion: np.ndarray | None, rule: PromotionRule = RULE, **names: Any):
    return decide(rule, Y, challenger, champion, CLASSES, **names)


def test_first_version_is_promoted_without_a_minimum() -> None:
    found = judge(model(390), None)
    assert found.promote and "no champion yet" in found.reason and found.interval is None


def test_first_version_is_kept_back_when_it_misses_the_users_minimum() -> None:
    found = judge(model(40), None, PromotionRule(metric="accuracy", min_score={"macro_f1": 0.95}))
    assert not found.promote and "misses the minimum of 0.9500" in found.reason


def test_clearly_better_challenger_is_promoted_with_both_scores_in_the_reason() -> None:
    found = judge(model(10), model(60, 200))
    assert found.promote
    assert "0.9750" in found.reason and "0.8500" in found.reason and "+0.1250" in found.reason
    assert found.interval is not None and found.interval[0] > 0


def test_better_challenger_is_kept_back_when_it_misses_the_minimum() -> None:
    rule = PromotionRule(metric="accuracy", min_score={"accuracy": 0.99}, resamples=2000)
    assert not judge(model(10), model(60, 200), rule).promote


def test_slightly_better_challenger_is_not_distinguishable() -> None:
    found = judge(model(18), model(20, 200), champion_name="version 4")
    assert not found.promote and "not distinguishable from version 4" in found.reason


def test_worse_challenger_is_never_promoted_even_with_a_wide_margin() -> None:
    rule = PromotionRule(metric="accuracy", no_worse_margin=0.5, resamples=2000)
    assert not judge(model(21), model(20, 200), rule).promote


def test_margin_lets_a_small_gain_through_that_superiority_refuses() -> None:
    rule = PromotionRule(metric="accuracy", no_worse_margin=0.05, resamples=2000)
    assert judge(model(18), model(20, 200), rule).promote


def test_gain_below_the_wanted_one_is_refused() -> None:
    rule = PromotionRule(metric="accuracy", min_gain=0.2, resamples=2000)
    found = judge(model(10), model(60, 200), rule)
    assert not found.promote and "promotion.min_gain" in found.reason


def test_a_tie_is_never_promoted() -> None:
    rule = PromotionRule(metric="accuracy", no_worse_margin=0.9, resamples=2000)
    found = judge(model(20), model(20, 200), rule)
    assert not found.promote and "tie" in found.reason


def test_same_weights_are_never_promoted() -> None:
    by_digest = judge(model(10), model(60, 200), same_weights=True)
    by_answers = judge(model(10), model(10))
    assert not by_digest.promote and not by_answers.promote
    assert "same model" in by_digest.reason and "same model" in by_answers.reason


def test_log_loss_decides_when_it_is_the_metric() -> None:
    rule = PromotionRule(metric="log_loss", resamples=2000)
    assert judge(model(10, confidence=0.97), model(10, confidence=0.7), rule).promote
    assert not judge(model(10, confidence=0.7), model(10, confidence=0.97), rule).promote


def test_equal_challengers_are_promoted_about_as_rarely_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(200):
        guesses = [np.where(rng.random(400) < 0.85, Y, 1 - Y) for _ in range(2)]
        p = [np.eye(2)[g] * 0.8 + 0.1 for g in guesses]
        promoted += judge(p[0], p[1], PromotionRule(metric="accuracy", resamples=400)).promote
    assert promoted / 200 <= 0.06  # 2.5 % expected: one side of a 95 % interval


def test_decision_survives_a_trip_through_json() -> None:
    for found in (judge(model(10), model(60, 200)), judge(model(10), None)):
        assert PromotionDecision.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("faulty", "key"),
    [
        ({"metric": "f1"}, "promotion.metric"),
        ({"level": 1.0}, "promotion.level"),
        ({"min_gain": -0.1}, "promotion.min_gain"),
        ({"no_worse_margin": float("nan")}, "promotion.no_worse_margin"),
        ({"min_score": {"f2": 0.5}}, "promotion.min_score.f2"),
        ({"min_score": {"log_loss": 0.5}}, "write -0.5"),
        ({"resamples": 5}, "promotion.resamples"),
    ],
)
def test_rule_refuses_a_value_out_of_range(faulty: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        PromotionRule(**faulty)
