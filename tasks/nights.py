"""Prefect tasks of a night: drift of its rows, the champion's answers on the new ones, what is written down."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.config.run import RunConfig
from bertft_core.config.store import Store
from bertft_core.evaluation.drift.label_shift import LabelShift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.recipe.nights import drift as nights_drift
from bertft_core.recipe.nights.log import Night
from bertft_core.recipe.nights.record import as_markdown, log_night
from bertft_core.recipe.nights.triggers import NewRowsScore
from bertft_core.recipe.prepare import Prepared
from tasks.events import artifact_key


@task(name="drift", cache_policy=NO_CACHE)
@telling_no_secrets
def measure_drift(
    config: RunConfig, prepared: Prepared, last: Path, label: LabelShift, home: Path
) -> DriftReport | None:
    """How tonight's texts differ from the last training's; the Prefect artifact."""
    report = nights_drift.measure_drift(config, prepared, last, label, home)
    if report is not None:
        create_markdown_artifact(key=artifact_key("drift", config.name), markdown=report.to_markdown())
    return report


@task(name="champion on new rows", cache_policy=NO_CACHE)
@telling_no_secrets
def champion_on_new(config: RunConfig, prepared: Prepared, last: Path, store: Store, home: Path) -> NewRowsScore | None:
    """Today's champion on rows that came after the last training."""
    return nights_drift.champion_on_new(config, prepared, last, store, home)


@task(name="record", cache_policy=NO_CACHE)
@telling_no_secrets
def record(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None, board: str) -> None:
    """One MLflow run a night, with outcome, reason, numbers and the drift that was measured; the Prefect artifact."""
    create_markdown_artifact(key=artifact_key("night", name), markdown=as_markdown(night, name, board))
    log_night(night, name, store, prefect_run, drift)
