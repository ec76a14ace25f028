"""Artefacts of a home that was moved or copied: real sqlite stores with a registered version."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.base.locks import exclusive
from bertft_core.registry import aliases, artifacts
from bertft_core.tracking import moved
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"


@pytest.fixture
def copy(store, publish, tmp_path):
    """Copies a home with one version to another path; the store there, not yet opened."""
    publish()

    def go(name="copy"):
        shutil.copytree(store.home, tmp_path / name)
        return store.config.store(tmp_path / name)

    return go


def places(store):
    with sqlite3.connect(Path(store.home) / "mlflow.db") as database:
        return {place for t, c in moved._PLACES for (place,) in database.execute(f"select {c} from {t}")}


def left(store, former):
    """Places in the database of `store` that are still below the home that it was copied from."""
    return {place for place in places(store) if place.startswith(former.home)}


def test_copy_takes_its_files_along_and_writes_nothing_into_the_original(store, copy, tmp_path, caplog):
    other = copy()
    before, files = places(store), sorted(Path(store.home).rglob("*"))
    tracking.ensure_store(other)
    assert not left(other, store) and places(store) == before
    assert "this home was moved or copied" in caplog.text and store.artifact_root in caplog.text
    (tmp_path / "report.md").write_text("x")
    run = tracking.find_or_create_run(other, "k1", "final")
    tracking.log_files(other, run, [tmp_path / "report.md"])
    assert list(Path(other.home).rglob("report.md")) and sorted(Path(store.home).rglob("*")) == files


def test_moved_home_serves_and_registers_and_says_so_once(store, copy, served, caplog):
    other = copy()
    shutil.rmtree(store.home)
    tracking.ensure_store(other)
    caplog.clear()
    folder = artifacts.resolve_model(other, f"models:/{MODEL}/1").folder
    assert (folder / "model.safetensors").is_file() and folder.is_relative_to(other.home)
    artifacts.require_files(other, aliases.get_version(other, MODEL, "1"))
    assert not caplog.records and not Path(store.home).exists()


def test_home_by_a_link_is_the_same_place(store, publish, tmp_path, caplog):
    publish()
    (tmp_path / "link").symlink_to(store.home)
    before = places(store)
    tracking.ensure_store(replace(store, home=str(tmp_path / "link"), artifact_root=str(tmp_path / "link/artifacts")))
    assert places(store) == before and not caplog.records


def test_database_without_its_files_keeps_its_places(store, copy):
    other = copy()
    shutil.rmtree(Path(other.home) / "artifacts")
    before = places(other)
    tracking.ensure_store(other)
    assert places(other) == before
    with pytest.raises(ConfigError, match=r"keeps its artefacts in .*move the files there"):
        tracking.find_or_create_run(other, "k2", "final")


def test_home_at_work_under_another_name_is_read_and_not_rewritten(store, copy):
    other = copy()
    shutil.rmtree(store.home)
    lock = Path(other.home) / "locks" / "nightly-letters.lock"
    code = (
        "import sys\nfrom bertft_core.base.locks import exclusive\n"
        f"with exclusive({str(lock)!r}, 'a night'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    try:
        before = places(other)
        folder = artifacts.resolve_model(other, f"models:/{MODEL}/1").folder
        assert (folder / "model.safetensors").is_file() and places(other) == before
        with pytest.raises(ConfigError, match="no other one is at work"):
            tracking.find_or_create_run(other, "k2", "final")
    finally:
        holder.communicate()
    with exclusive(lock, "a night of this process"):
        tracking.find_or_create_run(other, "k2", "final")
    assert not left(other, store)
