"""Nights on a schedule of a real Prefect server and worker: fired, not overlapping, cancelled, resumed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..processes import processes

pytestmark = pytest.mark.slow
EPOCHS = 10  # a fit of seconds; it must outlast its cancellation
SLOW = {"training": {"lr": 2e-3, "batch_size": 1, "epochs": EPOCHS, "threads": 1, "precision": "float32"}}
DEPLOY = """
import json, sys
from pathlib import Path
from flows.deployments import Plan, deploy
asked = json.loads(sys.argv[1])
plan = Plan(config_path=Path(asked["config"]), overrides=(), home=Path(asked["home"]),
            mlflow_file=Path(asked["mlflow"]), cron="* * * * *", timezone="Europe/Berlin")
found = deploy(plan, "desk")
print(next(one["id"] for one in found["deployments"] if one["name"].startswith("bertft-nightly/")))
"""


def runs(deployed: Any, name: str) -> list[dict[str, Any]]:
    """Flow runs of the nights in this state."""
    asked = {"deployments": {"id": {"any_": [deployed.deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return [run for run in deployed.ask("flow_runs/filter", asked) if run["state"]["name"] == name]


def wait(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s"
        time.sleep(0.2)
    return found


def pause(deployed: Any) -> None:
    """No further runs by the schedule."""
    found = deployed.ask(f"deployments/{deployed.deployment}")
    assert [s["schedule"]["timezone"] for s in found["schedules"]] == ["Europe/Berlin"]
    deployed.ask(f"deployments/{deployed.deployment}/pause_deployment", {})


def trainers(home: Path) -> dict[int, str]:
    return processes(home=home, doing="process.trainer")


@contextmanager
def standing_still(pids: Iterable[int]) -> Iterator[None]:
    """A fit of seconds that outlasts the minute."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def is_free(lock: Path) -> bool:
    with open(lock, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def said(deployed: Any, run: str) -> str:
    """What the night and the chain in it said to Prefect."""
    chain = deployed.ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    asked = {"logs": {"flow_run_id": {"any_": [run, *(one["id"] for one in chain)]}}, "sort": "TIMESTAMP_ASC"}
    return "\n".join(line["message"] for line in deployed.ask("logs/filter", asked))


def epochs(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^ *epoch (\d+): validation", text, re.MULTILINE)]


def nights(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "nights" / "tiny.jsonl").read_text().splitlines()]


def test_schedule_fires_refuses_overlap_is_cancelled_resumes_and_asks(prefect_worker, project, tmp_path) -> None:
    config, home = project(search={"trials": 0}, **SLOW), tmp_path / "home"
    asking = tmp_path / "asking.yaml"
    asking.write_text("promotion: {baseline: off, require_approval: true}\n")
    deployed = prefect_worker(home, DEPLOY, {"config": str(config), "home": str(home), "mlflow": str(asking)})
    first = wait(lambda: runs(deployed, "Running"))[0]["id"]  # nobody started it but the schedule
    wait(lambda: list(home.glob("runs/*/fit/checkpoint.safetensors")))
    with standing_still(trainers(home)):
        refused = wait(lambda: runs(deployed, "Skipped"))[0]
        pause(deployed)
        assert refused["id"] != first and nights(home)[0]["outcome"] == "skipped"
        assert "a night of tiny is already running" in nights(home)[0]["reason"]
        deployed.ask(f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait(lambda: not trainers(home) and is_free(home / "locks" / "nightly-tiny.lock"), seconds=15)
    deployed.wait_for(first, "Cancelled")
    again = deployed.start()
    deployed.wait_for(again, "AwaitingApproval", seconds=400)  # not suspended: its release is nested
    told = [night for night in nights(home) if night["outcome"] != "skipped"]
    assert [night["outcome"] for night in told] == ["failed", "awaiting approval"] and "killed" in told[0]["reason"]
    wait(lambda: "awaiting approval" in said(deployed, again), seconds=30)  # lines travel in batches
    before, after = said(deployed, first), said(deployed, again)
    # each line once; the second run goes on where the first one was cancelled
    assert epochs(before)[0] == 1 and epochs(after) == list(range(epochs(after)[0], EPOCHS + 1)), (before, after)
    assert epochs(after)[0] > 1
    assert "training: this home remembers no training" in before and "finetune took" in after
    assert "bertft promote tiny 1 --approve" in told[1]["reason"]


def test_deploying_without_a_server_says_what_to_do(command, project, tmp_path) -> None:
    done = command(tmp_path / "home", "deploy", str(project()))
    assert done.returncode == 2 and "bertft up" in done.stderr
