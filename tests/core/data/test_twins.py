"""Rows that the tokenizer cannot tell apart: in which split they stay, and that the run says so."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.splits import SPLITS
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.prepare import Prepared, ingest, prepare
from bertft_core.testing.encoders import tiny_encoder

Row = tuple[Any, ...]
ROWS: list[Row] = [(f"the film {i} is {'good' if i % 2 else 'bad'}", "ba"[i % 2]) for i in range(300)]
ACCENTED: list[Row] = [(text.replace("film", "f\u00eflm"), label) for text, label in ROWS[:150]]
SMILING: list[Row] = [
    (f"{text} {sign}", "ab"[i % 2]) for i, sign in enumerate("\U0001f600\U0001f621") for text, _ in ROWS
]


@pytest.fixture(scope="module")
def uncased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("uncased"), layers=1, hidden=16)


@pytest.fixture(scope="module")
def accents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose tokenizer reads letters as they are."""
    folder = tiny_encoder(tmp_path_factory.mktemp("accents"), layers=1, hidden=16, words=["f\u00eflm"])
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": None}))
    return folder


def config_of(folder: Path, encoder: Path, rows: list[Row] | dict[str, list[Row]], **sections: Any) -> RunConfig:
    """rows: a table, or one for each split."""
    tables = {"source": rows} if isinstance(rows, list) else rows
    for key, table in tables.items():
        with open(folder / f"{key}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label", "customer")[: len(table[0])], *table])
    data = {key: f"{key}.csv" for key in tables} | {"max_faulty_share": 1.0} | sections.pop("data", {})
    return RunConfig(name="x", data=data, model={"pretrained": str(encoder)}, base_dir=folder, **sections)


def prepared(folder: Path, encoder: Path, rows: Any, **sections: Any) -> Prepared:
    return prepare(config_of(folder, encoder, rows, **sections), folder / "home")


def ids(of: Prepared, split: str) -> list[bytes]:
    arrays = open_split(of.tokens.path, split)
    return [arrays.ids[a:b].tobytes() for a, b in zip(arrays.offsets[:-1], arrays.offsets[1:], strict=True)]


def require_sound(of: Prepared, *, is_cut: bool = False) -> DatasetSplits:
    """No ids twice across splits, unless texts are cut; every row is used, dropped or quarantined."""
    train, validation, test = (set(ids(of, split)) for split in SPLITS)
    assert is_cut or (not train & test and not train & validation and not validation & test)
    data, report = of.dataset, of.dataset.report
    assert report.rows_read == report.rows_used + report.rows_quarantined + report.duplicates_dropped
    assert report.rows_used == data.n_train + data.n_validation + data.n_test
    assert sum(n for of in report.class_counts.values() for n in of.values()) == report.rows_used
    lines = (data.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == report.rows_quarantined == sum(report.reasons.values())
    for split in SPLITS:
        assert data.table(split).num_rows == len(ids(of, split)) == getattr(data, f"n_{split}")
    return data


def test_copies_with_an_accent_are_duplicates_to_an_uncased_tokenizer_alone(
    uncased: Path, accents: Path, tmp_path: Path
) -> None:
    report = require_sound(prepared(tmp_path, uncased, [*ROWS, *ACCENTED])).report
    assert report.reasons == {} and report.duplicates_dropped > 90 and report.overlaps == {"train": 0, "validation": 0}
    assert f"{report.duplicates_dropped} rows repeat the token ids of another row" in " ".join(report.warnings)
    told = require_sound(prepared(tmp_path, accents, [*ROWS, *ACCENTED])).report
    assert told.duplicates_dropped == 0 and told.warnings == ()


def test_copies_with_an_accent_and_another_label_are_quarantined(uncased: Path, accents: Path, tmp_path: Path) -> None:
    flipped = [(text, "ab"[label == "a"]) for text, label in ACCENTED]
    of = prepared(tmp_path, uncased, [*ROWS, *flipped])
    report = require_sound(of).report
    in_test = sum(
        text.replace("\u00ef", "i") in dict(ROWS[:150]) for text in of.dataset.table("test")["text"].to_pylist()
    )
    assert report.reasons == {"conflicting labels": 300 - in_test} and in_test > 20
    said = " ".join(report.warnings)
    assert f"{300 - in_test} rows have the token ids of rows with another label: quarantined" in said
    assert f"{in_test} test rows have the token ids of test rows with another label" in said
    last = json.loads((of.dataset.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["reason"] == f"conflicting labels: by the token ids of {uncased}" and last["file"] == "source.csv"
    assert (tmp_path / "home/quarantine" / f"{of.dataset.path.name}.jsonl").is_file()
    assert require_sound(prepared(tmp_path, accents, [*ROWS, *flipped])).report.reasons == {}
    with pytest.raises(DataError, match=r"data\.max_faulty_share: .* conflicting labels"):
        prepared(tmp_path, uncased, [*ROWS, *flipped], data={"max_faulty_share": 0.1})


def test_test_rows_are_the_same_for_every_encoder_and_no_row_moves(
    uncased: Path, accents: Path, tmp_path: Path
) -> None:
    rows = [*ROWS, *ACCENTED, *SMILING]
    one, other = (prepared(tmp_path, encoder, rows) for encoder in (uncased, accents))
    assert one.dataset.test_fingerprint() == other.dataset.test_fingerprint()
    assert one.dataset.n_train < other.dataset.n_train
    places = [{t: s for s in SPLITS for t in of.dataset.table(s)["text"].to_pylist()} for of in (one, other)]
    assert all(places[1].get(text, split) == split for text, split in places[0].items())


def test_unknown_signs_leave_no_twin_of_a_test_row_in_train(uncased: Path, tmp_path: Path) -> None:
    report = require_sound(prepared(tmp_path, uncased, [*ROWS, *SMILING])).report
    lost = report.overlaps["train"] + report.overlaps["validation"]
    assert lost > 100 and report.duplicates_dropped == lost and report.reasons == {}
    assert f"{report.overlaps['train']} rows of train have the token ids of a validation or test row" in " ".join(
        report.warnings
    )


def test_texts_that_are_alike_once_they_are_cut_stay_and_are_counted(uncased: Path, tmp_path: Path) -> None:
    """They are different texts: the nights to come bring more of them, and a test row among them flatters nobody."""
    heads = [(f"ticket {i % 133}: {'a ' * 9}{i}", "ab"[i % 133 % 2]) for i in range(400)]
    of = prepared(tmp_path, uncased, heads, tokenization={"max_length": 12, "truncation": "head"})
    report = require_sound(of, is_cut=True).report
    assert report.overlaps == {"train": 0, "validation": 0} and report.duplicates_dropped == 0 == len(report.reasons)
    (said,) = report.warnings
    assert said.split(" the token ids of a row nearer to test once cut")[0].endswith("rows of train or validation have")
    assert int(said.split()[0]) > 50


def test_groups_and_files_of_the_users_own_leave_no_twin_either(uncased: Path, tmp_path: Path) -> None:
    grouped = [(*row, f"customer {i}") for i, row in enumerate([*ROWS, *ACCENTED])]
    assert require_sound(prepared(tmp_path, uncased, grouped, data={"group": "customer"})).report.overlaps["train"] > 20
    files = {"train": ROWS, "validation": ACCENTED[:40], "test": ACCENTED[40:80]}
    report = require_sound(prepared(tmp_path, uncased, files)).report
    assert report.overlaps == {"train": 80, "validation": 0}


def test_text_without_a_token_is_empty(uncased: Path, tmp_path: Path) -> None:
    marks = [("\ufffd" * (i + 1), "ab"[i % 2]) for i in range(60)]  # BERT's normaliser takes U+FFFD out
    of = prepared(tmp_path, uncased, [*ROWS, *marks])
    left = of.dataset.n_test - sum("\ufffd" not in text for text in of.dataset.table("test")["text"].to_pylist())
    assert require_sound(of).report.reasons == {"empty text": 60 - left} and left > 3
    assert f"{left} test rows have no token" in " ".join(of.dataset.report.warnings)


def test_class_that_loses_its_training_rows_ends_the_run(uncased: Path, tmp_path: Path) -> None:
    files = {"train": [*ROWS, *((t, "c") for t, _ in ACCENTED)], "validation": ROWS[:40], "test": [("x", "c")] * 1}
    files["test"] = [(t.replace("\u00ef", "\u00ed"), "c") for t, _ in ACCENTED]
    with pytest.raises(
        DataError, match=r"class 'c' has no row left in train: all 150 have the token ids of rows nearer"
    ):
        prepared(tmp_path, uncased, files)


def test_labels_in_sets_and_weights_are_compared_and_counted(uncased: Path, tmp_path: Path) -> None:
    sets = [(text, json.dumps(sorted({label, "ca"[i % 2]}))) for i, (text, label) in enumerate([*ROWS, *ACCENTED])]
    of = prepared(tmp_path, uncased, sets)
    data, report = of.dataset, of.dataset.report
    assert data.multi_label and report.duplicates_dropped > 90 and report.reasons == {}
    for split in SPLITS:
        counts = dict(zip(data.classes, data.targets(split).sum(0).tolist(), strict=True))
        assert report.class_counts[split] == counts


def test_fingerprint_follows_rows_and_not_the_place_of_the_encoder(uncased: Path, tmp_path: Path) -> None:
    rows = [*ROWS, *ACCENTED]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in uncased.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    one, other, again = (prepared(tmp_path, encoder, rows) for encoder in (uncased, copy, uncased))
    assert one.dataset.fingerprint == other.dataset.fingerprint and one == again
    config = config_of(tmp_path, uncased, rows)
    assert ingest(config, tmp_path / "home").fingerprint != one.dataset.fingerprint
    assert np.array_equal(one.dataset.targets("train"), open_split(one.tokens.path, "train").labels)
