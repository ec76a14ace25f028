"""The chain on one screen: labelled text to a promoted model. Each stage is a task; the search is a flow of its own."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.exceptions import Pause
from prefect.runtime import flow_run

from bertft_core.base.locks import FOREVER, exclusive, work_in
from bertft_core.config.run import RunConfig, load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe import fit as fitting
from bertft_core.recipe import trials
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import require_test_rows, test_document
from bertft_core.recipe.mlflow_tree import Origin, Tree
from bertft_core.recipe.prepare import planned
from bertft_core.recipe.process.checkpoints import drop
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.release import standing_release
from bertft_core.recipe.runs import fitted, identify
from bertft_core.registry.answers import Scorer
from bertft_core.registry.decision import require_comparable
from bertft_core.registry.versions import registered_runs
from bertft_core.tracking.store import open_store
from flows.hosting import at_home, model_of_run, tag_run
from flows.parameters import Hyperparameters, Stage, all_overrides, file_of, home_of
from flows.release import release, release_registered
from flows.search import search
from flows.signals import sigterm_came
from flows.terminal.progress import Reporter
from tasks.adaptation import adapt_encoder, choose_between
from tasks.data import ingest_rows, tokenize_rows
from tasks.evaluation import evaluate_model, review_model, write_report
from tasks.events import final_state
from tasks.training import finetune_model


def _run_name() -> str:
    """bbc_news run, quick_test search: the model's name and how far the chain goes."""
    last = flow_run.parameters["last"]
    return f"{model_of_run()} {'run' if last == 'promote' else last}"


@flow(name="bertft-pipeline", flow_run_name=_run_name)
@at_home
def pipeline(
    config_path: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    mlflow_file: str | None = None,
    *,
    again: bool = False,
    last: Stage = "promote",
    hyperparameters: Hyperparameters | None = None,
    night: str | None = None,
) -> dict[str, Any]:
    """Run the chain up to the stage `last`; returns the result document.

    Args:
        config_path: The configuration, a YAML file; relative to the working directory of the run.
        overrides: Values in place of the configuration's, as key=value, such as training.lr=3e-5.
        home: BERTFT_HOME of the run; default: the environment's, else .bertft in the working directory.
        mlflow_file: The mlflow.yaml; default: the one beside the configuration, else in the working directory.
        again: Run even if nothing changed since the last run.
        last: The stage to end with.
        hyperparameters: The most usual of the overrides, as fields; they win.
        night: The MLflow run of the night that this is the training of; a night sets it.
    """
    origin = Origin(source=config_path, began=time.time(), night=night, prefect_run=str(flow_run.id or ""))
    home = home_of(home)
    work_in(home)
    config = load_config(file_of(config_path), all_overrides(overrides, hyperparameters))
    if last in ("evaluate", "promote"):
        require_test_rows(config)
    store = load_mlflow_config(mlflow_file, config.base_dir, Path.cwd()).of(config.name)
    tag_run(config.name)
    root, report = Path(home), Reporter(config.name)
    with report.stage("ingest"):
        dataset = ingest_rows(config, root, report)
    report.say(f"ingest: {dataset.n_train} train, {dataset.n_validation} validation, {dataset.n_test} test rows")
    with report.stage("tokenize"):
        prepared = planned(config, tokenize_rows(config, dataset, root, report), root, report.rows)
    for text in prepared.dataset.warnings:
        report.say(f"  warning: {text}")
    name = store.model_name(config.name)
    registered = registered_runs(open_store(store, root), name) if again and last == "promote" else ()
    run = identify(config, prepared, root, again=again, registered=registered)
    if last == "evaluate":
        run = fitted(config, run, root)

    def say_waiting(holder: str) -> None:
        helps = "; `bertft search CONFIG --join` would help it" if config.search else ""
        report.say(f"run {run.run_id} of {config.name} is at work in process {holder}: waiting for its end{helps}")

    with exclusive(root / "locks" / f"{run.run_key[:12]}.lock", f"run {run.run_id}", FOREVER, say_waiting):
        context = RunContext(config=config, prepared=prepared, run=run, home=root, trainer=Trainer())
        if last == "promote":
            require_comparable(open_store(store, root), name)
            if standing := standing_release(store, context, again=again):
                known = {"name": config.name, "run_id": run.run_id, **(run.result or {})}
                if standing.is_decided:
                    result = {**known, **standing.document(), "promoted": False, "outcome": "unchanged"}
                else:
                    released = (open_store(store, root), standing.registered_model, standing.version)
                    with report.stage("release"):
                        result = {**known, **asdict(release_registered(context, *released))}
                    run.update(result=result)
                return final_state({**result, "seconds": report.seconds})
        tree = Tree(store, context, origin)
        try:
            result = _train_and_release(context, tree, report, last)
        except Pause:  # until somebody approves: its runs in MLflow wait too
            raise
        except BaseException as fault:  # a cancelled run is none of Python's exceptions
            with suppress(Exception):  # a store that is away is not worth hiding the fault
                tree.fail(killed=sigterm_came() or not isinstance(fault, Exception))
            raise
        tree.close()
        return final_state(result)


def _train_and_release(context: RunContext, tree: Tree, report: Reporter, last: str) -> dict[str, Any]:
    run = context.run
    with ExitStack() as held:
        with context.trainer:  # ends before the release, whose processes want its memory
            if taken_over := tree.settle(context):
                report.say(f"  {taken_over}")
            result: dict[str, Any] = {"name": context.config.name, "run_id": run.run_id}
            if context.prepared.adaptation is not None:
                with report.stage("adapt"):
                    adapted = adapt_encoder(context, report)
                    context = context.standing_on(adapted.adaptation)
                    tree.adaptation(adapted)
                result["adaptation"] = adapted.document()
            with report.stage("search"):
                config, choice = _chosen(context, tree, report, last)
                context = context.with_config(config)
            result |= choice
            if last == "search":
                return {**result, "seconds": report.seconds}
            with report.stage("finetune"):
                fit = finetune_model(context, report)
                tree.final_run(fit, context.config)
            result |= {"model": fit.model_dir, "validation": {"score": fit.score, "best_epoch": fit.best_epoch}}
            result |= {"fault": fit.fault} if fit.fault else {}
            if last == "finetune":
                return {**result, "seconds": report.seconds}
            scorer = held.enter_context(Scorer(tree.store)) if last == "promote" else None
            with report.stage("evaluate"):
                evaluation = evaluate_model(context, fit, report)
                tree.evaluation(evaluation)
            with report.stage("review"):
                review_model(context, fit, evaluation, report)
            result["test"] = test_document(evaluation)
        if scorer is not None:
            with report.stage("release"):
                released = release(context, fit, tree, scorer)
                write_report(context, fit, evaluation, released, tree)
                result = {**asdict(released), **result}  # what became of the model comes first
            result["seconds"] = report.seconds
            tree.finish(result)
            run.update(result=result)
            drop(run.folder.fit)
    return {**result, "seconds": report.seconds}


def _chosen(context: RunContext, tree: Tree, report: Reporter, last: str) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration with the winner's values, and what the result document says of the choice.

    Of a run whose final fit is finished, the values of that fit: the study may name another winner by now.
    """
    config, run = context.config, context.run
    fitted = fitting.fitted_config(config, run)
    if fitted is not None and last != "search":
        return fitted, run.state().get("chosen", {"best_params": trials.final_values(fitted, None)})
    winner, document = search(context, tree, report) or (None, None)
    choice: dict[str, Any] = {} if winner is None else {"search": document}
    gained: dict[str, Any] = {}
    if winner is not None:
        config = config.with_values(winner.best.params)
    if winner is not None and last != "search":
        decision = choose_between(context, config, report)
        config = decision.config
        if decision.gain is not None:
            choice["adaptation_gain"] = str(decision.gain)
            gained = {"model.pretrained": decision.gain.chosen}
    if last != "search" and (line := fitting.auto_line(config, context.prepared)):
        report.say(f"  {line}")
    config = fitting.settled_for(config, context.prepared)
    choice["best_params"] = {**trials.final_values(config, winner.best if winner else None), **gained}
    if last != "search":
        run.update(chosen=choice)
    return config, choice
