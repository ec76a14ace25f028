"""Texts in chunks and features of layers from the table to the registered model, through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


def test_layers_of_chunks_are_searched_served_and_promoted(
    project, encoder, command, document, rows, tmp_path: Path
) -> None:
    long = [(f"{'the new on ' * (i % 9)}{text}", label) for i, (text, label) in enumerate(rows(150))]
    config = project(
        rows=long,
        model={"pretrained": str(encoder), "pooling": "layers", "combine": "max"},
        tokenization={"max_length": 12, "truncation": "chunks", "chunk_overlap": 2, "chunk_pooling": "attention"},
        evaluation={"resamples": 500, "review_rows": 0},
        search={"trials": 2, "rows": 60, "space": {"model.layers": ["first_2", "all"]}},
    )
    told = command(tmp_path / "home", "check", str(config), "model.layers=first_2", "search.trials=0")
    assert told.returncode == 0, told.stderr
    assert "raw [CLS] of layers 0, 1 (max), attention over chunks" in told.stdout
    assert "layers from 2 on are neither computed nor trained" in told.stdout and "layer 2 " not in told.stdout
    done = command(tmp_path / "home", "run", str(config), "--json", "model.layers=first_2")
    found = document(done)
    assert found["promoted"] and found["version"] == "1"
    with open(tmp_path / "new.csv", "w", encoding="utf-8") as handle:
        handle.write("text\ngoal\n" + "the new on " * 20 + "soup bread salt oven\n")
    arguments = ("--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv"))
    document(command(tmp_path / "home", "predict", "--model", "models:/tiny@champion", *arguments, "--json"))
    with open(tmp_path / "out.csv", encoding="utf-8") as handle:
        assert len(list(csv.DictReader(handle))) == 2


def test_layers_that_the_encoder_lacks_end_the_command_before_it_reads(project, command, tmp_path: Path) -> None:
    config = project()
    for layers, wanted in (("[0, 7]", "model.layers: the encoder has 3 layers"), ("8", "was 8")):
        done = command(tmp_path / "home", "check", str(config), "model.pooling=layers", f"model.layers={layers}")
        assert done.returncode == 2 and wanted in done.stderr
