"""A home that was copied to another place and deleted at the first one, and a registry that is lost there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


@pytest.fixture(scope="module")
def moved(restore_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of an earlier release, with its home, at a place where it was never at work."""
    folder = tmp_path_factory.mktemp("moved")
    restore_home(folder / "first")
    shutil.copytree(folder / "first", folder / "second place")
    shutil.rmtree(folder / "first")
    return folder / "second place"


def places(home: Path) -> set[str]:
    """Where the database says that artefacts lie."""
    with sqlite3.connect(home / "mlflow.db") as database:
        return {
            value
            for table, column in (
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
                ("model_versions", "source"),
            )
            for (value,) in database.execute(f"select {column} from {table}")
        }


def test_every_verb_works_in_a_moved_home_and_a_lost_registry_is_told(moved, command, document) -> None:
    """One test: each command goes on from what the one before left."""
    home, config = moved / "home", str(moved / "run.yaml")
    assert all("/first/" in place for place in places(home))
    assert document(command(home, "history", "letters", "--json"))["aliases"]["champion"] == "1"
    assert places(home) and all(place.startswith(str(home)) for place in places(home))
    assert document(command(home, "nights", "letters", "--json"))["nights"]

    files = ("--input", str(moved / "rows.csv"), "--output", str(moved / "answers.csv"))
    answered = document(command(home, "predict", "--model", "models:/letters@champion", *files, "--json"))
    assert answered["scored"] == 100
    compared = document(command(home, "compare", "letters", "1", "2", "--data", str(moved / "rows.csv"), "--json"))
    assert compared["n"] > 0
    judged = command(home, "promote", "letters", "2")
    assert judged.returncode in (0, 3), judged.stderr[-2000:]
    document(command(home, "promote", "letters", "2", "--force", "--reason", "moved", "--json"))
    assert document(command(home, "rollback", "letters", "--reason", "moved", "--json"))["champion_after"] == "1"
    assert "rolled back from version 2: moved" in (home / "board.html").read_text()
    document(command(home, "resume", "letters", "--reason", "moved", "--json"))

    night = document(command(home, "nightly", config, "--json"))
    assert night["version"] == "3" and "configuration, encoder or code changed" in night["reason"]
    (browser := moved / "browser").write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{moved}/shown'\n")
    browser.chmod(0o700)
    shown = document(command(home, "report", "--open", "--json", variables={"BROWSER": str(browser)}))
    assert shown["run_id"] == night["run_id"] and Path(shown["report"]).is_file()
    assert (moved / "shown").read_text() == Path(shown["report"]).as_uri()
    assert "nights/letters.html" in (home / "board.html").read_text()  # the night wrote it
    board = document(command(home, "board", "--open", "--json", variables={"BROWSER": str(browser)}))
    assert board["models"] == ["letters"] and not board["faults"]
    assert (moved / "shown").read_text() == Path(board["board"]).as_uri() == (home / "board.html").as_uri()
    assert "configuration, encoder or code changed" in (home / "nights" / "letters.html").read_text()
    assert document(command(home, "nightly", config, "--json"))["reason"].startswith("unchanged since version ")
    assert document(command(home, "run", config, "--json"))["outcome"] in ("unchanged", "kept", "promoted")
    again = document(command(home, "run", config, "--json"))
    assert again["outcome"] == "unchanged" and str(home) in again["look"][1]
    assert document(command(home, "evaluate", config, "--json"))["test"]["n"] == again["test"]["n"]
    document(command(home, "gc", "--apply", "--json"))
    assert not (moved.parent / "first").exists()

    before, runs = document(command(home, "history", "letters", "--json")), sorted((home / "runs").iterdir())
    (home / "mlflow.db").unlink()
    for verb in ("nightly", "run"):
        refused = command(home, verb, config)
        assert refused.returncode == 1 and "the registry has lost model letters (champion version" in refused.stderr
    assert "`bertft adopt letters`" in refused.stderr and sorted((home / "runs").iterdir()) == runs
    nights = document(command(home, "nights", "letters", "--json"))["nights"]
    assert nights[-1]["outcome"] == "failed" and nights[-1]["reason"].startswith("the registry has lost model")
    assert document(command(home, "history", "letters", "--json"))["lost"]
    adopted = document(command(home, "adopt", "letters", "--reason", "no backup", "--json"))
    assert (adopted["outcome"], adopted["champion_after"]) == ("adopted", None)
    assert adopted["champion_before"] == before["aliases"]["champion"]
