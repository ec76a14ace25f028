"""Prefect's own sqlite database, the history of flow runs: told by name where it is damaged.

It is no memory of ours: moved away, Prefect begins a new one, and nothing is lost but what its pages show of past runs.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from bertft_core.base.errors import StorageError
from bertft_core.base.sqlite_files import open_to_read, require_sound

_ELSEWHERE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")  # the user's own
_REMEDY = "it holds the history of flow runs alone: restore it, or move it away and Prefect begins a new one"


def require_history(folder: Path | None = None) -> None:
    """Raise StorageError where prefect.db in `folder` (default: PREFECT_HOME) is damaged, or of a newer Prefect."""
    if any(map(os.environ.get, _ELSEWHERE)):
        return
    file = (folder or Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()) / "prefect.db"
    require_sound(file, _REMEDY)
    revision = _revision(file)
    spec = importlib.util.find_spec("prefect")
    assert spec is not None and spec.origin is not None
    migrations = Path(spec.origin).parent / "server" / "database" / "_migrations" / "versions" / "sqlite"
    if revision and migrations.is_dir() and not any(migrations.glob(f"*{revision}*.py")):
        raise StorageError(f"{file} is of a newer Prefect (revision {revision}): install that one, or {_REMEDY}")


def _revision(file: Path) -> str | None:
    """Which of Prefect's migrations the database has; None where it has none yet."""
    if not file.exists():
        return None
    with suppress(sqlite3.Error), closing(open_to_read(file, 5.0)) as found:
        row = found.execute("select version_num from alembic_version").fetchone()
        return str(row[0]) if row else None
    return None
