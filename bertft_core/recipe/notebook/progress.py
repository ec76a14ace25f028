"""How far a fit is, for people: one line that moves in a notebook or terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

_QUICK_SECONDS, _SLOW_SECONDS = 0.5, 30.0  # between two states of a moving line; between two lines in a log
_WIDTH = 79


def in_notebook() -> bool:
    """Whether output goes to the page of a notebook."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


@dataclass(kw_only=True)
class ProgressLine:
    """What `chain.complete` calls. In a notebook it writes to stdout, which is not shown as an error, else to stderr.

    A line moves where it can (a carriage return); each stage leaves one line behind.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout if in_notebook() else sys.stderr)
    moves: bool = field(default_factory=lambda: in_notebook() or sys.stderr.isatty())
    _stage: str = ""
    _begun: float = 0.0
    _shown: float = 0.0
    _line: str = ""
    _kept: str = ""

    def __call__(self, stage: str, fraction: float, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._end()
            self._stage, self._begun, self._shown, self._kept = stage, now, 0.0, ""
        line = self._words(fraction, facts, now - self._begun)
        wait = _QUICK_SECONDS if self.moves else _SLOW_SECONDS
        if not line or (fraction < 1 and now - self._shown < wait):
            return
        width, self._shown, self._line = max(_WIDTH, len(self._line)), now, line  # what was longer is written over
        if self.moves:
            self._write(f"\r{line:{width}}")
        elif 0 < fraction < 1:
            self._write(f"{line}\n")
        if stage == "done":
            self._end()

    def _words(self, fraction: float, facts: dict[str, Any], seconds: float) -> str:
        stage = self._stage
        if stage == "rows":
            return "rows: " + ", ".join(f"{count:,} {what}" for what, count in facts.items())
        if stage == "waiting":
            return f"waiting for process {facts['for']}, which is at work on the same run"
        if stage == "done":
            return str(facts["report"] or "fitted; no row was kept for a test")
        if stage == "evaluation":
            return "evaluation: the test rows, beside the TF-IDF baseline"
        if "epoch" in facts:
            self._kept = f", epoch {facts['epoch']}: validation score {facts['score']:.4f}"
        elif fraction >= 1 and "score" in facts:
            self._kept = f", validation score {facts['score']:.4f}"
        name = f"search: trial {facts['trial'] + 1} of {facts['trials']}" if stage == "search" else stage
        left = f", {clock(seconds / fraction - seconds)} left" if 0.05 < fraction < 1 else f", {clock(seconds)}"
        return f"{name} {fraction:4.0%}{left}{self._kept}"

    def _end(self) -> None:
        """Leave the last line of a stage behind."""
        if self._line:
            self._write("\n" if self.moves else f"{self._line}\n")
        self._line = ""

    def _write(self, text: str) -> None:
        print(text, end="", file=self.out, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(75)
    '1:15'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
