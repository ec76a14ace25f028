"""sqlite files that may be cut off, overwritten or locked: told in one line, before a library waits for them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bertft_core.base.errors import StorageError

PATIENCE_SECONDS = 20.0  # for whoever writes to the file, as MLflow has it


def open_to_read(file: Path, seconds: float = PATIENCE_SECONDS) -> sqlite3.Connection:
    """A connection that writes nothing and makes no file where there is none. seconds: of patience with a writer."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=seconds)


def require_sound(file: Path, remedy: str, *, whole: bool = False) -> None:
    """Raise StorageError naming the file and `remedy` where it is no sqlite database that can be read.

    A missing or empty file is a database that has yet to begin. whole: look at every page, which costs a second for
    some hundred megabytes, instead of at the first.
    """
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return
    try:
        with closing(open_to_read(file)) as found:
            found.execute("select count(*) from sqlite_master").fetchone()
            if whole:
                (said,) = found.execute("pragma quick_check(1)").fetchone()
                if said != "ok":
                    raise sqlite3.DatabaseError(" ".join(said.split()))
    except (sqlite3.Error, UnicodeDecodeError) as fault:
        raise StorageError(unusable(file, str(fault), remedy)) from None


def unusable(file: Path, reason: str, remedy: str) -> str:
    """What to say of a database that answered with `reason`, sqlite's own words."""
    if "is locked" in reason:
        return f"{file} is locked: another process is writing to it; wait for it or end it, then run the command again"
    if "readonly" in reason or "full" in reason or "unable to open" in reason or "disk I/O" in reason:
        return f"{file} cannot be used ({reason}): check its rights and the free space"
    return f"{file} is damaged ({reason}): {remedy}"
