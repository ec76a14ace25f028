"""A home that vanishes between two nights, with the registry alive elsewhere."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


def test_night_without_its_home_trains_nothing_twice_and_knows_the_champion(
    project: Callable[..., Path], command: Any, document: Any, rows: Any, tmp_path: Path
) -> None:
    """One test: each night goes on from what the one before left."""
    config, home = project(search={"trials": 0}), tmp_path / "home"
    (tmp_path / "mlflow.yaml").write_text(
        "tracking_uri: sqlite:///registry/mlflow.db\nartifact_root: registry/artifacts\npromotion: {baseline: off}\n",
        encoding="utf-8",
    )
    first = document(command(home, "nightly", str(config), "--json"))
    assert (first["outcome"], first["version"]) == ("promoted", "1") and "no champion yet" in first["reason"]

    shutil.rmtree(home)
    second = document(command(home, "nightly", str(config), "--json"))
    assert (second["outcome"], second["version"]) == ("skipped", "1")
    assert second["reason"] == "unchanged since version 1, as the registry has it; this home has nothing of that run"
    assert "seconds_finetune" not in second["facts"]
    assert document(command(home, "nightly", str(config), "--json"))["reason"] == "unchanged"

    shutil.rmtree(home)
    with open(tmp_path / "rows.csv", "a", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows(90, seed=5)[60:])
    third = document(command(home, "nightly", str(config), "--json"))
    assert third["version"] == "2" and "no champion yet" not in third["reason"]
    assert "this home remembers no training" in third["reason"]
    entries = document(command(home, "history", "tiny", "--json"))["entries"]
    assert entries[-1]["from_version"] == "1" and entries[-1]["numbers"]["champion_score"] is not None
