"""A run whose encoder is trained further first, through the command line: what it says, what MLflow and nights know."""

from __future__ import annotations

import csv
import json
import random
import sqlite3
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]

TOPICS = {
    "film": ("film", "movie", "plot", "story"),
    "sport": ("goal", "match", "team", "player"),
    "money": ("bank", "price", "profit", "trade"),
}
SECTION = {"steps": 30, "lr": 1e-2, "batch_size": 16, "max_length": 32}


def topic_rows(n: int, seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    labels = [draw.choice(list(TOPICS)) for _ in range(n)]
    return [(" ".join(draw.choices(TOPICS[label], k=20)), label) for label in labels]


def asked(home: Path, query: str) -> dict[str, str]:
    with sqlite3.connect(home / "mlflow.db") as store:
        return {str(key): str(value) for key, value in store.execute(query)}


def test_a_run_names_the_encoders_it_stands_on(project, command, document, tmp_path: Path) -> None:
    space = {"model.pretrained": ["base", "adapted"]}
    search = {"trials": 4, "space": space}
    config, home = str(project(topic_rows(240), adaptation=SECTION, search=search)), tmp_path / "home"
    plan = document(command(home, "check", config, "--json"))
    assert "mlm, 30 steps on train" in plan["adaptation"] and plan["seconds"]["adapt"] > 0
    first = document(command(home, "run", config, "--json"))
    adaptation = first["adaptation"]
    assert adaptation["reason"] == "" and adaptation["best_loss"] < adaptation["head_loss"]
    assert first["seconds"]["adapt"] > 0 and first["best_params"]["model.pretrained"] in ("base", "adapted")
    assert "adapted minus base" in first["adaptation_gain"]
    page = next((home / "runs").glob("*/evaluation/*.html")).read_text(encoding="utf-8")
    assert "adapted minus base" in page and adaptation["base"] in page
    tags = asked(home, "select key, value from model_version_tags where version = 1")
    if first["best_params"]["model.pretrained"] == "adapted":
        assert tags["bertft.encoder.chain"] == adaptation["encoder"]
    assert tags["bertft.encoder.base"] == adaptation["base"]
    query = "select m.key, m.value from metrics m join tags t on t.run_uuid = m.run_uuid"
    numbers = asked(home, f"{query} where t.key = 'bertft.role' and t.value = 'adapt'")
    assert float(numbers["best_loss"]) == pytest.approx(adaptation["best_loss"])
    assert document(command(home, "run", config, "--json"))["reason"] == "unchanged since version 1"


def test_the_second_night_goes_on_from_the_first_in_less_time(project, command, document, tmp_path: Path) -> None:
    rows = topic_rows(300)
    nightly = {"new_rows": 0.01}
    config = str(project(rows, adaptation=SECTION, search={"trials": 0}, nightly=nightly))
    home = tmp_path / "home"
    document(command(home, "nightly", config, "--json"))
    with open(tmp_path / "rows.csv", "a", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(topic_rows(12, seed=5))
    document(command(home, "nightly", config, "--json"))
    found = [json.loads(f.read_text(encoding="utf-8")) for f in (home / "adapted").glob("*/adaptation.json")]
    first, second = sorted(found, key=lambda record: len(record["chain"]))
    assert second["begins_with"] == first["key"] and second["chain"] == [first["key"], second["key"]]
    assert second["result"]["steps"] < first["result"]["steps"] / 3
    chain = asked(home, "select key, value from model_version_tags where version = 2")["bertft.encoder.chain"]
    assert chain == f"{first['key']} > {second['key']}"
