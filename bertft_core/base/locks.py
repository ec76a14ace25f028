"""A lock that the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bertft_core.base.errors import BusyError

_POLL_SECONDS = 0.05  # between two looks at a lock that somebody holds


@contextlib.contextmanager
def exclusive(
    path: Path | str, what: str, timeout_seconds: float = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a lock file that the kernel releases when the process dies. on_wait(holder) is called once before waiting.

    Raises BusyError naming the holder when it is not free within `timeout_seconds`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    with open(target, "a+", encoding="utf-8") as handle:
        while not _locked(handle):
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            if on_wait is not None:
                on_wait(holder)
                on_wait = None
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"{what} is already running in process {holder}: wait for it, then run the command again"
                )
            time.sleep(_POLL_SECONDS)
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {os.uname().nodename}")
        handle.flush()
        yield


def _locked(handle: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
