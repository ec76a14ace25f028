"""The search as a flow: N trainer processes, one task run per slot; other machines may join the same study."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import load_config
from bertft_core.recipe import chain, trials
from bertft_core.recipe import fit as fitting
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.trials import Bench
from bertft_core.search.lease import Owner
from bertft_core.search.results import TrialResult
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import Verdict
from flows.environment import study_storage
from flows.signals import ends_when_told
from flows.terminal.board import TrialBoard
from flows.terminal.progress import Reporter
from tasks.data import ingest_rows, tokenize_rows
from tasks.searching import publish, run_trial

_POLL_SECONDS = 2.0
_MIRROR_PAUSE_SECONDS = 60.0
_ACCOUNT_SECONDS = 30.0  # time spent is written that often: a kill loses no more


@dataclass(kw_only=True)
class Crew:
    """The trainer processes of one coordinator, those without a trial, and whether they all shall stop."""

    trainers: list[Trainer]
    is_stopped: bool = False
    idle: list[Trainer] = field(init=False)

    def __post_init__(self) -> None:
        self.idle = list(self.trainers)


def search(context: RunContext, tree: Tree, report: Reporter) -> tuple[Verdict, dict[str, Any]] | None:
    """The winner of the search and its part of the result document; None where nothing is searched."""
    config, prepared = context.config, context.prepared
    owner = Owner(run=context.run.run_id, prefect=tree.prefect_run)
    study = trials.open_study(config, prepared, context.home, owner, study_storage())
    if study is None or config.search is None:
        return None
    context.run.update(study=study.name)
    tree.search_run(study.name, study.storage.shown)
    with crew(context) as (bench, team):
        report.say(f"  {fitting.prefix_plan(config, prepared, bench.settings.precision, config.search.rows)}")
        confirmation = work_through(study, bench, team, report, tree)
    found = trials.verdict(study, config, confirmation)
    study.crown(found.best.params)
    trials.sweep(study, context.home)
    published = publish(study, found, context, tree)
    return found, {
        **trials.document(found),
        "study": study.name,
        "stopped": study.stopped or None,
        "report": str(published.page),
        "dashboard": study.storage.dashboard_command(),
    }


@flow(name="bertft-join", validate_parameters=False)
def join(config_path: str, overrides: list[str] | None = None, home: str = ".bertft") -> dict[str, Any]:
    """Work on a study that another coordinator began, until it is finished; to be run by hand or by a work pool.

    Writes no MLflow: the coordinator that began the study mirrors every trial.
    """
    ends_when_told()
    config, root, report = load_config(config_path, overrides or []), Path(home), Reporter()
    if config.search is None or config.search.trials == 0:
        raise ConfigError(f"{config_path}: search.trials is 0: there is no search to join")
    with report.stage("ingest"):
        dataset = ingest_rows(config, root, report)
    with report.stage("tokenize"):
        prepared = tokenize_rows(config, dataset, root, report)
    run = chain.identify(config, prepared, root)
    with report.stage("search"), Trainer() as trainer:
        study = help_search(RunContext(config=config, prepared=prepared, run=run, home=root, trainer=trainer), report)
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
    owner = Owner(run=context.run.run_id)
    study = trials.open_study(context.config, context.prepared, context.home, owner, study_storage(), must_exist=True)
    assert study is not None, "the caller checked that there is a search"
    with crew(context) as (bench, team):
        work_through(study, bench, team, report, None)
    return study


@contextmanager
def crew(context: RunContext) -> Iterator[tuple[Bench, Crew]]:
    """search.workers trainers with their share of the threads, or one GPU each; all end with the block."""
    assert context.config.search is not None, "a crew works on a search"
    workers = context.config.search.workers
    settings = fitting.settle(context)
    with ExitStack() as stack:
        gpus = [index % settings.gpus if settings.gpus else None for index in range(1, workers)]
        team = Crew(trainers=[context.trainer, *(stack.enter_context(Trainer(gpu)) for gpu in gpus)])
        yield (
            Bench(
                config=context.config,
                prepared=context.prepared,
                settings=trials.share(settings, workers),
                home=context.home,
                is_stopped=lambda: team.is_stopped,
            ),
            team,
        )


def work_through(
    study: SearchStudy, bench: Bench, team: Crew, report: Reporter, tree: Tree | None
) -> SearchStudy | None:
    """The trials, then the confirming fits; the study of the latter, where there are any. tree: None for a helper."""
    work(study, bench, team, report, tree.trials if tree else None, "bertft-search")
    confirmation = trials.open_confirmation(study, bench.config)
    if confirmation is not None:
        work(confirmation, bench, team, report, tree.confirmations if tree else None, "bertft-confirm")
    return confirmation


def work(
    study: SearchStudy,
    bench: Bench,
    team: Crew,
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
    runner: Any = ThreadPoolTaskRunner(max_workers=len(team.trainers))

    @flow(name=name, flow_run_name=study.name, validate_parameters=False, task_runner=runner)
    def run_slots() -> None:
        with report.board(study.slots, bench.config.evaluation.metric, done, len(team.trainers)) as board:
            Shift(study=study, bench=bench, team=team, board=board, mirror=mirror).run()

    run_slots()


@dataclass(kw_only=True)
class Shift:
    """One pass over the open slots of a study: claim, submit, collect, until every slot is finished."""

    study: SearchStudy
    bench: Bench
    team: Crew
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
            self.team.is_stopped = True
            while self.running:
                self.finished.get()
                self.running -= 1
            with suppress(Exception):  # what ended before the fault; the next command writes the rest
                self._mirror()
            raise

    def _submit(self) -> None:
        """Give every idle trainer a slot, as far as there are any."""
        while self.team.idle and (slot := self.study.claim()) is not None:
            trainer = self.team.idle.pop()
            worker = f"trainer {self.team.trainers.index(trainer) + 1}"
            future = run_trial.submit(self.study, slot, self.bench, trainer, self.board, worker)
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
            self.team.idle.append(trainer)
            future.result()
        self._keep_time(is_finished=future is not None)

    def _keep_time(self, *, is_finished: bool) -> None:
        now = time.monotonic()
        if is_finished or now - self.since > _ACCOUNT_SECONDS:
            reason = self.study.spend(self.bench.prepared.dataset.n_validation)
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
            self.board.say(f"MLflow is not written for now ({type(fault).__name__}: {str(fault)[:200]})")

    def _tell_waiting(self) -> None:
        held = {} if self.running else self.study.held()
        if held and not self.has_waited:
            self.has_waited = True
            who = ", ".join(f"trial {slot} ({owner})" for slot, owner in held.items())
            self.board.say(f"waiting for what others work on: {who}")
