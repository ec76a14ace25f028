"""What changed between two sets of rows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.recipe.nights.rows import Rows, changes

BASE = [(f"text number {i}", "ab"[i % 2]) for i in range(80)]


def prepared(folder: Path, rows: list[tuple[str, str]]) -> DatasetSplits:
    folder.mkdir(exist_ok=True)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])
    return prepare_dataset(DataConfig(source="rows.csv"), folder / "home/data", folder)


def compare(folder: Path, before: list[tuple[str, str]], now: list[tuple[str, str]]):
    return changes(Rows.of(prepared(folder / "a", before)), Rows.of(prepared(folder / "b", now)))


def test_equal_rows_have_no_changes(tmp_path: Path) -> None:
    found = compare(tmp_path, BASE, BASE[::-1])
    assert (found.new, found.deleted, found.relabelled, found.moved, found.any) == (0, 0, 0, 0, False)


def test_new_deleted_and_relabelled_rows_are_counted(tmp_path: Path) -> None:
    now = [(BASE[0][0], "b"), *BASE[3:], ("quite another text", "a")]
    found = compare(tmp_path, BASE, now)
    assert (found.new, found.deleted, found.relabelled) == (1, 2, 1)
    assert found.new_by_class == {"a": 1, "b": 0}


def test_no_row_moves_to_another_split_when_others_come(tmp_path: Path) -> None:
    more = [(f"a later text {i}", "ab"[i % 2]) for i in range(200)]
    assert compare(tmp_path, BASE, BASE + more).moved == 0


def test_label_is_compared_by_name_not_by_number(tmp_path: Path) -> None:
    # "0" comes first in the order of classes: every number shifts, no name does
    third = [(f"a third kind {i}", "0") for i in range(60)]
    found = compare(tmp_path, BASE, BASE + third)
    assert (found.relabelled, found.new_classes) == (0, ("0",))


def test_lost_class_is_named(tmp_path: Path) -> None:
    third = [(f"a third kind {i}", "c") for i in range(60)]
    found = compare(tmp_path, BASE + third, BASE)
    assert (found.lost_classes, found.deleted) == (("c",), 60)


def test_rows_are_read_back_as_saved(tmp_path: Path) -> None:
    rows = Rows.of(prepared(tmp_path / "a", BASE))
    rows.save(tmp_path)
    back = Rows.load(tmp_path)
    assert back is not None
    assert back.classes == rows.classes
    assert np.array_equal(back.hashes, rows.hashes) and np.array_equal(back.labels, rows.labels)


@pytest.mark.parametrize("content", [None, b"", b"PK rubbish"])
def test_file_that_cannot_be_read_is_no_rows(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "rows.npz").write_bytes(content)
    assert Rows.load(tmp_path) is None
