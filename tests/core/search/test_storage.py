"""Studies in files: which URLs are taken, what the lock excludes, what `call` repeats."""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from bertft_core.base.errors import BusyError, ConfigError, StorageError
from bertft_core.search.storage import StudyStorage, open_storage

Launch = Callable[..., "subprocess.Popen[str]"]
Finished = Callable[..., list[str]]
FILES = ["sqlite:///studies.db", "journal:///studies.jsonl"]


@pytest.fixture(params=FILES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStorage:
    return open_storage(request.param, tmp_path, patience_seconds=2)


def test_no_url_is_a_sqlite_file_below_home(tmp_path: Path) -> None:
    optuna.create_study(storage=open_storage(None, tmp_path).optuna, study_name="s")
    with sqlite3.connect(tmp_path / "search" / "studies.db") as database:
        assert database.execute("select study_name from studies").fetchall() == [("s",)]


def test_a_study_is_found_again_by_the_next_process(storage: StudyStorage, tmp_path: Path) -> None:
    optuna.create_study(storage=storage.optuna, study_name="s").optimize(lambda t: t.suggest_float("x", 0, 1), 2)
    again = open_storage(storage.url, tmp_path / "elsewhere")
    assert len(optuna.load_study(storage=again.optuna, study_name="s").trials) == 2


@pytest.mark.parametrize("prefix", ["sqlite:///", "journal:///"])
def test_braces_in_a_path_are_part_of_it(prefix: str, tmp_path: Path) -> None:
    open_storage(f"{prefix}{{night}} %1/studies", tmp_path)
    assert (tmp_path / "{night} %1" / "studies").is_file()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgres://me:hunter2@host/db",
        "postgresql+asyncpg://me:hunter2@host/db",
        "mysql://me:hunter2@host/db",
        "redis://:hunter2@host",
        "studies.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///studies.db?password=hunter2",
        "journal:///folder/",
        "postgresql+psycopg://",
    ],
)
def test_any_other_url_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.storage must be sqlite:///FILE.*postgresql\+psycopg://") as fault:
        open_storage(url, tmp_path)
    assert "hunter2" not in str(fault.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_driver_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'bertft\[postgres\]'"):
        open_storage("postgresql+psycopg://host/db", tmp_path)


@pytest.mark.parametrize("url", FILES)
def test_a_file_of_something_else_is_refused_in_one_line(url: str, tmp_path: Path) -> None:
    (tmp_path / url.split("///")[1]).write_bytes(b"text;label\n\xff\xfe;1\nmore\n" * 99)
    with pytest.raises(StorageError, match=r"search\.storage .*studies\.\w+ cannot be used") as fault:
        open_storage(url, tmp_path)
    assert "\n" not in str(fault.value)


def test_the_lock_excludes_threads_and_processes(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str], finished: Finished
) -> None:
    (tmp_path / "counter").write_text("0")
    arguments = (storage.url, str(tmp_path), str(tmp_path / "counter"), "12")
    finished(*(launch(scripts["count"], *arguments) for _ in range(4)))
    assert (tmp_path / "counter").read_text() == str(4 * 2 * 12)


def test_a_held_lock_names_its_holder(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str]
) -> None:
    holder = launch(scripts["hold"], storage.url, str(tmp_path))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=str(holder.pid)), storage.lock("held", timeout_seconds=0.1):
        pass
    holder.kill()
    holder.communicate()


def test_a_killed_holder_frees_the_lock_at_once(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str]
) -> None:
    holder = launch(scripts["hold"], storage.url, str(tmp_path))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with storage.lock("held", timeout_seconds=0):  # raises BusyError rather than wait
        pass


def test_locks_of_different_names_do_not_meet(storage: StudyStorage) -> None:
    with storage.lock("first"), storage.lock("a name / with signs", timeout_seconds=0):
        pass


@pytest.mark.parametrize("url", FILES)
def test_four_processes_ask_for_eighty_different_trials(
    url: str, tmp_path: Path, launch: Launch, scripts: dict[str, str], finished: Finished
) -> None:
    outputs = finished(*(launch(scripts["ask and tell"], url, str(tmp_path), "0") for _ in range(4)))
    assert sorted(int(n) for out in outputs for n in out.split()) == list(range(80))


def test_a_killed_writer_of_a_journal_does_not_stop_the_next(tmp_path: Path, launch: Launch) -> None:
    """Optuna's own lock file would: a link that stays for 30 s."""
    code = """
import os, sys
from pathlib import Path
import optuna
from bertft_core.search.storage import open_storage
storage = open_storage(sys.argv[1], Path(sys.argv[2]))
os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
optuna.create_study(storage=storage.optuna, study_name="s")
"""
    launch(code, FILES[1], str(tmp_path)).wait(60)
    started = time.monotonic()
    optuna.create_study(storage=open_storage(FILES[1], tmp_path).optuna, study_name="t")
    assert time.monotonic() - started < 5


def test_half_a_line_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(FILES[1], tmp_path).optuna, study_name="s")
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    with open(tmp_path / "studies.jsonl", "a", encoding="utf-8") as journal:
        journal.write('{"op_code":4,"work')
    again = optuna.load_study(storage=open_storage(FILES[1], tmp_path).optuna, study_name="s")
    again.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    lines = (tmp_path / "studies.jsonl").read_text().splitlines()
    assert [json.loads(line)["op_code"] for line in lines].count(4) == len(again.trials) == 2


def locked_sqlite(tmp_path: Path) -> tuple[StudyStorage, sqlite3.Connection]:
    """A storage whose file another program holds; its calls wait no 5 s of sqlite's own."""
    storage = open_storage(None, tmp_path, patience_seconds=1)
    storage.call(optuna.create_study, storage=storage.optuna, study_name="s")
    other = sqlite3.connect(tmp_path / "search" / "studies.db", check_same_thread=False)
    other.execute("begin exclusive")
    return storage, other


def impatient(storage: StudyStorage) -> None:
    """Write to the study with sqlite's own busy timeout of 5 s switched off."""
    from sqlalchemy import text

    engine = storage.optuna.engine  # type: ignore[attr-defined]
    with engine.begin() as connection:
        connection.execute(text("pragma busy_timeout = 0"))
        connection.execute(text("insert into studies (study_name) values ('other')"))


def test_a_locked_file_is_tried_again_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage, other = locked_sqlite(tmp_path)
    attempts = []

    def write() -> None:
        attempts.append(1)
        if len(attempts) == 4:
            other.rollback()
        impatient(storage)

    with caplog.at_level(logging.WARNING, logger="bertft_core"):
        storage.call(write)
    assert len(attempts) == 4
    assert [r.getMessage() for r in caplog.records] == [
        f"{storage.shown} does not answer (database is locked): trying again for up to 1 s"
    ]


def test_a_file_locked_for_too_long_says_what_to_do(tmp_path: Path) -> None:
    storage, other = locked_sqlite(tmp_path)
    with pytest.raises(StorageError, match=r"studies\.db did not answer for 1 s \(database is locked\): start"):
        storage.call(impatient, storage)
    other.rollback()


def test_other_faults_are_raised_at_once(storage: StudyStorage) -> None:
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise ValueError("of our own")

    with pytest.raises(ValueError, match="of our own"):
        storage.call(fail)
    assert len(attempts) == 1


def test_a_database_that_refuses_is_named_with_its_own_reason(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}", tmp_path)
    (tmp_path / "studies.db").write_bytes(b"rubbish" * 10_000)
    with pytest.raises(StorageError, match=r"studies\.db refused \(file is not a database\): it is damaged"):
        storage.call(storage.optuna.get_all_studies)


def test_a_busy_lock_within_a_call_is_not_tried_again(storage: StudyStorage) -> None:
    attempts = []

    def claim() -> None:
        attempts.append(1)
        with storage.lock("slots", timeout_seconds=0.05):
            pass

    with storage.lock("slots"), pytest.raises(BusyError):
        storage.call(claim)
    assert len(attempts) == 1


def test_call_passes_arguments_and_the_answer(storage: StudyStorage) -> None:
    assert storage.call(divmod, 7, 2) == (3, 1)


def test_the_dashboard_command_names_the_file(tmp_path: Path) -> None:
    commands = [open_storage(url, tmp_path).dashboard_command() for url in FILES]
    assert commands == [
        f"optuna-dashboard sqlite:///{tmp_path}/studies.db",
        f"optuna-dashboard {tmp_path}/studies.jsonl",
    ]
