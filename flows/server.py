"""The Prefect server that a flow needs, asked before the flow begins: the user's own, or the embedded one."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from bertft_core.base.display import masked
from bertft_core.base.errors import InputError, fault_text
from flows.environment import STARTUP, server_address
from flows.history import require_history

_TRIES, _PAUSE = 3, 2.0  # of a server that is just being started: seconds between two tries
_ANSWERS_WITHIN = 10.0  # seconds
_STARTS, _PATIENCE = 2, 2.0  # of the embedded server; the second: times its time-out, once that has passed
# what Prefect tells a server that it embeds: no pages, no services; and that its faults are to be read here
_EMBEDDED = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
_MAY_NOT = ("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")  # set by the user: Prefect reads
_HINT = "start one (`bertft up`) or set {variable} to the address of a running one, or unset it: then bertft embeds one"


def require_server() -> None:
    """Return once a Prefect server answers. Raises InputError with the address, the variable and what to do."""
    found = server_address()
    if found is None:
        start_embedded()
    else:
        require_answer(*found)


def begin_server() -> Callable[[], None]:
    """As `require_server`, for a command that has yet to import Prefect: what is returned waits until a server answers.

    Where there is none, it is started here, with Prefect pointed at it (PREFECT_API_URL), and boots beside the imports.
    Left to Prefect it starts after them, and everything waits: 4 to 10 s, of which 2 s go into importing the server's
    code in the command too. Where Prefect is imported already, or told not to embed a server, it is left to Prefect.
    """
    if server_address() is not None or "prefect" in sys.modules or any(map(os.environ.get, _MAY_NOT)):
        require_server()
        return lambda: None
    require_history()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the server)
    server = _embed(port, {}, said)
    atexit.register(server.terminate)  # before Prefect's own, so after them: they still tell it things
    address = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = address

    def wait() -> None:
        end = time.monotonic() + (1 + _PATIENCE) * float(os.environ[STARTUP])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while server.poll() is None and time.monotonic() < end:
            try:
                opener.open(f"{address}/health", timeout=_ANSWERS_WITHIN).close()
                return
            except OSError:
                time.sleep(0.05)
        said.seek(0)
        tail = masked(said.read().decode("utf-8", "replace"))[-1000:].strip()
        hint = _HINT.format(variable="PREFECT_API_URL")
        raise InputError(f"the Prefect server of this command does not answer at {address}; {hint}. {tail}".strip())

    return wait


def _embed(port: int, settings: Mapping[str, str], said: IO[bytes] | None) -> subprocess.Popen[Any]:
    """Start an embedded server that answers this command alone. said: where its last words go."""
    Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.stack.guard", "prefect", str(port)],
        env={**os.environ, **settings, **_EMBEDDED},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
    )


def require_answer(url: str, variable: str) -> None:
    """Ask the server at `url`, which `variable` named. Raises InputError unless it answers as Prefect's API does.

    What it answers for reasons of access (a proxy, a password, Prefect Cloud) is left to Prefect.
    """
    shown, hint = masked(url), _HINT.format(variable=variable)
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{variable} is {shown!r}: wanted an address such as http://127.0.0.1:4200/api")
    try:
        answer = _health(url)
    except OSError as fault:
        reason = str(getattr(fault, "reason", "") or fault or type(fault).__name__)
        raise InputError(f"no Prefect server answers at {shown} ({variable}): {reason}; {hint}") from None
    if answer in ("true", "unknown"):
        return
    longer = f"{url.rstrip('/')}/api"
    try:
        is_longer = _health(longer) == "true"
    except OSError:
        is_longer = False
    todo = f"set {variable}={masked(longer)}" if is_longer else f"its API's address ends in /api; {hint}"
    raise InputError(f"{shown} ({variable}) answers, but not as Prefect's API: {todo}")


def lost_server(fault: BaseException) -> str | None:
    """What to say of a Prefect server that went away under a flow; None for a fault of anything else."""
    request = getattr(fault, "_request", None)  # of httpx, with which Prefect's client asks; `request` raises for none
    address = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    if request is None or not isinstance(fault, sys.modules["httpx"].TransportError) or not address.hostname:
        return None
    if (request.url.host, request.url.port) != (address.hostname, address.port):
        return None
    shown = masked(address.geturl())
    return f"the Prefect server at {shown} went away ({fault_text(fault)}): the same command goes on from what is done"


def _health(url: str) -> str:
    """true, false, or unknown where only Prefect can tell. Raises OSError where nobody answers."""
    parts = urlsplit(url)  # user and password go another way; without them the answer is 401, which is one
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health")
    request = urllib.request.Request(urlunsplit(bare), headers={"Accept": "application/json"})
    is_guarded = any(os.environ.get(name) for name in ("PREFECT_API_KEY", "PREFECT_CLIENT_CUSTOM_HEADERS"))
    for left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN) as response:
                is_true = json.loads(response.read(100)) is True
                return "true" if is_true else "false"
        except urllib.error.HTTPError as fault:
            return "false" if fault.code in (404, 405) and not is_guarded else "unknown"
        except ValueError:  # a page, not JSON
            return "unknown" if is_guarded else "false"
        except OSError as fault:
            if isinstance(getattr(fault, "reason", None), ssl.SSLError):
                return "unknown"  # Prefect has certificates of its own
            if not left:
                raise
            time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def start_embedded(make: Callable[[], Any] | None = None) -> None:
    """Start the server that Prefect embeds: waits on for one that is slow, starts again one that ended.

    make: the server, for tests. Raises InputError after two tries.
    """
    import httpx
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import (
        PREFECT_SERVER_EPHEMERAL_ENABLED,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        get_current_settings,
    )

    class Embedded(SubprocessASGIServer):  # Prefect's clients take the instance that is there
        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            assert self.port is not None
            return _embed(self.port, get_current_settings().to_environment_variables(exclude_unset=True), None)

    if not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        raise InputError(f"Prefect may not embed a server here: {_HINT.format(variable='PREFECT_API_URL')}")
    require_history()
    seconds, reason = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value(), ""
    for _ in range(_STARTS):
        server = (make or Embedded)()
        try:
            server.start()
            return
        except (RuntimeError, httpx.HTTPError) as fault:  # Prefect leaves the process behind
            reason = f"{server.address}: {' '.join(fault_text(fault).split())[:300]}"
        if _comes_up(server, time.monotonic() + _PATIENCE * seconds):
            server.running = True
            return
        server.stop()
    raise InputError(
        f"the Prefect server that bertft embeds did not start in {_STARTS} tries ({reason}): the machine is busy, or "
        f"{os.environ.get('PREFECT_HOME', '~/.prefect')} is damaged. Give it longer than {STARTUP}={seconds} "
        "(seconds), or start one that stays (`bertft up`) and set PREFECT_API_URL"
    )


def _comes_up(server: Any, until: float) -> bool:
    """Whether a server that was given up answers after all; waits while its process lives."""
    while server.server_process is not None and server.server_process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            if _health(server.api_url) == "true":
                return True
    return False
