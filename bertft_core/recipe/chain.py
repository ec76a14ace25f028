"""The stages of a run one after the other, without an orchestrator: for a notebook.

from bertft_core import load_config, run
report = run(load_config("examples/quick_test.yaml"), home=".bertft")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import evaluate
from bertft_core.recipe.fit import finetune, fitted_config, machine_settings, searched_on, settled_for
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.runs import identify
from bertft_core.recipe.trials import TrialRunner, find_winner, open_confirmation, open_study, require_possible

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.recipe.process.client import Trainer
    from bertft_core.search.study import SearchStudy
    from bertft_core.search.winner import SearchWinner


def run(config: RunConfig, home: Path | str = ".bertft", *, again: bool = False) -> EvaluationReport:
    """The whole chain up to the evaluation, without Prefect and MLflow."""
    from bertft_core.recipe.process.client import Trainer

    root = open_home(home)
    prepared = prepare(config, root)
    with Trainer() as trainer:
        context = RunContext(
            config=config,
            prepared=prepared,
            run=identify(config, prepared, root, again=again),
            home=root,
            trainer=trainer,
        )
        chosen = fitted_config(config, context.run)
        if chosen is None and config.is_searched:
            config = searched_on(config, prepared)
            require_possible(config, prepared, root)
            study = open_study(config, prepared, root)
            runner = TrialRunner(config=config, prepared=prepared, settings=machine_settings(context), home=root)
            _run_all(study, runner, trainer)
            confirmation = open_confirmation(study, config)
            if confirmation is not None:
                _run_all(confirmation, runner, trainer)
            chosen = context.config.with_values(find_winner(study, config, confirmation).best.params)
        context = context.with_config(chosen or config)
        context = context.with_config(settled_for(context.config, context.prepared))
        return evaluate(context, finetune(context))


def search_report(config: RunConfig, home: Path, storage: str | None = None) -> dict[str, Any]:
    """Write the report of the configuration's study as it stands; where it lies, and how far the search is.

    Raises InputError when nothing was searched yet, ConfigError when the configuration has no search.
    """
    from bertft_core.recipe.search_report import report_search

    if not config.is_searched:
        raise ConfigError("search.trials is 0: there is no search to report on")
    prepared = prepare(config, home)
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


def _run_all(study: SearchStudy, runner: TrialRunner, trainer: Trainer) -> None:
    while (slot := study.claim()) is not None:
        runner.run(study, slot, trainer)
        study.spend(runner.prepared.dataset.n_validation)
