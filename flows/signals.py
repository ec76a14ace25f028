"""How a flow's process ends before its work is done: soon after SIGTERM, or where a time limit passes."""

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
_REPEAT_SECONDS = 30.0
_terminated = threading.Event()
_is_command = threading.Event()  # of bertft, what this process carries out
_wake_up: list[socket.socket] = []  # both ends of this process's wake-up pipe


def begin_command() -> None:
    """Say that this process carries out a command of bertft, and is no one else's."""
    _is_command.set()


def is_command() -> bool:
    """Whether `begin_command` was called."""
    return _is_command.is_set()


def end_after_sigterm(grace: float = GRACE_SECONDS) -> None:
    """From now on the process ends at the latest `grace` seconds after SIGTERM, which releases its locks.

    Prefect 3.8 raises an exception where the main thread happens to be, once: inside a library's import or a callback
    it is swallowed, and a flow that waits for its trials does not see it; the run would go on until it is killed 30 s
    later. Flows in a process of ours call this first (flows/hosting.py); further calls, and calls beside the main
    thread, do nothing.
    """
    if _wake_up or threading.current_thread() is not threading.main_thread():
        return
    inlet, outlet = socket.socketpair()
    outlet.setblocking(False)
    signal.set_wakeup_fd(outlet.fileno(), warn_on_full_buffer=False)  # independent of who handles the signal
    _wake_up.extend((inlet, outlet))
    masks = threading.local()

    def before_fork() -> None:  # SIGTERM waits, so that none reaches a child that still holds our wake-up pipe
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def in_child() -> None:  # its signals are no business of ours
        signal.set_wakeup_fd(-1)
        after_fork()

    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=in_child)

    def wait() -> None:
        while numbers := inlet.recv(64):
            if signal.SIGTERM in numbers:
                _terminated.set()
                time.sleep(grace)
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="end-after-sigterm").start()


def sigterm_came() -> bool:
    """Whether SIGTERM came: what fails from then on fails because of it."""
    return _terminated.is_set()


@contextmanager
def time_limit(key: str, seconds: float | None) -> Iterator[None]:
    """Raise BertftError in the main thread, wherever it waits, after so long; trainers die with their command.

    key: of the configuration, that set the limit; None: no limit. An alarm that was set before comes when it is due
    and the block has ended. Not prefect.utilities.timeout: that raises once, so that a library which swallows the
    exception lets the night go on for ever (tried with 3.8.8), and it drops an alarm that was set before.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise BertftError(f"{key} of {seconds:g} s passed: the next night goes on from the checkpoints")

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, end)
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if delay:
            left = max(delay - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
