"""The winner's encoder and cut reach everything behind the search: final fit, evaluation, served model, report."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bertft_core.testing.encoders import tiny_encoder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
_WORDS = {"sport": ["goal", "match", "team"], "tech": ["chip", "code", "phone"], "food": ["soup", "bread", "salt"]}


def _rows_that_end_with_their_label(count: int) -> list[tuple[str, str]]:
    """16 to 22 words of which the last three tell the class: a cut that keeps the head learns nothing."""
    rng, rows = random.Random(0), []
    for i in range(count):
        label = list(_WORDS)[i % 3]
        head = rng.choices(["the", "a", "was", "of", "new", "old", "very", "on"], k=rng.randrange(13, 19))
        rows.append((f"{' '.join(head)} {i} {' '.join(rng.choices(_WORDS[label], k=3))}", label))
    return rows


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, encoder: Path, command: Callable[..., Any], document: Callable[..., Any]
) -> tuple[Path, Path, dict[str, Any]]:
    """Home, configuration and result of a run whose configured encoder and cut both lose."""
    folder = tmp_path_factory.mktemp("winner")
    blind = tiny_encoder(folder / "blind", layers=1, hidden=8, seed=3)
    pd.DataFrame(_rows_that_end_with_their_label(240), columns=["text", "label"]).to_csv(folder / "rows.csv")
    tree = {
        "name": "cut",
        "data": {"source": "rows.csv"},
        "model": {"pretrained": str(blind)},
        "tokenization": {"max_length": 10, "truncation": "head"},
        "training": {
            "lr": 1e-3,
            "batch_size": 8,
            "epochs": 12,
            "threads": 1,
            "precision": "float32",
            "unfreezing": "none",
        },
        "search": {
            "trials": 6,
            "stop_early": False,
            "space": {
                "model.pretrained": [str(blind), str(encoder)],
                "tokenization.truncation": ["head", "tail"],
                "tokenization.max_length": {"values": [9, 12], "when": {"tokenization.truncation": "tail"}},
            },
        },
        "evaluation": {"resamples": 500, "review_rows": 0},
    }
    (folder / "run.yaml").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    told = document(command(folder / "home", "run", str(folder / "run.yaml"), "--json"))
    return folder / "home", folder / "run.yaml", told


Finished = tuple[Path, Path, dict[str, Any]]


def test_served_model_cuts_as_the_winner(finished: Finished) -> None:
    home, _, told = finished
    best, card = told["best_params"], json.loads((home / "runs" / told["run_id"] / "served/bertft.json").read_text())
    assert best["tokenization.truncation"] == card["truncation"] == "tail"
    assert best["tokenization.max_length"] == card["max_length"] and card["max_length"] in (9, 12)


def test_final_fit_starts_from_the_winners_encoder(finished: Finished) -> None:
    home, _, told = finished
    fitted = json.loads((home / "runs" / told["run_id"] / "fit/model/config.json").read_text())
    chosen = json.loads((Path(told["best_params"]["model.pretrained"]) / "config.json").read_text())
    assert (fitted["hidden_size"], fitted["num_hidden_layers"]) == (chosen["hidden_size"], chosen["num_hidden_layers"])


def test_evaluation_reads_what_the_winner_keeps_of_a_text(finished: Finished) -> None:
    assert finished[2]["test"]["accuracy"] > 0.8  # the head alone gives a third


def test_predict_answers_as_the_evaluation_did(finished: Finished, command: Callable[..., Any], tmp_path: Path) -> None:
    home, _, told = finished
    folder = home / "runs" / told["run_id"] / "evaluation"
    rows, answers = folder / "test_rows.parquet", tmp_path / "answers.csv"
    done = command(home, "predict", "--model", "models:/cut@champion", "--input", str(rows), "--output", str(answers))
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(answers)
    given = table[[name for name in table.columns if name.startswith("probability_")]].to_numpy()
    assert np.abs(given - np.load(folder / "probabilities.npy")).max() < 1e-5


def test_evaluate_judges_the_fit_as_it_was_fitted_without_its_study(
    finished: Finished, command: Callable[..., Any], document: Callable[..., Any]
) -> None:
    home, config, told = finished
    shutil.rmtree(home / "search")
    again = document(command(home, "evaluate", str(config), "--json"))
    assert again["test"] == told["test"] and again["best_params"] == told["best_params"]
    assert not (home / "search").exists()  # nothing was searched anew
