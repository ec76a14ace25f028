"""A real Prefect server with a process worker, and deployments on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A deployment on a server at `url`."""

    url: str
    deployment: str

    def ask(self, path: str, body: Any = None) -> Any:
        """One call of the server's API; POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as fault:
                if fault.code != 503 or time.monotonic() > deadline:  # 503: its database is busy
                    raise
            time.sleep(1)

    def start(self) -> str:
        """The id of a new flow run."""
        return str(self.ask(f"deployments/{self.deployment}/create_flow_run", {})["id"])

    def wait_for(self, run: str, *states: str, seconds: float = 180.0) -> None:
        """Wait until the run is in one of these states; it must not fail before."""
        deadline = time.monotonic() + seconds
        while (found := self.ask(f"flow_runs/{run}")["state"])["name"] not in states:
            assert found["name"] not in {"Failed", "Crashed"}, found
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {states}, found {found}"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def prefect_worker(
    prefect_server: Callable[..., dict[str, str]], clean_environment: Callable[[Path], dict[str, str]]
) -> Callable[..., Deployed]:
    """Runs the code of a deployment (argument: its parameters as JSON; prints its id) against a server and worker."""
    clients = prefect_server()
    url = clients["PREFECT_API_URL"]

    def deploy(home: Path, code: str, parameters: dict[str, Any]) -> Deployed:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, json.dumps(parameters)], env={**clean_environment(home), **clients},
            cwd=clients["PREFECT_HOME"], capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return Deployed(url=url, deployment=done.stdout.split()[-1])

    Deployed(url=url, deployment="").ask("work_pools/", {"name": "desk", "type": "process"})
    prefect_server("worker", "start", "--pool", "desk", "--type", "process")
    return deploy
