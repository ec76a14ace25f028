"""What a night between two searches keeps of the last one, and what it takes from its own rows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from bertft_core.config.auto import searched, settled
from bertft_core.config.run import RunConfig, load_config
from bertft_core.recipe.nights.log import LastTraining
from bertft_core.recipe.nights.plan import plan_training
from bertft_core.recipe.trials import final_values
from bertft_core.search.results import TrialResult

MOMENT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def after_search(config: RunConfig, rows: int, params: dict[str, Any]) -> LastTraining:
    """The training of a night with a search on so many rows, whose winner has these parameters."""
    space = searched(config, rows, 2).search
    assert space is not None and set(params) == set(space.space)
    best = TrialResult(slot=0, number=0, state="complete", reason="", params=params, fit=None, seconds=1.0)
    fitted = settled(config.with_values(params), rows, 2)
    when = MOMENT.isoformat()
    return LastTraining(
        rows="r",
        settings="s",
        run="run",
        run_id="run",
        version="1",
        params=final_values(fitted, best),
        trained=when,
        searched=when,
    )


def next_night(file: Path, last: LastTraining, rows: int) -> RunConfig:
    """What a night without a search, on so many rows, trains with."""
    plan = plan_training(load_config(file), last, "other rows", "s", MOMENT + dt.timedelta(days=1))
    assert not plan.is_searched
    return settled(load_config(file, plan.overrides), rows, 2)


def write(folder: Path, more: str) -> Path:
    file = folder / "c.yaml"
    file.write_text("name: n\ndata: {source: x.csv}\nmodel: {pretrained: m}\n" + more, encoding="utf-8")
    return file


def test_epochs_that_no_search_settled_follow_the_rows_of_each_night(tmp_path: Path) -> None:
    file = write(tmp_path, "search: {trials: 4}\n")
    last = after_search(load_config(file), 160, {"lr": 1e-4, "batch_size": 32, "alpha": 0.9})
    assert last.params["epochs"] == 20  # 5 steps an epoch
    found = next_night(file, last, 5_000).training
    assert (found.lr, found.batch_size, found.alpha) == (1e-4, 32, 0.9)  # as the search found them
    assert found.epochs == 3  # 157 steps an epoch


def test_rate_that_no_search_settled_follows_the_rows_and_searched_epochs_stay(tmp_path: Path) -> None:
    file = write(tmp_path, "search: {trials: 4, space: {epochs: [3, 8]}}\n")
    last = after_search(load_config(file), 160, {"epochs": 8})
    found = next_night(file, last, 5_000).training
    assert last.params["lr"] > 1e-4 and (found.lr, found.epochs) == (5e-5, 8)


@pytest.mark.parametrize("rows", [160, 5_000])
def test_values_that_are_written_stay(tmp_path: Path, rows: int) -> None:
    file = write(tmp_path, "training: {epochs: 6}\nsearch: {trials: 4}\n")
    last = after_search(load_config(file), rows, {"lr": 1e-4, "batch_size": 32, "alpha": 0.9})
    assert next_night(file, last, 5_000).training.epochs == 6


def test_a_night_searches_again_once_the_last_search_is_old(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "search: {trials: 4}\nnightly: {search_every_days: 3, trials: 2}\n"))
    last = after_search(config, 160, {"lr": 1e-4, "batch_size": 32, "alpha": 0.9})
    on_day = [plan_training(config, last, "other rows", "s", MOMENT + dt.timedelta(days=day)) for day in (2, 3)]
    assert [plan.is_searched for plan in on_day] == [False, True] and on_day[1].overrides == ["search.trials=2"]
