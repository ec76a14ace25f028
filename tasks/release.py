"""Prefect tasks over the registry: a version that carries its evidence, checked in fresh processes, then judged."""

from __future__ import annotations

import numpy as np
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import write_json
from bertft_core.config.store import Store
from bertft_core.data.dataset import test_fingerprint
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import build_served, write_gate_rows
from bertft_core.registry import aliases, ledger, versions
from bertft_core.registry.answers import Answers, Scored, Scorer, require
from bertft_core.registry.decision import decide
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.registry.gate import OTHER_BATCH, Candidate, rival_versions
from bertft_core.registry.ledger import Release
from bertft_core.tracking import lineage
from bertft_core.training.results import TrainingResult
from tasks.data import is_retryable

PARITY = 1e-5


@task(name="register", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=is_retryable)
def register_model(context: RunContext, fit: TrainingResult, tree: Tree) -> Candidate:
    """Log the served artefact and register it, once per run; found again by its run tag after a kill."""
    config, run, dataset = context.config, context.run, context.prepared.dataset
    folder = EvaluationFolder(run.folder.evaluation)
    write_gate_rows(config, dataset, folder)
    fingerprint = test_fingerprint(dataset)
    served = build_served(context, fit)
    size = sum(file.stat().st_size for file in served.iterdir()) / 1e6
    write_json(
        folder.evidence,
        {
            "config": config.resolved(),
            "base_dir": str(config.base_dir),
            "test_rows": fingerprint,
            "classes": list(dataset.classes),
            "weights": fit.weights_digest,
            "folder": str(folder.path),
            "size_mb": size,
            "rule": tree.store.config.promotion.settings(),
        },
    )
    tags = {
        aliases.RUN_ID: run.run_id,
        aliases.WEIGHTS: fit.weights_digest,
        "bertft.test_rows": fingerprint,
        "bertft.rows": dataset.fingerprint,
        "bertft.run_key": run.run_key,
        **lineage.version_tags(config.base_dir),
    }
    name = tree.store.config.model_name(config.name)
    version = versions.register(
        tree.store, tree.final, served, name, tags, extra_files=[folder.evidence, folder.train_fingerprints]
    )
    create_markdown_artifact(key="bertft-model", markdown=f"`{version.model_uri}` from MLflow run `{version.run_id}`")
    if tree.store.tracking_uri.startswith("http"):
        link = f"{tree.store.tracking_uri}/#/models/{name}/versions/{version.version}"
        create_link_artifact(key="bertft-model-link", link=link)
    return Candidate(
        name=name,
        version=version.version,
        classes=tuple(map(str, dataset.classes)),
        folder=folder,
        metric=config.evaluation.metric,
        weights_digest=fit.weights_digest,
        size_mb=size,
    )


@task(name="parity", cache_policy=NO_CACHE)
def check_parity(candidate: Candidate, store: Store, scorer: Scorer) -> Scored:
    """Fresh process, downloaded artefact, another batch size: predictions must equal the evaluation's to 1e-5.

    The versions it will be compared with answer in the same go, which saves a start; returns those answers,
    without the ones that failed. Raises ArtifactError where the candidate fails or predicts otherwise.
    """
    folder, champion = candidate.folder, ledger.champion_state(store, candidate.name)
    rule, known = store.config.promotion_rule(candidate.metric), ledger.read(store, candidate.name)
    _, rivals = rival_versions(rule, known, None if champion.fault else champion.version)
    wanted = {candidate.uri_of(v): folder.answers(v) for v in (candidate.version, *rivals)}
    found = scorer.answers(wanted, folder.test_rows, OTHER_BATCH)
    served = require(found[candidate.uri])
    ours = np.load(folder.probabilities, allow_pickle=False)
    gap = float(np.abs(served.probabilities(candidate.classes) - ours).max())
    if not gap <= PARITY:
        raise ArtifactError(
            f"{candidate.uri} predicts other probabilities than its evaluation (largest difference {gap:.2e}, wanted "
            f"<= {PARITY:g}): not promoted; look at the served folder and the library versions"
        )
    answers = {version: found[candidate.uri_of(version)] for version in rivals}
    return Scored(answers={version: own for version, own in answers.items() if isinstance(own, Answers)})


@task(name="promote", cache_policy=NO_CACHE)
def decide_promotion(candidate: Candidate, store: Store, scored: Scored, approved: bool = False) -> Release:
    """Apply the rule to the candidate and the champion on the same rows, move the alias or say why not.

    scored: what `check_parity` returned.
    """
    prefect_run = str(flow_run.id or "")
    release, gate = decide(candidate, store, scored, approved=approved, prefect_run=prefect_run)
    text = gate.to_markdown(str(release)) if gate else f"**{release}**"
    create_markdown_artifact(key="bertft-decision", markdown=text)
    return release
