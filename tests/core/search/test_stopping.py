import math
import random

import optuna
import pytest

from bertft_core.search.stopping import exhausted, noise, spent


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
