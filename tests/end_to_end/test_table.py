"""From a table alone: `bertft init FILE` and `bertft run FILE`."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
FAST = ("training.threads=1", "training.precision=float32", "training.epochs=1", "evaluation.resamples=200")


def test_table_runs_without_a_configuration_and_goes_on_with_the_one_it_made(
    project, command, document, encoder: Path, tmp_path: Path
) -> None:
    project()
    config = tmp_path / "run.yaml"
    config.unlink()  # rows.csv and an mlflow.yaml that promotes are left, in the working directory
    arguments = ("run", "rows.csv", "--label", "label", "--model", str(encoder), "--json", *FAST)
    first = command(tmp_path / "home", *arguments)
    result = document(first)
    assert result["promoted"] and result["registered_model"] == "rows"
    (plan,) = (tmp_path / "home" / "plans").iterdir()
    assert plan.read_text("utf-8") in first.stderr and "  label: label  # as --label says: 3 classes" in first.stderr
    again = command(tmp_path / "home", *arguments)
    assert document(again)["reason"] == "unchanged since version 1" and "made before" in again.stderr


def test_init_writes_asks_and_refuses(project, command, document, encoder: Path, tmp_path: Path) -> None:
    project()
    (tmp_path / "run.yaml").unlink()
    home, model = tmp_path / "home", ("--model", str(encoder))
    made = command(home, "init", "rows.csv", *model)
    assert made.returncode == 0 and "next: `bertft check rows.yaml`, `bertft run rows.yaml`" in made.stdout
    assert (tmp_path / "rows.yaml").read_text("utf-8") in made.stdout and not home.exists()
    plan = document(command(home, "check", "rows.yaml", "--json"))
    assert sum(split["rows"] for split in plan["splits"]) == 150
    twice = command(home, "init", "rows.csv", *model)
    assert twice.returncode == 2 and "rows.yaml exists and is left as it is" in twice.stderr
    with open(tmp_path / "desk.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("note", "queue", "priority"))
        writer.writerows((f"the printer number {i} does not answer", "ab"[i % 2], "xy"[i // 2 % 2]) for i in range(60))
    asked = command(home, "init", "desk.csv", *model)
    assert asked.returncode == 2 and "'queue' (2 values: 'a', 'b'); 'priority' (2 values" in asked.stderr
    config = command(home, "run", "rows.yaml", "--label", "label")
    assert config.returncode == 2 and "--label goes with a table; rows.yaml is a configuration" in config.stderr
