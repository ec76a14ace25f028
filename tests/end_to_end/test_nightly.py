"""Nights from the command line on tiny data: one outcome and a reason each, whatever happened."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bertft_core.base.clock import Stamp
from bertft_core.base.locks import exclusive
from bertft_core.recipe.nights.log import Night, NightLog, OpenNight

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
    assert (quiet["outcome"], quiet["reason"], quiet["run_id"]) == ("skipped", "unchanged since version 1", None)
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


def test_a_night_skipped_for_one_that_hangs_tells_people_once(nights, project) -> None:
    """The other night holds the lock and took more than twice what nights take, by what this machine has run."""
    project(search={"trials": 0}, nightly={"notify": ["env:NIGHT_HOOK"]})
    log, now = NightLog(nights.home, "tiny"), Stamp.now()
    usual = {"night": "2026-01-01", "started": "2026-01-01T02:00:00+00:00"}
    log.begin(OpenNight(night="2026-01-02", started="2026-01-02T02:00:00+00:00", clock=str(now)))
    with hook() as (address, came), exclusive(nights.home / "locks" / "nightly-tiny.lock", "a night of tiny"):
        how = {"variables": {"NIGHT_HOOK": address}}
        log.add(Night(**usual, outcome="promoted", reason="first", seconds=7200.0))
        in_time = nights.run(**how)
        assert in_time["outcome"] == "skipped" and "hangs" not in in_time["reason"] and came == []
        log.add(Night(**usual | {"night": "2026-01-02"}, outcome="promoted", reason="second", seconds=7200.0))
        older = replace(now, ran=now.ran - 3 * 7200.0)
        log.begin(OpenNight(night="2026-01-02", started="2026-01-02T02:00:00+00:00", clock=str(older)))
        hanging = [nights.run(**how) for _ in range(2)]
    assert [night["outcome"] for night in hanging] == ["skipped", "skipped"]
    why = "at work for 6.0 h, longer than twice the 2.0 h that nights take: if it hangs, end its process"
    assert all(why in night["reason"] for night in hanging)
    (told,) = came
    assert "bertft tiny" in told and why in told


@contextmanager
def hook() -> Iterator[tuple[str, list[str]]]:
    """A webhook's address, and what came there."""
    came: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *ignored: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/night", came
    finally:
        server.shutdown()
        server.server_close()


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
