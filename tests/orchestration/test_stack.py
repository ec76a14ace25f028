"""`bertft up`: a real Prefect server, MLflow server and worker in one home, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.config.store import load_mlflow_config
from bertft_core.tracking import store as tracking
from flows.environment import POOL, service_environment
from flows.stack.up import Ports, own_store, refuse_taken, services

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


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    return json.loads(text) if text[:1] in "[{" else text


@dataclass(frozen=True, kw_only=True)
class Up:
    """A running `bertft up` that has said all is healthy."""

    process: subprocess.Popen[str]
    home: Path
    ports: Ports
    document: dict[str, Any]

    def pid(self, name: str) -> int:
        return next(int(one["pid"]) for one in self.document["services"] if one["name"] == name)

    def said(self) -> str:
        return (self.home.parent / "stderr").read_text()

    def left(self) -> list[str]:
        """Command lines of processes of this home, the command itself included."""
        mark, found = f"BERTFT_HOME={self.home}".encode(), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

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
        env={**environment, **up.document["environment"]},
        cwd=up.home.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    api = up.document["environment"]["PREFECT_API_URL"]
    return str(ask(f"{api}/deployments/{made.stdout.split()[-1]}/create_flow_run", {})["id"])


def wait_for(up: Up, run: str, name: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while (state := ask(f"{up.document['environment']['PREFECT_API_URL']}/flow_runs/{run}")["state"])["name"] != name:
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
    assert "<title>Prefect" in ask(stack.ports.prefect_address)
    assert "<title>MLflow" in ask(stack.ports.mlflow_address)


def test_the_worker_is_online_on_the_process_pool(stack: Up) -> None:
    pools = f"{stack.document['environment']['PREFECT_API_URL']}/work_pools"
    assert ask(f"{pools}/{POOL}")["type"] == "process"
    (worker,) = ask(f"{pools}/{POOL}/workers/filter", {})
    assert worker["status"] == "ONLINE"


def test_the_experiment_keeps_its_artefacts_where_runs_without_a_server_do(stack: Up) -> None:
    api = f"{stack.document['environment']['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments"
    found = ask(f"{api}/get-by-name?experiment_name=bertft")["experiment"]
    assert found["artifact_location"] == str(stack.home / "artifacts")
    kinds = [tag["value"] for tag in found["tags"] if tag["key"] == "mlflow.experimentKind"]
    assert kinds == ["custom_model_development"]  # its page opens with the runs, not with traces of agents


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
    stack: Up, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = command(stack.home, "up")
    assert done.returncode == 1 and f"already running in process {stack.process.pid}" in done.stderr


def test_a_taken_port_is_refused_by_name_before_anything_starts(
    stack: Up, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (free,) = free_ports(1)
    taken = stack.ports.mlflow
    done = command(tmp_path / "own" / "home", "up", f"--prefect-port={free}", f"--mlflow-port={taken}")
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
def test_a_killed_up_takes_its_services_along(own_stack: Up) -> None:
    own_stack.process.kill()
    own_stack.process.wait()
    assert own_stack.leaves_nothing()


@pytest.mark.slow
def test_the_worker_runs_the_chain_and_the_same_home_goes_on_without_a_server(
    stack: Up,
    project: Callable[..., Path],
    clean_environment: Callable[[Path], dict[str, str]],
    command: Callable[..., subprocess.CompletedProcess[str]],
    document: Callable[[subprocess.CompletedProcess[str]], dict[str, Any]],
) -> None:
    config = project(search={"trials": 0})
    wait_for(stack, start_chain(stack, config, clean_environment(stack.home)), "Completed")
    shown = document(command(stack.home, "history", "tiny", "--json"))
    assert shown["aliases"]["champion"] == "1"
    again = document(command(stack.home, "run", str(config), "--json"))
    assert again["reason"].startswith("unchanged since version 1")


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
