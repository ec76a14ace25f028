"""Before a flow begins: does a Prefect server answer, and if not, what is to be done."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bertft_core.base.errors import InputError
from flows import server

pytestmark = pytest.mark.orchestration


@contextlib.contextmanager
def answering(pages: dict[str, tuple[int, str]]) -> Iterator[str]:
    """A server of these pages; every other path has the one of ''."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, pages[""])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *parts: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PAGE = (200, "<!doctype html><html>Prefect</html>")
HEALTHY = (200, "true")


def test_a_server_that_answers_is_enough() -> None:
    with answering({"/api/health": HEALTHY, "": PAGE}) as address:
        server.require_answer(f"{address}/api", "PREFECT_API_URL")
        server.require_answer(f"{address}/api/", "PREFECT_API_URL")


@pytest.mark.parametrize("start", ["", "/"])
@pytest.mark.parametrize("page", [PAGE, (404, "no"), (405, "no"), (200, '"2.14.3"')])
def test_an_address_without_api_is_refused_with_the_right_one(page: tuple[int, str], start: str) -> None:
    with answering({"/api/health": HEALTHY, "": page}) as address:
        wanted = rf"\(PREFECT_API_URL\) answers, but not as Prefect's API: set PREFECT_API_URL={address}/api$"
        with pytest.raises(InputError, match=wanted):
            server.require_answer(address + start, "PREFECT_API_URL")


def test_something_else_at_the_address_is_refused() -> None:
    with answering({"": PAGE}) as address, pytest.raises(InputError, match=r"address ends in /api; start one"):
        server.require_answer(address, "PREFECT_API_URL")


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_what_only_prefect_can_tell_is_left_to_it(status: int) -> None:
    with answering({"": (status, "no")}) as address:
        server.require_answer(f"{address}/api", "PREFECT_API_URL")


def test_a_server_behind_headers_of_the_user_is_left_to_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"x-token": "y"}')
    with answering({"": PAGE}) as address:
        server.require_answer(f"{address}/api", "PREFECT_API_URL")


def test_where_nobody_listens_the_address_the_variable_and_the_remedy_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_PAUSE", 0.01)
    url = f"http://user:hush@127.0.0.1:{free_port()}/api"
    with pytest.raises(
        InputError, match=r"no Prefect server answers at .* \(P\): .*refused.*bertft up.* set P "
    ) as found:
        server.require_answer(url, "P")
    assert "hush" not in str(found.value)


def test_a_server_that_comes_up_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PAUSE", 0.3)
    port, late = free_port(), threading.Event()

    def listen() -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"true")

            def log_message(self, *parts: object) -> None:
                pass

        late.wait(0.2)
        with http.server.HTTPServer(("127.0.0.1", port), Handler) as found:
            found.handle_request()

    thread = threading.Thread(target=listen)
    thread.start()
    server.require_answer(f"http://127.0.0.1:{port}/api", "PREFECT_API_URL")
    thread.join()


def test_a_server_that_goes_away_under_a_flow_is_named_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(httpx.ConnectError) as asked:
        httpx.get(f"http://127.0.0.1:{port}/api/flow_runs/")
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:secret-word@127.0.0.1:{port}/api")
    said = server.lost_server(asked.value)
    assert said is not None and said.startswith("the Prefect server at http://") and "secret-word" not in said
    assert f"127.0.0.1:{port}/api went away (ConnectError: " in said and said.endswith("goes on from what is done")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port + 1}/api")
    assert server.lost_server(asked.value) is None
    assert server.lost_server(OSError("no")) is None


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"PREFECT_API_URL is 'localhost:4200/api': wanted an address such as http"):
        server.require_answer("localhost:4200/api", "PREFECT_API_URL")


class Slow:
    """An embedded server that ends before it answers, a number of times."""

    address, server_process = "http://127.0.0.1:8999", None

    def __init__(self, needs: int) -> None:
        self.needs, self.starts, self.stops = needs, 0, 0

    def start(self) -> None:
        self.starts += 1
        if self.starts < self.needs:
            raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

    def stop(self) -> None:
        self.stops += 1


def test_an_embedded_server_that_ended_is_started_again() -> None:
    slow = Slow(needs=2)
    server.start_embedded(lambda: slow)
    assert (slow.starts, slow.stops) == (2, 1)


def test_an_embedded_server_that_does_not_start_ends_in_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"did not start in 2 tries \(http://127\.0\.0\.1:8999: RuntimeError: Timed out.*STARTUP_TIM"
    ):
        server.start_embedded(lambda: Slow(needs=9))


def test_an_embedded_server_that_is_slow_is_waited_for_and_not_started_again() -> None:
    with answering({"/api/health": HEALTHY, "": PAGE}) as address:
        slow = Slow(needs=9)
        slow.api_url, slow.running = f"{address}/api", False
        slow.server_process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        try:
            server.start_embedded(lambda: slow)
            assert (slow.starts, slow.stops, slow.running) == (1, 0, True)
        finally:
            slow.server_process.communicate()


def test_the_command_line_ends_with_two_where_nobody_listens(project, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "BERTFT_"))}
    root = str(Path(__file__).parents[2])
    own = {"PREFECT_API_URL": url, "BERTFT_HOME": str(tmp_path / "home"), "PYTHONPATH": root, "HOME": str(tmp_path)}
    code = "import sys; from flows.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-P", "-c", code, "run", str(project())]
    done = subprocess.run(arguments, env=kept | own, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and url in done.stderr and "PREFECT_API_URL" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
