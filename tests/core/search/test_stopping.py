import math
import random

import optuna
import pytest

from bertft_core.search import stopping
from bertft_core.search.stopping import Clock, exhausted, noise, spent


def _completed(count: int, spread: float) -> list[optuna.trial.FrozenTrial]:
    rng = random.Random(1)
    return [
        optuna.trial.create_trial(
            params={"x": rng.random()},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
            value=0.9 + spread * rng.random(),
        )
        for _ in range(count)
    ]


def test_noise_is_the_binomial_standard_error() -> None:
    assert noise(0.9, 900) == pytest.approx(math.sqrt(0.09 / 900))


def test_search_goes_on_below_twenty_completed_trials() -> None:
    assert exhausted(_completed(19, 0.0001), 100, seed=1) == ""


def test_search_ends_when_the_gain_left_is_below_the_noise() -> None:
    assert exhausted(_completed(25, 0.0001), 100, seed=1).startswith("search.stop_early")


def test_search_goes_on_when_more_can_be_gained_than_the_noise() -> None:
    assert exhausted(_completed(25, 0.09), 1_000_000, seed=1) == ""


def test_time_is_spent_at_the_limit_and_not_before() -> None:
    assert spent(9.9, 10) == "" and spent(10, 10) and spent(1e9, None) == ""


class _Hands:
    """Both clocks of a machine; `ahead`: how far its wall clock is ahead of the true time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ahead = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now + self.ahead


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> _Hands:
    found = _Hands()
    monkeypatch.setattr(stopping, "time", found)
    return found


def test_time_in_which_two_coordinators_work_counts_once(hands: _Hands) -> None:
    one, other, stored = Clock(limit=60), Clock(limit=60), dict[str, float]()
    one.start(stored), other.start(stored)
    for clock in (one, other, one, other):
        hands.now += 5
        stored = clock.entry(stored)
    assert stored["spent"] == pytest.approx(20)


def test_time_without_a_coordinator_does_not_count(hands: _Hands) -> None:
    first, second = Clock(limit=60), Clock(limit=60)
    first.start({})
    hands.now += 5
    stored = first.entry({})
    hands.now += 3600
    second.start(stored)
    hands.now += 5
    assert second.entry(stored)["spent"] == pytest.approx(10)


def test_wall_clock_that_jumps_ahead_spends_no_more_than_passed(hands: _Hands) -> None:
    clock = Clock(limit=60)
    clock.start({})
    hands.now, hands.ahead = hands.now + 5, 3600
    assert clock.entry({})["spent"] == pytest.approx(5)


def test_clock_is_over_at_its_limit_of_all_time_spent(hands: _Hands) -> None:
    clock = Clock(limit=60)
    clock.start({"spent": 50.0, "at": hands.time() - 3600})
    hands.now += 9.9
    before = clock.is_over
    hands.now += 0.2
    assert (before, clock.is_over) == (False, True)
