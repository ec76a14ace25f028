"""Prefect tasks over the evaluation: test scores with intervals, baseline, pictures; what a person reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import telling_no_secrets
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.recipe import evaluation, review
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import build_served, write_released_page
from bertft_core.registry.ledger import Release
from bertft_core.training.results import TrainingResult
from tasks.events import artifact_key


@task(name="evaluate", cache_policy=NO_CACHE)
@telling_no_secrets
def evaluate_model(context: RunContext, fit: TrainingResult, progress: Any) -> EvaluationReport:
    """Score the untouched test split beside the TF-IDF baseline."""
    report = evaluation.evaluate(context, fit, progress.doing)
    key = artifact_key("evaluation", context.config.name)
    create_markdown_artifact(key=key, markdown=report.to_markdown(context.config.name))
    return report


@task(name="review", cache_policy=NO_CACHE)
@telling_no_secrets
def review_model(context: RunContext, fit: TrainingResult, report: EvaluationReport, progress: Any) -> Path:
    """Doubtful labels, the words behind the worst errors, and the HTML report, as yet without a verdict."""
    served = build_served(context, fit)
    review.review(context, report, served, lambda fraction, facts: progress.fraction(fraction))
    return review.write_page(context, fit, report)


@task(name="report", cache_policy=NO_CACHE)
@telling_no_secrets
def write_report(
    context: RunContext, fit: TrainingResult, report: EvaluationReport, release: Release, tree: Tree
) -> Path:
    """The HTML report with its verdict, and the gate's decision as Markdown; both go to the MLflow run."""
    return write_released_page(context, fit, report, release, tree)
