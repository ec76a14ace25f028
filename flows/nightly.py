"""A night at Prefect: its steps as tasks, its training as the chain's flow. Its order: recipe/nights/night.py."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from bertft_core.base.errors import BertftError, ConfigError, fault_text
from bertft_core.base.locks import work_in
from bertft_core.config.run import RunConfig, load_config
from bertft_core.config.store import MlflowConfig, Store, load_mlflow_config
from bertft_core.recipe.board.writing import refresh_board
from bertft_core.recipe.nights.log import FAILED, REJECTED, SKIPPED, Night, NightLog
from bertft_core.recipe.nights.memory import Memory
from bertft_core.recipe.nights.night import NightRun, NightSteps
from bertft_core.registry.decision import require_comparable
from bertft_core.tracking.locks import model_lock
from bertft_core.tracking.store import open_store
from flows.environment import study_storage
from flows.hosting import at_home, is_guest, model_of_run, tag_run
from flows.limits import one_at_a_time
from flows.notify import notify
from flows.parameters import Hyperparameters, all_overrides, file_of, home_of
from flows.pipeline import pipeline
from flows.signals import sigterm_came, time_limit
from flows.stack.board import board_place
from flows.terminal.progress import Reporter
from tasks.data import ingest_rows, tokenize_rows
from tasks.events import final_state, tell
from tasks.nights import champion_on_new, measure_drift, record

_ended: list[tuple[dict[str, Any], int]] = []  # documents and exit codes of this process's nights
REPLAY = "-replay"  # the name of a model that `--as-of` trains


class NightFailed(BertftError):
    """A night that failed or whose data were rejected; `document` is what `--json` prints."""

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        super().__init__(f"{document['outcome']}: {document['reason']}")
        self.document = document
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:  # for who keeps results at Prefect: they are pickled
        return type(self), (self.document, self.exit_code)


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{model_of_run()} night {parameters.get('as_of') or dt.date.today()}"


@contextmanager
def _alone(config: RunConfig, opened: Callable[[], Store]) -> Iterator[None]:
    """One night of a configuration at a time, by every lock that machines may have in common (docs/home.md)."""
    studies, store = study_storage() or (config.search.storage if config.search else None), opened()
    with (
        model_lock(store, "night", config.name, 0.0, studies),
        one_at_a_time("night", config.name, store, 0.0, studies),
    ):
        yield


@flow(name="bertft-nightly", flow_run_name=_run_name)
@at_home
def nightly(
    config_path: str,
    overrides: list[str] | None = None,
    home: str | None = None,
    mlflow_file: str | None = None,
    as_of: dt.date | None = None,
    *,
    force: bool = False,
    live: bool = False,
    hyperparameters: Hyperparameters | None = None,
) -> dict[str, Any]:
    """Train if there is reason to, and release if the result is better; returns outcome, reason, run_id, version.

    Raises NightFailed after everything is written down.

    Args:
        config_path: The configuration, a YAML file; relative to the working directory of the run.
        overrides: Values in place of the configuration's, as key=value, such as training.lr=3e-5.
        home: BERTFT_HOME of the run; default: the environment's, else .bertft in the working directory.
        mlflow_file: The mlflow.yaml; default: the one beside the configuration, else in the working directory.
        as_of: The date whose night is replayed, on rows up to it (data.date), under a registered model of its own
            unless `live`.
        force: Train whatever the triggers say.
        live: Let a replay move the live aliases.
        hyperparameters: The most usual of the overrides, as fields; they win.
    """
    config_path, home = file_of(config_path), home_of(home)
    overrides = all_overrides(overrides, hyperparameters)
    config = load_config(config_path, overrides)
    if as_of is not None:
        if config.data.date is None:
            raise ConfigError("--as-of needs data.date, the column that holds each row's date")
        overrides = [*overrides, f"data.until={as_of}", *([] if live else [f"name={config.name}{REPLAY}"])]
        config = load_config(config_path, overrides)
    store = load_mlflow_config(mlflow_file, config.base_dir, Path.cwd()).of(config.name)
    if as_of and not live and store.model_name(config.name) == store.model_name(config.name.removesuffix(REPLAY)):
        raise ConfigError(
            f"mlflow.yaml: registered_model {store.registered_model!r} does not hold {{name}}: a replay would move the "
            "live aliases; put {name} into it, or say --live"
        )
    tag_run(config.name)
    root, report = Path(home), Reporter(config.name)
    work_in(root)
    memory = Memory(lambda: open_store(store, root), store.model_name(config.name), config.name, root)

    def train(training: list[str], *, again: bool) -> dict[str, Any]:
        parent = memory.begin(work.night, work.began_at, config_path, str(flow_run.id or ""))
        given: dict[str, Any] = {"config_path": config_path, "home": home, "mlflow_file": mlflow_file, "night": parent}
        return dict(pipeline(overrides=training, again=again, last="promote", **given))

    work = NightRun(
        config=config,
        config_path=config_path,
        overrides=overrides,
        home=root,
        night=(as_of or dt.date.today()).isoformat(),
        report=report,
        is_forced=force,
        alone=_alone(config, lambda: open_store(store, root)),
        limit=time_limit("nightly.timeout", None if is_guest() else config.nightly.timeout),  # by an alarm, the host's
        is_cancelled=sigterm_came,
        steps=NightSteps(
            ingest=lambda config: ingest_rows(config, root, report),
            tokenize=lambda config, dataset: tokenize_rows(config, dataset, root, report),
            drift=lambda config, prepared, last, label: measure_drift(config, prepared, last, label, root),
            champion_on_new=lambda config, prepared, last: champion_on_new(
                config, prepared, last, open_store(store, root), root
            ),
            train=train,
            require_comparable=lambda: require_comparable(open_store(store, root), store.model_name(config.name)),
            recall=memory.recall,
            remember=memory.remember,
        ),
    )
    try:
        ended = work.run()
    except BaseException:  # cancelled: the next night says so in the log
        memory.cancel()
        raise
    return _announce(work, ended, store)


def _announce(work: NightRun, ended: Night, store: MlflowConfig) -> dict[str, Any]:
    """The state of a night that ended, after all who want to know of it were told: MLflow, people, automations."""
    config, report = work.config, work.report
    unwritten = ""
    try:  # neither MLflow nor the people may change how the night ended
        place = board_place(work.home)
        record(ended, config.name, open_store(store, work.home), str(flow_run.id or ""), work.drift, place)
    except Exception as fault:  # whatever the store's client raises
        unwritten = f"the night is not written to MLflow ({fault_text(fault)[:200]})"
        report.say(unwritten)
    refresh_board(store.store(work.home), report.say, unwritten)
    document = {**asdict(ended), "name": config.name}
    if ended.is_to_be_told:
        for text in notify(config.nightly.notify, document, str(ended)):
            report.say(f"not notified: {text}")
    _ended.append((document, work.exit_code))
    if ended.outcome in (SKIPPED, REJECTED, FAILED):  # of the others the release has told
        tell(store.model_name(config.name), document)
    is_bad = ended.outcome in (REJECTED, FAILED)
    return final_state(document, NightFailed(document, work.exit_code) if is_bad else None)


def night_despite(
    home: Path, name: str, night: str | None, fault: Exception, targets: Sequence[str] = ()
) -> dict[str, Any]:
    """The night of this process where Prefect failed with `fault`: as it was written down, else as not begun.

    A server that goes away in the night raises its own fault after the night has ended. Where it is away before the
    night begins, or there is no room to start one, the night is written down here, and those of `targets`
    (nightly.notify) that need no server are told. Raises NightFailed.
    """
    if not _ended:
        now = dt.datetime.now(dt.UTC)
        ended = Night(
            night=night or now.date().isoformat(),
            started=now.isoformat(timespec="seconds"),
            outcome=FAILED,
            reason=f"the flow did not begin: {fault_text(fault)}"[:2000],
            seconds=0.0,
        )
        with suppress(OSError):  # a disk without any room: what it says on its way out still tells
            NightLog(home, name).add(ended)
        document = {**asdict(ended), "name": name}
        for text in notify([t for t in targets if t.startswith(("env:", "plugin:"))], document, str(ended)):
            Reporter().say(f"not notified: {text}")
        raise NightFailed(document, getattr(fault, "exit_code", 1)) from fault
    document, exit_code = _ended[-1]
    if document["outcome"] in (REJECTED, FAILED):
        raise NightFailed(document, exit_code) from fault
    return document
