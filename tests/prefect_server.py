"""A real Prefect server of the tests' own, and deployments on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


@dataclass(frozen=True, kw_only=True)
class PrefectServer:
    """A real Prefect server. clients: the environment of those who use it. beside: starts a `prefect` command there."""

    url: str
    clients: dict[str, str]
    beside: Callable[..., None]

    def ask(self, path: str, body: Any = None) -> Any:
        """One call of the server's API; POST where there is a body."""
        return Deployed(url=self.url, deployment="").ask(path, body)

    def settings(self) -> dict[str, str]:
        """What a command must know to use it."""
        return {name: value for name, value in self.clients.items() if name.startswith("PREFECT_")}


@contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[PrefectServer]:
    """A server whose files lie in `folder`; what is started beside it ends before it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    clients = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "1",  # a worker looks for work every 10 s otherwise
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
    }
    running: list[subprocess.Popen[Any]] = []

    with open(folder / "log.txt", "w") as log:

        def launch(*arguments: str) -> None:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "prefect", *arguments],
                    env={**environment, **clients},
                    cwd=folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

        try:
            launch("server", "start", "--host", "127.0.0.1", "--port", str(port))
            api, deadline = Deployed(url=url, deployment=""), time.monotonic() + 300
            while not _answers(api):
                assert time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.5)
            yield PrefectServer(url=url, clients=clients, beside=launch)
        finally:
            for process in reversed(running):  # a worker whose server is gone waits for it
                _end(process)


def _answers(api: Deployed) -> bool:
    try:
        return bool(api.ask("health"))
    except OSError:
        return False


def _end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM to the process and its children, SIGKILL to those that are still there after 20 s."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
