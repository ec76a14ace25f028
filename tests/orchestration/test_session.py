"""A command that is interrupted or killed leaves no process of its own behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..processes import is_gone

pytestmark = pytest.mark.orchestration
# the child ignores SIGINT and SIGTERM is its default: it stands for Prefect's embedded server
CODE = """
import subprocess, sys, time
from flows.command.session import watch_over
watch_over("run", is_served=False)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(120)
"""


def start(tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-P", "-c", CODE]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_interrupt_ends_at_once_with_one_line_and_takes_the_children_along(tmp_path: Path) -> None:
    process, child = start(tmp_path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=5)
    assert process.returncode == 1 and said == "bertft run: interrupted; the same command continues\n"
    assert is_gone(child, seconds=10)


def test_killed_command_takes_its_children_along(tmp_path: Path) -> None:
    process, child = start(tmp_path)
    process.kill()
    process.wait()
    assert is_gone(child, seconds=10)


ROADS = {
    "beside the imports": """
from flows.server import begin_server
await_server = begin_server()
from prefect import flow
await_server()
address = os.environ["PREFECT_API_URL"]
""",
    "by Prefect": """
from prefect import flow
from flows.server import require_server
require_server()
from prefect.server.api.server import SubprocessASGIServer
address = SubprocessASGIServer().api_url
""",
}
SERVED = """
import json, os, sys, urllib.error, urllib.request
from pathlib import Path
from flows.environment import prepare_environment
prepare_environment(Path(sys.argv[1]))
ROAD
def status(path, body, **headers):
    headers["Content-Type"] = "application/json"
    try:
        return urllib.request.urlopen(urllib.request.Request(address + path, body, headers)).status
    except urllib.error.HTTPError as fault:
        return fault.code
refused = [status("/csrf-token?client=c", None), status("/flows/filter", b"{}")]
refused += [status("/health", None, Origin="http://evil.test"), status("/health", None, Host="evil.test")]
ran = flow(lambda: "ran", name="served")()
print(json.dumps([address, ran, refused, "prefect.server.api.server" in sys.modules]))
"""


@pytest.mark.parametrize("road", ROADS)
def test_server_of_a_command_serves_its_flows_alone_and_ends_with_it(tmp_path: Path, road: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {**own, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-c", SERVED.replace("ROAD", ROADS[road]), str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    address, ran, refused, is_embedded = json.loads(done.stdout)
    assert address.startswith("http://127.0.0.1:") and ran == "ran"
    assert refused == [401, 403, 403, 403]
    assert is_embedded == (road == "by Prefect")
    end = time.monotonic() + 20
    while time.monotonic() < end and is_open(address):
        time.sleep(0.1)
    assert not is_open(address)


def is_open(address: str) -> bool:
    port = int(address.removesuffix("/api").rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
