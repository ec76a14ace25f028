"""`bertft up`: the local stack of one BERTFT_HOME comes up together, is watched, and ends together.

Prefect server, MLflow server over the home's own store, a process work pool with its worker, on request
optuna-dashboard. flows/stack/services.py runs the programs; this file says which, with what, and when each is healthy.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bertft_core.base.display import masked
from bertft_core.base.errors import ConfigError, InputError, StackError
from bertft_core.base.locks import exclusive
from bertft_core.config.store import PLACE, Store, load_mlflow_config
from bertft_core.tracking.store import EXPERIMENT_TAGS, store_lock
from flows.environment import POOL, service_environment
from flows.stack import secret
from flows.stack.board import board_place
from flows.stack.guard import HOST, hosts, origins
from flows.stack.services import Service, Stack

_ANSWER_SECONDS = 3.0  # a server that is up answers its health endpoint in milliseconds


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the services listen on 127.0.0.1; dashboard None: no optuna-dashboard.

    Raises InputError when two are equal or one is no port.
    """

    prefect: int = 4200
    mlflow: int = 5000
    dashboard: int | None = None

    def __post_init__(self) -> None:
        ports = self.by_service()
        for name, port in ports.items():
            if not 1 <= port <= 65535:
                raise InputError(f"--{name}-port must lie in 1..65535, was {port}")
            if twin := next((other for other in ports if other != name and ports[other] == port), None):
                raise InputError(f"--{name}-port and --{twin}-port are both {port}: give each its own")

    def by_service(self) -> dict[str, int]:
        """Service name to port, of the services that run."""
        ports = {"prefect": self.prefect, "mlflow": self.mlflow, "dashboard": self.dashboard}
        return {name: port for name, port in ports.items() if port is not None}

    @property
    def prefect_address(self) -> str:
        """The Prefect server with its pages."""
        return f"http://{HOST}:{self.prefect}"

    @property
    def mlflow_address(self) -> str:
        """The MLflow server."""
        return f"http://{HOST}:{self.mlflow}"


def own_store(mlflow_file: str | None, home: Path, ports: Ports, *, environ: Mapping[str, str] | None = None) -> Store:
    """The store that runs of `home` use without a server, which the MLflow server stands over.

    An address that an earlier `up` told the shell to export is not taken for it. Raises ConfigError when the store
    is a server already.
    """
    user = os.environ if environ is None else environ
    known = {k: v for k, v in user.items() if v.rstrip("/") != ports.mlflow_address}
    config = load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd(), environ=known)
    store = config.store(home)
    for key, uri in (("tracking_uri", store.tracking_uri), ("registry_uri", store.registry_uri)):
        if uri.startswith(("http://", "https://")):
            raise ConfigError(
                f"{key} is {masked(uri)}, a server already, and `bertft up` starts one of its own over a database: "
                f"unset MLFLOW_{key.upper()}, or take {key} out of {config.origin}"
            )
    return store


def up(
    home: Path,
    store: Store,
    ports: Ports,
    tell: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    *,
    is_open: bool = False,
) -> None:
    """Bring the stack up, `tell` its addresses once all of it is healthy, and keep it until SIGINT or SIGTERM.

    home: absolute BERTFT_HOME. say: takes lines of progress. is_open: ask for no secret. Raises BusyError when this
    home's stack is up already, InputError for a port that is taken, StackError when a service does not come up or
    ends; no service is left.
    """
    begun, stop = time.monotonic(), threading.Event()  # a signal only sets it: no service is left half started
    with exclusive(home / "locks" / "up.lock", f"`bertft up` of {home}"):
        refuse_taken(ports)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        secret.forget(home)
        password = None if is_open else secret.new_secret(home)
        if is_open:
            say("--open: whoever has an account on this machine can run commands as you through these servers")
        plan = services(home, store, ports, os.environ, password)
        stack = Stack(plan, home / "logs", is_stopped=stop.is_set, say=say)
        try:
            with store_lock(store):  # MLflow does not bear two first users of an empty database
                stack.start()
            secret.remember(home, exports(home, store, ports))
            tell(
                {
                    "home": str(home),
                    "pid": os.getpid(),
                    "pool": POOL,
                    "store": store.shown_uri,
                    "board": board_place(home),
                    "seconds": round(time.monotonic() - begun, 1),
                    "services": stack.shown(),
                    "environment": exports(home, store, ports),
                    "user": None if is_open else secret.USER,
                    "secret_file": None if is_open else str(secret.secret_file(home)),
                }
            )
            stack.watch()
        finally:
            say("stopping")
            stack.stop()
            secret.forget(home)


def refuse_taken(ports: Ports) -> None:
    """Raises InputError naming the service, the port and the option when a port of this machine is not free."""
    for name, port in ports.by_service().items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: a port just left is free
            try:
                probe.bind((HOST, port))
            except OSError as fault:
                raise InputError(
                    f"{name} wants port {port} of {HOST}, which is not free ({fault.strerror}): stop what listens "
                    f"there, or choose another with --{name}-port; nothing was started"
                ) from fault


def exports(home: Path, store: Store, ports: Ports) -> dict[str, str]:
    """What another shell needs in its environment to work on this stack."""
    environment = {
        "BERTFT_HOME": str(home),
        "PREFECT_API_URL": f"{ports.prefect_address}/api",
        "MLFLOW_TRACKING_URI": ports.mlflow_address,
    }
    if store.registry_uri != store.tracking_uri:
        environment["MLFLOW_REGISTRY_URI"] = ports.mlflow_address
    return environment


def services(
    home: Path, store: Store, ports: Ports, user: Mapping[str, str], password: str | None = None
) -> list[Service]:
    """The programs of the stack. user: the user's environment, which they inherit. password: what servers ask for.

    Raises InputError when the dashboard is wanted and not installed.
    """
    login = {} if password is None else secret.client_login(password)
    shared = {
        **service_environment(user),
        **exports(home, store, ports),
        **login,
        "PREFECT_HOME": str(home / "prefect"),
        "PYTHONSAFEPATH": "1",  # no local tasks/ or flows/ folder shadows ours, in flow runs of the worker neither
        "PYTHONUNBUFFERED": "1",
    }
    prefect, mlflow = ports.prefect_address, ports.mlflow_address
    # The database goes by environment, and so does the secret: anyone may read a command line.
    own = {
        "MLFLOW_BACKEND_STORE_URI": store.tracking_uri,
        "MLFLOW_REGISTRY_STORE_URI": store.registry_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(store.artifact_root),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else seven more processes of 245 MB each
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts(ports.mlflow)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(ports.mlflow)),
    }
    worker = f"bertft up on {os.uname().nodename}"
    stack = [
        Service(
            name="prefect",
            arguments=("-m", "flows.stack.guard", "prefect", str(ports.prefect)),
            address=prefect,
            environment=shared | secret.prefect_server(password, origins(ports.prefect)),
            is_healthy=lambda since: _ask(f"{prefect}/api/health").strip() == b"true",
        ),
        Service(
            name="mlflow",
            arguments=("-m", "flows.stack.guard", "mlflow", str(ports.mlflow)),
            address=mlflow,
            environment={k: v for k, v in shared.items() if not k.endswith(("_TRACKING_URI", "_REGISTRY_URI"))} | own,
            is_healthy=lambda since: _ask(f"{mlflow}/health", password=password).strip() == b"OK",
            when_healthy=lambda: _make_experiment(store, mlflow, password),
        ),
        Service(
            name="worker",
            arguments=("-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker),
            address=f"work pool {POOL}",
            environment=shared,
            needs=("prefect", "mlflow"),
            is_healthy=lambda since: _is_online(f"{prefect}/api", worker, since, password),
        ),
    ]
    if ports.dashboard is not None:
        if importlib.util.find_spec("optuna_dashboard") is None:
            raise InputError(
                f"--dashboard wants optuna-dashboard, which is not installed here: {sys.executable} -m pip install "
                "'optuna-dashboard>=0.21'"
            )
        dashboard = f"http://{HOST}:{ports.dashboard}"
        stack.append(
            Service(
                name="dashboard",
                arguments=("-m", "flows.stack.guard", "dashboard", str(ports.dashboard)),
                address=dashboard,
                environment=shared,
                is_healthy=lambda since: bool(_ask(f"{dashboard}/dashboard", password=password)),
            )
        )
    return stack


def _is_online(api: str, name: str, since: float, password: str | None) -> bool:
    """Whether the pool's worker `name` has reported after `since`: one of yesterday counts as online for 90 s."""
    client = "bertft-up"
    token = json.loads(_ask(f"{api}/csrf-token?{urlencode({'client': client})}", password=password))["token"]
    change = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}
    found = _ask(f"{api}/work_pools/{POOL}/workers/filter", {}, password=password, **change)
    return any(
        worker["status"] == "ONLINE" and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() >= since
        for worker in json.loads(found)
        if worker["name"] == name
    )


def _make_experiment(store: Store, address: str, password: str | None) -> None:
    """Make the experiment where missing, in the folder that runs without a server use, not one below it.

    Where each configuration has one of its own, its first run makes it.
    """
    if PLACE in store.experiment:
        return
    api = f"{address}/api/2.0/mlflow/experiments"
    try:
        try:
            _ask(f"{api}/get-by-name?{urlencode({'experiment_name': store.experiment})}", password=password)
        except urllib.error.HTTPError as fault:
            if fault.code != 404:
                raise
            tags = [{"key": key, "value": value} for key, value in EXPERIMENT_TAGS.items()]
            wanted = {"name": store.experiment, "artifact_location": store.artifact_root, "tags": tags}
            _ask(f"{api}/create", wanted, password=password)
    except OSError as fault:
        raise StackError(f"mlflow made no experiment {store.experiment!r} in {store.shown_uri}: {fault}") from fault


def _ask(url: str, body: Any = None, *, password: str | None = None, **headers: str) -> bytes:
    """The answer of a service; POST where there is a body. No proxy stands before 127.0.0.1."""
    if password is not None:
        login = base64.b64encode(f"{secret.USER}:{password}".encode())
        headers["Authorization"] = f"Basic {login.decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
        content: bytes = answer.read()
    return content
