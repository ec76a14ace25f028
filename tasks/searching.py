"""Prefect tasks of a search: one trial, and what is published at its end."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from bertft_core import trials
from bertft_core.search.results import TrialResult
from bertft_core.search.study import SearchStudy, Slot
from bertft_core.training.client import Trainer
from bertft_core.trials import Bench


@task(name="trial", task_run_name="trial-{slot.slot}", cache_policy=NO_CACHE)
def run_trial(study: SearchStudy, slot: Slot, bench: Bench, trainer: Trainer, board: Any) -> TrialResult | None:
    """One claimed slot; None when another coordinator took it over."""
    board.start(slot.slot, slot.params, f"trainer {bench.settings.threads}x")
    result = trials.run_trial(
        study, slot, bench, trainer, lambda fraction, facts: board.update(slot.slot, fraction, facts)
    )
    board.done(result) if result is not None else board.drop(slot.slot)
    return result
