"""Rows in memory are read as the same rows in a file are."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.frames import store_frame
from bertft_core.data.prepare import prepare_dataset


@pytest.fixture
def frame(rows) -> pd.DataFrame:
    """Two hundred rows with a duplicate, an empty text, a missing label, non-ASCII and an invisible sign."""
    table = [
        *rows(200),
        ("", "sport"),
        ("no label", None),
        ("café, “quoted”\nand broken", "food"),
        ("a\u200bb", "tech"),
    ]
    return pd.DataFrame([*table, table[5]], columns=["text", "label"])


def prepared(source: str, folder: Path, **data) -> DatasetSplits:
    return prepare_dataset(DataConfig(source=source, max_faulty_share=0.05, **data), folder / "data", folder)


def of_frame(frame, folder: Path, **data) -> DatasetSplits:
    return prepared(store_frame(frame, DataConfig(source="frame", **data), folder), folder, **data)


def keys(splits: DatasetSplits) -> list[list]:
    tables = [splits.table(name) for name in ("train", "validation", "test")]
    return [table.select(["text", "label", "fingerprint", "row"]).to_pylist() for table in tables]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_frame_is_read_as_the_file_of_its_rows(frame, tmp_path: Path, suffix: str) -> None:
    if suffix == "csv":
        frame.to_csv(tmp_path / "rows.csv", index=False)
    elif suffix == "parquet":
        frame.to_parquet(tmp_path / "rows.parquet")
    else:
        frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    by_file, by_frame = prepared(f"rows.{suffix}", tmp_path), of_frame(frame, tmp_path)
    assert by_frame.fingerprint == by_file.fingerprint
    assert keys(by_frame) == keys(by_file)
    assert by_frame.report.reasons == by_file.report.reasons == {"empty text": 1, "missing label": 1}
    assert by_frame.report.duplicates_dropped == by_file.report.duplicates_dropped == 1


def test_every_kind_of_frame_has_the_same_rows(frame, tmp_path: Path) -> None:
    columns = frame.astype(object).where(frame.notna(), None).to_dict("list")
    kinds = [
        frame,
        frame.astype({"label": "category"}),
        datasets.Dataset.from_dict(columns),
        pa.table(columns),
        (columns["text"], columns["label"]),
        (frame["text"], frame["label"].to_numpy()),
    ]
    stored = {store_frame(kind, DataConfig(source="frame"), tmp_path) for kind in kinds}
    assert len(stored) == 1


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], [False, True], np.array([0, 1]), ["0", "1"]])
def test_labels_of_any_type_are_those_of_a_csv(rows, tmp_path: Path, labels) -> None:
    texts = [text for text, _ in rows(60)]
    values = [labels[i % 2] for i in range(60)]
    pd.DataFrame({"text": texts, "label": values}).to_csv(tmp_path / "rows.csv", index=False)
    by_file, by_frame = prepared("rows.csv", tmp_path), of_frame((texts, values), tmp_path)
    assert (by_frame.classes, keys(by_frame)) == (by_file.classes, keys(by_file))


def test_class_labels_of_datasets_are_names(rows, tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sport", "tech", "food"])}
    )
    table = [(text, ["sport", "tech", "food"].index(label)) for text, label in rows(90)]
    hub = datasets.Dataset.from_dict({"text": [t for t, _ in table], "label": [c for _, c in table]}, features=features)
    assert (
        of_frame(hub, tmp_path).fingerprint
        == of_frame(pd.DataFrame(rows(90), columns=["text", "label"]), tmp_path).fingerprint
    )


def test_soft_labels_and_dates_survive(rows, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "text": [text for text, _ in rows(60)],
            "label": [np.array([0.25, 0.75]) if i % 2 else np.array([0.9, 0.1]) for i in range(60)],
            "when": [pd.Timestamp("2026-01-01") + dt.timedelta(days=i) for i in range(60)],
        }
    )
    splits = of_frame(table, tmp_path, classes=["a", "b"], date="when", until="2026-01-30")
    assert splits.is_soft and splits.report.rows_read == 30
    assert sorted({tuple(row) for row in splits.soft_labels("train").tolist()})[0] == (0.25, 0.75)


def test_content_names_the_file_and_other_columns_do_not_count(frame, tmp_path: Path) -> None:
    config = DataConfig(source="frame")
    name = store_frame(frame, config, tmp_path)
    other = frame.assign(note="x").set_index(pd.Index(range(7, 7 + len(frame))))
    assert store_frame(other, config, tmp_path) == name
    changed = frame.copy()
    changed.loc[3, "text"] += "!"
    assert store_frame(changed, config, tmp_path) != name
    assert not Path(name).is_absolute()


def test_half_a_character_is_a_faulty_row_and_no_crash(rows, tmp_path: Path) -> None:
    table = pd.DataFrame([*rows(120), ("half \ud83d", "food")], columns=["text", "label"], dtype=object)
    assert of_frame(table, tmp_path).report.reasons == {"invalid Unicode": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.DataFrame({"text": ["a"], "lable": ["b"]}), "did you mean 'lable'"),
        ((["a", "b"], ["x"]), "2 texts but 1 labels"),
        (pd.DataFrame({"text": [], "label": []}), "holds no rows"),
        ({"text": ["a"]}, "found dict"),
        (datasets.DatasetDict(), "give one split"),
        (7, "found int"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(given, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        store_frame(given, DataConfig(source="frame"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_test_rows_where_their_share_is_zero(frame, tmp_path: Path) -> None:
    splits = of_frame(frame, tmp_path, split={"validation": 0.2, "test": 0})
    assert splits.n_test == 0 and splits.n_validation > 20
    assert not [w for w in splits.report.warnings if "test" in w]
