"""Studies and MLflow runs on a real PostgreSQL server, with several processes and with machines that share no file."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest

from bertft_core.base.errors import BusyError, DataError, StorageError
from bertft_core.config.run import DataConfig
from bertft_core.config.store import load_mlflow_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.search.storage import StudyStorage, open_storage
from bertft_core.testing.postgres import LocalPostgres
from bertft_core.tracking import store as tracking
from bertft_core.tracking.locks import model_lock

pytestmark = [pytest.mark.postgres, pytest.mark.orchestration]
Launch = Callable[..., "subprocess.Popen[str]"]
Finished = Callable[..., list[str]]

ENSURE = """
import sys
from pathlib import Path
from bertft_core.config.store import load_mlflow_config
from bertft_core.tracking import store as tracking
uri, home, artifacts = sys.argv[1:]
config = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts})
store = tracking.open_store(config, home)
print(tracking.find_or_create_run(store, "key", "search"))
"""


@pytest.fixture
def storage(database_url: str, tmp_path: Path) -> StudyStorage:
    return open_storage(database_url, tmp_path)


def test_the_lock_excludes_threads_processes_and_homes(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str], finished: Finished
) -> None:
    (tmp_path / "counter").write_text("0")
    finished(
        *(
            launch(scripts["count"], storage.url, str(tmp_path / f"{i}"), str(tmp_path / "counter"), "12")
            for i in range(4)
        )
    )
    assert (tmp_path / "counter").read_text() == str(4 * 2 * 12)


def test_a_held_lock_names_its_holder(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str]
) -> None:
    holder = launch(scripts["hold"], storage.url, str(tmp_path))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=rf"bertft {holder.pid} on .*: wait") as fault, storage.lock("held", 0.1):
        pass
    assert "hunter2" not in str(fault.value)
    holder.kill()
    holder.communicate()


def test_a_killed_holder_frees_the_lock_at_once(
    storage: StudyStorage, tmp_path: Path, launch: Launch, scripts: dict[str, str]
) -> None:
    holder = launch(scripts["hold"], storage.url, str(tmp_path))
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    started = time.monotonic()
    with storage.lock("held", timeout_seconds=5):
        assert time.monotonic() - started < 1


def test_locks_of_different_names_and_databases_do_not_meet(
    storage: StudyStorage, postgres: LocalPostgres, tmp_path: Path
) -> None:
    other = open_storage(postgres.url(postgres.create_database()), tmp_path)
    with storage.lock("first"), storage.lock("second", 0.2), other.lock("first", 0.2):
        pass


def test_four_processes_ask_for_eighty_different_trials(
    database_url: str, tmp_path: Path, launch: Launch, scripts: dict[str, str], finished: Finished
) -> None:
    """All four start on an empty database: they make the tables at the same time, too."""
    outputs = finished(*(launch(scripts["ask and tell"], database_url, str(tmp_path), "0") for _ in range(4)))
    assert sorted(int(n) for out in outputs for n in out.split()) == list(range(80))


def test_a_study_survives_restarts_of_the_server(
    database_url: str, postgres: LocalPostgres, tmp_path: Path, launch: Launch, scripts: dict[str, str]
) -> None:
    worker = launch(scripts["ask and tell"], database_url, str(tmp_path), "0.2")  # at work when the server goes
    assert worker.stdout is not None
    for _ in range(3):
        assert worker.stdout.readline()
        postgres.stop()
        time.sleep(0.3)
        postgres.start()
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 0, errors
    assert "trying again" in errors and "hunter2" not in errors and "Traceback" not in errors
    study = optuna.load_study(storage=open_storage(database_url, tmp_path).optuna, study_name="s")
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) == 20
    assert all(t.value == t.params["x"] for t in complete)


def test_a_lock_within_a_call_outlasts_a_restart(storage: StudyStorage, postgres: LocalPostgres) -> None:
    study = optuna.create_study(storage=storage.optuna, study_name="s")

    def claim() -> int:
        with storage.lock("slots"):
            return study.ask().number

    postgres.stop()
    threading.Timer(0.8, postgres.start).start()
    assert storage.call(claim) == 0


def test_a_lock_lost_with_its_server_is_a_warning(
    storage: StudyStorage, postgres: LocalPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with storage.lock("slots"):
        postgres.restart()
    assert ["was lost before its end" in r.getMessage() for r in caplog.records] == [True]


def test_nights_of_two_homes_exclude_each_other_and_other_models_do_not(database_url: str, tmp_path: Path) -> None:
    """studies: the database that machines have in common where the registry is none."""
    own = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": database_url})
    served = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    for config, studies in ((own, None), (served, database_url)):
        one, two = (config.store(tmp_path / home) for home in ("one", "two"))
        with model_lock(one, "night", "news", 0.0, studies):
            with pytest.raises(BusyError, match="a night of news"), model_lock(two, "night", "news", 0.0, studies):
                pass
            with model_lock(two, "night", "letters", 0.0, studies), model_lock(two, "release", "news", 0.0, studies):
                pass
        with model_lock(two, "night", "news", 0.0, studies):
            pass


def test_patience_ends_with_what_to_do(database_url: str, postgres: LocalPostgres, tmp_path: Path) -> None:
    storage = open_storage(database_url, tmp_path, patience_seconds=1)
    postgres.stop()
    with pytest.raises(StorageError, match=r"\*\*\*@127.* did not answer for 1 s .*start the database again") as fault:
        storage.call(storage.optuna.get_all_studies)
    assert "hunter2" not in str(fault.value) and "\n" not in str(fault.value)


def test_a_stopped_server_is_named_without_password(database_url: str, postgres: LocalPostgres, tmp_path: Path) -> None:
    postgres.stop()
    with pytest.raises(StorageError, match=r"\*\*\*@127\.0\.0\.1:\d+/bertft_\d+ cannot be used .*refused") as fault:
        open_storage(database_url, tmp_path)
    assert "hunter2" not in str(fault.value) and "\n" not in str(fault.value)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    """It takes the connection and says nothing; without connect_timeout libpq waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2"
        started = time.monotonic()
        with pytest.raises(StorageError, match="timeout"):
            open_storage(url, tmp_path)
    assert time.monotonic() - started < 6


def test_a_missing_database_is_named(postgres: LocalPostgres, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match='database "nowhere" does not exist'):
        open_storage(postgres.url("nowhere"), tmp_path)


def test_the_dashboard_command_shows_no_password(storage: StudyStorage) -> None:
    assert storage.dashboard_command().startswith('optuna-dashboard "$BERTFT_STORAGE"  # ')
    assert "hunter2" not in storage.dashboard_command()


def test_a_unix_socket_is_a_storage_and_its_command_complete(postgres: LocalPostgres, tmp_path: Path) -> None:
    url = postgres.url(postgres.create_database(), over_socket=True)
    assert open_storage(url, tmp_path).dashboard_command() == f"optuna-dashboard '{url}'"


@pytest.mark.parametrize("over_socket", [False, True])
def test_machines_without_a_common_file_share_one_mlflow_run(
    over_socket: bool, postgres: LocalPostgres, tmp_path: Path, launch: Launch, finished: Finished
) -> None:
    """Three first users of an empty database at once; without the server's lock MLflow's migrations collide."""
    uri = postgres.url(postgres.create_database(), over_socket=over_socket)
    homes = [tmp_path / f"machine{i}" for i in range(3)]
    outputs = finished(*(launch(ENSURE, uri, str(home), str(tmp_path / "artifacts")) for home in homes))
    assert len(set(outputs)) == 1


def test_mlflow_yaml_takes_a_unix_socket(postgres: LocalPostgres, tmp_path: Path) -> None:
    uri = postgres.url(postgres.create_database(), over_socket=True)
    (tmp_path / "mlflow.yaml").write_text(f"tracking_uri: {uri}\n", encoding="utf-8")
    store = tracking.open_store(load_mlflow_config(tmp_path / "mlflow.yaml", environ={}), tmp_path / "home")
    run = tracking.find_or_create_run(store, "key", "final")
    tracking.log_metrics(store, run, {"macro_f1": 0.5})
    tracking.finish_run(store, run)
    assert tracking.run_status(store, run) == "FINISHED"
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_stopped_mlflow_store_is_named_without_password(
    database_url: str, postgres: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertft_core.base.postgres.UNREACHABLE_SECONDS", 0.5)
    postgres.stop()
    config = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": database_url})
    with pytest.raises(StorageError, match=r"\*\*\*@127\.0\.0\.1.* cannot be used") as fault:
        tracking.open_store(config, tmp_path / "home")
    assert "hunter2" not in str(fault.value)


def test_rows_of_a_select_are_streamed_and_nothing_is_written(
    postgres: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session refuses what the text of a SELECT hides: a DELETE within WITH, a function that writes."""
    name = postgres.create_database()
    with psycopg.connect(f"host=127.0.0.1 port={postgres.port} user=postgres dbname={name}", autocommit=True) as made:
        made.execute("CREATE TABLE mails (body text, kind text, day date, price numeric)")
        made.execute(
            "INSERT INTO mails SELECT 'text number ' || i, CASE i % 2 WHEN 0 THEN 'ham' ELSE 'spam' END, "
            "date '2026-01-01' + i % 28, 1.50 FROM generate_series(0, 4999) AS i"
        )
        made.execute("CREATE SEQUENCE numbers")

        def prepared(query: str, **data: Any) -> DatasetSplits:
            config = DataConfig(source="env:MAILS", query=query, **data)
            return prepare_dataset(config, tmp_path / "home" / "data", tmp_path)

        monkeypatch.setenv("MAILS", postgres.url(name, password="hunter2"))
        query = "SELECT body AS text, kind AS label, day, price FROM mails WHERE body LIKE 'text%'"
        first = prepared(query, date="day", slices=["price"])
        assert first.report.rows_read == 5000 and first.report.rows_used == 5000
        assert first.table("train")["slices"][0].as_py() == ["1.50"]
        turned = prepared(f"{query} ORDER BY body DESC", date="day", slices=["price"])
        assert turned.fingerprint == first.fingerprint
        writing = "WITH gone AS (DELETE FROM mails RETURNING *) SELECT body AS text, kind AS label FROM gone"
        for text in (writing, "SELECT nextval('numbers')::text AS text, 'a' AS label"):
            with pytest.raises(
                DataError, match=r"data\.source: .*: .*(in a read-only transaction|data-modifying statements in WITH)"
            ) as fault:
                prepared(text)
            assert "hunter2" not in str(fault.value)
        assert made.execute("SELECT count(*) FROM mails").fetchone() == (5000,)
        monkeypatch.setenv("MAILS", postgres.url("nowhere", password="hunter2"))
        with pytest.raises(StorageError, match=r"database \"nowhere\" does not exist") as fault:
            prepared(query)
        assert "hunter2" not in str(fault.value)
