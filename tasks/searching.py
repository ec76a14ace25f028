"""Prefect tasks of a search: one trial, and what is published at its end."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.search_report import SearchReport, report_search
from bertft_core.recipe.trials import TrialRunner
from bertft_core.search.results import TrialResult
from bertft_core.search.slots import Slot
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import SearchWinner
from tasks.events import artifact_key


@task(name="trial", task_run_name="trial-{slot.slot}", cache_policy=NO_CACHE)
@telling_no_secrets
def run_trial(
    study: SearchStudy, slot: Slot, runner: TrialRunner, trainer: Trainer, board: Any, worker: str
) -> TrialResult | None:
    """One claimed slot; None when another coordinator took it over."""
    board.start(slot.slot, slot.params, worker)
    try:
        result = runner.run(study, slot, trainer, lambda fraction, facts: board.update(slot.slot, fraction, facts))
        if result is not None:
            board.done(result)
    finally:
        board.drop(slot.slot)
    return result


@task(name="report", task_run_name="search-report", cache_policy=NO_CACHE)
@telling_no_secrets
def publish(study: SearchStudy, winner: SearchWinner, context: RunContext, tree: Tree) -> SearchReport:
    """Pictures and page of a finished search: on disk, on the MLflow search run, as a Prefect artifact."""
    config = context.config
    report = report_search(study, config, winner, context.run.folder.search, tree.search_address)
    key = artifact_key("search", config.name)
    create_markdown_artifact(key=key, markdown=report.summary, description=f"{config.name}: {study.name}")
    tree.search_done(winner, [report.page, *report.pictures])
    return report
