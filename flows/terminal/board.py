"""Progress of a search on stderr: a live table of the running trials on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bertft_core.config.metrics import score_column
from bertft_core.search.results import TrialResult
from flows.terminal.console import SAID_EVERY, WholeConsole, repeated, shown
from flows.terminal.estimate import Running, seconds_left, shown_time

_COLOURS = {"complete": "", "pruned": "yellow", "fail": "red"}
_LONGEST_BAR = 24


@dataclass(kw_only=True)
class _Row:
    """A running trial after its last progress."""

    slot: int
    params: Mapping[str, Any]
    worker: str
    fraction: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # of the last progress, which is repeated while nothing happens
    score: float | None = None
    updated: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def update(self, fraction: float, facts: dict[str, Any]) -> None:
        if not facts or (fraction, facts) == (self.fraction, self.facts):
            return
        self.fraction, self.facts = fraction, facts
        self.score = facts.get("score", self.score)
        if "seconds" in facts:
            self.seconds, self.updated = float(facts["seconds"]), time.monotonic()

    def elapsed(self) -> float:
        """Seconds at work by now, those before an interruption included."""
        return self.seconds + time.monotonic() - self.updated


class TrialBoard:
    """The trials of one search, reported by several threads. Use it as a context manager.

    total: finished trials that the search shall have. finished: results that stood before. workers: trials that
    run side by side (for the time left). On a terminal what is said here, on `console` or by libraries on stderr
    goes above the table.
    """

    def __init__(
        self,
        total: int,
        metric: str,
        finished: Iterable[TrialResult] = (),
        *,
        workers: int = 1,
        console: WholeConsole | None = None,
    ) -> None:
        self._total, self._workers = total, workers
        self._metric = score_column(metric)  # scores are higher is better
        self._console = console or WholeConsole(stderr=True, highlight=False)
        self._lock = threading.RLock()  # never held while the console is at work: that has locks of its own
        self._running: dict[int, _Row] = {}
        self._finished = {r.slot: r for r in finished}
        self._table: ExitStack | None = None  # while it stands on a terminal
        self._lines = ExitStack()  # elsewhere: the thread that says how far the running trials are

    def __enter__(self) -> Self:
        # a terminal by the file itself: FORCE_COLOR makes rich take a log file for one
        if self._console.quiet or not self._console.file.isatty() or not self._console.is_interactive:
            self._lines = ExitStack()
            self._lines.enter_context(repeated(self._say_running, SAID_EVERY))
            return self
        live = Live(
            console=self._console,
            get_renderable=lambda: self,
            transient=True,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
        )
        streams = sys.stdout, sys.stderr
        self._table = ExitStack()
        self._table.enter_context(shown(self._console, live))
        # Loggers hold the stream they were made with: while the table stands they write above it, too.
        replaced = dict(zip(map(id, streams), (sys.stdout, sys.stderr), strict=True))
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        for handler in {id(h): h for logger in loggers for h in getattr(logger, "handlers", ())}.values():
            consoles = [(c, "file") for c in vars(handler).values() if isinstance(c, Console)]
            for owner, name in [(handler, "stream"), *consoles]:
                stream = getattr(owner, name, None)
                if replaced.get(id(stream), stream) is not stream:
                    setattr(owner, name, replaced[id(stream)])
                    self._table.callback(setattr, owner, name, stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if self._table is not None:
            self._table.close()
            self._table = None

    def start(self, slot: int, params: Mapping[str, Any], worker: str) -> None:
        """A trial starts, or starts again."""
        with self._lock:
            self._running[slot] = _Row(slot=slot, params=dict(params), worker=worker)

    def update(self, slot: int, fraction: float, facts: dict[str, Any]) -> None:
        """Progress of a running trial; facts as training/loop.py reports them. Unknown slots are passed over."""
        with self._lock:
            if slot in self._running:
                self._running[slot].update(fraction, facts)

    def done(self, result: TrialResult) -> None:
        """A trial finished: it leaves the table and its line stays."""
        with self._lock:
            self._running.pop(result.slot, None)
            self._finished[result.slot] = result
            best, count, left = self.best(), len(self._finished), shown_time(self.seconds_left())
        if self._table is not None:
            style = "bold green" if best is result else _COLOURS[result.state]
            self._console.say(Text(str(result), style=style))
        else:
            so_far = f"best {best.score:.4f} (trial {best.slot})" if best else "best …"
            self.say(f"{result}; {count} of {self._total}, {so_far}, about {left} left")

    def drop(self, slot: int) -> None:
        """A trial ended without a result here: it leaves the table, nothing is counted."""
        with self._lock:
            self._running.pop(slot, None)

    def seen(self, results: Iterable[TrialResult]) -> None:
        """Results that stand in the study, other coordinators' too: counted without a line, if they are new."""
        with self._lock:
            for result in results:
                self._finished.setdefault(result.slot, result)

    def say(self, text: str) -> None:
        """One line, above the table on a terminal."""
        self._console.say(text)

    def _say_running(self) -> None:
        """How far the running trials are, for a log; nothing while none has begun."""
        if rows := self.rows():
            trials = "; ".join(
                f"trial {r.slot} at {100 * r.fraction:.0f} %, step {_step(r)}, {shown_time(r.elapsed())}" for r in rows
            )
            with self._lock:
                count = len(self._finished)
            left = shown_time(self.seconds_left())
            self.say(f"search: {trials} so far; {count} of {self._total} finished, about {left} left")

    def best(self) -> TrialResult | None:
        """The complete trial with the highest score; ties by lower log loss, then lower slot. None without one."""
        with self._lock:
            scored = [
                (r.score, -(r.log_loss or 0.0), -r.slot, r)
                for r in self._finished.values()
                if r.state == "complete" and r.score is not None
            ]
        return max(scored, key=lambda entry: entry[:3])[3] if scored else None

    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of the search, None until a trial has finished."""
        with self._lock:
            running = [Running(fraction=r.fraction, seconds=r.elapsed()) for r in self._running.values()]
            finished = [r.seconds for r in self._finished.values()]
        waiting = max(0, self._total - len(finished) - len(running))
        return seconds_left(finished, running, waiting, self._workers)

    def share(self) -> tuple[float, str]:
        """How much of the search is done, in [0, 1], and in words."""
        with self._lock:
            finished, running = len(self._finished), sum(row.fraction for row in self._running.values())
        left = shown_time(self.seconds_left())
        return (finished + running) / max(self._total, 1), f"{finished} of {self._total} trials, about {left} left"

    def rows(self) -> list[_Row]:
        """The running trials by slot."""
        with self._lock:
            return sorted(self._running.values(), key=lambda r: r.slot)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The board at this moment, laid out for the width it is given: running trials, the best, what is left."""
        rows = self.rows()
        with self._lock:
            best, states = self.best(), Counter(r.state for r in self._finished.values())
        head = "no trial has completed yet"
        if best is not None:
            head = f"best: trial {best.slot}, {self._metric} {best.score:.4f} ({short(best.params)})"
        counts = f"{states['complete']} complete, {states['pruned']} pruned, {states['fail']} failed"
        left = f"time left {shown_time(self.seconds_left())}; {states.total()} of {self._total} finished ({counts})"
        lines = [Text(head, style="bold"), Text(left)]
        yield Group(*([_table(rows, options.max_width)] if rows else []), *lines)


def _table(rows: list[_Row], width: int) -> Table:
    """Narrow terminals go without worker and depth, and below 70 columns without the bar."""
    bar = min(_LONGEST_BAR, width // 6)
    columns: list[tuple[str, Any, int]] = [
        ("trial", lambda r: str(r.slot), 0),
        ("parameters", lambda r: _Fitting(r.params), 0),
        ("worker", lambda r: r.worker, 100),
        ("", lambda r: ProgressBar(total=1.0, completed=r.fraction, width=bar), 70),
        ("step", _step, 0),
        ("depth", lambda r: str(r.facts.get("depth", "")), 90),
        ("score", lambda r: "" if r.score is None else f"{r.score:.4f}", 0),
        ("time", lambda r: shown_time(r.elapsed()), 0),
    ]
    table = Table(box=None, padding=(0, 1, 0, 0), width=width, header_style="dim")
    cells = []
    for name, cell, least in columns:
        if width < least:
            continue
        is_long = name == "parameters"
        justify: Literal["left", "right"] = "left" if name in ("parameters", "worker", "") else "right"
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if is_long else None, justify=justify)
        cells.append(cell)
    for row in rows:
        table.add_row(*(cell(row) for cell in cells))
    return table


@dataclass(frozen=True)
class _Fitting:
    """Parameters as far as whole ones fit, the rate first: none is cut in the middle of a number."""

    params: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = sorted(self.params, key=lambda name: name != "lr")
        shown = [short({name: self.params[name]}) for name in names]
        while len(shown) > 1 and len(", ".join(shown)) + (2 if len(shown) < len(names) else 0) > options.max_width:
            shown.pop()
        yield Text(", ".join(shown) + (" …" if len(shown) < len(names) else ""), no_wrap=True, overflow="ellipsis")


def _step(row: _Row) -> str:
    if "validating" in row.facts:
        return f"val {row.facts['validating']:.0%}"
    return f"{row.facts['step']}/{row.facts['total_steps']}" if "total_steps" in row.facts else "…"


def short(params: Mapping[str, Any]) -> str:
    """Parameters in few characters: the last part of names and paths, three digits."""
    words = []
    for name, value in params.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        if isinstance(value, str) and value:
            text = PurePath(value).name
        words.append(f"{name.rpartition('.')[2]} {text}")
    return ", ".join(words)
