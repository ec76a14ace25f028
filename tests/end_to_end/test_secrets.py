"""A password of the environment is told to nobody: every verb, with servers that are away, others, and that refuse."""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..mlflow_server import closed_port, tracking_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]

CONFIG_VERBS = ("check", "run", "search", "finetune", "evaluate", "nightly", "deploy")
VERBS = {
    **{verb: (verb, "run.yaml") for verb in CONFIG_VERBS},
    "join": ("search", "run.yaml", "--join"),
    "search report": ("search", "run.yaml", "--report"),
    "nights": ("nights", "tiny"),
    "history": ("history", "tiny"),
    "promote": ("promote", "tiny"),
    "force": ("promote", "tiny", "1", "--force", "--reason", "why"),
    "rollback": ("rollback", "tiny", "--reason", "why"),
    "resume": ("resume", "tiny", "--reason", "why"),
    "compare": ("compare", "tiny", "1", "2", "--data", "rows.csv"),
    "predict": ("predict", "--model", "models:/tiny@champion", "--input", "rows.csv", "--output", "out.csv"),
    "adopt": ("adopt", "tiny"),
    "gc": ("gc",),
}


class Secret:
    """A password that no other text holds, and where it is found."""

    def __init__(self) -> None:
        self.core = secrets.token_hex(8)
        self.password = f"{self.core}/@ü%"
        self.encoded = quote(self.password, safe="")
        self.basic = base64.b64encode(f"me:{self.password}".encode()).decode()

    def found(self, data: bytes) -> bool:
        return any(form.encode() in data for form in (self.core, self.basic))

    def places(self, *roots: Path) -> list[str]:
        files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        return [str(path) for path in files if self.found(path.read_bytes())]


@contextmanager
def answering(code: int) -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP server that answers with `code`, and in its text tells all that it was told; port, and what came."""
    came: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            came.append(body)
            told = self.headers.get("Authorization", "")
            plain = base64.b64decode(told.removeprefix("Basic ") or b"").decode("latin-1")
            text = f"<html>no: {self.path} {told} {plain}</html>".encode("utf-8", "replace")
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_PUT = answer

        def log_message(self, *ignored: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, came
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def attempt(project, command, prefect_server, tmp_path: Path) -> Callable[..., None]:
    """Runs verbs under variables that hold a secret, and looks for it wherever bertft writes."""
    project(nightly={"notify": ["env:NIGHT_HOOK"]})
    secret = Secret()

    def run(verbs: tuple[str, ...], port: int, **variables: str) -> list[bytes]:
        told = {name: value.format(secret=secret, port=port) for name, value in variables.items()}
        quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        with answering(403) as (hook, came):
            hooked = {"NIGHT_HOOK": f"http://127.0.0.1:{hook}/services/{secret.core}?token={secret.core}"}
            for verb in verbs:
                done = command(tmp_path / "home", *VERBS[verb], "--debug", variables={**quick, **hooked, **told})
                assert not secret.found((done.stdout + done.stderr).encode()), (verb, done.stdout, done.stderr)
        roots = (tmp_path / "home", tmp_path / "work", Path(prefect_server.clients["PREFECT_HOME"]))
        assert secret.places(*filter(Path.exists, roots)) == []
        assert not any(map(secret.found, came))
        return came

    return run


MLFLOW = {"MLFLOW_TRACKING_URI": "http://me:{secret.encoded}@127.0.0.1:{port}"}


def test_a_dead_tracking_server(attempt) -> None:
    notified = attempt(tuple(VERBS), closed_port(), **MLFLOW)
    assert any(b"failed" in body for body in notified)


@pytest.mark.parametrize("code", [200, 401, 500])
def test_a_tracking_server_that_is_another_or_refuses(attempt, code: int) -> None:
    """Its answers hold what it was told: Authorization, and the password in it."""
    with answering(code) as (port, came):
        attempt(("run", "nightly", "predict", "history"), port, **MLFLOW)
    assert came


def test_a_dead_study_storage_and_prefect_server(attempt) -> None:
    port = closed_port()
    attempt(("search", "nightly"), port, BERTFT_STORAGE="postgresql+psycopg://me:{secret.encoded}@127.0.0.1:{port}/db")
    attempt(("run", "nightly"), port, PREFECT_API_URL="http://me:{secret.encoded}@127.0.0.1:{port}/api")


@pytest.mark.parametrize("code", [401, 403])
def test_a_password_in_a_variable_of_its_own_that_the_server_refuses(attempt, code: int) -> None:
    separate = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "{secret.password}"}
    verbs = tuple(VERBS) if code == 403 else ("run", "history")
    with answering(code) as (server, _):
        attempt(verbs, server, MLFLOW_TRACKING_URI="http://127.0.0.1:{port}", **separate)


def test_a_run_on_a_real_tracking_server_that_wants_a_password(
    project, command, prefect_server, tmp_path: Path
) -> None:
    """Nothing fails here: versions, links, tags, artefacts, pages and the processes' command lines."""
    config, secret, home = project(), Secret(), tmp_path / "home"
    with tracking_server(tmp_path) as port, command_lines() as lines:
        address = f"http://me:{secret.encoded}@127.0.0.1:{port}"
        for verb in ((str(config),), ("tiny",)):
            arguments = ("run", *verb) if verb[0] != "tiny" else ("history", *verb)
            done = command(home, *arguments, "--json", variables={"MLFLOW_TRACKING_URI": address}, cold_children=True)
            assert done.returncode == 0, done.stderr
            assert not secret.found((done.stdout + done.stderr).encode())
    assert json.loads(done.stdout)
    assert secret.places(tmp_path, Path(prefect_server.clients["PREFECT_HOME"])) == []
    assert not [line for line in lines if secret.found(line)]
    link = json.dumps(urls_of(prefect_server.url))
    assert f"http://127.0.0.1:{port}/#/models/tiny/versions/1" in link


def urls_of(api: str) -> Any:
    """What the server knows of link artifacts."""
    body = json.dumps({"artifacts": {"type": {"any_": ["markdown", "table", "link"]}}, "sort": "CREATED_DESC"}).encode()
    request = urllib.request.Request(f"{api}/artifacts/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """What anyone may read of this machine's processes while the block runs."""
    seen: set[bytes] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    seen.add(Path(f"/proc/{pid}/cmdline").read_bytes())
                except OSError:
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    ended.set()
    thread.join()
