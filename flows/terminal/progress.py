"""Progress: a bar with time left on a terminal, a line every 30 s elsewhere; of a flow run also in its log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bertft_core.search.results import TrialResult
from flows.signals import is_command
from flows.terminal.board import TrialBoard
from flows.terminal.console import SAID_EVERY, WholeConsole, repeated, shown
from flows.terminal.estimate import shown_time

if TYPE_CHECKING:
    from flows.run_log import RunLog

_LEAST_DONE = 0.05  # before a time left is said


class Reporter:
    """Stage seconds and progress of one command, or of the flow run in which it is made; model: its name there."""

    def __init__(self, model: str = "") -> None:
        self.seconds: dict[str, float] = {}
        self._log: RunLog | None = None
        if "prefect" in sys.modules:  # else a command without a flow
            from flows.run_log import RunLog

            self._log = RunLog.of_run(model)
        # in a process that is not a command's the terminal is Prefect's: it shows there what it has in its log
        self._is_ours = self._log is None or is_command()
        line = self._log.line if self._log else None
        self._console = WholeConsole(log=line, stderr=True, quiet=not self._is_ours, highlight=False)
        self._board: TrialBoard | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._standing = ExitStack()  # the bar, or the thread that says a line now and then
        self._now = _Stage()

    def say(self, text: str) -> None:
        """One line on stderr and in the log of the flow run."""
        self._console.say(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Reporter]:
        """Time a stage; its bar shows while it runs, its line stays."""
        start = time.monotonic()
        self._now = _Stage(name=name)
        self._heard()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        try:
            if self._is_ours and sys.stderr.isatty():
                self._bar = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
                with self._console:  # which comes before the bar's own locks (flows/terminal/console.py)
                    self._task = self._bar.add_task(name, total=1.0)
                self._standing.enter_context(shown(self._console, self._bar))
            else:
                self._standing.enter_context(repeated(lambda: self.say(self._now.line()), SAID_EVERY))
            with self._log.progress(name, self._share) if self._log else nullcontext():
                yield self
        finally:
            self._end_bar()
            took = time.monotonic() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 2)
            if self._log:
                self._log.line(f"{name} took {took:.1f} s")

    @contextmanager
    def board(
        self, total: int, metric: str, finished: Iterable[TrialResult] = (), workers: int = 1
    ) -> Iterator[TrialBoard]:
        """A board of trials in place of the current stage's bar, which does not come back; `say` goes above it."""
        self._end_bar()
        with TrialBoard(total, metric, finished, workers=workers, console=self._console) as board:
            self._board = board
            try:
                yield board
            finally:
                self._board = None

    def _share(self) -> tuple[float | None, str]:
        """How much of the stage is done, and in words."""
        return self._board.share() if self._board else (self._now.done, self._now.line())

    def _heard(self) -> None:
        if self._log:
            self._log.heard()

    def _end_bar(self) -> None:
        self._standing.close()
        self._bar = None

    def fraction(self, done: float, text: str = "") -> None:
        """Move the bar of the current stage to `done` in [0, 1]."""
        self._heard()
        self._now.at(done)
        self._now.text = text or self._now.text
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, description=text or None)

    def doing(self, text: str) -> None:
        """What the current stage is at, where nobody can tell how far it is."""
        self._heard()
        self._now.at(None)
        self._now.text = text
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text, total=None)

    def rows(self, what: str, count: int, total: int | None = None) -> None:
        """Rows done so far; of how many, where that is known before the end."""
        self._heard()
        self._now.at(count / total if total else None)
        self._now.text = f"{what}: {count:,}" + (f" of {total:,}" if total else " rows")
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=self._now.text, total=1.0 if total else None)
            if total:
                self._bar.update(self._task, completed=count / total)


@dataclass(kw_only=True)
class _Stage:
    """A stage at work: done in [0, 1], None where its end is not known. marks: when how much was, first and last."""

    name: str = ""
    text: str = ""
    done: float | None = None
    began: float = field(default_factory=time.monotonic)
    marks: list[tuple[float, float]] = field(default_factory=list)

    def at(self, done: float | None) -> None:
        """So much is done now."""
        if self.done is None or done is None or done < self.done:  # another part of the stage
            self.marks.clear()
        self.done = done
        if done:
            self.marks = [*self.marks[:1], (time.monotonic(), done)]

    def left(self) -> float | None:
        """Seconds to the end at the pace since the first progress, which what is loaded before it does not slow."""
        if self.done is None or len(self.marks) < 2 or self.marks[1][1] - self.marks[0][1] < _LEAST_DONE:
            return None
        (start, before), (now, done) = self.marks
        return (1 - done) * (now - start) / (done - before)

    def line(self) -> str:
        """How far it is, for a log.

        >>> now = time.monotonic()
        >>> marks = [(now - 80, 0.1), (now, 0.5)]
        >>> _Stage(name="finetune", text="step 40 of 80", done=0.5, began=now - 90, marks=marks).line()
        'finetune: step 40 of 80, 50 %, 2 min so far, about 2 min left'
        """
        parts = [self.text] if self.text else []
        if self.done is not None:
            parts.append(f"{100 * self.done:.0f} %")
        parts.append(f"{shown_time(time.monotonic() - self.began)} so far")
        if (left := self.left()) is not None:
            parts.append(f"about {shown_time(left)} left")
        return f"{self.name}: {', '.join(parts)}"
