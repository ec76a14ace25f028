"""`bertft up`: a real Prefect server, MLflow server and worker in one home, and how they end."""

from __future__ import annotations

import base64
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.config.store import load_mlflow_config
from bertft_core.tracking import store as tracking
from flows.environment import POOL, service_environment
from flows.stack.secret import client_login, log_in
from flows.stack.up import Ports, own_store, refuse_taken, services

from ..browser import browsing, find_browser
from ..processes import processes

pytestmark = pytest.mark.orchestration
MAIN = "import sys; from flows.cli import main; sys.exit(main())"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """One request; where Prefect's sqlite is locked for a moment (503) again, as Prefect's own client does."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    for wait in (1, 4, None):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read().decode()
            break
        except urllib.error.HTTPError as fault:
            if fault.code != 503 or wait is None:
                raise
            time.sleep(wait)
    return json.loads(text) if text[:1] in "[{" else text


def refusal(url: str, body: Any = None, headers: dict[str, str] | None = None) -> int:
    """The status that a request is refused with."""
    with pytest.raises(urllib.error.HTTPError) as fault:
        ask(url, body, headers)
    return fault.value.code


@dataclass(frozen=True, kw_only=True)
class Up:
    """A running `bertft up` that has said all is healthy."""

    process: subprocess.Popen[str]
    home: Path
    ports: Ports
    document: dict[str, Any]

    def pid(self, name: str) -> int:
        return next(int(one["pid"]) for one in self.document["services"] if one["name"] == name)

    @property
    def addresses(self) -> dict[str, str]:
        return dict(self.document["environment"])

    @property
    def secret(self) -> str:
        return Path(self.document["secret_file"]).read_text()

    @property
    def login(self) -> dict[str, str]:
        """What a client of Prefect or MLflow that is not ours needs besides the addresses."""
        return client_login(self.secret)

    def headers(self, *, changes: bool = True) -> dict[str, str]:
        """Of a request that may pass. changes: with Prefect's token for requests that change something."""
        sent = {"Authorization": "Basic " + base64.b64encode(f"bertft:{self.secret}".encode()).decode()}
        if changes:
            token = ask(f"{self.addresses['PREFECT_API_URL']}/csrf-token?client=test", headers=sent)["token"]
            sent |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"}
        return sent

    def ask(self, path: str, body: Any = None) -> Any:
        """One call of Prefect's API."""
        return ask(f"{self.addresses['PREFECT_API_URL']}/{path}", body, self.headers(changes=body is not None))

    def ask_mlflow(self, path: str, body: Any = None) -> Any:
        """One call of MLflow's server."""
        return ask(f"{self.addresses['MLFLOW_TRACKING_URI']}{path}", body, self.headers(changes=False))

    def said(self) -> str:
        return (self.home.parent / "stderr").read_text()

    def left(self) -> list[str]:
        """Command lines of processes of this home, the command itself included."""
        return list(processes(home=self.home).values())

    def leaves_nothing(self, seconds: float = 10.0) -> bool:
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.left()


def bring_up(folder: Path, environment: dict[str, str]) -> Up:
    """Start `bertft up --json` in `folder`, whose tasks/ folder is not ours, without our interpreter on PATH."""
    prefect, mlflow = free_ports(2)
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "tasks" / "__init__.py").write_text("raise ImportError('a local folder')\n")
    with open(folder / "stderr", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", MAIN, "up", "--json", f"--prefect-port={prefect}", f"--mlflow-port={mlflow}"],
            env={**environment, "PATH": "/usr/bin:/bin"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("}"):
            break
    assert lines, (folder / "stderr").read_text()
    ports = Ports(prefect=prefect, mlflow=mlflow)
    return Up(process=process, home=folder / "home", ports=ports, document=json.loads("".join(lines)))


def end(up: Up) -> None:
    up.process.send_signal(signal.SIGTERM)
    try:
        up.process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        up.process.kill()
        up.process.wait()


DEPLOY = """
import json, sys
from prefect.deployments.runner import EntrypointType
from flows.pipeline import pipeline
from flows.environment import POOL
made = pipeline.to_deployment("test", entrypoint_type=EntrypointType.MODULE_PATH, parameters=json.loads(sys.argv[1]))
print(made.apply(work_pool_name=POOL))
"""


def start_chain(up: Up, config: Path, environment: dict[str, str]) -> str:
    """The id of a flow run of the chain on the stack's pool."""
    asked = json.dumps({"config_path": str(config), "home": str(up.home)})
    made = subprocess.run(
        [sys.executable, "-P", "-c", DEPLOY, asked],
        env={**environment, **up.addresses, **up.login},
        cwd=up.home.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return str(up.ask(f"deployments/{made.stdout.split()[-1]}/create_flow_run", {})["id"])


def wait_for(up: Up, run: str, name: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while (state := up.ask(f"flow_runs/{run}")["state"])["name"] != name:
        assert state["name"] not in {"Failed", "Crashed"} and time.monotonic() < deadline, state
        time.sleep(0.5)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, clean_environment: Callable[[Path], dict[str, str]]
) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("stack")
    up = bring_up(folder, clean_environment(folder / "home"))
    yield up
    end(up)


@pytest.fixture(scope="module")
def forked(
    command_server: Callable[..., Any],
    clean_environment: Callable[[Path], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`command` for verbs that ask no Prefect server: each of five would import all libraries anew."""
    folder = tmp_path_factory.mktemp("forked")
    server = command_server(clean_environment(folder / "home"), folder / "log.txt")

    def run(home: Path, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        home.parent.mkdir(parents=True, exist_ok=True)
        done: subprocess.CompletedProcess[str] = server.run(
            arguments, clean_environment(home) | (variables or {}), home.parent, 120
        )
        return done

    yield run
    server.close()


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all stacks that a test ends: only the first makes the databases, the others find them as left."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def own_stack(own_folder: Path, clean_environment: Callable[[Path], dict[str, str]]) -> Iterator[Up]:
    """A stack that the test may end."""
    up = bring_up(own_folder, clean_environment(own_folder / "home"))
    yield up
    end(up)


def test_all_services_are_told_with_address_process_and_seconds(stack: Up) -> None:
    told = stack.document["services"]
    assert [one["address"] for one in sorted(told, key=lambda one: str(one["name"]))] == [
        stack.ports.mlflow_address,
        stack.ports.prefect_address,
        f"work pool {POOL}",
    ]
    assert all(Path(f"/proc/{one['pid']}").exists() and one["seconds"] > 0 for one in told)


def test_the_addresses_answer_with_their_pages(stack: Up) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}  # followed on another site's page
    assert "<title>Prefect" in ask(stack.ports.prefect_address, headers=link)
    assert "<title>MLflow" in stack.ask_mlflow("/")


def test_the_worker_is_online_on_the_process_pool(stack: Up) -> None:
    assert stack.ask(f"work_pools/{POOL}")["type"] == "process"
    (worker,) = stack.ask(f"work_pools/{POOL}/workers/filter", {})
    assert worker["status"] == "ONLINE"


def test_the_experiment_keeps_its_artefacts_where_runs_without_a_server_do(stack: Up) -> None:
    found = stack.ask_mlflow("/api/2.0/mlflow/experiments/get-by-name?experiment_name=bertft")["experiment"]
    assert found["artifact_location"] == str(stack.home / "artifacts")
    kinds = [tag["value"] for tag in found["tags"] if tag["key"] == "mlflow.experimentKind"]
    assert kinds == ["custom_model_development"]  # its page opens with the runs, not with traces of agents


FLOW = ("flows/", {"name": "page"})


@pytest.fixture(scope="module")
def forms(stack: Up) -> list[tuple[str, Any]]:
    """What a page of anybody would send: a flow, a deployment whose run is a command of the page's, and that run.

    The first two have passed once with all that is asked for, so what a test leaves out is what they are refused for.
    """
    flow = stack.ask(*FLOW)["id"]
    command = {"command": f"touch {stack.home}/run"}
    deployment = {"name": "page", "flow_id": flow, "work_pool_name": POOL, "job_variables": command}
    made = stack.ask("deployments/", {**deployment, "paused": True})["id"]
    return [FLOW, ("deployments/", deployment), (f"deployments/{made}/create_flow_run", {})]


STRANGERS = {
    "a page of another site": {"Origin": "http://evil.test"},
    "a page of another server of this machine": {"Origin": "http://127.0.0.1:9"},
    "a page without a name": {"Origin": "null"},
    "a name that leads to this machine": {"Host": "evil.test:{port}"},
    "a name like a private address": {"Host": "10.evil.test:{port}"},
    "a picture on another site's page": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
    "a frame on another site's page": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"},
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_request_from_elsewhere_is_refused_by_both_servers_even_with_the_secret(
    stack: Up, forms: list[tuple[str, Any]], stranger: str
) -> None:
    for address, port, calls in (
        (stack.addresses["PREFECT_API_URL"], stack.ports.prefect, [*forms, ("flows/filter", {}), ("health", None)]),
        (f"{stack.ports.mlflow_address}/api/2.0/mlflow/experiments", stack.ports.mlflow, [("create", {"name": "x"})]),
    ):
        sent = {name: value.format(port=port) for name, value in STRANGERS[stranger].items()}
        for path, body in calls:
            assert refusal(f"{address}/{path}", body, {**stack.headers(), **sent}) == 403, (path, sent)


def test_a_request_without_the_secret_is_refused_by_both_servers(stack: Up, forms: list[tuple[str, Any]]) -> None:
    token = {name: value for name, value in stack.headers().items() if name != "Authorization"}
    wrong = {"Authorization": "Basic " + base64.b64encode(b"bertft:wrong").decode()}
    for path, body in forms:
        assert refusal(f"{stack.addresses['PREFECT_API_URL']}/{path}", body, token) == 401
        assert refusal(f"{stack.addresses['PREFECT_API_URL']}/{path}", body, {**token, **wrong}) == 401
    create = f"{stack.ports.mlflow_address}/api/2.0/mlflow/experiments/create"
    for headers in ({}, wrong):
        assert refusal(create, {"name": "x"}, headers) == 401
        assert refusal(stack.ports.mlflow_address, headers=headers) == 401


def test_a_change_without_prefects_token_is_refused(stack: Up, forms: list[tuple[str, Any]]) -> None:
    for path, body in forms:
        assert refusal(f"{stack.addresses['PREFECT_API_URL']}/{path}", body, stack.headers(changes=False)) == 403


def test_a_websocket_opens_for_the_own_page_with_the_secret_alone(stack: Up) -> None:
    url = f"ws://127.0.0.1:{stack.ports.prefect}/api/events/out"
    subprotocol = [Subprotocol("prefect")]
    for origin in ("http://evil.test", f"http://127.0.0.1:{stack.ports.mlflow}"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin=Origin(origin), subprotocols=subprotocol, proxy=None)
    own = {"origin": Origin(stack.ports.prefect_address), "subprotocols": subprotocol, "proxy": None}
    with connect(url, **own) as wire:
        wire.send(json.dumps({"type": "auth", "token": "wrong"}))
        with pytest.raises(ConnectionClosedError, match="Invalid token"):
            wire.recv(timeout=20)
    with connect(url, **own) as wire:
        wire.send(json.dumps({"type": "auth", "token": f"bertft:{stack.secret}"}))
        assert json.loads(wire.recv(timeout=20))["type"] == "auth_success"


def test_the_secret_is_in_one_file_of_the_users_own_and_in_what_servers_and_worker_were_given(stack: Up) -> None:
    file = Path(stack.document["secret_file"])
    assert file.stat().st_mode & 0o777 == 0o600 and len(stack.secret) >= 32
    logs = [log.read_text() for log in (stack.home / "logs").iterdir()]
    seen = [json.dumps(stack.document), stack.said(), *stack.left(), *logs]
    assert not [text for text in seen if stack.secret in text]
    holders = [f for f in stack.home.rglob("*") if f.is_file() and stack.secret.encode() in f.read_bytes()]
    assert holders == [file]


def test_commands_find_the_secret_by_the_address_and_give_it_to_no_other_server(
    stack: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in stack.login:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://team.test:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team.test:5000")
    log_in(stack.home)
    assert not set(stack.login) & set(os.environ)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{stack.ports.mlflow_address}/")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of a stack before")
    log_in(stack.home)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == stack.secret and "PREFECT_API_AUTH_STRING" not in os.environ


def test_the_board_is_served_behind_the_same_check_and_no_other_file_of_the_home_is(stack: Up) -> None:
    address = stack.document["board"]
    assert address == f"{stack.ports.mlflow_address}/board/" and "No model yet" in stack.ask_mlflow("/board")
    assert refusal(address) == 401 and refusal(address, headers={**stack.headers(), "Host": "evil.test"}) == 403
    for path in ("secret", "mlflow.db", "../home/secret", "%2e%2e/home/secret", "runs/0123456789ab/run.json"):
        assert refusal(f"{address}{path}", headers=stack.headers()) == 404, path
    assert refusal(address, {}, stack.headers()) == 405
    night = stack.home / "nights" / "desk.html"
    night.parent.mkdir(exist_ok=True)
    night.write_text("a night")
    assert stack.ask_mlflow("/board/nights/desk.html") == "a night"


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH")
def test_both_pages_work_in_a_browser_that_is_given_the_secret_and_another_page_reaches_nothing(
    stack: Up, forms: list[tuple[str, Any]], tmp_path: Path
) -> None:
    with browsing(tmp_path / "profile") as page, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        page.open(stack.ports.prefect_address)
        page.wait_for("!!document.querySelector('input[type=password]')")
        page.run("document.querySelector('input[type=password]').focus()")
        page.type(f"bertft:{stack.secret}")
        page.wait_for("location.pathname.endsWith('/dashboard')")
        page.open(f"{stack.ports.prefect_address}/v2/work-pools")
        page.wait_for_text(POOL, "Last Polled")
        page.open(stack.ports.mlflow_address)
        page.wait_for_text("refused: no secret")
        page.login = ("bertft", stack.secret)
        page.open(f"{stack.ports.mlflow_address}/#/experiments")
        page.open(stack.ports.mlflow_address)  # a page that differs in its fragment alone is not asked for again
        page.wait_for_text("Experiments", "Model training")
        page.open(stack.document["board"])
        page.wait_for_text("No model yet", "no run has registered a model here")

        threading.Thread(target=other.serve_forever, daemon=True).start()
        before = stack.ask("flows/filter", {}), stack.ask("flow_runs/filter", {})
        page.open(f"http://127.0.0.1:{other.server_port}/")
        page.wait_for_text("another page")
        for path, body in forms:
            url = f"{stack.addresses['PREFECT_API_URL']}/{path}"
            for mode in ("cors", "no-cors"):
                sent = f"method: 'POST', mode: {mode!r}, credentials: 'include', body: {json.dumps(json.dumps(body))}"
                page.run(f"fetch({url!r}, {{{sent}}}).then(found => found.status, fault => -1)")
        assert (
            page.run(f"fetch({stack.ports.mlflow_address!r}, {{credentials: 'include'}}).catch(() => 'none')") == "none"
        )
        assert (stack.ask("flows/filter", {}), stack.ask("flow_runs/filter", {})) == before
        other.shutdown()
    assert not (stack.home / "run").exists()


class Other(http.server.BaseHTTPRequestHandler):
    """A page of somebody else."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<body>another page</body>")

    def log_message(self, *parts: object) -> None:
        pass


def test_nothing_listens_beyond_this_machine(stack: Up) -> None:
    listening = [row.split()[1] for row in Path("/proc/net/tcp").read_text().splitlines()[1:] if row.split()[3] == "0A"]
    ours = {f"{port:04X}" for port in stack.ports.by_service().values()}
    found = [address for address in listening if address.partition(":")[2] in ours]
    assert len(found) == 2 and {address.partition(":")[0] for address in found} == {"0100007F"}


def test_databases_and_logs_lie_in_the_home_and_the_working_directory_stays_as_it_was(stack: Up) -> None:
    for file in ("mlflow.db", "prefect/prefect.db", "logs/prefect.log", "logs/mlflow.log", "logs/worker.log"):
        assert (stack.home / file).is_file(), file
    assert sorted(p.name for p in stack.home.parent.iterdir()) == ["home", "stderr", "tasks"]


def test_a_second_up_in_the_same_home_is_refused_naming_the_first(
    stack: Up, forked: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = forked(stack.home, "up")
    assert done.returncode == 1 and f"already running in process {stack.process.pid}" in done.stderr


def test_a_taken_port_is_refused_by_name_before_anything_starts(
    stack: Up, tmp_path: Path, forked: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (free,) = free_ports(1)
    taken = stack.ports.mlflow
    done = forked(tmp_path / "own" / "home", "up", f"--prefect-port={free}", f"--mlflow-port={taken}")
    assert done.returncode == 2 and not (tmp_path / "own" / "home" / "logs").exists()
    assert f"mlflow wants port {taken}" in done.stderr and "--mlflow-port" in done.stderr


@pytest.mark.slow
def test_interrupt_ends_all_and_a_run_of_the_worker_within_ten_seconds(
    own_stack: Up, project: Callable[..., Path], clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    config = project(search={"trials": 0}, training={"epochs": 500, "batch_size": 8, "threads": 1})
    wait_for(own_stack, start_chain(own_stack, config, clean_environment(own_stack.home)), "Running")
    while not any("bertft_core.recipe.process.trainer" in line for line in own_stack.left()):
        time.sleep(0.2)
    begun = time.monotonic()
    os.killpg(own_stack.process.pid, signal.SIGINT)  # as a terminal does
    assert own_stack.process.wait(timeout=30) == 0, own_stack.said()
    assert time.monotonic() - begun < 10
    assert own_stack.leaves_nothing(seconds=2)  # what watches over the command ends after it


@pytest.mark.slow
def test_a_killed_service_ends_all_with_its_name_and_the_end_of_its_log(own_stack: Up) -> None:
    os.kill(own_stack.pid("mlflow"), signal.SIGKILL)
    assert own_stack.process.wait(timeout=30) == 1
    assert "bertft up: mlflow ended (signal SIGKILL)" in own_stack.said() and "Uvicorn running" in own_stack.said()
    assert own_stack.leaves_nothing()


@pytest.mark.slow
def test_the_worker_runs_the_chain_and_the_same_home_goes_on_without_a_server(
    stack: Up,
    project: Callable[..., Path],
    clean_environment: Callable[[Path], dict[str, str]],
    command: Callable[..., subprocess.CompletedProcess[str]],
    forked: Callable[..., subprocess.CompletedProcess[str]],
    document: Callable[[subprocess.CompletedProcess[str]], dict[str, Any]],
) -> None:
    config = project(search={"trials": 0})
    wait_for(stack, start_chain(stack, config, clean_environment(stack.home)), "Promoted")
    shown = document(forked(stack.home, "history", "tiny", "--json"))
    assert shown["aliases"]["champion"] == "1"
    again = document(command(stack.home, "run", str(config), "--json"))
    assert again["reason"].startswith("unchanged since version 1")
    served = document(forked(stack.home, "history", "tiny", "--json", variables=stack.addresses))
    assert served == shown  # by MLflow's server
    made = document(command(stack.home, "deploy", str(config), "--json", variables=stack.addresses))
    nightly = next(one["id"] for one in made["deployments"] if one["name"] == "bertft-nightly/tiny")
    wait_for(stack, str(stack.ask(f"deployments/{nightly}/create_flow_run", {})["id"]), "Skipped")
    (night,) = document(forked(stack.home, "nights", "tiny", "--json"))["nights"]
    assert night["outcome"] == "skipped"


def test_a_killed_up_takes_its_services_along(stack: Up) -> None:
    """The last one: the stack of the tests before it ends."""
    stack.process.kill()
    stack.process.wait()
    assert stack.leaves_nothing()


@pytest.mark.slow
@pytest.mark.postgres
def test_mlflow_stands_on_postgresql_and_shows_no_password(
    database_url: str, tmp_path: Path, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    folder = tmp_path / "own"
    up = bring_up(folder, {**clean_environment(folder / "home"), "MLFLOW_TRACKING_URI": database_url})
    seen = up.left()
    end(up)
    store = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": database_url}).store(folder / "home")
    found = tracking.client(store).get_experiment_by_name("bertft")
    assert found.artifact_location == str(folder / "home" / "artifacts")
    logs = [log.read_text() for log in (folder / "home" / "logs").iterdir()]
    assert not [text for text in [json.dumps(up.document), up.said(), *seen, *logs] if "hunter2" in text]


def test_equal_ports_are_refused_naming_both_options() -> None:
    with pytest.raises(InputError, match="--prefect-port and --mlflow-port are both 5000"):
        Ports(prefect=5000, mlflow=5000)


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(InputError, match=r"--dashboard-port must lie in 1..65535, was 70000"):
        Ports(dashboard=70000)


def test_a_port_that_is_listened_on_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"prefect wants port {port} .*choose another with --prefect-port"):
            refuse_taken(Ports(prefect=port, mlflow=free_ports(1)[0]))


def test_a_database_password_is_on_no_command_line(tmp_path: Path) -> None:
    config = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": "postgresql+psycopg://me:hunter2@db/x"})
    plan = services(tmp_path, config.store(tmp_path), Ports(), {})
    assert "hunter2" not in repr(plan)
    (mlflow,) = [one for one in plan if one.name == "mlflow"]
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://me:hunter2@db/x"


def test_open_servers_ask_for_no_secret_not_even_a_users_other_one_and_still_refuse_other_pages(tmp_path: Path) -> None:
    store = load_mlflow_config(environ={}).store(tmp_path)
    plan = services(tmp_path, store, Ports(), {"PREFECT_API_AUTH_STRING": "mine", "MLFLOW_TRACKING_PASSWORD": "mine"})
    assert not [one.name for one in plan if "mine" in one.environment.values()]
    (prefect,) = [one for one in plan if one.name == "prefect"]
    assert "PREFECT_SERVER_API_AUTH_STRING" not in prefect.environment
    assert prefect.environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    own = "http://127.0.0.1:4200,http://localhost:4200"
    assert prefect.environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == own


def test_the_secret_reaches_every_service_by_environment_alone(tmp_path: Path) -> None:
    store = load_mlflow_config(environ={}).store(tmp_path)
    plan = services(tmp_path, store, Ports(), {"MLFLOW_TRACKING_TOKEN": "mine"}, "hunter2")
    assert all(one.environment.items() >= client_login("hunter2").items() for one in plan)
    assert "hunter2" not in repr(plan) and not [one for one in plan if "MLFLOW_TRACKING_TOKEN" in one.environment]


def test_a_dashboard_that_is_not_installed_is_refused_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    store = load_mlflow_config(environ={}).store(tmp_path)
    with pytest.raises(InputError, match="-m pip install 'optuna-dashboard>=0.21'"):
        services(tmp_path, store, Ports(dashboard=8080), {})


def test_an_address_that_an_earlier_up_exported_is_not_the_store(tmp_path: Path) -> None:
    exported = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    store = own_store(None, tmp_path, Ports(), environ=exported)
    assert store.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_store_that_is_a_server_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking_uri is http://team:80, .* unset MLFLOW_TRACKING_URI"):
        own_store(None, tmp_path, Ports(), environ={"MLFLOW_TRACKING_URI": "http://team:80"})


def test_a_service_keeps_the_users_settings_but_not_another_servers_key(tmp_path: Path) -> None:
    user = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_API_KEY": "pnu_1", "PREFECT_PROFILE": "cloud"}
    found = service_environment(user)
    assert found["PREFECT_LOGGING_LEVEL"] == "DEBUG" and not {"PREFECT_API_KEY", "PREFECT_PROFILE"} & set(found)


def test_a_service_asks_this_machine_without_a_proxy(tmp_path: Path) -> None:
    assert service_environment({"NO_PROXY": "db.local"})["no_proxy"] == "db.local,127.0.0.1,localhost"


def test_a_relative_python_path_is_made_absolute_for_a_service(work_folder: Path) -> None:
    found = service_environment({"PYTHONPATH": os.pathsep.join(("lib", "/opt/ours"))})
    assert found["PYTHONPATH"] == os.pathsep.join((str(work_folder / "lib"), "/opt/ours"))
