"""Prefect tasks over the evaluation: test scores with intervals, baseline, pictures; what a person reads of them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.files import read_json
from bertft_core.base.hashes import code_fingerprint
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import Scores
from bertft_core.recipe import evaluation, review
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import build_served
from bertft_core.recipe.runs import RUN_CODE, Run
from bertft_core.registry import aliases
from bertft_core.registry.answers import Answers
from bertft_core.registry.ledger import Release
from bertft_core.reporting.run.page import Outcome, ReleaseFacts
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import MachineSettings

_LIBRARIES = ("torch", "transformers", "mlflow", "prefect", "optuna", "scikit-learn")
_SHOWN: dict[str, Outcome] = {"held": "held", "awaiting approval": "awaiting"}


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_model(context: RunContext, fit: TrainingResult) -> EvaluationReport:
    """Score the untouched test split beside the TF-IDF baseline."""
    report = evaluation.evaluate(context, fit)
    create_markdown_artifact(key="bertft-evaluation", markdown=report.to_markdown(context.config.name))
    return report


@task(name="review", cache_policy=NO_CACHE)
def review_model(context: RunContext, fit: TrainingResult, report: EvaluationReport, progress: Any) -> Path:
    """Doubtful labels, the words behind the worst errors, and the HTML report, as yet without a verdict."""
    served = build_served(context, fit)
    review.review(context, report, served, lambda fraction, facts: progress.fraction(fraction))
    return review.write_page(context, fit, report)


@task(name="report", cache_policy=NO_CACHE)
def write_report(
    context: RunContext, fit: TrainingResult, report: EvaluationReport, release: Release, tree: Tree
) -> Path:
    """The HTML report with its verdict, and the gate's decision as Markdown; both go to the MLflow run."""
    folder = context.run.folder.evaluation
    stored = read_json(folder.decision_json) if folder.decision_json.exists() else None
    decision = PromotionDecision.from_json(stored) if stored else None
    if decision is not None:
        folder.decision_markdown.write_text(decision.to_markdown(str(release)), encoding="utf-8")
    outcome = "promoted" if release.promoted else _SHOWN.get(release.outcome, "kept")
    page = review.write_page(
        context,
        fit,
        report,
        ReleaseFacts(
            outcome=outcome, reason=release.reason, decision=decision, champion=_champion(context.run, report, release)
        ),
        lineage=_lineage(context, release, tree),
    )
    tree.report(folder)
    report_uri = f"runs:/{tree.final}/evaluation/{page.name}"
    aliases.tag_version(tree.store, release.registered_model, release.version, {"bertft.report": report_uri})
    return page


def _champion(run: Run, report: EvaluationReport, release: Release) -> Scores | None:
    """Scores of the champion that the gate compared with, on the whole test split."""
    folder = run.folder.evaluation
    file = folder.answers(release.champion_before or "")
    if not file.exists():
        return None
    found = Answers.read(file)
    if set(found.classes) != set(report.classes):
        return None
    labels = labels_of(np.load(folder.labels, allow_pickle=False), report.classes)
    return labels.scores(labels.predictions(found.probabilities(report.classes), found.predicted(report.classes)))


def _lineage(context: RunContext, release: Release, tree: Tree) -> dict[str, str]:
    run, prepared = context.run, context.prepared
    settings = run.state().get("settings")
    facts = {
        "registered model": f"{release.registered_model} version {release.version}",
        "champion before": release.champion_before or "none",
        "run": run.run_id,
        "run key": run.run_key,
        "MLflow run": tree.root,
        "Prefect flow run": tree.prefect_run,
        "git commit": tree.commit,
        "rows": prepared.dataset.fingerprint,
        "encoder": prepared.encoder,
        "code": code_fingerprint(*RUN_CODE),
        "machine": str(MachineSettings(**settings)) if settings else "",
    }
    facts |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {name: value for name, value in facts.items() if value}
