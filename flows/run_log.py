"""What bertft says in a flow run, at Prefect: each line in the log of the task that spoke, and how far a stage is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import cache
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.logging.loggers import flow_run_logger, task_run_logger

from bertft_core.base.display import cleaned
from flows.signals import is_command
from flows.terminal.console import repeated
from tasks.events import artifact_key

RENEWED_EVERY = 5.0  # seconds; a stage that ends sooner has no progress artifact


def _at_work() -> logging.LoggerAdapter[logging.Logger] | None:
    """The log of the task run that calls, else of its flow run; None outside of both.

    Not Prefect's get_run_logger: in a flow that a task called it names that task.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow else None
    if task is not None and (run is None or task.task_run.flow_run_id == run.id):
        return task_run_logger(task.task_run, task.task, run, flow.flow if flow else None)
    return flow_run_logger(run, flow.flow) if flow and run else None


@cache
def _server_alone() -> logging.Logger:
    """Writes to the log at Prefect and nowhere else."""
    logger = logging.getLogger("bertft")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(APILogHandler())
    return logger


def _to_server(run: logging.LoggerAdapter[logging.Logger], level: int, text: str) -> None:
    _server_alone().log(level, "%s", cleaned(text), extra=dict(run.extra or {}))


class _Warnings(logging.Handler):
    """Warnings of the core, where a run is at work. They go to the terminal too, as the process has set that up."""

    def emit(self, record: logging.LogRecord) -> None:
        if run := _at_work():
            _to_server(run, record.levelno, record.getMessage())


@cache
def _hear_warnings() -> None:
    logging.getLogger("bertft_core").addHandler(_Warnings(logging.WARNING))


class RunLog:
    """The log of the flow run in which it was made. A line of another thread belongs to whoever spoke last."""

    def __init__(self, run: logging.LoggerAdapter[logging.Logger], model: str) -> None:
        self._last, self._model = run, model
        _hear_warnings()

    @classmethod
    def of_run(cls, model: str) -> RunLog | None:
        """None outside of a flow run. model: the configuration's name."""
        run = _at_work()
        return cls(run, model) if run else None

    def heard(self) -> None:
        """Who calls is at work now."""
        self._last = _at_work() or self._last

    def line(self, text: str) -> None:
        """A line; of a run that no command of ours began, on the process's terminal too, as Prefect shows its logs."""
        self.heard()
        if is_command():
            _to_server(self._last, logging.INFO, text)
        else:
            self._last.info("%s", cleaned(text))

    @contextmanager
    def progress(self, stage: str, look: Callable[[], tuple[float | None, str]]) -> Iterator[None]:
        """While the block lasts, an artifact of the run with its share done in [0, 1], where that is known, and a text.

        A server that is away misses it, and holds nothing up: all but the end is written by a thread of its own.
        """
        made: list[UUID] = []
        context = copy_context()

        def renew() -> None:
            done, text = look()
            if done is not None:
                with suppress(Exception):  # whatever the server's client raises
                    self._renew(
                        made, 100 * min(max(done, 0.0), 1.0), artifact_key(f"progress-{stage}", self._model), text
                    )

        with repeated(lambda: context.run(renew), RENEWED_EVERY):
            yield
        if made:
            with suppress(Exception):
                self._renew(made, 100.0, "", f"{stage}: done")

    def _renew(self, made: list[UUID], percent: float, key: str, text: str) -> None:
        if made:
            update_progress_artifact(made[0], percent, cleaned(text))
        else:
            made.append(cast(UUID, create_progress_artifact(percent, key, cleaned(text))))
