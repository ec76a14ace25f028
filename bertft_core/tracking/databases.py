"""MLflow's client over a database that may be damaged: every fault of the database itself as one line, without SQL."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from bertft_core.base.addresses import sqlite_file, sqlite_url
from bertft_core.base.errors import StorageError
from bertft_core.base.postgres import database_reason
from bertft_core.base.sqlite_files import require_sound, unusable
from bertft_core.config.store import Store

REMEDY = "restore it from a backup, or move it away and go on with a new one by `bertft adopt NAME`"
_REVISIONS = re.compile(r"found version (\w+), but expected (\w+)|Can't locate revision identified by '(\w+)'")


class DatabaseClient:
    """An MlflowClient; its calls raise StorageError where an sqlite database is damaged, locked or of other tables."""

    def __init__(self, store: Store) -> None:
        from mlflow import MlflowClient

        self._store = store
        with database_faults(store):
            self._client = MlflowClient(tracking_uri=store.tracking_uri, registry_uri=store.registry_uri)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            with database_faults(self._store):
                return found(*args, **kwargs)

        return call


def require_sound_store(store: Store, *, whole: bool = False) -> None:
    """Raise StorageError where a database of the store is no database: MLflow would try again for an hour."""
    for file in _files(store):
        require_sound(file, REMEDY, whole=whole)


@contextlib.contextmanager
def database_faults(store: Store) -> Iterator[None]:
    """Faults of an sqlite database as StorageError: the file, sqlite's own words, what to do."""
    try:
        yield
    except Exception as fault:  # sqlalchemy's, alembic's, and MLflow's that came from them
        files = _files(store)
        if not files or isinstance(fault, StorageError):
            raise
        revision = _REVISIONS.search(str(fault))
        if revision is not None:
            raise StorageError(_other_release(files[0], revision)) from fault
        reason = database_reason(fault)
        if reason is None:
            raise
        raise StorageError(unusable(files[0], reason, REMEDY)) from fault


def _files(store: Store) -> list[Path]:
    found = (sqlite_file(uri) for uri in dict.fromkeys((store.tracking_uri, store.registry_uri)))
    return [file for file in found if file is not None]


def _other_release(file: Path, revision: re.Match[str]) -> str:
    """MLflow calls every other revision out of date; a newer one is none of its migrations."""
    import mlflow

    known = revision[1] or revision[3]
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(migrations.glob(f"{known}_*.py")):
        todo = f"an older MLflow wrote it: keep a copy of it, then `mlflow db upgrade {sqlite_url(file)}`"
    else:
        todo = "a newer MLflow wrote it: install that one, or restore a copy from before"
    return f"{file} has the tables of another MLflow (revision {known}; here is MLflow {mlflow.__version__}): {todo}"
