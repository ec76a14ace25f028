"""What users have beside plain tables: compressed files, JSON of other shapes, lines above the header."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data import formats
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.readers import read_batches
from bertft_core.data.sources import inspect_source
from bertft_core.registry.comparison import read_labelled
from bertft_core.serving.artifact import ArtifactCard

ROWS = [(f'text number {i}, "so"', "ab"[i % 2]) for i in range(60)]
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]


def csv_bytes(delimiter: str = ",", above: str = "", encoding: str = "utf-8") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("text", "label"), *ROWS])
    return (above + out.getvalue()).encode(encoding)


def read(path: Path, **settings: Any) -> list[tuple[Any, Any]]:
    config = DataConfig(source=path.name, **settings)
    return [row for b in read_batches(path, config) for row in zip(b.columns["text"], b.columns["label"], strict=True)]


def prepare(path: Path, **settings: Any) -> DatasetSplits:
    config = DataConfig(source=path.name, **settings)
    return prepare_dataset(config, path.parent / "home/datasets", path.parent)


def pack(path: Path, content: bytes, inside: str = "rows.csv") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._rows.csv", b"\0")
            archive.writestr(f"export/{inside}", content)
    else:
        path.write_bytes({".gz": gzip, ".xz": lzma}[path.suffix].compress(content))
    return path


# ---- compressed files


def two_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.csv.xz", "rows.zip", "ROWS.CSV.GZ"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_compressed_table_is_the_table(name: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pack(path.with_suffix(path.suffix.lower()), csv_bytes(encoding=encoding)).rename(path)
    (tmp_path / "plain.csv").write_bytes(csv_bytes(encoding=encoding))
    assert read(path) == ROWS
    (packed,), (plain,) = (inspect_source(p, DataConfig(source="x")) for p in (path, tmp_path / "plain.csv"))
    assert (packed.digest, packed.encoding) == (plain.digest, plain.encoding)  # compressed anew it is the same data
    card = ArtifactCard(max_length=24, truncation="head", classes=("a", "b"))
    assert list(read_labelled(path, card, None).texts) == [text for text, _ in ROWS]


def test_compressed_json_lines_and_tsv_are_known_by_their_inner_names(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in OBJECTS).encode()
    assert read(pack(tmp_path / "rows.zip", lines, "rows.jsonl")) == ROWS == read(pack(tmp_path / "a.jsonl.gz", lines))
    assert read(pack(tmp_path / "rows.tsv.gz", csv_bytes("\t"))) == ROWS
    (tmp_path / "parts").mkdir()
    pack(tmp_path / "parts/1.csv.gz", csv_bytes())
    pack(tmp_path / "parts/2.zip", csv_bytes())
    two_files(tmp_path / "parts/pictures.zip")  # no table
    assert read(tmp_path / "parts") == [*ROWS, *ROWS]


def test_compression_is_told_by_the_content_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(gzip.compress(csv_bytes(), mtime=0))
    (tmp_path / "plain.csv.gz").write_bytes(csv_bytes())
    assert read(tmp_path / "rows.csv") == ROWS == read(tmp_path / "plain.csv.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv.gz", gzip.compress(csv_bytes(), mtime=0)[:-20], "cannot be decompressed"),
        ("rows.csv.xz", lzma.compress(csv_bytes())[:40], "cannot be decompressed"),
        ("rows.zip", b"PK\x03\x04 rubbish", "cannot be decompressed"),
        ("rows.gz", gzip.compress(csv_bytes(), mtime=0), r"unknown suffix ''; wanted .csv, .*\.gz, \.xz, \.zip"),
        ("rows.parquet.gz", gzip.compress(b"PAR1", mtime=0), "Parquet is compressed inside: unpack it"),
        ("rows.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
    ],
)
def test_damaged_or_unknown_compressed_file_says_why(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_damaged_zip_among_tables_is_no_silent_loss(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(csv_bytes())
    (tmp_path / "2.zip").write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(DataError, match=r"2\.zip: cannot be decompressed"):
        read(tmp_path)


def test_zip_of_two_files_is_refused_by_name(tmp_path: Path) -> None:
    two_files(tmp_path / "rows.zip")
    with pytest.raises(DataError, match=r"rows\.zip: wanted one file in the zip, found 2: a\.csv, b\.csv; unpack it"):
        read(tmp_path / "rows.zip")


def test_zip_under_the_name_of_a_table_holds_one_file(tmp_path: Path) -> None:
    pack(tmp_path / "rows.zip", csv_bytes()).rename(tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv") == ROWS
    two_files(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl: wanted one file in the zip, found 2: a\.csv, b\.csv; unpack it"):
        read(tmp_path / "rows.jsonl")
    with zipfile.ZipFile(tmp_path / "rows.tsv", "w") as archive:
        archive.writestr("__MACOSX/._rows.csv", b"x")
    with pytest.raises(DataError, match=r"rows\.tsv: wanted one file in the zip, found 0: none; unpack it"):
        read(tmp_path / "rows.tsv")


# ---- JSON of other shapes


@pytest.mark.parametrize(
    "whole",
    [
        OBJECTS,
        {"text": [t for t, _ in ROWS], "label": [label for _, label in ROWS]},
        {key: {str(i): row[key] for i, row in enumerate(OBJECTS)} for key in ("text", "label")},
        {"columns": ["text", "label"], "index": list(range(60)), "data": [list(row) for row in ROWS]},
    ],
    ids=["array", "lists", "columns", "split"],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_json_arrays_and_columns_are_rows(
    whole: Any, indent: int | None, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_JSON_BLOCK", block)  # of characters that are read at once
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(whole, indent=indent))
    assert read(path) == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "x", "label": "a"}, 3]', r"rows\.json:2: wanted a JSON object, found int"),
        ('[{"text": "x", "label": "a"} {"text": "y"}]', r"rows\.json:2: broken JSON array"),
        ('[{"text": "x", "label": "a"}, {"text": ', r"rows\.json:2: broken JSON array"),
        ('[{"text": "x", "label": "a"}]\n[{"text": "y", "label": "b"}]\n', r"rows\.json: more stands behind the end"),
        ('[{"text": "x", "label": "a"}]' + " " * (1 << 20) + ",", r"more stands behind the end of the JSON array: ','"),
        ('[{"text": "x", "label": "a"}', r"rows\.json:2: broken JSON array"),
        ('{"text": ["x", "y"], "label": ["a"]}', r"columns differ in length: 'text' 2, 'label' 1"),
        ('{"text": "x",\n"label": "a"}', r"rows\.json:1: broken JSON"),
        ('{\n"text": \n', r"rows\.json:1: broken JSON"),
    ],
)
def test_broken_json_names_the_element(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "rows.json")


def test_one_json_line_with_weights_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "x", "label": {"a": 1, "b": 3}}\n')
    assert read(tmp_path / "rows.jsonl") == [("x", {"a": 1, "b": 3})]


# ---- lines above the header


@pytest.mark.parametrize(
    ("delimiter", "above"),
    [
        (";", "sep=;\r\n"),
        (";", '"sep=;"\n'),
        ("^", "sep=^\r\n"),
        (",", "# exported in November\n# text and label of 60 rows\n"),
        ("\t", "sep=\t\n#comment\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_lines_above_the_header_are_no_rows(delimiter: str, above: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(csv_bytes(delimiter, above, encoding))
    assert read(tmp_path / "rows.csv") == ROWS


def test_header_and_texts_that_begin_with_a_hash_stay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("#,text,label\n1,#good film,a\n2,x,b\n")
    assert read(tmp_path / "a.csv") == [("#good film", "a"), ("x", "b")]
    (tmp_path / "b.csv").write_text("text,label\n#good film,a\n# bad film,b\n")
    assert read(tmp_path / "b.csv") == [("#good film", "a"), ("# bad film", "b")]


def test_lines_in_messages_count_those_above_the_header(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(csv_bytes(above="# a comment\n") + b'"open, x\n')
    faults = [f for b in read_batches(tmp_path / "rows.csv", DataConfig(source="x")) for f in b.faults]
    assert [(f.row, f.reason.partition(": unexpected")[0]) for f in faults] == [(61, "broken quoting: line 63")]


# ---- the quarantine


def test_conflicting_rows_are_listed_with_their_labels(tmp_path: Path) -> None:
    rows = [*OBJECTS, {"text": 'TEXT number 4, "so"', "label": "b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepare(tmp_path / "rows.jsonl", max_faulty_share=0.1)
    assert data.report.reasons == {"conflicting labels": 2}
    listed = [json.loads(line) for line in (data.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(f["row"], f["reason"]) for f in listed] == [
        (5, "conflicting labels: 'a' here, the same text has 'a', 'b'"),
        (61, "conflicting labels: 'b' here, the same text has 'a', 'b'"),
    ]


def test_many_labels_of_one_text_are_cut_in_the_list(tmp_path: Path) -> None:
    rows = [*OBJECTS, *({"text": "the same text", "label": [f"c{i:02}", "z"]} for i in range(20))]
    rows = [row | {"label": row["label"] if isinstance(row["label"], list) else [row["label"]]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepare(tmp_path / "rows.jsonl", max_faulty_share=1.0, min_class_rows=1)
    listed = [json.loads(line) for line in (data.path / "quarantine.jsonl").read_text().splitlines()]
    shown = ", ".join(f"['c{i:02}', 'z']" for i in range(5))
    assert [f["reason"] for f in listed] == [
        f"conflicting labels: ['c{i:02}', 'z'] here, the same text has {shown} and 15 more" for i in range(20)
    ]
