"""A terminal below whose lines a live table or bar stands, and on which many threads write.

rich computes how far the cursor moves up before it has the right to write, so of two threads the second may go by a
table that is no longer there, and wipe out lines above it. Here a thread has the console from the computation to the
last letter. Its lock is always taken before rich's own, which is why a live display is started, refreshed and stopped
by `shown` and not by rich's refresh thread: that takes them the other way round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from bertft_core.base.display import visible

_SECONDS = 0.25  # between two pictures
SAID_EVERY = 30.0  # seconds between two lines where there is no terminal


class WholeConsole(Console):
    """A console that one thread has at a time: `with console:` waits, and so does all that prints.

    log: gets each line that is said, too; what is drawn again and again (a table, a bar) is no line.
    """

    def __init__(self, *, log: Callable[[str], None] | None = None, **values: Any) -> None:
        self._alone = threading.RLock()
        self._log = log
        super().__init__(**values)

    def say(self, line: str | Text) -> None:
        """One line that stays: above a table or bar that stands; a terminal's is broken between words."""
        self.print(line, markup=False, soft_wrap=not self.is_terminal)
        if self._log is not None:
            self._log(str(line))

    def __enter__(self) -> Self:
        self._alone.acquire()
        super().__enter__()
        return self

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """What is printed, the control signs of its texts shown as escapes: a terminal obeys rich's own alone."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, fault, trace)
        finally:
            self._alone.release()


@contextmanager
def shown(console: WholeConsole, display: Live | Progress) -> Iterator[None]:
    """The display, made with auto_refresh=False, stands below the console's lines and is drawn 4 times a second."""
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(_SECONDS):
            with console:
                if not ended.is_set():
                    display.refresh()

    with console:
        display.start()
    threading.Thread(target=draw, name="terminal", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with console:
            display.stop()


@contextmanager
def repeated(act: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `act` every so many seconds, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            act()

    thread = threading.Thread(target=beat, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)
