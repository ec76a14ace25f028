"""Progress: a bar with time left on a terminal, lines elsewhere; of a deployment's run, in the run's log at Prefect."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bertft_core.search.results import TrialResult
from flows.terminal.board import TrialBoard
from flows.terminal.console import WholeConsole, shown


class Reporter:
    """Stage seconds and progress of one command; of a flow run of a deployment, where it is made inside the flow."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        log: Callable[[str], None] | None = None
        if "prefect" in sys.modules:  # else a command without a flow
            from prefect import get_run_logger
            from prefect.context import FlowRunContext
            from prefect.runtime import deployment

            if FlowRunContext.get() and deployment.id:
                log = get_run_logger().info  # Prefect also shows it on the worker's or server's terminal
        self._logs_stages = log is not None
        self._console = WholeConsole(file=log and _Lines(log), stderr=log is None, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._standing = ExitStack()  # the bar, while it stands

    def say(self, text: str) -> None:
        """One line on stderr, or in the log of the deployment's run."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Reporter]:
        """Time a stage; its bar shows while it runs, its line stays."""
        start = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        try:
            if not self._logs_stages and sys.stderr.isatty():
                self._bar = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
                with self._console:  # which comes before the bar's own locks (flows/terminal/console.py)
                    self._task = self._bar.add_task(name, total=1.0)
                self._standing.enter_context(shown(self._console, self._bar))
            yield self
        finally:
            self._end_bar()
            took = time.monotonic() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 2)
            if self._logs_stages:
                self.say(f"{name} took {took:.1f} s")

    @contextmanager
    def board(
        self, total: int, metric: str, finished: Iterable[TrialResult] = (), workers: int = 1
    ) -> Iterator[TrialBoard]:
        """A board of trials in place of the current stage's bar, which does not come back; `say` goes above it."""
        self._end_bar()
        with TrialBoard(total, metric, finished, workers=workers, console=self._console) as board:
            yield board

    def _end_bar(self) -> None:
        self._standing.close()
        self._bar = None

    def fraction(self, done: float, text: str = "") -> None:
        """Move the bar of the current stage to `done` in [0, 1]."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, description=text or None)

    def rows(self, what: str, count: int) -> None:
        """Rows done so far in an open-ended stage."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=f"{what}: {count:,} rows", total=None)


class _Lines(io.TextIOBase):
    """A text file whose lines become log records."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self._log(line)
        return len(text)
