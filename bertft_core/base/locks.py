"""Locks that the kernel releases when their holder dies: one process on a thing, or many in a home and one alone."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bertft_core.base.errors import BusyError

_POLL_SECONDS = 0.01  # between two looks at a lock that somebody holds
FOREVER = math.inf
HOME_LOCK = "locks/home.lock"  # below a home
STORE_LOCK = "locks/mlflow.lock"  # below a home, of its MLflow store
COMMON_LOCKS = frozenset(Path(lock).name for lock in (HOME_LOCK, STORE_LOCK))  # of locks/*.lock, no one work's own
_LOGGER = logging.getLogger(__name__)
_ALONE_IN: set[Path] = set()  # homes that this process is alone in
_WORKED_IN: dict[Path, int] = {}  # home -> descriptor that holds its lock while this process lives


@contextlib.contextmanager
def exclusive(
    path: Path | str, what: str, timeout_seconds: float = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a lock file that the kernel releases when the process dies. on_wait(holder) is called once before waiting.

    The file stays behind and names its last holder, "PID on HOST". filelock's FileLock is flock on Linux: it looks
    at the file it locked once more, so that a file deleted meanwhile is no lock. Raises BusyError naming the holder
    when it is not free within `timeout_seconds`.
    """
    from filelock import FileLock, Timeout  # asyncio with it, 0.1 s: too much for `bertft --help`

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target, poll_interval=_POLL_SECONDS, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait(_holder(target))
            lock.acquire(timeout=-1 if math.isinf(timeout_seconds) else timeout_seconds)
    except Timeout:
        raise BusyError(
            f"{what} is already running in process {_holder(target)}: wait for it, then run the command again"
        ) from None
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name of its holder
            target.write_text(f"{os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(target: Path) -> str:
    return target.read_text(encoding="utf-8").strip() or "unknown"


def work_in(home: Path | str) -> None:
    """Say, for as long as this process lives, that it stands on the files of `home`; `alone_in` is kept out meanwhile.

    Any number of processes work in a home at a time. Waits for one that is alone in it.
    """
    place = Path(home).resolve()
    if place in _WORKED_IN:
        return
    try:
        descriptor = _home_lock(place)
    except OSError:  # a home that this user may only read is one that this user cannot clean up either
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        _LOGGER.warning("%s is being cleaned up: waiting for the end of it", place)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    _WORKED_IN[place] = descriptor


@contextlib.contextmanager
def alone_in(home: Path | str) -> Iterator[None]:
    """Be the only process that works in `home`; commands that begin meanwhile wait. Raises BusyError at once."""
    place = Path(home).resolve()
    if place in _ALONE_IN:
        yield
        return
    own = _WORKED_IN.get(place)
    descriptor = _home_lock(place) if own is None else own
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = ", ".join(map(str, holders(place / HOME_LOCK) - {os.getpid()}))
            raise BusyError(
                f"a command works in {place} (process {found or 'unknown'}): wait for its end, then run this one again"
            ) from None
        _ALONE_IN.add(place)
        yield
    finally:
        _ALONE_IN.discard(place)
        if own is None:
            os.close(descriptor)
        else:
            fcntl.flock(own, fcntl.LOCK_SH)


def holders(lock: Path) -> set[int]:
    """Processes of this machine that hold a lock file, by /proc/locks; none where it does not say."""
    try:
        inode, lines = lock.stat().st_ino, Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    fields = [line.split() for line in lines if "->" not in line]  # the others wait for it
    return {int(f[4]) for f in fields if f[5].rpartition(":")[2] == str(inode) and int(f[4]) > 0}


def _home_lock(home: Path) -> int:
    file = home / HOME_LOCK
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
