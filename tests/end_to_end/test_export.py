"""A champion as an ONNX file: registered once, judged as a cheaper form, served, barred where its origin was."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


def test_an_export_is_a_version_that_the_gate_judges(project, command, document, rows, tmp_path: Path) -> None:
    home, config = tmp_path / "home", str(project(rows(600), search={"trials": 0}))
    settings = "training.lr=5e-3", "training.epochs=4"
    assert document(command(home, "run", config, "--json", *settings))["champion_after"] == "1"
    made = document(command(home, "export", "tiny", "--int8", "--json"))
    assert (made["version"], made["runtime"], made["was_found"]) == ("2", "onnx-int8", False)
    was, now = made["forms"]
    assert (was["version"], now["version"]) == ("1", "2") and now["rows_per_second"] > 0 < now["latency_ms"]
    assert made["n"] > 80 and made["different_answers"] <= 3 and 0 < made["largest_gap"] < 0.2
    with sqlite3.connect(home / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from model_version_tags where version = 2").fetchall())
    assert tags["bertft.parent"] == "1" and not [key for key in tags if "decision" in key or "ledger" in key]
    again = document(command(home, "export", "tiny", "1", "--int8", "--json"))
    assert (again["version"], again["was_found"]) == ("2", True)
    table = command(home, "export", "tiny", "--int8").stdout
    assert "tiny version 2: version 1 as onnx-int8; not promoted" in table and "bertft promote tiny 2" in table

    refused = command(home, "promote", "tiny", "2", "--json")  # some 120 rows cannot show a loss below 0.01
    verdict = json.loads(refused.stdout)
    assert refused.returncode == 3 and verdict["numbers"]["test"] == "non_inferiority", refused.stderr
    (tmp_path / "mlflow.yaml").write_text(
        "promotion: {baseline: off, test: non_inferiority, margin: 0.2, max_class_loss: null}\n", encoding="utf-8"
    )
    assert document(command(home, "promote", "tiny", "2", "--json"))["champion_after"] == "2"

    (tmp_path / "new.csv").write_text("text\ngoal match team\nfilm disk server\n", encoding="utf-8")
    answers = {}
    for version in ("1", "2"):
        output = tmp_path / f"answers{version}.jsonl"
        command(home, "predict", "--model", f"models:/tiny/{version}", "--input", "new.csv", "--output", str(output))
        answers[version] = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    pairs = zip(answers["1"], answers["2"], strict=True)
    assert all(abs(a["confidence"] - b["confidence"]) < 0.2 for a, b in pairs) and answers["2"][0]["model"][-1] == "2"

    already = command(home, "export", "tiny", "2")
    assert already.returncode == 2 and "answers by onnx-int8 already" in already.stderr
    assert document(command(home, "rollback", "tiny", "--reason", "a drill", "--json"))["champion_after"] == "1"
    gone = command(home, "export", "tiny", "2", "--int8")
    assert gone.returncode == 2 and "was rolled back" in gone.stderr
