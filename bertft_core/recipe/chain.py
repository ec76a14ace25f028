"""The stages of a run one after the other, without an orchestrator: for a notebook.

from bertft_core import run
report = run("examples/quick_test.yaml", home=".bertft")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.base.home import open_home
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.config.run import RunConfig, load_config, parse_config
from bertft_core.data.frames import is_frame, store_frame
from bertft_core.recipe.adapt import adapt, choose_encoder
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import evaluate, require_test_rows, settle_policy, stored_report
from bertft_core.recipe.fit import finetune, fitted_config, machine_settings, searched_on, settled_for
from bertft_core.recipe.prepare import planned, prepare
from bertft_core.recipe.process.checkpoints import drop
from bertft_core.recipe.process.client import Trainer, end_ahead, start_ahead
from bertft_core.recipe.release import build_served
from bertft_core.recipe.runs import identify
from bertft_core.recipe.trials import TrialRunner, find_winner, open_confirmation, open_study, require_possible

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.search.study import SearchStudy
    from bertft_core.search.winner import SearchWinner
    from bertft_core.training.results import TrainingResult

Given = RunConfig | Mapping[str, Any] | Path | str
OnStage = Callable[[str, float, dict[str, Any]], None]  # stage, share of it that is done, facts
_HELD_SECONDS = 1.0  # between two looks at trials that another process holds
_ROWS = ("source", "train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that is fitted. config: as it was asked for; context.config has the values of the fit.

    report: None where no row was kept for a test (data.split.test 0). served: the folder that answers.
    """

    config: RunConfig
    context: RunContext
    fit: TrainingResult
    report: EvaluationReport | None
    served: Path


def run(given: Given, home: Path | str = ".bertft", *, again: bool = False) -> EvaluationReport:
    """The whole chain up to the evaluation, without Prefect and MLflow. given: as for `read_config`."""
    config = read_config(given, open_home(home))
    require_test_rows(config)
    report = complete(config, home, again=again).report
    assert report is not None, "there are test rows"
    return report


def read_config(given: Given, home: Path) -> RunConfig:
    """A configuration from a YAML file, or from a mapping with the same keys; relative paths of a mapping start here.

    In a mapping data.source (or data.train, data.validation and data.test) may be rows in memory, as `store_frame`
    takes them. Raises ConfigError for the keys at fault, DataError for rows that cannot be stored.
    """
    if isinstance(given, RunConfig):
        return given
    if isinstance(given, str | Path):
        return load_config(given)
    here, data = Path.cwd(), given.get("data")
    frames = {key: data[key] for key in _ROWS if is_frame(data.get(key))} if isinstance(data, Mapping) else {}
    places = {**data, **dict.fromkeys(frames, "rows in memory")} if isinstance(data, Mapping) else data
    config = parse_config({**given, "data": places}, here)
    stored = {key: home / store_frame(rows, config.data, home) for key, rows in frames.items()}
    # relative where they move together with the working directory: a path is part of what a run is
    named = {key: str(path.relative_to(here) if path.is_relative_to(here) else path) for key, path in stored.items()}
    return RunConfig(**{**dict(config), "data": config.data.model_copy(update=named)}) if named else config


def complete(
    given: Given, home: Path | str = ".bertft", *, again: bool = False, on_stage: OnStage | None = None
) -> Finished:
    """Search, fit, judge and build what answers; each stage that is finished already is read back.

    A call that was interrupted or killed goes on where it was. Another process at work on the same run is waited for.
    """
    root, say = open_home(home), on_stage or (lambda stage, fraction, facts: None)
    config = read_config(given, root)
    start_ahead()
    try:

        def say_rows(what: str, count: int, total: int | None) -> None:
            say("rows", count / total if total else 0.0, {what: count})

        prepared = planned(config, prepare(config, root, say_rows), root, say_rows)
        rows = {split: getattr(prepared.dataset, f"n_{split}") for split in ("train", "validation", "test")}
        say("rows", 1.0, rows)
        run = identify(config, prepared, root, again=again)
        lock = root / "locks" / f"{run.run_key[:12]}.lock"
        with exclusive(lock, f"run {run.run_id}", FOREVER, lambda holder: say("waiting", 0.0, {"for": holder})):
            context = RunContext(config=config, prepared=prepared, run=run, home=root, trainer=Trainer())
            with context.trainer:
                adapted = adapt(context, lambda fraction, facts: say("adaptation", fraction, facts))
                if adapted is not None:
                    say("adaptation", 1.0, {"result": str(adapted)})
                    context = context.standing_on(adapted.adaptation)
                context = _with_winner(context, say)
                fit = finetune(context, lambda fraction, facts: say("fine-tuning", fraction, facts))
                say("fine-tuning", 1.0, {"score": fit.score})
                report = stored_report(run)
                if report is None and config.data.split.test:
                    say("evaluation", 0.0, {})
                    report = evaluate(context, fit)
                elif report is None and "policy" not in run.state():
                    settle_policy(context, fit)
                served = build_served(context, fit)
            drop(run.folder.fit)
    finally:
        end_ahead()
    say("done", 1.0, {"report": report})
    return Finished(config=config, context=context, fit=fit, report=report, served=served)


def _with_winner(context: RunContext, say: OnStage) -> RunContext:
    """The context with the values that the final fit uses: the winner's of the search, numbers in place of auto."""
    config, prepared, home = context.config, context.prepared, context.home
    chosen = fitted_config(config, context.run)
    if chosen is None and config.is_searched:
        searched = searched_on(config, prepared)
        require_possible(searched, prepared, home)
        study = open_study(searched, prepared, home)
        context.run.update(study=study.name)
        runner = TrialRunner(config=searched, prepared=prepared, settings=machine_settings(context), home=home)
        _run_all(study, runner, context.trainer, say)
        confirmation = open_confirmation(study, searched)
        if confirmation is not None:
            _run_all(confirmation, runner, context.trainer, say)
        best = find_winner(study, searched, confirmation).best
        study.store_winner(best.params)
        winner = config.with_values(best.params)
        choice = choose_encoder(context, winner, lambda fraction, facts: say("fine-tuning", fraction, facts))
        chosen = choice.config
    context = context.with_config(chosen or config)
    return context.with_config(settled_for(context.config, context.prepared))


def search_report(config: RunConfig, home: Path, storage: str | None = None) -> dict[str, Any]:
    """Write the report of the configuration's study as it stands; where it lies, and how far the search is.

    Raises InputError when nothing was searched yet, ConfigError when the configuration has no search.
    """
    from bertft_core.recipe.search_report import report_search

    if not config.is_searched:
        raise ConfigError("search.trials is 0: there is no search to report on")
    prepared = planned(config, prepare(config, home), home)
    config = searched_on(config, prepared)
    require_possible(config, prepared, home)
    study = open_study(config, prepared, home, storage=storage, must_exist=True)
    results = study.results()
    winner = _winner_if_done(study, config)
    report = report_search(study, config, winner, home / "search" / study.name / "report")
    states = {state: sum(r.state == state for r in results) for state in ("complete", "pruned", "fail")}
    return {
        "name": config.name,
        "study": study.name,
        "finished": len(results),
        "trials": study.slots,
        **states,
        "stopped": study.stopped or None,
        "report": str(report.page),
        "dashboard": study.storage.dashboard_command(),
    }


def _winner_if_done(study: SearchStudy, config: RunConfig) -> SearchWinner | None:
    if study.open_slots() or study.held() or not any(r.state == "complete" for r in study.results()):
        return None
    try:
        confirmation = open_confirmation(study, config, must_exist=True)
    except InputError:  # nobody has begun it
        return None
    if confirmation is not None and confirmation.open_slots():
        return None
    return find_winner(study, config, confirmation)


def _run_all(study: SearchStudy, runner: TrialRunner, trainer: Trainer, say: OnStage) -> None:
    """Every open slot, those too that a killed process held until its lease has passed."""
    while study.open_slots() or study.held():
        slot = study.claim()
        if slot is None:
            time.sleep(_HELD_SECONDS)
            continue
        trial, done = slot.slot, len(study.results())

        def show(fraction: float, facts: dict[str, Any], trial: int = trial, done: int = done) -> None:
            say("search", (done + fraction) / study.slots, {"trial": trial, "trials": study.slots, **facts})

        runner.run(study, slot, trainer, show)
        study.spend(runner.prepared.dataset.n_validation)
