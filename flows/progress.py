"""Progress on stderr: one bar with time left on a terminal, a line per stage elsewhere. Also counts seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bertft_core.search.results import TrialResult
from flows.board import TrialBoard


class Reporter:
    """Stage seconds and progress of one command."""

    def __init__(self, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = None

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Reporter]:
        """Time a stage; its bar shows while it runs, its line stays."""
        start = time.monotonic()
        show = not self._quiet and sys.stderr.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True) if show else None
        try:
            if self._bar:
                self._bar.start()
                self._task = self._bar.add_task(name, total=1.0)
            yield self
        finally:
            self._end_bar()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 2)

    @contextmanager
    def board(
        self, total: int, metric: str, finished: Iterable[TrialResult] = (), workers: int = 1
    ) -> Iterator[TrialBoard]:
        """A board of trials in place of the current stage's bar, which does not come back; `say` goes above it."""
        self._end_bar()
        with TrialBoard(total, metric, finished, quiet=self._quiet, workers=workers, console=self._console) as board:
            yield board

    def _end_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def fraction(self, done: float, text: str = "") -> None:
        """Move the bar of the current stage to `done` in [0, 1]."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, **({"description": text} if text else {}))

    def rows(self, what: str, count: int) -> None:
        """Rows done so far in an open-ended stage."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=f"{what}: {count:,} rows", total=None)
