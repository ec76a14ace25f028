"""An end to what takes too long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertft_core.errors import BertftError

_AGAIN_SECONDS = 30.0


@contextmanager
def time_limit(key: str, seconds: float | None) -> Iterator[None]:
    """Raise BertftError in the main thread, wherever it waits, after so long; trainers die with their command.

    key: of the configuration, that set the limit; None: no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise BertftError(f"{key} of {seconds:g} s passed: the next night goes on from the checkpoints")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)  # again, should a library swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
