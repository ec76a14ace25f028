"""Nights on a schedule of a real Prefect server and worker: fired, not overlapping, cancelled, resumed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SLOW = {"training": {"lr": 2e-3, "batch_size": 1, "epochs": 150, "threads": 1, "precision": "float32"}}
DEPLOY = """
import json, sys
from pathlib import Path
from flows.deployments import Plan, deploy
asked = json.loads(sys.argv[1])
plan = Plan(config_path=Path(asked["config"]), overrides=(), home=Path(asked["home"]), mlflow_file=None,
            cron="* * * * *", timezone="Europe/Berlin")
found = deploy(plan, "desk")
print(json.dumps([one["name"] for one in found["deployments"]]), file=sys.stderr)
print(next(one["id"] for one in found["deployments"] if one["name"].startswith("bertft-nightly/")))
"""


def runs(deployed, *states: str) -> list[dict]:
    asked = {"deployments": {"id": {"any_": [deployed.deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = deployed.ask("flow_runs/filter", asked)
    return [run for run in found if run["state"]["name"] in states]


def wait(condition, seconds: float = 240.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s"
        time.sleep(0.5)
    return found


def pause(deployed) -> None:
    """No further runs by the schedule."""
    found = deployed.ask(f"deployments/{deployed.deployment}")
    assert [s["schedule"]["timezone"] for s in found["schedules"]] == ["Europe/Berlin"]
    deployed.ask(f"deployments/{deployed.deployment}/pause_deployment", {})


def trainers(home: Path) -> list[str]:
    mark, found = f"BERTFT_HOME={home}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"bertft_core.training.trainer" in line and mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def nights(home: Path) -> list[dict]:
    file = home / "nights" / "tiny.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_schedule_fires_refuses_overlap_is_cancelled_and_resumes(prefect_worker, project, tmp_path) -> None:
    config, home = project(search={"trials": 0}, **SLOW), tmp_path / "home"
    deployed = prefect_worker(home, DEPLOY, {"config": str(config), "home": str(home)})
    first = wait(lambda: runs(deployed, "Running"))[0]  # nobody started it but the schedule
    wait(lambda: list(home.glob("runs/*/fit/checkpoint.safetensors")))
    refused = wait(lambda: runs(deployed, "Cancelled"))
    assert first["id"] not in [run["id"] for run in refused]
    pause(deployed)
    begun = time.monotonic()
    deployed.ask(f"flow_runs/{first['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    wait(lambda: not trainers(home), seconds=15)
    assert time.monotonic() - begun < 15
    deployed.wait_for(first["id"], "Cancelled")
    again = deployed.start()
    deployed.wait_for(again, "Completed", seconds=400)
    told = nights(home)
    assert [night["outcome"] for night in told] == ["failed", "promoted"] and "killed" in told[0]["reason"]


def test_deploying_without_a_server_says_what_to_do(command, project, tmp_path) -> None:
    done = command(tmp_path / "home", "deploy", str(project()))
    assert done.returncode == 2 and "bertft up" in done.stderr
