"""The chain as plain functions, without an orchestrator: what tasks call, and what a notebook can call.

from bertft_core import recipe
from bertft_core.config.run import load_config
result = recipe.run(load_config("examples/quick_test.yaml"), home=".bertft")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.base.hashes import encoder_fingerprint
from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.tokenization import TokenizedSplits, tokenize_splits
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import evaluate
from bertft_core.recipe.fit import finetune, fitted_config, machine_settings
from bertft_core.recipe.prepare import Prepared, require_targets
from bertft_core.recipe.runs import Run, latest_fitted, open_run, run_key
from bertft_core.recipe.trials import TrialRunner, find_winner, open_confirmation, open_study, require_possible

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.recipe.process.client import Trainer
    from bertft_core.search.study import SearchStudy
    from bertft_core.search.winner import SearchWinner


Progress = Callable[[str, int], None]


def ingest(config: RunConfig, home: Path, on_progress: Progress | None = None) -> DatasetSplits:
    """Read, gate and split the rows; content-addressed under home/data. Raises ConfigError as `require_targets`."""
    dataset = prepare_dataset(config.data, home / "data", config.base_dir, on_progress)
    require_targets(config, dataset)
    return dataset


def tokenize(
    config: RunConfig, dataset: DatasetSplits, pretrained: Path, home: Path, on_progress: Progress | None = None
) -> TokenizedSplits:
    """Cut and tokenize each split once; content-addressed under home/tokens."""
    return tokenize_splits(dataset, pretrained, config.tokenization, home / "tokens", on_progress)


def prepare(config: RunConfig, home: Path, on_progress: Progress | None = None) -> Prepared:
    """Ingest and tokenize; checks the encoder first, so that a wrong one costs no reading."""
    pretrained = resolve_pretrained(config)
    dataset = ingest(config, home, on_progress)
    tokens = tokenize(config, dataset, pretrained, home, on_progress)
    return Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=encoder_fingerprint(pretrained))


def identify(config: RunConfig, prepared: Prepared, home: Path, *, again: bool = False) -> Run:
    """The run that this configuration on these rows is."""
    return open_run(home / "runs", run_key(config, prepared.dataset.fingerprint, prepared.encoder), again=again)


def fitted(config: RunConfig, run: Run, home: Path) -> Run:
    """The latest attempt at this run whose final fit finished. Raises InputError when there is none."""
    found = latest_fitted(home / "runs", run.run_key)
    if found is None:
        raise InputError(f"no finished fit of {config.name} with this configuration: run `bertft finetune` first")
    return found


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
            require_possible(config, prepared, root)
            study = open_study(config, prepared, root)
            runner = TrialRunner(config=config, prepared=prepared, settings=machine_settings(context), home=root)
            _run_all(study, runner, trainer)
            confirmation = open_confirmation(study, config)
            if confirmation is not None:
                _run_all(confirmation, runner, trainer)
            chosen = config.with_values(find_winner(study, config, confirmation).best.params)
        context = context.with_config(chosen or config)
        return evaluate(context, finetune(context))


def search_report(config: RunConfig, home: Path, storage: str | None = None) -> dict[str, Any]:
    """Write the report of the configuration's study as it stands; where it lies, and how far the search is.

    Raises InputError when nothing was searched yet, ConfigError when the configuration has no search.
    """
    from bertft_core.recipe.search_report import report_search

    if not config.is_searched:
        raise ConfigError("search.trials is 0: there is no search to report on")
    prepared = prepare(config, home)
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
