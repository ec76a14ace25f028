"""bertft on a real Prefect server as any other project: deployed from git, in somebody's flow, heard by automations."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.environment import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect"), pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
NAME = "Mail.2026"
KEY = "mail-2026-[0-9a-f]{6}"
# A project's own program: nights as parts of a flow of its own.
HOST = """
import json, logging, os, signal, sys, threading, time
asked = json.loads(sys.argv[1])
from prefect import flow
from flows import run_log
from flows.nightly import NightFailed, nightly
from flows.terminal.progress import Reporter

def known():
    found = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if hasattr(one, "handlers"))]
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return {
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)],
        "timer": signal.getitimer(signal.ITIMER_REAL)[1],
        "wakes up": fd,
        "streams": [id(sys.stdout), id(sys.stderr)],
        **{f"variable {name}": os.environ.get(name) for name in asked["environment"]},
        "loggers": {
            one.name: [one.level, [id(h) for h in one.handlers], one.propagate, one.disabled]
            for one in found
            if one.name.partition(".")[0] not in ("bertft", "bertft_core")
        },
    }

@flow(name="host")
def host():
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 3000, 1234)
    before = known()
    quiet = nightly(asked["config"], home=asked["home"], mlflow_file=asked["mlflow"])
    with open(asked["rows"], "a") as table:
        table.writelines(f"of a third kind {number},third\\n" for number in range(30))
    try:
        nightly(asked["config"], home=asked["home"], mlflow_file=asked["mlflow"])
    except NightFailed as fault:
        refused = [str(fault), fault.exit_code]
    after = known()
    changed = {
        name: [before[name], after[name]] for name in before if name != "loggers" and before[name] != after[name]
    }
    changed |= {n: [one, after["loggers"][n]] for n, one in before["loggers"].items() if one != after["loggers"][n]}
    names = [thread.name for thread in threading.enumerate()]
    return {"quiet": quiet["outcome"], "refused": refused, "changed": changed, "threads": names}

@flow(name="slow")
def slow(fails):
    report = Reporter("Mail.2026")
    logging.getLogger("bertft_core.test").warning("of the core")
    with report.stage("finetune"):
        report.fraction(0.4, "step 4 of 10")
        time.sleep(1)
        if fails:
            raise ValueError

answer = host()
run_log.RENEWED_EVERY = 0.1
slow(False)
slow(True, return_state=True)
print(json.dumps(answer))
"""


@dataclass(frozen=True, kw_only=True)
class Nights:
    """A home in which a deployed night promoted, a command's was skipped, and a host's met rows that it refused."""

    home: Path
    deployed: str  # the flow run
    skipped: dict[str, Any]
    host: dict[str, Any]
    said: str  # by the host's process on stdout
    told: list[str]  # what reached the webhook


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, list[str]]]:
    """The address of a web service of the test's own, and the bodies that were posted to it."""
    told: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()


@pytest.fixture(scope="module")
def automation(webhook: tuple[str, list[str]]) -> str:
    """The program of docs/nightly.md, on the address of the test's service."""
    (found,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "nightly.md").read_text(), re.DOTALL)
    example = "https://hooks.example.org/…"
    assert example in found
    return str(found).replace(example, webhook[0])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, encoder: Path, rows: Callable[..., Any]) -> Path:
    """A team's git repository: configuration, rows and our example of a prefect.yaml."""
    root = tmp_path_factory.mktemp("team") / "mail"
    root.mkdir()
    shutil.copy(ROOT / "examples" / "prefect.yaml", root)
    with open(root / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows(150)])
    tree = {
        "name": NAME,
        "data": {"source": "rows.csv"},
        "model": {"pretrained": str(encoder)},
        "tokenization": {"max_length": 24},
        "training": {"lr": 2e-3, "batch_size": 8, "epochs": 2, "threads": 1, "precision": "float32"},
        "search": {"trials": 2, "rows": 60, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
        "evaluation": {"resamples": 500},
    }
    (root / "mail.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (root / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    who = ["-c", "user.name=team", "-c", "user.email=team@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-q", "-m", "mail"]):
        subprocess.run(["git", *words], cwd=root, check=True, timeout=60)
    return root


@pytest.fixture(scope="module")
def nights(
    repository, automation, webhook, command, prefect_server, prefect_worker, clean_environment, tmp_path_factory
) -> Nights:
    home = tmp_path_factory.mktemp("native") / "home"
    known = {**clean_environment(home), **prefect_server.clients}
    mail = {"MAIL_REPOSITORY": f"file://{repository}", "MAIL_POOL": "desk", "MAIL_HOME": str(home)}
    asked: dict[str, Any] = {"home": str(home), "rows": str(repository / "rows.csv")}
    ours = {name for name in QUIET if not name.startswith("MLFLOW_")}  # some of which the core wants of any process
    asked["environment"] = sorted({*ours, "BERTFT_HOME", "BERTFT_UMASK", "PREFECT_API_URL", "PREFECT_HOME"})
    asked |= {"config": str(repository / "mail.yaml"), "mlflow": str(repository / "mlflow.yaml")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", *words],
            env={**known, **mail},
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run("-c", automation)
    run("-m", "prefect", "--no-prompt", "deploy", "--all")
    made = prefect_server.ask("deployments/name/bertft-nightly/mail")["id"]
    first = prefect_server.ask(f"deployments/{made}/create_flow_run", {})["id"]
    wait(lambda: prefect_server.ask(f"flow_runs/{first}")["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"), 900)
    quiet = command(home, "nightly", str(repository / "mail.yaml"), "--json")
    assert quiet.returncode == 0, quiet.stderr[-3000:]
    said = run("-c", HOST, json.dumps(asked))
    host = json.loads(said.splitlines()[-1])
    return Nights(home=home, deployed=first, skipped=json.loads(quiet.stdout), host=host, said=said, told=webhook[1])


@pytest.fixture
def runs(nights: Nights, prefect_server: Any) -> Callable[[str], list[dict[str, Any]]]:
    """The flow runs of a flow that have the model's name as tag, oldest first."""

    def of(flow: str) -> list[dict[str, Any]]:
        asked = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"tags": {"all_": ["bertft", NAME]}}}
        return list(prefect_server.ask("flow_runs/filter", {**asked, "sort": "EXPECTED_START_TIME_ASC"}))

    return of


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s"
        time.sleep(0.5)
    return found


def test_night_from_a_git_repository_ends_in_a_named_state_with_its_reason(nights: Nights, runs) -> None:
    found = runs("bertft-nightly")
    assert found[0]["id"] == nights.deployed and found[0]["name"].startswith(f"{NAME} night 2")
    states = [run["state"] for run in found]
    wanted = [("COMPLETED", "Promoted"), ("COMPLETED", "Skipped"), ("COMPLETED", "Skipped"), ("FAILED", "Rejected")]
    assert [(state["type"], state["name"]) for state in states] == wanted
    assert states[0]["message"].startswith("no champion yet; macro F1 ")
    assert states[1]["message"] == nights.skipped["reason"] and nights.skipped["reason"].startswith("unchanged")
    assert f"data rejected: {states[3]['message']}" == nights.host["refused"][0]
    (chain,) = runs("bertft-pipeline")
    assert (chain["state"]["name"], chain["name"]) == ("Promoted", f"{NAME} run")


def test_guest_leaves_the_process_of_its_host_alone(nights: Nights) -> None:
    assert nights.host["changed"] == {} and nights.host["quiet"] == "skipped" and nights.host["refused"][1] == 2
    assert "end-after-sigterm" not in nights.host["threads"]
    assert nights.said.count("\n") == 1, nights.said  # the host's own line


def lines(server: Any, run: str) -> dict[str, str]:
    """What was said in a flow run, by the task that said it; "" for the flow."""
    asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
    names = {one["id"]: one["name"] for one in server.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})}
    said: dict[str, str] = {}
    for line in server.ask("logs/filter", asked):
        task = re.sub("-[0-9a-z]+$", "", names.get(line["task_run_id"], ""))
        said[task] = said.get(task, "") + line["message"] + "\n"
    return said


def test_lines_are_in_the_log_of_the_task_that_spoke(nights: Nights, runs, prefect_server) -> None:
    (chain,) = runs("bertft-pipeline")
    said = lines(prefect_server, chain["id"])
    assert "epoch 2: validation score" in said["finetune"] and "epoch 2" not in said[""]
    assert "evaluate took" in said[""] and "release took" in said[""]
    night, quiet, *_ = runs("bertft-nightly")
    assert "training: " in lines(prefect_server, night["id"])[""]
    assert "skipped: unchanged" in lines(prefect_server, quiet["id"])[""]  # of a command, which nobody deployed


def test_progress_and_warnings_of_the_core_are_shown(nights: Nights, prefect_server) -> None:
    found = prefect_server.ask("artifacts/filter", {"artifacts": {"type": {"any_": ["progress"]}}})
    shown = [one for one in found if re.fullmatch(f"bertft-progress-finetune-{KEY}", one["key"])]
    ends = {one["data"]: one["description"] for one in shown if one["description"].startswith("finetune: ")}
    assert ends[100.0] == "finetune: done" and ends[40.0].startswith("finetune: step 4 of 10, 40 %")
    slow = prefect_server.ask("flow_runs/filter", {"flows": {"name": {"any_": ["slow"]}}})
    assert all(lines(prefect_server, run["id"])[""].count("of the core") == 1 for run in slow) and len(slow) == 2


def test_artifacts_of_a_model_have_keys_of_their_own(nights: Nights, runs, prefect_server) -> None:
    (chain,) = runs("bertft-pipeline")
    asked = {"artifacts": {"flow_run_id": {"any_": [chain["id"]]}}}
    keys = {one["key"] for one in prefect_server.ask("artifacts/filter", asked)}
    assert all(re.search(f"-{KEY}$", key) for key in keys), keys
    assert {key.split("-")[1] for key in keys} >= {"rows", "tokens", "search", "epochs", "evaluation", "decision"}


def events(server: Any, model: str) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"prefix": ["bertft."]}, "resource": {"id": [f"bertft.model.{model}"]}}}
    return sorted(server.ask("events/filter", asked)["events"], key=lambda event: event["occurred"])


def test_each_decision_is_an_event_and_an_automation_acts_on_it(nights: Nights, prefect_server, command) -> None:
    with sqlite3.connect(nights.home / "mlflow.db") as store:  # the registry loses its champion
        store.execute("DELETE FROM registered_model_aliases WHERE alias = 'champion'")
    adopted = command(nights.home, "adopt", NAME, "--reason", "as it is", "--json")
    assert adopted.returncode == 0, adopted.stderr
    names = ["promoted", "skipped", "skipped", "rejected", "adopted"]
    wait(lambda: len(events(prefect_server, NAME)) >= len(names))
    found = events(prefect_server, NAME)
    assert [one["event"] for one in found] == [f"bertft.{name}" for name in names]
    first, *_, last = found
    assert (first["payload"]["version"], first["payload"]["champion_after"]) == ("1", "1")
    assert last["payload"]["reason"].startswith("as it is")
    assert {one["prefect.resource.role"] for one in first["related"]} >= {"flow-run", "task-run"}
    (told,) = wait(lambda: nights.told)
    assert f"{NAME} version 1 is champion: no champion yet; macro F1 " in told
