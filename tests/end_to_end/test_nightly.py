"""Nights from the command line on tiny data: one outcome and a reason each, whatever happened."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from ..processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


@pytest.fixture
def nights(project, command, tmp_path):
    """Runs `nightly` and gives its document; extra keyword arguments are sections of the configuration."""

    class Nights:
        home = tmp_path / "home"
        config = project(search={"trials": 0}, nightly={"new_rows": 20})

        def add(self, rows, file="rows.csv"):
            with open(tmp_path / file, "a", newline="", encoding="utf-8") as handle:
                csv.writer(handle).writerows(rows)

        def run(self, *arguments, code=0, **how):
            done = command(self.home, "nightly", str(self.config), *arguments, "--json", **how)
            assert done.returncode == code, done.stderr[-3000:]
            return json.loads(done.stdout)

        def log(self):
            done = command(self.home, "nights", "tiny", "--json")
            return json.loads(done.stdout)["nights"]

    return Nights()


def test_quiet_nights_and_a_new_class(nights) -> None:
    """Nights that train for a reason: test_thirty_nights.py."""
    first = nights.run()
    assert (first["outcome"], first["version"]) == ("promoted", "1")
    quiet = nights.run()
    assert (quiet["outcome"], quiet["reason"], quiet["run_id"]) == ("skipped", "unchanged", None)
    assert quiet["seconds"] < 15
    nights.add([("a third kind of text", "third")] * 2 + [(f"third kind {i}", "third") for i in range(30)])
    refused = nights.run(code=2)
    assert refused["outcome"] == "data rejected" and "nightly.new_class: fail" in refused["reason"]
    told = nights.run("nightly.new_class=warn")
    assert told["outcome"] == "skipped", told["reason"]
    log = nights.log()
    assert [n["outcome"] for n in log] == ["promoted", "skipped", "data rejected", "skipped"]
    assert _mlflow_nights(nights.home) == [n["outcome"] for n in log]


def _mlflow_nights(home: Path) -> list[str]:
    import mlflow

    api = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiments = [e.experiment_id for e in api.search_experiments()]
    found = api.search_runs(experiments, "tags.`bertft.role` = 'night'", order_by=["attributes.start_time ASC"])
    return [run.data.tags["bertft.outcome"] for run in found]


def test_killed_night_is_told_and_gone_on_with(nights, begin) -> None:
    slow = ["training.epochs=12", "training.batch_size=1"]  # seconds after the first checkpoint, an epoch old
    process = begin(nights.home, "nightly", str(nights.config), *slow)
    deadline = time.monotonic() + 400
    while not list(nights.home.glob("runs/*/fit/checkpoint.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    after = nights.run(*slow)
    assert after["outcome"] == "promoted"
    assert [(n["outcome"], "killed" in n["reason"]) for n in nights.log()] == [("failed", True), ("promoted", False)]


def test_time_limit_ends_a_night_with_all_its_processes(nights) -> None:
    slow = ["training.epochs=60", "training.batch_size=1"]
    late = nights.run(*slow, "nightly.timeout=12", code=1, cold_children=True)  # whose environment tells the home
    assert late["outcome"] == "failed" and "nightly.timeout of 12 s passed" in late["reason"]
    left = [line for line in processes(home=nights.home).values() if "sys.stdin.buffer.read" not in line]  # the reaper
    assert left == []


def test_replay_of_a_past_night_leaves_the_live_model_alone(project, command, rows, tmp_path) -> None:
    config = project(search={"trials": 0}, data={"source": "dated.csv", "date": "day"})
    dated = [(t, y, f"2026-01-{1 + i // 15:02}") for i, (t, y) in enumerate(rows(300))]
    with open(tmp_path / "dated.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label", "day"), *dated])
    home = tmp_path / "home"
    past = json.loads(command(home, "nightly", str(config), "--as-of", "2026-01-12", "--json").stdout)
    assert (past["outcome"], past["facts"]["rows"], past["name"]) == ("promoted", 180, "tiny-replay")
    live = command(home, "history", "tiny", "--json")
    assert live.returncode == 2 and "tiny" in live.stderr  # no such registered model
