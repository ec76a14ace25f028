"""Release: register, prove parity, score the champion on the same rows, decide, move the alias."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run

from bertft_core.base.locks import work_in
from bertft_core.base.names import checked, file_name, model_name, version_number
from bertft_core.config.store import Store, load_mlflow_config
from bertft_core.recipe.board.writing import refresh_board
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import WAIT_SECONDS, candidate_of_version, release_lock
from bertft_core.registry import overrides
from bertft_core.registry.aliases import get_version, version_of_alias
from bertft_core.registry.answers import Scorer
from bertft_core.registry.decision import bar
from bertft_core.registry.ledger import AWAITING_APPROVAL, Release, release_of
from bertft_core.tracking.store import WEIGHTS, open_store
from bertft_core.training.results import TrainingResult
from flows.hosting import at_home, tag_run
from flows.limits import one_at_a_time
from flows.parameters import home_of
from flows.terminal.progress import Reporter
from tasks.events import final_state, tell_release
from tasks.release import check_parity, decide_promotion, register_model


class Approval(RunInput):
    """What a suspended release asks for. Resuming without an answer means no."""

    approved: bool = False
    by: str = ""


@contextmanager
def _alone(store: Store, name: str) -> Iterator[None]:
    """One release per registered model at a time, by every lock that machines may have in common (docs/home.md)."""
    with release_lock(store, name), one_at_a_time("release", name, store, WAIT_SECONDS):
        yield


def release(context: RunContext, fit: TrainingResult, tree: Tree, scorer: Scorer) -> Release:
    """Register the fit and let the gate decide; one release per registered model at a time."""
    with _alone(tree.store, tree.store.config.model_name(context.config.name)):
        candidate = register_model(context, fit, tree)
        check_parity(candidate, tree.store, scorer)
        outcome = decide_promotion(candidate, tree.store)
    return _with_approval(tree.store, outcome)


@flow(name="bertft-promote", flow_run_name="{name} promote")
@at_home
def promote(
    name: str,
    version: str | None = None,
    home: str | None = None,
    mlflow_file: str | None = None,
    *,
    approve: bool = False,
) -> dict[str, Any]:
    """Run the gate for a registered version on its own test rows.

    Args:
        name: The registered model.
        version: The version's number; default: the challenger.
        home: BERTFT_HOME of the run; default: the environment's, else .bertft in the working directory.
        mlflow_file: The mlflow.yaml; default: the one in the working directory.
        approve: Say yes to a version that awaits approval.
    """
    checked(model_name, name, "the registered model's name")
    if version is not None:
        checked(version_number, version, "the version")
    root = Path(home_of(home))
    work_in(root)
    tag_run(name)
    store = open_store(load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd()), root)
    with _alone(store, name):
        if done := overrides.already(store, name, version):
            return final_state(asdict(done))
        chosen = version or version_of_alias(store, name, store.config.aliases.challenger)
        awaited = overrides.awaiting(store, name, chosen)
        if awaited is None:
            outcome = _decide_anew(store, name, chosen, root, approve=approve)
        elif approve:
            outcome = tell_release(overrides.approve(store, name, awaited, prefect_run=str(flow_run.id or "")))
        else:
            outcome = release_of(name, awaited)
    decided = _with_approval(store, outcome)
    refresh_board(store, Reporter().say)
    return final_state(asdict(decided))


def release_registered(context: RunContext, store: Store, name: str, version: str) -> Release:
    """Let the gate decide on a version whose run was killed before it could, in a home that was lost since."""
    with _alone(store, name):
        outcome = _decide_anew(store, name, version, context.home, context.config.base_dir)
    return _with_approval(store, outcome)


def _decide_anew(
    store: Store, name: str, version: str, home: Path, base_dir: Path | None = None, *, approve: bool = False
) -> Release:
    weights = get_version(store, name, version).tags.get(WEIGHTS, "")
    if barred := bar(store, name, version, weights, str(flow_run.id or "")):  # its rows may have changed since
        return tell_release(release_of(name, barred, version=version))
    with Scorer(store) as scorer:
        candidate = candidate_of_version(name, version, store, home, base_dir)
        check_parity(candidate, store, scorer)
        return decide_promotion(candidate, store, approved=approve)


def _with_approval(store: Store, outcome: Release) -> Release:
    """In a deployed top-level flow, suspend and ask; Prefect can suspend no other (there: `promote --approve`)."""
    if outcome.outcome != AWAITING_APPROVAL or not deployment.id or flow_run.parent_flow_run_id:
        return outcome
    name, version = outcome.registered_model, outcome.version
    question = Approval.with_initial_data(description=f"{outcome}. Promote it?", approved=False)
    key = re.sub("[^A-Za-z0-9-]", "-", f"approve-{file_name(name)}-{version}")  # what Prefect takes
    refresh_board(store, Reporter().say)  # the run ends here until somebody answers
    answer = suspend_flow_run(wait_for_input=question, key=key)
    awaited = overrides.awaiting(store, name, version)
    if awaited is None:  # somebody has finished it with `bertft promote --approve` meanwhile
        return overrides.already(store, name, version) or outcome
    act = overrides.approve if answer.approved else overrides.decline
    by = f"{answer.by or 'unnamed'} via Prefect"
    return tell_release(act(store, name, awaited, by=by, prefect_run=str(flow_run.id)))
