"""A real MLflow server of a test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tracking_server(folder: Path) -> Iterator[int]:
    """The port of a server on sqlite in `folder`, whose clients write artefacts themselves, below folder/shared."""
    port = closed_port()
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts")
    stores = ("--backend-store-uri", f"sqlite:///{folder}/server.db", "--default-artifact-root", str(folder / "shared"))
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *stores],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.5)
        yield port
    finally:
        os.killpg(server.pid, 15)
        server.wait()
