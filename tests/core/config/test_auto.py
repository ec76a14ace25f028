"""What `auto` becomes for a number of rows and classes; what somebody wrote stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertft_core.config.auto import auto_values, searched, settled
from bertft_core.config.fit import TrainingConfig
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.config.search import Range


def config(**sections: Any) -> RunConfig:
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}, **sections}
    return parse_config(tree, Path("."))


@pytest.mark.parametrize(
    ("rows", "classes", "epochs", "lr"),
    [
        (100, 2, 20, 1.07e-4),  # 7 steps an epoch: 140 updates of the 300 wanted, at 300 / 140 of the rate
        (16, 2, 20, 2e-4),  # 20 updates: 15 times the rate, but 2e-4 at most
        (300, 2, 16, 5e-5),  # 19 steps an epoch
        (1000, 2, 5, 5e-5),
        (1000, 20, 16, 5e-5),  # 1,000 updates, 50 a class
        (1585, 2, 3, 5e-5),
        (25_000, 2, 3, 5e-5),
        (25_000, 100, 4, 5e-5),
    ],
)
def test_epochs_and_rate_by_hand(rows: int, classes: int, epochs: int, lr: float) -> None:
    found = settled(config(), rows, classes).training
    assert (found.epochs, found.lr) == (epochs, pytest.approx(lr, rel=5e-3))


def test_what_is_written_wins() -> None:
    own = config(training={"lr": 3e-5, "epochs": 2})
    assert settled(own, 100, 2) is own
    assert settled(config(training={"lr": 3e-5}), 100, 2).training.lr == 3e-5
    assert settled(config(training={"epochs": 6}), 100, 2).training.epochs == 6


def test_few_epochs_of_ones_own_raise_an_auto_rate() -> None:
    few, many = (auto_values(TrainingConfig(epochs=n), 1000, 2)["lr"] for n in (2, 6))
    assert few == pytest.approx(5e-5 * 300 / 126, rel=5e-3) and many == 5e-5


def test_larger_batches_take_more_epochs() -> None:
    assert auto_values(TrainingConfig(batch_size=32), 1000, 2)["epochs"] == 10


def test_presets_keep_their_papers_values() -> None:
    found = settled(config(preset="sun2019"), 100, 2).training
    assert (found.lr, found.epochs) == (2e-5, 4)


def test_default_space_follows_the_rate() -> None:
    search = searched(config(search={"trials": 3}), 600, 2).search
    assert search is not None
    assert search.space == {
        "lr": Range(low=2e-5, high=2e-4, log=True),
        "batch_size": [16, 32],
        "alpha": Range(low=0.8, high=1.0),
    }


@pytest.mark.parametrize(("lr", "ends"), [(1e-4, (4e-5, 4e-4)), (5e-3, (2e-3, 0.01))])
def test_default_space_follows_a_rate_of_ones_own(lr: float, ends: tuple[float, float]) -> None:
    search = searched(config(training={"lr": lr}, search={"trials": 3}), 600, 2).search
    assert search is not None and search.space["lr"] == Range(low=ends[0], high=ends[1], log=True)


def test_searched_knob_that_is_auto_gets_the_number_of_the_first_trial() -> None:
    found = searched(config(search={"trials": 3, "space": {"epochs": [3, 8]}}), 600, 2)
    assert (found.training.epochs, found.training.lr) == (8, "auto")


def test_epochs_that_are_not_searched_wait_for_a_trials_own_batches() -> None:
    found = searched(config(search={"trials": 3}), 600, 2)
    assert found.training.epochs == "auto"
    trial = settled(found.with_values({"batch_size": 32, "lr": 1e-4}), 600, 2)
    assert (trial.training.epochs, trial.training.lr) == (16, 1e-4)


def test_nothing_searched_stays_as_it_is() -> None:
    plain = config(search={"trials": 0})
    assert searched(plain, 600, 2) is plain


def test_head_alone_is_a_trial_where_trials_train_on_few_rows() -> None:
    found = [searched(config(search={"trials": 3}), rows, 2).search for rows in (1_000, 1_001)]
    assert [search and search.linear_probe for search in found] == [True, False]
    named = searched(config(search={"trials": 3, "space": {"batch_size": [8, 16]}}), 100, 2).search
    assert named and named.linear_probe is False  # what there is to choose from is the user's word
