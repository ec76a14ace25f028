"""Rows of a database, of an object store and of a plug-in: the same splits as of a file, tonight and tomorrow."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bertft_core.base.errors import BertftError, ConfigError, DataError, StorageError
from bertft_core.config.run import DataConfig, parse_config
from bertft_core.data import elsewhere
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.recipe.proposal.sample import read_sample
from bertft_core.testing import check_source

ROWS = [(f"text number {i}", ("ham", "spam")[i % 2], i) for i in range(200)]
QUERY = "SELECT body AS text, kind AS label FROM mails WHERE id >= 0 -- a % sign, a :name"
SOURCE = """
import datetime, decimal
def rows(address, query):
    for i in reversed(range(200)):
        yield {"text": f"text number {i}", "label": ("ham", "spam")[i % 2], "day": datetime.date(2026, 1, 1),
               "price": decimal.Decimal("1.50"), "raw": b"abc", "query": query}
def broken(address, query):
    raise RuntimeError(f"no answer from {address} for hunter22")
def no_rows(address, query):
    return [("text", "label")]
def none(address, query):
    return []
drawn = [0]
def other(address, query):
    drawn[0] += 1
    return [{"text": f"text {drawn[0]}", "label": "a"}]
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "mails.db"
    with closing(sqlite3.connect(file)) as found, found:
        found.execute("CREATE TABLE mails (body TEXT, kind TEXT, id INTEGER)")
        found.executemany("INSERT INTO mails VALUES (?, ?, ?)", ROWS)
    return file


def _prepare(tmp_path: Path, **data: Any) -> DatasetSplits:
    return prepare_dataset(DataConfig(**data), tmp_path / "home" / "data", tmp_path)


def _from_file(tmp_path: Path) -> DatasetSplits:
    lines = sorted(json.dumps({"text": text, "label": label}) for text, label, _ in ROWS)
    (tmp_path / "same.jsonl").write_text("\n".join(lines))
    return _prepare(tmp_path, source="same.jsonl")


def test_rows_of_a_select_are_those_of_a_file_and_leave_no_copy(database: Path, tmp_path: Path) -> None:
    found = _prepare(tmp_path, source="sqlite:///mails.db", query=QUERY)
    assert found.fingerprint == _from_file(tmp_path).fingerprint
    assert not [path for path in (tmp_path / "home").rglob("*") if "copies" in path.name or path.name == "sqlite.jsonl"]


def test_order_of_the_answer_changes_nothing_and_a_changed_row_does(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _prepare(tmp_path, source="sqlite:///mails.db", query=QUERY)
    monkeypatch.setattr(elsewhere, "_SORTED", 7)  # rows in memory: the others are merged from files
    turned = _prepare(tmp_path, source="sqlite:///mails.db", query=f"{QUERY}\nORDER BY id DESC")
    assert (turned.fingerprint, turned.path) == (before.fingerprint, before.path)
    with closing(sqlite3.connect(database)) as found, found:
        found.execute("UPDATE mails SET kind = 'spam' WHERE id = 0")
    assert _prepare(tmp_path, source="sqlite:///mails.db", query=QUERY).fingerprint != before.fingerprint


def test_address_in_a_variable_is_read_and_never_written(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILS", f"sqlite:///{database}")
    config = {"source": "env:MAILS", "query": QUERY}
    assert _prepare(tmp_path, **config).fingerprint == _from_file(tmp_path).fingerprint
    monkeypatch.setenv("MAILS", "postgresql+psycopg://me:hunter22@127.0.0.1:1/mails")
    with pytest.raises(
        StorageError, match=r"data\.source: postgresql\+psycopg://\*\*\*@127\.0\.0\.1:1/mails: "
    ) as fault:
        _prepare(tmp_path, **config)
    assert "hunter22" not in str(fault.value)
    monkeypatch.delenv("MAILS")
    with pytest.raises(DataError, match=r"data\.source: the environment variable MAILS is not set"):
        _prepare(tmp_path, **config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"source": "postgresql+psycopg://me:hunter22@db/mails", "query": QUERY},
            r"data\.source: must not hold a password",
        ),
        ({"source": "s3://rows/mails.csv?secret_key=hunter22"}, r"data\.source: must not hold a password"),
        ({"source": "sqlite:///mails.db", "query": "DELETE FROM mails"}, r"data\.query: wanted a SELECT"),
        (
            {"source": "sqlite:///mails.db", "query": "SELECT 1; DROP TABLE mails"},
            r"data\.query: holds several statements",
        ),
        ({"source": "mails.csv", "query": QUERY}, r"data\.query: wants data\.source to be a database's URL"),
    ],
)
def test_what_a_configuration_must_not_say(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as fault:
        parse_config({"name": "n", "model": {"pretrained": "m"}, "data": data}, Path("."))
    assert "hunter22" not in str(fault.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"source": "sqlite:///gone.db", "query": QUERY},
            r"data\.source: sqlite:///gone\.db: no such file \(looked at /.*gone\.db\)",
        ),
        (
            {"source": "sqlite:///mails.db", "query": "SELECT * FROM letters"},
            r"data\.source: sqlite:///mails\.db: no such table: letters",
        ),
        (
            {"source": "sqlite:///mails.db", "query": "SELECT body, body FROM mails"},
            r"data\.query: column 'body' comes 2 times",
        ),
        (
            {"source": "sqlite:///mails.db", "query": f"{QUERY[: QUERY.index('--')]} AND id > 999"},
            r"data\.source: the answer holds no rows",
        ),
        (
            {"source": "sqlite:///mails.db", "query": "SELECT body, kind FROM mails"},
            r"sqlite\.jsonl: .*there is no column 'text'; found columns: 'body', 'kind'|there is no column 'label'",
        ),
        (
            {"source": "nosuchdb://db/mails", "query": QUERY},
            r"data\.source: nosuchdb://db/mails: SQLAlchemy knows no such database",
        ),
        (
            {"source": "nosuch://rows/mails.csv"},
            r"data\.source: nosuch://rows/mails\.csv: unknown scheme; wanted .* \(installed: none\)",
        ),
        (
            {"source": "sqlite:///mails.db"},
            r"data\.source: sqlite:///mails\.db: unknown scheme; wanted .*a database with data\.query",
        ),
        ({"source": "gs://rows/mails.csv"}, r"data\.source: gs://rows/mails\.csv: a package is missing .*gcsfs"),
        ({"source": "memory://rows/gone.csv"}, r"data\.source: memory://rows/gone\.csv: no such object or folder"),
        (
            {"train": "memory://rows/gone.csv", "validation": "a", "test": "b"},
            r"data\.train: memory://rows/gone\.csv: no such object",
        ),
    ],
)
def test_what_is_not_there_is_named_by_key_and_address(
    data: dict[str, Any], message: str, database: Path, tmp_path: Path
) -> None:
    with pytest.raises(BertftError, match=message) as fault:
        _prepare(tmp_path, **data)
    assert fault.value.exit_code == 2


def test_a_select_that_writes_is_stopped_by_the_session(database: Path, tmp_path: Path) -> None:
    """Sqlite has no SELECT that writes; what its session would refuse is shown below the check of the text."""
    with pytest.raises(DataError, match=r"data\.source: .*readonly database"):
        list(elsewhere._answer("sqlite:///mails.db", "DELETE FROM mails", tmp_path, "data.source"))
    with closing(sqlite3.connect(database)) as found:
        assert found.execute("SELECT count(*) FROM mails").fetchone() == (200,)


@pytest.fixture
def store() -> Any:
    """A store of fsspec that lives in this process."""
    found = fsspec.filesystem("memory")
    yield found
    found.rm("/", recursive=True)


def test_an_object_and_a_folder_of_a_store_are_read_as_files(store: Any, database: Path, tmp_path: Path) -> None:
    same = _from_file(tmp_path)
    content = (tmp_path / "same.jsonl").read_bytes()
    store.pipe("/rows/mails.jsonl", content)
    assert _prepare(tmp_path, source="memory://rows/mails.jsonl").fingerprint == same.fingerprint
    lines = content.splitlines(keepends=True)
    store.pipe({"/parts/a.jsonl": b"".join(lines[:90]), "/parts/b.jsonl": b"".join(lines[90:])})
    assert _prepare(tmp_path, source="memory://parts").fingerprint == same.fingerprint
    assert read_sample("memory://rows/mails.jsonl", tmp_path).rows == 200
    for split, part in {"train": lines[:150], "validation": lines[150:175], "test": lines[175:]}.items():
        store.pipe(f"/own/{split}.jsonl", b"".join(part))
    own = _prepare(tmp_path, **{split: f"memory://own/{split}.jsonl" for split in ("train", "validation", "test")})
    assert (own.n_train, own.n_validation, own.n_test) == (150, 25, 25)


def test_a_plug_in_wins_for_its_scheme(plug_in: Callable[..., None], tmp_path: Path) -> None:
    plug_in("bertft.sources", "desk = a_source:rows", a_source=SOURCE)
    found = _prepare(tmp_path, source="desk://team/mails", slices=["day", "price", "raw"])
    assert found.fingerprint == _from_file(tmp_path).fingerprint
    assert set(map(tuple, found.table("train")["slices"].to_pylist())) == {("2026-01-01", "1.50", "abc")}
    asked = _prepare(tmp_path, source="desk://team/mails", query="SELECT anything", slices=["query"])
    assert asked.table("train")["slices"][0].as_py() == ["SELECT anything"]
    assert check_source("desk://team/mails") == 200


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"data\.source: desk://a: the source a_source:broken failed \(RuntimeError: no answer"),
        ("no_rows", r"data\.source: wanted each row as a mapping of columns, found tuple"),
        ("none", r"data\.source: the answer holds no rows"),
        ("absent", r"data\.source: desk is a_source:absent of a_source, which cannot be imported"),
    ],
)
def test_a_plug_in_that_fails_is_named(
    function: str, message: str, plug_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_PASSWORD", "hunter22")
    plug_in("bertft.sources", f"desk = a_source:{function}", a_source=SOURCE)
    with pytest.raises(BertftError, match=message) as fault:
        _prepare(tmp_path, source="desk://a")
    assert "hunter22" not in str(fault.value)


def test_the_contract_refuses_a_source_that_answers_otherwise_each_time(plug_in: Callable[..., None]) -> None:
    plug_in("bertft.sources", "desk = a_source:other", a_source=SOURCE)
    with pytest.raises(DataError, match=r"desk://a: a second reading gives other rows"):
        check_source("desk://a")
