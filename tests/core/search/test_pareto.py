from __future__ import annotations

import random
from typing import Any

import pytest

from bertft_core.search.results import TrialResult
from bertft_core.search.winner import Measure, cheapest_within, pareto
from bertft_core.training.results import TrainingResult


def _trial(slot: int, score: float | None, cost: float | None, state: str = "complete") -> TrialResult:
    """A trial whose latency (ms) is `cost` and whose size is as many megabytes."""
    size = None if cost is None else int(cost * 1e6)
    fit = None
    if score is not None:
        fit = TrainingResult(state=state, score=score, log_loss=0.5, seconds=1.0, latency_ms=cost, size_bytes=size)
    return TrialResult(slot=slot, number=slot, state=state, reason="", params={}, fit=fit, seconds=1.0)


# slot: (score, cost). 1 beats 3 (same cost, lower score) and 4 (dearer, lower score); 2 is the best and dearest.
HAND = [_trial(0, 0.80, 2), _trial(1, 0.90, 5), _trial(2, 0.91, 9), _trial(3, 0.85, 5), _trial(4, 0.89, 7)]


def _slots(results: tuple[TrialResult, ...]) -> list[int]:
    return [r.slot for r in results]


def _beats(one: TrialResult, other: TrialResult) -> bool:
    assert one.score is not None and other.score is not None and one.latency_ms and other.latency_ms
    as_good = one.score >= other.score and one.latency_ms <= other.latency_ms
    return as_good and (one.score, one.latency_ms) != (other.score, other.latency_ms)


@pytest.mark.parametrize("measure", ["latency", "size"])
def test_front_of_five_trials_is_three_cheapest_first(measure: Measure) -> None:
    assert _slots(pareto(HAND, measure)) == [0, 1, 2]


def test_front_keeps_the_lowest_slot_of_equal_trials() -> None:
    assert _slots(pareto([_trial(4, 0.9, 5), _trial(2, 0.9, 5), _trial(3, 0.9, 5)], "latency")) == [2]


@pytest.mark.parametrize("odd", [_trial(9, 0.99, 1, "pruned"), _trial(9, None, 1), _trial(9, 0.99, None)])
def test_front_leaves_out_what_is_not_complete_scored_and_measured(odd: TrialResult) -> None:
    assert _slots(pareto([*HAND, odd], "latency")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("within", "slot"), [(0.0, 2), (0.005, 2), (0.01, 1), (0.05, 1), (0.109, 1), (0.11, 0), (1.0, 0)]
)
def test_choice_is_the_cheapest_trial_within_reach_of_the_best(within: float, slot: int) -> None:
    chosen = cheapest_within(HAND, "latency", within)
    assert chosen is not None and chosen.slot == slot


def test_choice_treats_latencies_a_tenth_apart_as_one_and_takes_the_score() -> None:
    trials = [_trial(0, 0.900, 10.0), _trial(1, 0.905, 10.9), _trial(2, 0.910, 11.5)]
    assert [getattr(cheapest_within(trials, m, 0.05), "slot", None) for m in ("latency", "size")] == [1, 0]


def test_choice_among_equal_costs_takes_the_score_then_the_slot() -> None:
    trials = [_trial(3, 0.90, 5), _trial(2, 0.91, 5), _trial(1, 0.91, 5), _trial(0, 0.915, 9)]
    chosen = cheapest_within(trials, "size", 0.1)
    assert chosen is not None and chosen.slot == 1


def test_choice_takes_an_unmeasured_trial_only_when_nothing_else_is_in_reach() -> None:
    trials = [_trial(0, 0.95, None), _trial(1, 0.90, 5)]
    assert [getattr(cheapest_within(trials, "latency", w), "slot", None) for w in (0.01, 0.05)] == [0, 1]


def test_choice_counts_negative_scores_downward() -> None:
    trials = [_trial(0, -0.30, 9), _trial(1, -0.32, 5), _trial(2, -0.50, 1)]
    chosen = cheapest_within(trials, "latency", 0.05)
    assert chosen is not None and chosen.slot == 1


@pytest.mark.parametrize("trials", [[], [_trial(0, 0.9, 1, "pruned")], [_trial(0, None, None, "fail")]])
def test_choice_without_a_complete_trial_is_none(trials: list[TrialResult]) -> None:
    assert cheapest_within(trials, "latency", 0.01) is None and pareto(trials, "latency") == ()


def _random_trials(rng: random.Random) -> list[TrialResult]:
    """Few distinct values, so that ties are common."""
    states = ["complete"] * 4 + ["pruned"]
    values: list[dict[str, Any]] = [
        {"score": rng.randint(0, 12) / 12, "cost": rng.randint(1, 12) * 0.7, "state": rng.choice(states)}
        for _ in range(rng.randint(1, 15))
    ]
    return [_trial(slot, v["score"], v["cost"], v["state"]) for slot, v in enumerate(values)]


@pytest.mark.parametrize("seed", range(10))
def test_front_members_do_not_beat_each_other_and_beat_or_equal_the_rest(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        trials = _random_trials(rng)
        complete, front = [t for t in trials if t.state == "complete"], pareto(trials, "latency")
        assert not [(a, b) for a in front for b in front if _beats(a, b)]
        pairs = {(f.score, f.latency_ms) for f in front}
        assert len(pairs) == len(front)
        outside = [t for t in complete if (t.score, t.latency_ms) not in pairs]
        assert all(any(_beats(f, t) for f in front) for t in outside)


@pytest.mark.parametrize("measure", ["latency", "size"])
@pytest.mark.parametrize("seed", range(10))
def test_choice_is_in_reach_and_beaten_by_none(seed: int, measure: Measure) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        trials, within = _random_trials(rng), rng.choice([0.0, 0.05, 1 / 12, 0.3])
        complete, chosen = [t for t in trials if t.state == "complete"], cheapest_within(trials, measure, within)
        if not complete:
            continue
        assert chosen is not None and chosen.score is not None
        assert chosen.score >= max(t.score or 0.0 for t in complete) - within - 1e-9
        assert not [t for t in complete if _beats(t, chosen)]
        assert cheapest_within(sorted(trials, key=lambda t: -t.slot), measure, within) == chosen
