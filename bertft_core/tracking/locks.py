"""Locks on the nights and releases of one model that processes on other machines see too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bertft_core.base.addresses import sqlite_file
from bertft_core.base.postgres import advisory_lock, is_postgres
from bertft_core.config.store import Store


def common_database(store: Store, studies: str | None = None) -> str | None:
    """The PostgreSQL database that all who train into this store have in common: its own, else that of their studies.

    studies: the URL of the studies' storage, where there are any.
    """
    return next((url for url in (store.tracking_uri, store.registry_uri, studies) if url and is_postgres(url)), None)


def is_of_its_home(store: Store) -> bool:
    """Whether the registry is a file below the home: whoever trains into it shares the home, and so its lock files."""
    file = sqlite_file(store.registry_uri)
    return file is not None and file.resolve().is_relative_to(Path(store.home).resolve())


@contextlib.contextmanager
def model_lock(store: Store, kind: str, name: str, seconds: float, studies: str | None = None) -> Iterator[None]:
    """Hold the advisory lock `kind` (night, release) of `name` in the common database, where there is one.

    Raises BusyError naming the holder after `seconds`, StorageError where the server does not answer.
    """
    database = common_database(store, studies)
    if database is None:
        yield
        return
    with advisory_lock(database, f"bertft.{kind}.{name}", f"a {kind} of {name}", seconds):
        yield
