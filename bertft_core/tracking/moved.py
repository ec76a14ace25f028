"""A home that was moved, copied or restored from a backup: where the artefacts of its sqlite store lie now.

MLflow keeps absolute places: of experiments, runs, logged models and versions. A database below BERTFT_HOME belongs to
that home alone, so its places are rewritten as soon as the home is opened elsewhere, in one transaction: whatever reads
or writes by them, MLflow's own pages and loaders too, then stays in this home. Resolving each place when it is read
would leave MLflow writing into the folder that the home was copied from.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bertft_core.base.addresses import artifact_uri, local_path, sqlite_file
from bertft_core.base.errors import BusyError
from bertft_core.base.locks import COMMON_LOCKS, alone_in, exclusive
from bertft_core.base.sqlite_files import PATIENCE_SECONDS
from bertft_core.config.store import Store

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_LOGGER = logging.getLogger(__name__)


def local_folder(uri: str) -> Path | None:
    """A local path or file: URI as one resolved path; None for any other URI."""
    path = local_path(uri)
    return None if path is None else path.resolve()


def is_same_place(one: str, other: str) -> bool:
    """Whether two artefact roots are one: the same URI, or the same folder by whatever path or link."""
    here, there = local_folder(one), local_folder(other)
    if here is None or there is None:
        return one.rstrip("/") == other.rstrip("/")
    return here == there or (here.exists() and there.exists() and here.samefile(there))


def found_again(store: Store, location: str, former: str) -> str:
    """`location` of a file or folder, or its place below today's artifact_root where it lies there and not there.

    former: the artefact root that the experiment was made with.
    """
    rest, here = _below(location, former), local_folder(store.artifact_root or "://")
    there = local_folder(location)
    if rest is None or here is None or there is None or there.exists() or not (here / rest).exists():
        return location
    return artifact_uri(here / rest)


def take_along(store: Store, former: str) -> bool:
    """Rewrite the places below `former` where they lie below today's artifact_root; whether that was done.

    Only in sqlite databases below the home, only where all that is found at the former place is found here too, and
    something is, and only while no other command works in this home.
    """
    files = [file for uri in dict.fromkeys((store.tracking_uri, store.registry_uri)) if (file := _own(store, uri))]
    there, here = local_folder(former), local_folder(store.artifact_root or "://")
    if not files or there is None or here is None or not _holds_all(files, former, here, there) or not _is_idle(store):
        return False
    for file in files:
        with closing(sqlite3.connect(file, timeout=PATIENCE_SECONDS)) as database, database:
            for table, column in _places(database):
                database.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (store.artifact_root, len(former) + 1, former, len(former) + 1, f"{former}/"),
                )
    _LOGGER.warning(
        "this home was moved or copied: its artefacts are read and written in %s from now on, no longer in %s "
        "(a deployment names the home it was made for: `bertft deploy` again)",
        store.artifact_root,
        former,
    )
    return True


def _own(store: Store, uri: str) -> Path | None:
    """The file of an sqlite database below the home, else None."""
    file = sqlite_file(uri)
    return file if file is not None and file.resolve().is_relative_to(Path(store.home).resolve()) else None


def _holds_all(files: list[Path], former: str, here: Path, there: Path) -> bool:
    rests = {rest for file in files for rest in _rests(file, former)}
    kept = {rest for rest in rests if (here / rest).exists()}
    return (bool(kept) or not rests) and all(rest in kept or not (there / rest).exists() for rest in rests)


def _rests(file: Path, former: str) -> Iterator[str]:
    """Every place below `former` that the database names, from there on."""
    with closing(sqlite3.connect(file, timeout=PATIENCE_SECONDS)) as database:
        for table, column in _places(database):
            for (place,) in database.execute(f"select {column} from {table}"):
                if (rest := _below(str(place), former)) is not None:
                    yield rest


def _places(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Tables and columns with places that this database has: a registry of its own has some of them."""
    known = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    return [(table, column) for table, column in _PLACES if table in known]


def _below(location: str, former: str) -> str | None:
    """The part of `location` below `former`, else None."""
    rest = location.removeprefix(f"{former.rstrip('/')}/")
    return None if rest == location else rest


def _is_idle(store: Store) -> bool:
    """Whether no other process holds a lock of this home: in a container it may have another name, and be at work.

    False too where no lock can be written, as on a read-only disk.
    """
    try:
        with alone_in(store.home):
            pass
    except (BusyError, OSError):
        return False
    for lock in (Path(store.home) / "locks").glob("*.lock"):  # all that an earlier bertft holds
        if lock.name in COMMON_LOCKS or lock.read_text(encoding="utf-8").startswith(f"{os.getpid()} on "):
            continue
        try:
            with exclusive(lock, lock.name):
                pass
        except BusyError:
            return False
    return True
