"""The parts of benchmarks/small_data.py that need no fit: the order of the cells, the scores, the page."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import f1_score


@pytest.fixture
def small_data(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("small_data")


def test_every_beginning_of_the_cells_is_a_table(small_data: ModuleType) -> None:
    order = list(small_data.cells([100, 300, 1000, 3000], 5))
    assert [(cell.source, cell.is_rule, cell.seed) for cell in order[:6]] == [
        (source, is_rule, 1) for source in small_data.SETS for is_rule in (False, True)
    ]
    assert all(cell.rows == 100 for cell in order[:18]) and all(cell.seed <= 3 for cell in order[: len(order) // 2])
    assert not [cell for cell in order if cell.source == "bbc" and cell.rows == 3000]


def test_macro_f1_of_drawn_rows_is_that_of_repeated_rows(small_data: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labels, answers, times = rng.integers(0, 3, 60), rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    wanted = f1_score(np.repeat(labels, times), np.repeat(answers, times), average="macro")
    assert small_data.macro_f1(answers, labels, times[None])[0] == pytest.approx(wanted)


def test_f1_difference_of_equal_answers_is_none(small_data: ModuleType) -> None:
    labels, answers = np.arange(40) % 2, np.arange(80).reshape(2, 40) // 3 % 2
    assert small_data.f1_difference(answers, answers, labels) == (0, 0, 0)


def test_page_has_what_was_measured_and_names_what_is_missing(small_data: ModuleType, tmp_path: Path) -> None:
    records = importlib.import_module("records").Records(tmp_path / "r.jsonl", {})
    labels = "01" * 100
    facts = {"labels": labels, "updates": 21, "cpu_seconds": 1.0, "fault": "", "history": []}
    for seed in (1, 2):
        for is_rule, answers in ((True, labels), (False, "0" * 200)):
            cell = small_data.Cell(source="rt", rows=100, is_rule=is_rule, seed=seed)
            records.add(cell.key(), {**facts, "answers": answers, "fault": "" if is_rule else "did not train"})
    page = small_data.write_page(records, tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| 100 | Rotten Tomatoes | 0.000107 x 20 | 21 / 21 | 100.0 / 50.0 | +50.0 [" in page
    assert "| 2 | 2 of 2 (defaults) |" in page and "Rotten Tomatoes at 100 rows: 2 of 5 seeds" in page
    assert "IMDb at 300 rows: not run yet" in page
    assert "IMDb at 3,000 rows: the rule says what the defaults said" in page
