"""A flow's process ends soon after SIGTERM, as a cancelled run gets it, whatever the code makes of the signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bertft_core.base.errors import BertftError

GRACE_SECONDS = 8.0  # to kill the trainers and tell the server; a cancelled run takes 2 to 4 s for it (measured)
_EXIT_CODE = 128 + signal.SIGTERM
_told = threading.Event()
_masks = threading.local()
_watched: list[socket.socket] = []  # the wake-up pipe of this process


def ends_when_told(grace: float = GRACE_SECONDS) -> None:
    """From now on the process ends at the latest `grace` seconds after SIGTERM, which releases its locks.

    Prefect 3.8 raises an exception where the main thread happens to be, once: inside a library's import or a callback
    it is swallowed, and a flow that waits for its trials does not see it; the run would go on until it is killed 30 s
    later. Every flow calls this first; further calls, and calls beside the main thread, do nothing.
    """
    if _watched or threading.current_thread() is not threading.main_thread():
        return
    inlet, outlet = socket.socketpair()
    outlet.setblocking(False)
    signal.set_wakeup_fd(outlet.fileno(), warn_on_full_buffer=False)  # independent of who handles the signal
    os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_leave)
    _watched.extend((inlet, outlet))
    threading.Thread(target=_watch, args=(inlet, grace), daemon=True, name="ends-when-told").start()


def is_told() -> bool:
    """Whether SIGTERM came: what fails from then on fails because of it."""
    return _told.is_set()


def _hold() -> None:
    """Before a fork: SIGTERM waits, so that none reaches a child that still holds our wake-up pipe."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _leave() -> None:
    """In the child: its signals are no business of ours."""
    signal.set_wakeup_fd(-1)
    _go_on()


def _watch(inlet: socket.socket, grace: float) -> None:
    while numbers := inlet.recv(64):
        if signal.SIGTERM in numbers:
            _told.set()
            time.sleep(grace)
            os._exit(_EXIT_CODE)


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
