"""The search as a flow: N trainer processes, one task run per slot; other machines may join the same study."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from bertft_core.base.errors import ConfigError, fault_text
from bertft_core.base.locks import work_in
from bertft_core.config.run import load_config
from bertft_core.recipe import fit as fitting
from bertft_core.recipe import trials
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.prepare import at_hand, planned
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify
from bertft_core.recipe.trials import TrialRunner
from bertft_core.search.lease import Owner
from bertft_core.search.results import TrialResult
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import SearchWinner
from flows.environment import study_storage
from flows.hosting import at_home, model_of_run, tag_run
from flows.parameters import file_of, home_of
from flows.terminal.board import TrialBoard
from flows.terminal.progress import Reporter
from tasks.adaptation import adapt_encoder
from tasks.data import ingest_rows, tokenize_rows
from tasks.searching import publish, run_trial

_POLL_SECONDS = 2.0
_MIRROR_PAUSE_SECONDS = 60.0
_ACCOUNT_SECONDS = 30.0  # time spent is written that often: a kill loses no more


@dataclass(kw_only=True)
class Workers:
    """The trainer processes of one coordinator, those without a trial, and whether they all shall stop."""

    trainers: list[Trainer]
    is_stopped: bool = False
    idle: list[Trainer] = field(init=False)

    def __post_init__(self) -> None:
        self.idle = list(self.trainers)


def search(context: RunContext, tree: Tree, report: Reporter) -> tuple[SearchWinner, dict[str, Any]] | None:
    """The winner of the search and its part of the result document; None where nothing is searched."""
    prepared = context.prepared
    config = fitting.searched_on(context.config, prepared)
    if config.search is None or not config.is_searched:
        return None
    context = replace(context, config=config)
    trials.require_possible(config, prepared, context.home)
    owner = Owner(run=context.run.run_id, prefect=tree.prefect_run)
    study = trials.open_study(config, prepared, context.home, owner, study_storage())
    context.run.update(study=study.name)
    tree.search_run(study.name, study.storage.shown)
    with trial_workers(context, report) as (runner, workers):
        prepared = at_hand(config, prepared, context.home)
        report.say(f"  {fitting.prefix_plan(config, prepared, runner.settings.precision, config.search.rows)}")
        confirmation = run_search(study, runner, workers, report, tree)
    winner = trials.find_winner(study, config, confirmation)
    study.store_winner(winner.best.params)
    trials.sweep(study, context.home)
    published = publish(study, winner, context, tree)
    return winner, {
        **trials.winner_document(winner),
        "study": study.name,
        "stopped": study.stopped or None,
        "report": str(published.page),
        "dashboard": study.storage.dashboard_command(),
    }


@flow(name="bertft-join", flow_run_name=lambda: f"{model_of_run()} join", validate_parameters=False)
@at_home
def join(config_path: str, overrides: list[str] | None = None, home: str | None = None) -> dict[str, Any]:
    """Work on a study that another coordinator began, until it is finished; to be run by hand or by a work pool.

    Writes no MLflow: the coordinator that began the study mirrors every trial.

    Args:
        config_path: The configuration, a YAML file; relative to the working directory of the run.
        overrides: Values in place of the configuration's, as key=value, such as training.lr=3e-5.
        home: BERTFT_HOME of the run; default: the environment's, else .bertft in the working directory.
    """
    config, root = load_config(file_of(config_path), overrides or []), Path(home_of(home))
    work_in(root)
    tag_run(config.name)
    report = Reporter(config.name)
    if not config.is_searched:
        raise ConfigError(f"{config_path}: search.trials is 0: there is no search to join")
    with report.stage("ingest"):
        dataset = ingest_rows(config, root, report)
    with report.stage("tokenize"):
        prepared = planned(config, tokenize_rows(config, dataset, root, report), root, report.rows)
    run = identify(config, prepared, root)
    with Trainer() as trainer:
        context = RunContext(config=config, prepared=prepared, run=run, home=root, trainer=trainer)
        if prepared.adaptation is not None:
            with report.stage("adapt"):
                context = context.standing_on(adapt_encoder(context, report).adaptation)
        with report.stage("search"):
            study = help_search(context, report)
    own = [r.slot for r in study.results() if r.host == study.owner.host]
    return {
        "name": config.name,
        "run_id": run.run_id,
        "study": study.name,
        "trials": len(study.results()),
        "trials_of_this_host": own,
        "seconds": report.seconds,
    }


def help_search(context: RunContext, report: Reporter) -> SearchStudy:
    """The study, worked on with this machine's trainers to its end."""
    config, prepared, home = fitting.searched_on(context.config, context.prepared), context.prepared, context.home
    context = replace(context, config=config)
    trials.require_possible(config, prepared, home)
    study = trials.open_study(config, prepared, home, Owner(run=context.run.run_id), study_storage(), must_exist=True)
    with trial_workers(context, report) as (runner, workers):
        run_search(study, runner, workers, report, None)
    return study


@contextmanager
def trial_workers(context: RunContext, report: Reporter) -> Iterator[tuple[TrialRunner, Workers]]:
    """search.workers trainers with their share of the threads, or one GPU each; all end with the block."""
    assert context.config.search is not None, "the caller checked that there is a search"
    count = context.config.search.workers
    settings = fitting.machine_settings(context, report.doing)
    with ExitStack() as stack:
        gpus = [index % settings.gpus if settings.gpus else None for index in range(1, count)]
        workers = Workers(trainers=[context.trainer, *(stack.enter_context(Trainer(gpu)) for gpu in gpus)])
        runner = TrialRunner(
            config=context.config,
            prepared=context.prepared,
            settings=trials.share(settings, count),
            home=context.home,
            is_stopped=lambda: workers.is_stopped,
        )
        yield runner, workers


def run_search(
    study: SearchStudy, runner: TrialRunner, workers: Workers, report: Reporter, tree: Tree | None
) -> SearchStudy | None:
    """The trials, then the confirming fits; the study of the latter, where there are any. tree: None for a helper."""
    run_study(study, runner, workers, report, tree.trials if tree else None, "bertft-search")
    confirmation = trials.open_confirmation(study, runner.config)
    if confirmation is not None:
        run_study(confirmation, runner, workers, report, tree.confirmations if tree else None, "bertft-confirm")
    return confirmation


def run_study(
    study: SearchStudy,
    runner: TrialRunner,
    workers: Workers,
    report: Reporter,
    mirror: Callable[[Sequence[TrialResult]], None] | None,
    name: str,
) -> None:
    """Run the study's open slots to their end, and wait for those that others hold. `mirror` gets the results."""
    done = study.results()
    if mirror:
        mirror(done)
    if not study.open_slots() and not study.held():
        return

    # the decorator's type wants futures of the general kind, which no runner of Prefect has
    task_runner: Any = ThreadPoolTaskRunner(max_workers=len(workers.trainers))

    @flow(name=name, flow_run_name=study.name, validate_parameters=False, task_runner=task_runner)
    @at_home
    def run_slots() -> None:
        with report.board(study.slots, runner.config.evaluation.metric, done, len(workers.trainers)) as board:
            Scheduler(study=study, runner=runner, workers=workers, board=board, mirror=mirror).run()

    run_slots()


@dataclass(kw_only=True)
class Scheduler:
    """One pass over the open slots of a study: claim, submit, collect, until every slot is finished."""

    study: SearchStudy
    runner: TrialRunner
    workers: Workers
    board: TrialBoard
    mirror: Callable[[Sequence[TrialResult]], None] | None
    running: int = 0
    finished: queue.SimpleQueue[tuple[PrefectFuture[TrialResult | None], Trainer]] = field(
        default_factory=queue.SimpleQueue
    )
    since: float = field(default_factory=time.monotonic)
    has_waited: bool = False
    has_stopped: bool = False
    mirror_after: float = 0.0

    def run(self) -> None:
        """A fault of ours stops the other trials, gives their slots back, and is raised."""
        try:
            while self.running or self.study.open_slots() or self.study.held():
                self._submit()
                self._mirror()
                self._tell_waiting()
                self._collect(_POLL_SECONDS)
            self._mirror(is_last=True)
        except BaseException:
            self.workers.is_stopped = True
            while self.running:
                self.finished.get()
                self.running -= 1
            with suppress(Exception):  # what ended before the fault; the next command writes the rest
                self._mirror()
            raise

    def _submit(self) -> None:
        """Give every idle trainer a slot, as far as there are any."""
        while self.workers.idle and (slot := self.study.claim()) is not None:
            trainer = self.workers.idle.pop()
            worker = f"trainer {self.workers.trainers.index(trainer) + 1}"
            future = run_trial.submit(self.study, slot, self.runner, trainer, self.board, worker)
            future.add_done_callback(partial(self._ended, trainer))
            self.running += 1

    def _ended(self, trainer: Trainer, trial: PrefectFuture[TrialResult | None]) -> None:
        self.finished.put((trial, trainer))

    def _collect(self, timeout: float) -> None:
        """Wait for a trial to finish; account for the time."""
        try:
            future, trainer = self.finished.get(timeout=timeout)
        except queue.Empty:
            future = None
        if future is not None:
            self.running -= 1
            self.workers.idle.append(trainer)
            future.result()
        self._keep_time(is_finished=future is not None)

    def _keep_time(self, *, is_finished: bool) -> None:
        now = time.monotonic()
        if is_finished or now - self.since > _ACCOUNT_SECONDS:
            reason = self.study.spend(self.runner.prepared.dataset.n_validation)
            self.since = now
            if reason and not self.has_stopped:
                self.has_stopped = True
                self.board.say(f"no further trial: {reason}")

    def _mirror(self, *, is_last: bool = False) -> None:
        """Write what is new to MLflow, after the next trial was begun: no trainer waits for it.

        A store that is away costs no trial: the study is the truth, and what is missing is written later.
        """
        results = self.study.results()
        self.board.seen(results)
        if self.mirror is None or (time.monotonic() < self.mirror_after and not is_last):
            return
        try:
            self.mirror(results)
        except Exception as fault:  # whatever the store's client raises
            if is_last:
                raise
            self.mirror_after = time.monotonic() + _MIRROR_PAUSE_SECONDS
            self.board.say(f"MLflow is not written for now ({fault_text(fault)[:200]})")

    def _tell_waiting(self) -> None:
        held = {} if self.running else self.study.held()
        if held and not self.has_waited:
            self.has_waited = True
            who = ", ".join(f"trial {slot} ({owner})" for slot, owner in held.items())
            self.board.say(f"waiting for what others work on: {who}")
