"""Homes by any name, and who may read what lies in them and in an artefact root of the user's own."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from bertft_core.base.errors import InputError
from bertft_core.base.home import open_home, others_may_read
from bertft_core.config.store import MlflowConfig
from bertft_core.search.storage import open_storage
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
NAMES = ("a#b 50%", "%41 q'u\"o", "ünï 漢 {x}$HOME;b&c=d@e:f", "line\n")


def modes(root: Path) -> set[str]:
    return {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in root.rglob("*") if not path.is_symlink()}


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", NAMES)
def test_databases_and_artefacts_lie_in_a_home_of_any_name(name: str, tmp_path: Path) -> None:
    home, file = open_home(tmp_path / name), tmp_path / "note.txt"
    file.write_text("found again")
    store = tracking.open_store(MlflowConfig(), home)
    run = tracking.find_or_create_run(store, "key", "role")
    tracking.log_files(store, run, [file], "evaluation")
    api = tracking.client(store)
    model = api.create_logged_model(tracking.ensure_store(store), name="classifier", source_run_id=run)
    api.log_model_artifacts(model.model_id, str(home / "artifacts" / run))
    inside = f"artifacts/evaluation/{file.name}"
    assert tracking.download_files(store, model.model_id, inside, tmp_path / "got").read_text() == "found again"
    optuna.create_study(storage=open_storage(None, home).optuna, study_name="s")
    for database, table in (("mlflow.db", "runs"), ("search/studies.db", "studies")):
        with sqlite3.connect(home / database) as read:
            assert read.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    assert {path.name for path in tmp_path.iterdir()} == {home.name, file.name, "got", "work"}
    assert not list((tmp_path / "work").iterdir())  # the working directory: nothing fell there


def test_prefect_keeps_its_database_in_a_home_of_any_name(tmp_path: Path) -> None:
    """Prefect's own code makes the URL, and parses it: its server is asked to open its database."""
    code = """
import asyncio, os, sys
from prefect.context import root_settings_context
from prefect.server.database.dependencies import provide_database_interface
async def touch():
    engine = await provide_database_interface().engine()
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE here (x INTEGER)")
for home in sys.argv[1:]:
    if not (child := os.fork()):
        os.environ["PREFECT_HOME"] = home
        with root_settings_context():  # as it is made when Prefect is imported
            asyncio.run(touch())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, home
"""
    homes = [tmp_path / name / "prefect" for name in NAMES]
    for home in homes:
        home.mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    subprocess.run([sys.executable, "-c", code, *map(str, homes)], env=kept, check=True, timeout=300)
    for name, home in zip(NAMES, homes, strict=True):
        with sqlite3.connect(home / "prefect.db") as read:
            assert read.execute("SELECT name FROM sqlite_master").fetchall() == [("here",)], name


def test_a_question_mark_in_the_home_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"BERTFT_HOME .*a\?b.* holds a question mark.*choose another folder"):
        open_home(tmp_path / "a?b")
    assert not list(tmp_path.glob("a*"))


def test_a_home_that_others_may_read_is_told_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = open_home(tmp_path)
    assert "(mode 0755): `chmod -R go= " in (others_may_read(home) or "")
    assert others_may_read(home) is None
    home.chmod(0o700)
    assert others_may_read(home) is None
    home.chmod(0o750)
    assert "(mode 0750)" in (others_may_read(home) or "")


def test_artefacts_outside_the_home_follow_the_users_umask(tmp_path: Path, usual_umask: None) -> None:
    """As a command does it: private from the beginning, the umask of the user remembered."""
    code = """
import sys
from pathlib import Path
from bertft_core.base.files import keep_private, write_json
from bertft_core.base.home import open_home
from bertft_core.config.store import MlflowConfig
from bertft_core.tracking import store as tracking
keep_private()
home, shared = open_home(sys.argv[1]), sys.argv[2]
store = tracking.open_store(MlflowConfig(artifact_root=shared), home)
write_json(home / "report.json", [])
run = tracking.find_or_create_run(store, "key", "role")
tracking.log_files(store, run, [home / "report.json"], "evaluation")
import subprocess  # a flow run of a worker that the command started
known = "from bertft_core.base.files import process_umask, users_umask; print(process_umask(), users_umask())"
assert subprocess.check_output([sys.executable, "-c", known]).split() == [b"63", b"18"]  # 077 and 022
"""
    home, shared = tmp_path / "home", tmp_path / "shared"
    subprocess.run([sys.executable, "-c", code, str(home), str(shared)], check=True, timeout=300)
    assert modes(home) <= {"700", "600"}
    assert modes(shared) == {"755", "644"}
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
