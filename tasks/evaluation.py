"""Prefect task over the evaluation: test scores with intervals, floor, pictures."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core import measuring
from bertft_core.config import RunConfig
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.fitting import Prepared
from bertft_core.runs import Run
from bertft_core.training.client import Trainer
from bertft_core.training.spec import TrainingResult


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_model(
    config: RunConfig, prepared: Prepared, run: Run, fit: TrainingResult, trainer: Trainer, home: Path
) -> EvaluationReport:
    """Score the untouched test split beside the TF-IDF floor."""
    report = measuring.evaluate(config, prepared, run, fit, trainer, home)
    create_markdown_artifact(key="bertft-evaluation", markdown=report.to_markdown(config.name))
    return report
