"""A home that vanishes between two nights, with the registry alive elsewhere."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


@pytest.fixture
def apart(project: Callable[..., Path]) -> Callable[..., Path]:
    """As `project`, with the registry outside the home, in the folder `registry`."""

    def make(**sections: Any) -> Path:
        config = project(**sections)
        config.with_name("mlflow.yaml").write_text(
            "tracking_uri: sqlite:///registry/mlflow.db\nartifact_root: registry/artifacts\n"
            "promotion: {baseline: off}\n",
            encoding="utf-8",
        )
        return config

    return make


def test_nights_without_a_home_are_those_of_one_that_lasts(
    apart: Callable[..., Path], command: Any, document: Any, rows: Any, tmp_path: Path
) -> None:
    """One test: each night goes on from what the one before left."""
    config, home = apart(search={"trials": 0}, nightly={"new_rows": 20}), tmp_path / "home"
    first = document(command(home, "nightly", str(config), "--json"))
    assert (first["outcome"], first["version"]) == ("promoted", "1") and "no champion yet" in first["reason"]

    shutil.rmtree(home)
    second = document(command(home, "nightly", str(config), "--json"))
    assert (second["outcome"], second["reason"]) == ("skipped", "unchanged since version 1")
    assert "seconds_tokenize" not in second["facts"] and second["seconds"] < 60

    table = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    for text, refusal in (
        (table[: len(table) // 3].rpartition("\n")[0] + "\n", "nightly.halved: fail"),
        (table + "".join(f"third kind {i},third\n" for i in range(30)), "nightly.new_class: fail"),
        (
            "\n".join(line for line in table.splitlines() if not line.endswith("food")) + "\n",
            "nightly.lost_class: fail",
        ),
    ):
        shutil.rmtree(home)
        (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
        refused = command(home, "nightly", str(config), "--json")
        assert refused.returncode == 2 and refusal in refused.stdout, refused.stdout[-2000:]
    (tmp_path / "rows.csv").write_text(table, encoding="utf-8")

    shutil.rmtree(home)
    nights = document(command(home, "nights", "tiny", "--json"))["nights"]
    assert [night["outcome"] for night in nights] == ["promoted", "skipped", *["data rejected"] * 3]
    with open(tmp_path / "rows.csv", "a", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows(90, seed=5)[60:])
    third = document(command(home, "nightly", str(config), "--json"))
    assert third["version"] == "2" and "no champion yet" not in third["reason"]
    assert "trained: 30 new rows (nightly.new_rows: 20)" in third["reason"]
    entries = document(command(home, "history", "tiny", "--json"))["entries"]
    assert entries[-1]["from_version"] == "1" and entries[-1]["numbers"]["champion_score"] is not None


def test_trials_of_a_night_before_stay_and_a_champion_without_a_record_is_compared_with(
    apart: Callable[..., Path], command: Any, document: Any, rows: Any, tmp_path: Path
) -> None:
    """One test: each night goes on from what the one before left."""
    import mlflow

    config, home = apart(), tmp_path / "home"
    document(command(home, "nightly", str(config), "--json"))
    api = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}")
    api.delete_registered_model_tag("tiny", "mlflow.bertft.last_training.tiny")  # as a registry of an earlier release

    shutil.rmtree(home)
    document(command(home, "search", str(config), "--json"))  # a new study of the same run
    again = document(command(home, "nightly", str(config), "--force", "--json"))
    assert again["version"] == "2" and "no champion yet" not in again["reason"]
    assert "there is no record of a last training; compared with that of champion version 1" in again["reason"]
    experiments = [e.experiment_id for e in api.search_experiments()]
    runs = api.search_runs(experiments, "tags.`bertft.role` = 'trial'")
    deleted = api.search_runs(experiments, run_view_type=mlflow.entities.ViewType.DELETED_ONLY)
    trials = [run.data.tags["bertft.run_key"] for run in runs]
    assert sorted(map(trials.count, set(trials))) == [2, 4] and not deleted  # two studies of the first run
    first, second = (api.get_model_version("tiny", version) for version in ("1", "2"))
    assert second.tags["bertft.run_id"] == f"{first.tags['bertft.run_id']}-2"
