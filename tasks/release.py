"""Prefect tasks over the registry: a version that carries its evidence, checked in fresh processes, then judged."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from bertft_core.base.display import without_credentials
from bertft_core.base.errors import telling_no_secrets
from bertft_core.base.text import plain
from bertft_core.config.store import Store
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import register_fit
from bertft_core.registry import gate, ledger
from bertft_core.registry.answers import Scorer
from bertft_core.registry.decision import promote_or_keep
from bertft_core.registry.gate import Candidate
from bertft_core.registry.ledger import Release
from bertft_core.training.results import TrainingResult
from tasks.data import is_retryable
from tasks.events import artifact_key, tell_release


@task(name="register", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=is_retryable)
@telling_no_secrets
def register_model(context: RunContext, fit: TrainingResult, tree: Tree) -> Candidate:
    """Log the served artefact and register it, once per run; found again by its run tag after a kill."""
    candidate, version = register_fit(context, fit, tree)
    text = f"`{version.model_uri}` from MLflow run `{version.run_id}`"
    create_markdown_artifact(key=artifact_key("model", candidate.name), markdown=text)
    if tree.store.tracking_uri.startswith("http"):
        link = f"{without_credentials(tree.store.tracking_uri)}/#/models/{version.name}/versions/{version.version}"
        create_link_artifact(key=artifact_key("model-link", candidate.name), link=link)
    return candidate


@task(name="parity", cache_policy=NO_CACHE)
@telling_no_secrets
def check_parity(candidate: Candidate, store: Store, scorer: Scorer) -> None:
    """The served version answers as its evaluation did; the versions it is compared with answer in the same go."""
    gate.check_parity(candidate, ledger.view_model(store, candidate.name), scorer)


@task(name="promote", cache_policy=NO_CACHE)
@telling_no_secrets
def decide_promotion(candidate: Candidate, store: Store, *, approved: bool = False) -> Release:
    """Apply the rule to the candidate and the champion on the same rows, move the alias or say why not."""
    release, decision = promote_or_keep(candidate, store, approved=approved, prefect_run=str(flow_run.id or ""))
    text = decision.to_markdown(release.title) if decision else f"**{plain(str(release))}**"
    create_markdown_artifact(key=artifact_key("decision", release.registered_model), markdown=text)
    return tell_release(release)
