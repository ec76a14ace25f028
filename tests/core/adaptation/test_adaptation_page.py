"""The parts of benchmarks/adaptation.py and its page that need no fit."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bench(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("adaptation")


def test_every_beginning_of_the_cells_is_a_table(bench: ModuleType) -> None:
    order = list(bench.cells(["rt", "bbc", "imdb"], [100, 600, 3000], 5))
    assert [(c.source, c.arm) for c in order[:8]] == [
        *(("rt", arm) for arm in bench.ARMS),
        *(("bbc", arm) for arm in bench.ARMS[:2]),
        *(("imdb", arm) for arm in bench.ARMS),
    ]
    assert all(cell.rows == 100 and cell.seed <= 3 for cell in order[:24])
    assert len({cell.key() for cell in order}) == len(order) == 5 * (2 * 8 + 6)


def test_page_has_what_was_measured_and_names_what_is_missing(bench: ModuleType, tmp_path: Path) -> None:
    records = importlib.import_module("records").Records(tmp_path / "r.jsonl", {})
    labels, order = "01" * 100, list(bench.cells(["rt"], [100], 2))
    for cell in order:
        answers = labels if cell.arm != "none" else "0" * 200
        records.add(cell.key(), {"labels": labels, "answers": answers, "cpu_seconds": 2.0})
    records.add("adaptation, rt, in-domain", {"text": "loss 6 before, 4 after", "cpu_seconds": 7200.0})
    shutil.copyfile(ROOT / "docs/techniques/adaptation.md", tmp_path / "adaptation.md")
    before = (tmp_path / "adaptation.md").read_text(encoding="utf-8")
    for _ in range(2):  # written twice it is the same
        every = [*order, *bench.cells(["imdb"], [600], 1)]
        page = importlib.import_module("adaptation_page").write_page(records, every, tmp_path)
        text = page.read_text(encoding="utf-8")
        assert text.count("| Rotten Tomatoes | 100 | within-task | 2 | 0.00 | +50.00 |") == 1
        assert "- adaptation" not in text and "rt, in-domain: loss 6 before, 4 after; 2.00 processor hours" in text
        assert "IMDb, 600 labels, none: 0 of 1 seeds" in text and (tmp_path / "adaptation.png").stat().st_size
    assert text.startswith(before.partition("<!-- measured")[0])
