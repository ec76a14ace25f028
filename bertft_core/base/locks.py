"""A lock that the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bertft_core.base.errors import BusyError

_POLL_SECONDS = 0.01  # between two looks at a lock that somebody holds
FOREVER = math.inf


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
        target.write_text(f"{os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(target: Path) -> str:
    return target.read_text(encoding="utf-8").strip() or "unknown"
