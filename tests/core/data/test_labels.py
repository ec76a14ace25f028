"""One class has one name, whatever the file format, its exporter's types and the spelling."""

from __future__ import annotations

import csv
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.labels import FaultyRow, LabelColumn, class_name, parse_label
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS
from bertft_core.registry.comparison import read_labelled
from bertft_core.serving.artifact import ArtifactCard

FORMS = ("csv", "jsonl", "parquet")


def write(folder: Path, form: str, labels: list[Any], texts: list[str] | None = None) -> str:
    """The rows as pandas writes them: CSV by str(), JSON lines by value, Parquet by its own types."""
    texts = texts or [f"text number {i}" for i in range(len(labels))]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    name = f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    elif form == "jsonl":
        (folder / name).write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    else:
        with open(folder / name, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *((r["text"], r["label"]) for r in rows)])
    return name


def prepare(folder: Path, name: str, **settings: Any) -> DatasetSplits:
    return prepare_dataset(DataConfig(source=name, **settings), folder / "home/datasets", folder)


def found(data: DatasetSplits) -> dict[str, tuple[str, str, bytes]]:
    return {
        row["text"]: (split, data.classes[row["label"]], row["fingerprint"])
        for split in SPLITS
        for row in data.table(split).to_pylist()
    }


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 2], ("1", "2")),
        ([1.0, 2.0], ("1", "2")),
        ([True, False], ("false", "true")),
        (["caf\u00e9", "cafe\u0301s"], ("caf\u00e9", "caf\u00e9s")),
        (["a\u200bb", "\ufeffc"], ("ab", "c")),
        (["10", "9"], ("9", "10")),
        (["01", "1.5"], ("01", "1.5")),
    ],
)
def test_formats_give_the_same_classes_splits_and_keys(
    labels: list[Any], classes: tuple[str, ...], tmp_path: Path
) -> None:
    data = [prepare(tmp_path, write(tmp_path, form, [labels[i % 2] for i in range(120)])) for form in FORMS]
    assert {d.classes for d in data} == {classes}
    assert found(data[0]) == found(data[1]) == found(data[2]) and len({d.fingerprint for d in data}) == 1


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ((1, 1.0, "1", "1.0", " 1.00 ", b"1", Decimal("1.0")), "1"),
        ((0, -0.0, "-0.0", "0.0"), "0"),
        ((True, "True", "TRUE", "true", b"true"), "true"),
        (("\u00c5", "A\u030a", "\u212b", "\u00c5\u200d", "\u00ad\u00c5"), "\u00c5"),
        (("spam", "spam\u200b", "\u200espam", "spam\u00a0", b"spam"), "spam"),
    ],
)
def test_spellings_of_one_class_are_one_name(spellings: tuple[Any, ...], name: str) -> None:
    assert {parse_label(value, None) for value in spellings} == {name}


def test_names_that_are_no_numbers_stay() -> None:
    assert [class_name(t) for t in ("01.0", "1.5", "v1.0", "1.", "1,0", "Trueish")] == [
        *("01.0", "1.5", "v1.0", "1.", "1,0", "Trueish")
    ]


@pytest.mark.parametrize("value", ["\u200b", "\ufeff ", b"", b"\xff\xfe"])
def test_label_of_invisible_signs_or_broken_bytes_is_a_fault(value: Any) -> None:
    with pytest.raises(FaultyRow, match="missing label|no UTF-8"):
        parse_label(value, None)


def test_sets_weights_and_fixed_classes_follow_the_same_names() -> None:
    assert parse_label(["1.0", "b\u200b", b"b"], None) == ("1", "b")
    assert parse_label({"1.0": 1, "True": 3}, None) == {"1": 0.25, "true": 0.75}
    with pytest.raises(FaultyRow, match="1 occurs twice"):
        parse_label({"1.0": 1, "1": 3}, None)
    column = LabelColumn(["True", "False"])
    assert [column.parse(v) for v in (True, "false", "TRUE")] == [0, 1, 0]
    with pytest.raises(DataError, match="a class occurs twice"):
        LabelColumn(["1", "1.0"])


def test_classes_equal_but_for_case_are_a_warning_and_merge_on_request(tmp_path: Path) -> None:
    labels = [("Sports", "sports", "SPORTS ", "Politics", "Foreign  news", "Foreign news")[i % 6] for i in range(240)]
    name = write(tmp_path, "csv", labels)
    first = prepare(tmp_path, name)
    (line, other) = sorted(w for w in first.report.warnings if "differ by case" in w)
    assert "'Foreign  news' (40 rows) and 'Foreign news' (40 rows)" in line and "merge_labels: casefold" in line
    assert "'SPORTS' (40 rows) and 'Sports' (40 rows) and 'sports' (40 rows)" in other
    merged = prepare(tmp_path, name, merge_labels="casefold")
    assert merged.classes == ("foreign news", "politics", "sports")
    assert not any("differ by case" in w for w in merged.report.warnings)
    fixed = prepare(tmp_path, name, merge_labels="casefold", classes=["Sports", "Politics", "Foreign News"])
    assert fixed.classes == ("Sports", "Politics", "Foreign News") and fixed.report.rows_used == 240
    assert {text: row[0] for text, row in found(first).items()} == {text: row[0] for text, row in found(merged).items()}


def test_merged_sets_and_weights_hold_a_class_once() -> None:
    column = LabelColumn(None, multi_label=True, merge=True)
    assert column.parse(["A", "b", "a"]) == (0, 1)
    soft = LabelColumn(None, merge=True)
    assert soft.parse({"A": 1, "a": 1, "b": 2}) == {0: 0.5, 1: 0.5}
    with pytest.raises(DataError, match="a class occurs twice"):
        LabelColumn(["A", "a"], merge=True)


def test_same_text_under_two_spellings_is_no_conflict(tmp_path: Path) -> None:
    texts = [f"text number {i // 2}" for i in range(240)]
    labels = [("1", "1.0", "2", "2.0")[i % 4] for i in range(240)]
    report = prepare(tmp_path, write(tmp_path, "csv", labels, texts)).report
    assert (report.rows_used, report.duplicates_dropped, report.rows_quarantined) == (120, 120, 0)


def test_compare_reads_labels_as_training_did(tmp_path: Path) -> None:
    card = ArtifactCard(max_length=24, truncation="head", classes=("sports", "true"), merge_labels="casefold")
    name = write(tmp_path, "csv", ["Sports", "TRUE", "spo\u200brts", "other"])
    rows = read_labelled(tmp_path / name, card, None)
    assert rows.labels.tolist() == [0, 1, 0] and rows.skipped == {"unknown label": 1}


@pytest.mark.parametrize("seed", range(6))
def test_random_frames_read_alike_in_every_format(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    kind = seed % 3
    pool: list[Any] = [[0, 1, 2], [0.0, 1.0, 2.0], ["a", "B", "\u00e9", "e\u0301", "true", "1.0"]][kind]
    pieces = ["good", "Bad ", ", ", '"', "\u2019", "\u00e9", "e\u0301", "\u6f22", "\n", "'", "NA"]
    texts = [f"{''.join(rng.choices(pieces, k=6))} {i}" for i in range(200)]
    labels = [rng.choice(pool) for _ in range(200)]
    data = [prepare(tmp_path, write(tmp_path, form, labels, texts)) for form in FORMS]
    assert found(data[0]) == found(data[1]) == found(data[2])
    for d in data:
        assert d.report.rows_read == 200 == d.report.rows_used + d.report.duplicates_dropped
