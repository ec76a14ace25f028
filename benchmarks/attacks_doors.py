"""Attacks on local servers, through git, and by what a registered version holds."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks import Attack


def git_of_a_configuration(folder: Path) -> str:
    """A configuration's folder with a .git that names programs for git to run."""
    from bertft_core.tracking.lineage import git_tags

    program, ran = folder / "program", folder / "ran"
    program.write_text(f'#!/bin/sh\ntouch "{ran}"\n')
    program.chmod(0o755)
    place = folder / "configs"
    place.mkdir()
    (place / "run.yaml").write_text("name: a\n")
    (place / ".gitattributes").write_text("* filter=evil\n")
    names = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    hostile = (("config", "core.fsmonitor", str(program)), ("config", "filter.evil.clean", str(program)))
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "a"), *hostile):
        subprocess.run(["git", *arguments], cwd=place, env={**os.environ, **names}, check=True, capture_output=True)
    (place / "run.yaml").write_text("name: b\n")
    tags = git_tags(place)
    if ran.exists() or tags.get("bertft.git_dirty") != "true":
        return f"OPEN: the program ran: {ran.exists()}; tags {tags}"
    subprocess.run(["git", "status"], cwd=place, check=False, capture_output=True)
    return f"refused: commit {tags['mlflow.source.git.commit'][:8]} read, nothing run" if ran.exists() else "OPEN: tame"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _status(url: str, body: Any = None, **headers: str) -> int:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as fault:
        return fault.code


@contextlib.contextmanager
def _serving(folder: Path, name: str, environment: dict[str, str], is_healthy: Callable[[str], bool]) -> Iterator[str]:
    """A server as `bertft up` starts it."""
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.stack.guard", name, str(port)],
            env={**os.environ, "BERTFT_HOME": str(folder), **environment},
            stdout=log,
            stderr=log,
        )
        try:
            end = time.monotonic() + 240
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    if is_healthy(address):
                        break
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((folder / "log").read_text()[-300:])
                time.sleep(0.2)
            yield address
        finally:
            server.kill()
            server.wait()


def page_at_prefect(folder: Path) -> str:
    """The three requests by which a page of anybody ran a command: flow, deployment, run; then one under its name."""
    from flows.stack.guard import origins
    from flows.stack.secret import prefect_server

    environment = {"PREFECT_HOME": str(folder), "PREFECT_UI_ENABLED": "0", **prefect_server("hidden", origins(0))}
    environment |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with _serving(folder, "prefect", environment, lambda at: _status(f"{at}/api/health") == 200) as address:
        command = {"name": "page", "flow_id": "0" * 32, "job_variables": {"command": "touch it"}}
        forms = (("flows/", {"name": "page"}), ("deployments/", command), ("deployments/0/create_flow_run", {}))
        met = {_status(f"{address}/api/{path}", body, Origin="http://evil.test") for path, body in forms}
        met.add(_status(f"{address}/api/flows/filter", {}, Host=f"evil.test:{address.rpartition(':')[2]}"))
        token = {"Prefect-Csrf-Token": "a", "Prefect-Csrf-Client": "b"}
        met |= {_status(f"{address}/api/{path}", body, **token) for path, body in forms}
        met.add(_status(f"{address}/api/csrf-token?client=b"))
    return f"{'refused' if met == {401, 403} else 'OPEN'}: answered {sorted(met)}"


def page_at_mlflow(folder: Path) -> str:
    """An experiment made from a page of anybody, under a name like a private address, and without the secret."""
    store, password = f"sqlite:///{folder}/mlflow.db", "hidden"
    names = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_REGISTRY_STORE_URI": store}
    environment = {**names, "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(folder), "MLFLOW_TRACKING_PASSWORD": password}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _serving(folder, "mlflow", environment, lambda at: _status(f"{at}/health") == 401) as address:
        url, port = f"{address}/api/2.0/mlflow/experiments/create", address.rpartition(":")[2]
        strangers = ({"Origin": "http://evil.test"}, {"Origin": "null"}, {"Host": f"10.evil.test:{port}"}, {})
        met = [_status(url, {"name": "page"}, **headers) for headers in strangers]
        met.append(_status(f"{address}/board/"))
    return f"{'refused' if met == [403, 403, 403, 401, 401] else 'OPEN'}: answered {met}"


def environment_and_network_of_a_version(folder: Path) -> str:
    """What code in the process in which versions answer can see: variables, the network, the environment of bertft."""
    from bertft_core.registry import answering, answers

    code = f"""
import json, os, runpy, socket, sys
fault = runpy.run_path({answering.__file__!r}, run_name="tried")["_close_network"]()
def tried(what):
    try:
        what()
        return "open"
    except OSError as refusal:
        return refusal.strerror
network = tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2))
parent = tried(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
print(json.dumps([fault, sorted(os.environ), network, parent]))
"""
    os.environ["AWS_SECRET_ACCESS_KEY"] = os.environ["PGPASSWORD"] = "hidden"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept(), daemon=True).start()
        port = str(listening.getsockname()[1])
        known = answers.answering_environment(os.environ)
        done = subprocess.run([sys.executable, "-P", "-c", code, port], env=known, capture_output=True, check=True)
    fault, variables, network, parent = json.loads(done.stdout)
    secrets = {"AWS_SECRET_ACCESS_KEY", "PGPASSWORD"} & set(variables)
    if fault and not secrets:
        return f"refused: no secret variable; this system keeps its network open, which is said: {fault}"
    is_shut = not secrets and "open" not in (network, parent)
    return f"{'refused' if is_shut else 'OPEN'}: network {network}, environment of bertft {parent}, secrets {secrets}"


ATTACKS = [
    Attack(1, "a web page at Prefect: flow, deployment with a command, run", "401 or 403 each time", page_at_prefect),
    Attack(1, "a web page at MLflow, a foreign name, no secret", "401 or 403 each time", page_at_mlflow),
    Attack(2, "a configuration's .git with fsmonitor and filter", "a commit, no program run", git_of_a_configuration),
    Attack(3, "code of a version looks for keys and a way out", "nothing to see", environment_and_network_of_a_version),
]
