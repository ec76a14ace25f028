"""Damaged, locked and foreign databases: one line that names the file and what to do, at once, without SQL."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest

from bertft_core.base import sqlite_files
from bertft_core.base.errors import StorageError
from bertft_core.config.store import load_mlflow_config
from bertft_core.registry.decision import require_comparable
from bertft_core.search.storage import open_storage
from bertft_core.tracking import store as tracking
from flows.history import require_history

pytestmark = pytest.mark.orchestration
OLDER = "451aebb31d03"  # one of MLflow's first migrations


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_in_header(file):
    file.write_bytes(file.read_bytes()[:50])


def overwrite(file):
    file.write_bytes(b"no database at all\n" * 500)


def flip(file):
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 60_000):
        content[place] ^= 0xFF
    file.write_bytes(content)


def lose_table(file):
    with sqlite3.connect(file) as database:
        database.execute("drop table registered_model_tags")


def revise(revision):
    def change(file):
        with sqlite3.connect(file) as database:
            database.execute("update alembic_version set version_num = ?", (revision,))

    return change


def told(fault, file, *words):
    """The message: one line that names the file, says what to do and shows no SQL."""
    text = str(fault.value)
    assert "\n" not in text and str(file) in text and "SELECT" not in text.upper(), text
    assert all(word in text for word in words), text


@pytest.fixture
def database(blank, tmp_path):
    """mlflow.db of a home of the test's own."""
    shutil.copytree(blank, tmp_path / "home")
    return tmp_path / "home" / "mlflow.db"


def opened(database):
    store = tracking.open_store(load_mlflow_config(environ={}), database.parent)
    require_comparable(store, "letters")


@pytest.mark.parametrize("damage", [cut, cut_in_header, overwrite, flip, lose_table])
def test_damaged_registry_is_one_line_at_once(database, damage):
    damage(database)
    started = time.monotonic()
    with pytest.raises(StorageError) as fault:
        opened(database)
    told(fault, database, "is damaged", "restore it from a backup, or move it away", "`bertft adopt NAME`")
    assert time.monotonic() - started < 30  # left to itself MLflow tries again for an hour


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        (OLDER, "an older MLflow wrote it: keep a copy of it, then `mlflow db upgrade"),
        ("feed0facecafe", "a newer MLflow"),
    ],
)
def test_registry_of_another_mlflow_says_which_and_what_to_do(database, revision, words):
    revise(revision)(database)
    with pytest.raises(StorageError) as fault:
        opened(database)
    told(fault, database, f"revision {revision}; here is MLflow {mlflow.__version__}", words)


def test_locked_registry_says_so(database, monkeypatch):
    monkeypatch.setattr(sqlite_files, "PATIENCE_SECONDS", 0.2)
    with sqlite3.connect(database) as other:
        other.execute("begin exclusive")
        with pytest.raises(StorageError) as fault:
            opened(database)
        told(fault, database, "is locked: another process is writing to it")
        other.rollback()
    opened(database)


def test_folder_in_place_of_the_registry_is_refused(database):
    database.unlink()
    database.mkdir()
    with pytest.raises(StorageError) as fault:
        opened(database)
    told(fault, database, "cannot be used")


@pytest.mark.parametrize("damage", [cut, overwrite])
def test_damaged_studies_are_one_line(tmp_path, damage):
    open_storage(None, tmp_path)
    file = tmp_path / "search" / "studies.db"
    damage(file)
    with pytest.raises(StorageError) as fault:
        open_storage(None, tmp_path)
    told(fault, file, "restore it, move it away (its unfinished searches begin anew), or name another")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no database\n" * 500, "is damaged (file is not a database)"), (None, "is of a newer Prefect")],
)
def test_damaged_history_of_flow_runs_is_one_line(tmp_path, monkeypatch, content, words):
    monkeypatch.delenv("PREFECT_API_DATABASE_CONNECTION_URL", raising=False)
    file = tmp_path / "prefect.db"
    require_history(tmp_path)
    file.write_bytes(b"")
    require_history(tmp_path)
    if content is None:
        with sqlite3.connect(file) as database:
            database.execute("create table alembic_version (version_num text)")
            database.execute("insert into alembic_version values ('feed0facecafe')")
    else:
        file.write_bytes(content)
    with pytest.raises(StorageError) as fault:
        require_history(tmp_path)
    told(fault, file, words, "move it away and Prefect begins a new one")


def test_history_of_this_prefect_is_taken(tmp_path):
    import prefect

    folder = Path(prefect.__file__).parent / "server" / "database" / "_migrations" / "versions" / "sqlite"
    newest = sorted(folder.glob("*.py"))[-1].name.split("_")[4]
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values (?)", (newest,))
    require_history(tmp_path)
