"""What a Prefect server knows of nights: named states, events that automations act on, lines by task, progress."""

from __future__ import annotations

import csv
import json
import re
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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
DOCS = Path(__file__).parents[2] / "docs"
NAME = "Mail of 2026"


@dataclass(frozen=True, kw_only=True)
class Nights:
    """A home in which a night promoted, the next was skipped and a third met rows that it refused."""

    home: Path
    documents: list[dict[str, Any]]
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
def nights(tmp_path_factory, encoder, rows, command, prefect_server, webhook, clean_environment) -> Nights:
    root = tmp_path_factory.mktemp("native")
    address, told = webhook
    (automation,) = re.findall(r"```python\n(.*?)```", (DOCS / "nightly.md").read_text(), re.DOTALL)
    example = "https://hooks.example.org/…"
    assert example in automation  # the page's own program, on another address
    known = {**clean_environment(root / "home"), **prefect_server.clients}
    code = automation.replace(example, address)
    subprocess.run([sys.executable, "-c", code], env=known, cwd=root, check=True, timeout=300)
    tree = {
        "name": NAME,
        "data": {"source": "rows.csv"},
        "model": {"pretrained": str(encoder)},
        "tokenization": {"max_length": 24},
        "training": {"lr": 2e-3, "batch_size": 8, "epochs": 2, "threads": 1, "precision": "float32"},
        "search": {"trials": 2, "rows": 60, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
        "evaluation": {"resamples": 500},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (root / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    documents = []
    for more in (rows(150), [], [(f"of a third kind {i}", "third") for i in range(30)]):
        with open(root / "rows.csv", "a", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([*([] if documents else [("text", "label")]), *more])
        done = command(root / "home", "nightly", str(root / "run.yaml"), "--json")
        assert done.stdout, done.stderr[-3000:]
        documents.append(json.loads(done.stdout))
    return Nights(home=root / "home", documents=documents, told=told)


@pytest.fixture
def runs(nights: Nights, prefect_server: Any) -> Callable[[str], list[dict[str, Any]]]:
    """The flow runs of a flow, oldest first."""

    def of(flow: str) -> list[dict[str, Any]]:
        asked = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"tags": {"all_": [NAME]}}}
        return prefect_server.ask("flow_runs/filter", {**asked, "sort": "EXPECTED_START_TIME_ASC"})

    return of


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s"
        time.sleep(0.5)
    return found


def test_night_ends_in_a_named_state_with_its_reason(nights: Nights, runs) -> None:
    assert [one["outcome"] for one in nights.documents] == ["promoted", "skipped", "data rejected"]
    states = [run["state"] for run in runs("bertft-nightly")]
    assert [(s["type"], s["name"]) for s in states] == [
        ("COMPLETED", "Promoted"),
        ("COMPLETED", "Skipped"),
        ("FAILED", "Rejected"),
    ]
    assert [s["message"] for s in states] == [one["reason"] for one in nights.documents]
    assert [run["state"]["name"] for run in runs("bertft-pipeline")] == ["Promoted"]


def events(server: Any, model: str) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"prefix": ["bertft."]}, "resource": {"id": [f"bertft.model.{model}"]}}}
    return sorted(server.ask("events/filter", asked)["events"], key=lambda event: event["occurred"])


def test_each_decision_is_an_event_and_an_automation_acts_on_it(nights: Nights, prefect_server, command) -> None:
    adopted = command(nights.home, "adopt", NAME, "--reason", "as it is", "--json")
    assert adopted.returncode == 0, adopted.stderr
    names = ["promoted", "skipped", "rejected", "adopted"]
    wait(lambda: len(events(prefect_server, NAME)) >= len(names))
    found = events(prefect_server, NAME)
    assert [one["event"] for one in found] == [f"bertft.{name}" for name in names]
    first, *_, last = found
    assert (first["payload"]["version"], first["payload"]["champion_after"]) == ("1", "1")
    assert last["payload"]["reason"].endswith("as it is")
    assert {one["prefect.resource.role"] for one in first["related"]} >= {"flow-run", "task-run"}
    (told,) = wait(lambda: nights.told)
    assert f"{NAME} version 1 is champion: " in told and nights.documents[0]["reason"][:40] in told
