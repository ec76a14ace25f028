"""Readers for CSV, JSON lines, Parquet, class folders and Hugging Face data sets, in bounded memory."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from bertft_core.data.sources import HubDataset, SourceFile
from bertft_core.errors import DataError

if TYPE_CHECKING:
    from bertft_core.config import DataConfig

MAX_ROWS, MAX_CHARS = 5_000, 4_000_000  # of one batch
_MAX_FIELD = 20_000_000  # characters in one CSV field; an unclosed quote stops here
_DELIMITERS = ",;\t|"
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


def wanted_columns(config: DataConfig) -> dict[str, str]:
    """Column name -> the configuration key that asks for it."""
    keys = {column: f"data.where.{column}" for column in config.where}
    for key in ("date", "group", "label", "text_pair", "text"):
        column = getattr(config, key)
        if column is not None:
            keys[column] = f"data.{key}"
    return keys


def require_columns(found: list[str], config: DataConfig, file: str) -> None:
    """Raises DataError naming each missing (or ambiguous) column, those found, and the nearest one."""
    faults = []
    for column, key in wanted_columns(config).items():
        if found.count(column) == 1:
            continue
        if column in found:
            faults.append(f"{key}: column {column!r} occurs {found.count(column)} times")
            continue
        near = difflib.get_close_matches(column, found, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        faults.append(f"{key}: there is no column {column!r}{hint}")
    if faults:
        shown = ", ".join(repr(c[:60]) for c in found[:30]) or "none"
        raise DataError(f"{file}: {'; '.join(faults)}; found columns: {shown}")


def read_files(files: tuple[SourceFile, ...], config: DataConfig) -> Iterator[RowBatch]:
    """The rows of `files` in order. Raises DataError as `read_batches` says."""
    for kind, group in groupby(files, key=lambda f: f.kind):
        if kind == "document":
            yield from _read_documents(list(group), config)
            continue
        reader = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet, "hub": _read_hub}[kind]
        for file in group:
            try:
                yield from reader(file, config)
            except UnicodeDecodeError as fault:
                raise DataError(
                    f"data.encoding: {file.name} is no {file.encoding} (byte {fault.start}: {fault.reason}); "
                    "leave data.encoding out to have it decided per file"
                ) from None


def _text_encoding(file: SourceFile) -> str:
    """utf-8-sig drops a byte order mark where there is one."""
    return "utf-8-sig" if file.encoding == "utf-8" else str(file.encoding)


# ---- CSV


def sniff_delimiter(file: SourceFile, config: DataConfig) -> str:
    """The delimiter among comma, semicolon, tab, bar whose header has most wanted columns, then fields."""
    if config.delimiter is not None:
        return config.delimiter
    if file.path.suffix.lower() == ".tsv":
        return "\t"
    wanted = set(wanted_columns(config))

    def rank(delimiter: str) -> tuple[int, int, int]:
        header = _header(file, delimiter)
        return (len(wanted & set(header)), len(header), -_DELIMITERS.index(delimiter))

    return max(_DELIMITERS, key=rank)


def _header(file: SourceFile, delimiter: str) -> list[str]:
    with open(file.path, newline="", encoding=_text_encoding(file)) as handle:
        try:
            row: list[str] = next((r for r in csv.reader(handle, delimiter=delimiter, strict=True) if r), [])
        except csv.Error:
            return []
    return [name.strip() for name in row]


def _read_csv(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    delimiter = sniff_delimiter(file, config)
    header = _header(file, delimiter)
    require_columns(header, config, file.name)
    places = {column: header.index(column) for column in wanted_columns(config)}
    previous_limit = csv.field_size_limit(_MAX_FIELD)
    try:
        with open(file.path, newline="", encoding=_text_encoding(file)) as handle:
            records = _records(csv.reader(handle, delimiter=delimiter, strict=True))
            next(records)  # the header
            yield from _csv_batches(file.name, records, len(header), places)
    finally:
        csv.field_size_limit(previous_limit)


def _records(reader: Any) -> Iterator[list[str] | str]:
    """Records that hold anything; a reason (str) for each line of a record with broken quoting."""
    while True:
        before = reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:  # the reader goes on with the next line; count every line it swallowed
            for line in range(before + 1, reader.line_num + 1):
                yield f"broken quoting: line {line}: {fault}"
            continue
        if fields:
            yield fields


def _csv_batches(
    name: str, records: Iterator[list[str] | str], width: int, places: dict[str, int]
) -> Iterator[RowBatch]:
    kept: list[list[str]] = []
    rows: list[int] = []
    faults: list[RowFault] = []
    chars = 0
    for number, record in enumerate(records, start=1):
        if isinstance(record, str):
            faults.append(RowFault(file=name, row=number, reason=record, text=""))
        elif len(record) != width:
            reason = f"wrong number of fields: {len(record)}, the header has {width}"
            faults.append(RowFault(file=name, row=number, reason=reason, text=" ".join(record)[:200]))
        else:
            kept.append(record)
            rows.append(number)
            chars += sum(map(len, record))
        if len(kept) + len(faults) >= MAX_ROWS or chars >= MAX_CHARS:
            yield _csv_batch(name, kept, rows, faults, places)
            kept, rows, faults, chars = [], [], [], 0
    if kept or faults:
        yield _csv_batch(name, kept, rows, faults, places)


def _csv_batch(
    name: str, kept: list[list[str]], rows: list[int], faults: list[RowFault], places: dict[str, int]
) -> RowBatch:
    columns = {column: [fields[place] for fields in kept] for column, place in places.items()}
    return RowBatch(files=[name] * len(rows), rows=rows, columns=columns, faults=faults)


# ---- JSON lines


def _read_jsonl(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    objects = _json_objects(file)
    first = list(islice(objects, _FIRST_ROWS))
    require_columns(list(dict.fromkeys(k for _, o in first for k in o)), config, file.name)
    wanted = list(wanted_columns(config))
    rows: list[int] = []
    columns: dict[str, list[Any]] = {c: [] for c in wanted}
    chars = 0
    for source in (first, objects):
        for number, item in source:
            rows.append(number)
            for column in wanted:
                columns[column].append(item.get(column))
            text = item.get(config.text)
            chars += len(text) if isinstance(text, str) else 0
            if len(rows) >= MAX_ROWS or chars >= MAX_CHARS:
                yield RowBatch(files=[file.name] * len(rows), rows=rows, columns=columns, faults=[])
                rows, columns, chars = [], {c: [] for c in wanted}, 0
    if rows:
        yield RowBatch(files=[file.name] * len(rows), rows=rows, columns=columns, faults=[])


def _json_objects(file: SourceFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    with open(file.path, encoding=_text_encoding(file)) as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as fault:
                raise DataError(
                    f"{file.name}:{number}: broken JSON ({fault}); wanted one object per line: mend or remove it"
                ) from None
            if not isinstance(item, dict):
                raise DataError(
                    f"{file.name}:{number}: wanted a JSON object per line, found {type(item).__name__}; "
                    "write a JSON array as one object per line"
                )
            yield number, item


# ---- Parquet and Hugging Face


def _read_parquet(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            require_columns(list(parquet.schema_arrow.names), config, file.name)
            number = 0
            for batch in parquet.iter_batches(batch_size=1_000, columns=list(wanted_columns(config))):
                yield _arrow_batch(file.name, batch.to_pydict(), number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{file.name}: not readable as Parquet: {fault}") from None


def _arrow_batch(name: str, columns: dict[str, list[Any]], done: int) -> RowBatch:
    n = len(next(iter(columns.values())))
    return RowBatch(files=[name] * n, rows=list(range(done + 1, done + n + 1)), columns=columns, faults=[])


def open_hub(hub: HubDataset) -> dict[str, Any]:
    """{split name: datasets.Dataset}. Raises DataError when the set or the split is not there."""
    import datasets

    try:
        if hub.folder is None:
            loaded = datasets.load_dataset(hub.name)
        elif any((hub.folder / n).exists() for n in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(hub.folder))
        else:
            loaded = datasets.load_dataset(str(hub.folder))
    except Exception as fault:  # datasets raises many unrelated types for "not there" and "not reachable"
        raise DataError(
            f"data.source: hf://{hub.name} cannot be loaded ({type(fault).__name__}: {str(fault)[:200]}); "
            "wanted a data set id on the hub (network needed) or a local folder"
        ) from None
    splits = {"all": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    if hub.split is None or hub.split in splits:
        return splits if hub.split is None else {hub.split: splits[hub.split]}
    raise DataError(f"data.source: hf://{hub.name} has no split {hub.split!r}; found: {', '.join(splits)}")


def _read_hub(file: SourceFile, config: DataConfig) -> Iterator[RowBatch]:
    assert file.hub is not None
    dataset = open_hub(file.hub)[file.name]
    require_columns(list(dataset.column_names), config, f"hf://{file.hub.name} {file.name}")
    wanted = list(wanted_columns(config))
    names = getattr(dataset.features[config.label], "names", None)  # ClassLabel
    number = 0
    for table in dataset.select_columns(wanted).with_format("arrow").iter(batch_size=1_000):
        columns = table.to_pydict()
        if names:
            values = columns[config.label]
            columns[config.label] = [names[v] if v is not None and v >= 0 else None for v in values]
        yield _arrow_batch(file.name, columns, number)
        number += table.num_rows


# ---- class folders


def _read_documents(files: list[SourceFile], config: DataConfig) -> Iterator[RowBatch]:
    others = [k for c, k in wanted_columns(config).items() if k not in ("data.text", "data.label")]
    if others:
        raise DataError(f"{', '.join(others)}: a folder of class folders has no columns but the text and its class")
    chunk: list[tuple[SourceFile, str]] = []
    faults: list[RowFault] = []
    chars = 0
    for file in files:
        text = file.path.read_bytes().decode(_text_encoding(file))
        if "\0" in text:
            faults.append(RowFault(file=file.name, row=1, reason="binary content", text=text[:200]))
        else:
            chunk.append((file, text))
            chars += len(text)
        if len(chunk) + len(faults) >= MAX_ROWS or chars >= MAX_CHARS:
            yield _document_batch(chunk, faults, config)
            chunk, faults, chars = [], [], 0
    if chunk or faults:
        yield _document_batch(chunk, faults, config)


def _document_batch(chunk: list[tuple[SourceFile, str]], faults: list[RowFault], config: DataConfig) -> RowBatch:
    texts = [text for _, text in chunk]
    labels = [file.path.parent.name for file, _ in chunk]
    columns = {config.text: texts, config.label: labels}
    return RowBatch(files=[f.name for f, _ in chunk], rows=[1] * len(chunk), columns=columns, faults=faults)
