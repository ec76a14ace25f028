"""Readers for CSV, JSON lines, Parquet, class folders and Hugging Face data sets, in bounded memory."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import DataError
from bertft_core.data.delimited import csv_records
from bertft_core.data.formats import decoding, json_objects, parquet_batches, parquet_columns, text_encoding
from bertft_core.data.sources import HubDataset, SourceFile, inspect_source, open_hub

if TYPE_CHECKING:
    from bertft_core.config.run import DataConfig


_MAX_ROWS, _MAX_CHARS = 5_000, 4_000_000  # of one batch
_FIRST_ROWS = 1_000  # JSON lines looked at before a key counts as missing from the file


@dataclass(frozen=True, kw_only=True)
class RowFault:
    """One row that cannot be used. row counts from 1, a header not included."""

    file: str
    row: int
    reason: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """Rows of one or more files: `files` and `rows` (from 1) run parallel to each list of `columns`."""

    files: list[str]
    rows: list[int]
    columns: dict[str, list[Any]]
    faults: list[RowFault]


def require_columns(header: Sequence[str], config: DataConfig, file: str) -> None:
    """Raises DataError naming each missing (or ambiguous) column, those of the header, and the nearest one."""
    faults = []
    for column, key in config.columns.items():
        if header.count(column) > 1:
            faults.append(f"{key}: column {column!r} occurs {header.count(column)} times")
        elif column not in header:
            near = difflib.get_close_matches(column, header, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            faults.append(f"{key}: there is no column {column!r}{hint}")
    if faults:
        names = ", ".join(repr(c[:60]) for c in header[:30]) or "none"
        raise DataError(f"{file}: {'; '.join(faults)}; found columns: {names}")


def read_batches(
    source: Path | HubDataset, config: DataConfig, files: tuple[SourceFile, ...] | None = None
) -> Iterator[RowBatch]:
    """Rows as they stand in the source, at most 5,000 rows or about 4 million characters at a time.

    `files` spares a second inspection. Raises DataError for a missing column (naming those found), a broken
    JSON line (file:line), a damaged file. CSV rows of a wrong shape come as faults of the batch.
    """
    for kind, group in itertools.groupby(files or inspect_source(source, config), key=lambda f: f.kind):
        if kind == "document":
            yield from _read_documents(list(group), config)
            continue
        reader = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet, "hub": _read_hub}[kind]
        for file in group:
            with decoding(file):
                yield from reader(file, config)


def texts_alone(config: DataConfig) -> DataConfig:
    """How a source is inspected and read of which the column data.text alone is wanted, whatever else it has."""
    others: dict[str, Any] = {"group": None, "date": None, "until": None, "text_pair": None, "where": {}, "slices": []}
    return config.model_copy(update={**others, "label": config.text, "classes": None})


def read_texts(source: Path | HubDataset, config: DataConfig, files: tuple[SourceFile, ...]) -> Iterator[list[str]]:
    """The texts of a source, as for `read_batches` with a configuration of `texts_alone`.

    Rows of a wrong shape and cells that hold no text are left out.
    """
    if files[0].kind == "document":  # whose class is no column
        config = config.model_copy(update={"label": f"class of {config.text}"})
    for batch in read_batches(source, config, files):
        yield [text for text in batch.columns[config.text] if isinstance(text, str)]


# ---- CSV, JSON lines, class folders: row by row


@dataclass(kw_only=True, slots=True)
class _Row:
    """values: one for each wanted column, in order. chars: what the row counts for in a batch."""

    file: str
    row: int
    values: list[Any]
    chars: int


def _in_batches(rows: Iterable[_Row | RowFault], columns: Iterable[str]) -> Iterator[RowBatch]:
    chunk: list[_Row] = []
    faults: list[RowFault] = []
    chars = 0
    for row in itertools.chain(rows, [None]):
        if isinstance(row, RowFault):
            faults.append(row)
        elif row is not None:
            chunk.append(row)
            chars += row.chars
        is_full = len(chunk) + len(faults) >= _MAX_ROWS or chars >= _MAX_CHARS
        if is_full or (row is None and (chunk or faults)):
            yield RowBatch(
                files=[r.file for r in chunk],
                rows=[r.row for r in chunk],
                columns={column: [r.values[i] for r in chunk] for i, column in enumerate(columns)},
                faults=faults,
            )
            chunk, faults, chars = [], [], 0


def _read_csv(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    dialect = file.dialect
    assert dialect is not None
    columns, header = config.columns, dialect.header
    require_columns(header, config, file.name)
    places = [header.index(column) for column in columns]

    def rows() -> Iterator[_Row | RowFault]:
        for number, record in csv_records(file, dialect):
            if isinstance(record, str):
                reason, _, text = record.partition("\n")
                yield RowFault(file=file.name, row=number, reason=reason, text=text)
            else:
                values = [record[place] for place in places]
                yield _Row(file=file.name, row=number, values=values, chars=sum(map(len, record)))

    return _in_batches(rows(), columns)


def _read_jsonl(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    objects = json_objects(file)
    first = list(itertools.islice(objects, _FIRST_ROWS))
    require_columns(list(dict.fromkeys(k for _, o in first for k in o)), config, file.name)
    columns = config.columns

    def rows() -> Iterator[_Row]:
        for number, item in itertools.chain(first, objects):
            text = item.get(config.text)
            chars = len(text) if isinstance(text, str) else 0
            yield _Row(file=file.name, row=number, values=[item.get(column) for column in columns], chars=chars)

    return _in_batches(rows(), columns)


# ---- Parquet and Hugging Face


def _read_parquet(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    require_columns(parquet_columns(file), config, file.name)
    number = 0
    for columns in parquet_batches(file, config.columns):
        batch = _arrow_batch(file.name, columns, number)
        yield batch
        number += len(batch.rows)


def _arrow_batch(name: str, columns: dict[str, list[Any]], done: int) -> RowBatch:
    n = len(next(iter(columns.values())))
    return RowBatch(files=[name] * n, rows=list(range(done + 1, done + n + 1)), columns=columns, faults=[])


def _read_hub(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    assert file.hub is not None
    dataset = open_hub(file.hub)[file.name]
    require_columns(list(dataset.column_names), config, f"hf://{file.hub.name} {file.name}")
    wanted = list(config.columns)
    number = 0
    for table in dataset.select_columns(wanted).with_format("arrow").iter(batch_size=1_000):
        columns = table.to_pydict()
        if isinstance(config.label, str):
            columns[config.label] = named_classes(columns[config.label], dataset.features[config.label])
        yield _arrow_batch(file.name, columns, number)
        number += table.num_rows


def named_classes(values: list[Any], feature: Any) -> list[Any]:
    """Labels of a column of `datasets`: of type ClassLabel by their names (-1: missing), of another as they are."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    if not names:
        return values
    return [[names[v] for v in value] if isinstance(value, list) else class_of(value, names) for value in values]


def class_of(value: int | None, names: list[str]) -> str | None:
    """The class of a number by the names of a ClassLabel, None for a missing one (-1)."""
    return names[value] if value is not None and value >= 0 else None


# ---- class folders


def _read_documents(files: list[SourceFile], config: DataConfig) -> Iterator[RowBatch]:
    others = [k for c, k in config.columns.items() if k not in ("data.text", "data.label")]
    if others:
        raise DataError(f"{', '.join(others)}: a folder of class folders has no columns but the text and its class")
    if not isinstance(config.label, str):
        raise DataError("data.label: a folder of class folders holds one class per text: leave data.label out")

    def rows() -> Iterator[_Row | RowFault]:
        for file in files:
            content = file.path.read_bytes()
            try:
                text = content.decode(text_encoding(file))
            except UnicodeDecodeError as fault:
                reason = f"no {file.encoding}: byte {fault.start}: {fault.reason}"
                yield RowFault(file=file.name, row=1, reason=reason, text=repr(content[:50]))
                continue
            if "\0" in text:
                yield RowFault(file=file.name, row=1, reason="binary content", text=text[:200])
            else:
                yield _Row(file=file.name, row=1, values=[text, file.path.parent.name], chars=len(text))

    return _in_batches(rows(), (config.text, config.label_columns[0]))
