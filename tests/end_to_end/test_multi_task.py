"""Two tasks on one encoder through the command line: each is registered and judged as a model of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..core.adaptation.conftest import write_tasks
from .test_adaptation import asked

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


def test_one_command_trains_one_encoder_and_releases_each_task(command, document, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    both, home = str(tmp_path / "both.yaml"), tmp_path / "home"
    plan = document(command(home, "check", both, "--json"))["tasks"]["trade"]
    assert plan["adaptation"].startswith("both on play 2") and "3 epochs at 0.003" in plan["adaptation"]
    assert plan["seconds"]["adapt"] > 0
    found = document(command(home, "run", both, "--json"))["tasks"]
    encoders = {found[task]["adaptation"]["encoder"] for task in ("play", "trade")}
    assert len(encoders) == 1 and len(list((home / "adapted").glob("[!.]*/"))) == 1
    assert {task: one["registered_model"] for task, one in found.items()} == {"play": "play", "trade": "trade"}
    assert all(one["version"] == "1" and one["outcome"] for one in found.values())
    query = "select distinct value, key from model_version_tags where key = 'bertft.encoder.chain'"
    assert set(asked(home, query)) == encoders
    metrics = asked(home, "select key, value from metrics where key like 'trade.validation%'")
    assert float(metrics["trade.validation_macro_f1"]) > 0.9
    again = document(command(home, "run", both, "--json"))["tasks"]
    assert {one["reason"] for one in again.values()} == {"unchanged since version 1"}
    said = command(home, "run", both)
    assert said.returncode == 0 and "play  run" in said.stdout and "trade  run" in said.stdout
