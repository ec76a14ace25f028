"""A table whose columns nobody has named yet: some of its rows, drawn evenly, with every column."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bertft_core.base.errors import DataError
from bertft_core.base.text import quoted
from bertft_core.config.run import DataConfig
from bertft_core.data.compressed import table_name
from bertft_core.data.delimited import csv_records
from bertft_core.data.formats import decoding, json_objects, parquet_batches
from bertft_core.data.readers import class_of, read_batches
from bertft_core.data.sources import HubDataset, SourceFile, inspect_source, open_hub, resolve_source

_ROWS = 10_000  # of a sample
_SEED = 13
_LONG_NAME = 80  # signs; no column is called so


@dataclass(frozen=True, kw_only=True)
class TableSample:
    """At most 10,000 rows of a table. columns: {name: values}, None where a row has none; rows: of the whole table.

    broken: records of a wrong shape, which are in neither. kind, encoding, delimiter: of the first file.
    """

    name: str
    columns: dict[str, list[Any]]
    rows: int
    broken: int
    kind: str
    encoding: str | None
    delimiter: str | None

    @property
    def size(self) -> int:
        """Rows of the sample."""
        return len(next(iter(self.columns.values()), []))

    @property
    def is_whole(self) -> bool:
        """Whether every row of the table is in it."""
        return self.size == self.rows


def read_sample(text: str, base_dir: Path) -> TableSample:
    """Rows of a source as `data.source` names one. Raises DataError for what cannot be read, and without a header."""
    with tempfile.TemporaryDirectory() as copies:
        return _read_sample(text, resolve_source(text, base_dir, "FILE", copies=Path(copies)))


def _read_sample(text: str, source: Path | HubDataset) -> TableSample:
    config = DataConfig(source=text)
    files = inspect_source(source, config)
    draw, chosen, rows, broken = random.Random(_SEED), list[dict[str, Any]](), 0, 0
    for record in _records(source, config, files):
        if record is None:
            broken += 1
            continue
        rows += 1
        if len(chosen) < _ROWS:
            chosen.append(record)
        elif (place := draw.randrange(rows)) < _ROWS:
            chosen[place] = record
    name = table_name(source) if isinstance(source, Path) else text
    if not chosen:
        raise DataError(f"{name}: holds no row that can be read ({broken} broken); wanted labelled rows")
    names = list(dict.fromkeys(column for record in chosen for column in record))
    first = files[0]
    sample = TableSample(
        name=name,
        columns={column: [record.get(column) for record in chosen] for column in names},
        rows=rows,
        broken=broken,
        kind=first.kind,
        encoding=first.encoding,
        delimiter=first.dialect.delimiter if first.dialect else None,
    )
    if first.kind == "csv":
        _require_header(sample)
    return sample


def _records(
    source: Path | HubDataset, config: DataConfig, files: tuple[SourceFile, ...]
) -> Iterator[dict[str, Any] | None]:
    """Every record with all its columns; None for one of a wrong shape."""
    if files[0].kind == "document":
        for batch in read_batches(source, config, files):
            yield from ({config.text: t, str(config.label): c} for t, c in zip(*batch.columns.values(), strict=True))
            yield from (None for _ in batch.faults)
        return
    for file in files:
        with decoding(file):
            yield from _of_file(file)


def _of_file(file: SourceFile) -> Iterable[dict[str, Any] | None]:
    if file.kind == "csv":
        assert file.dialect is not None, "inspect_source gives each CSV file one"
        header = file.dialect.header
        if twice := [name for name, n in Counter(header).items() if n > 1]:
            raise DataError(f"{file.name}: column {quoted(twice[0])} occurs {header.count(twice[0])} times: rename one")
        if not header:
            raise DataError(f"{file.name}: the first line is broken; wanted the names of the columns")
        records = csv_records(file, file.dialect)
        return (None if isinstance(r, str) else dict(zip(header, r, strict=True)) for _, r in records)
    if file.kind == "jsonl":
        return (item for _, item in json_objects(file))
    if file.kind == "parquet":
        return _rows_of(parquet_batches(file))
    assert file.hub is not None, "the last kind is hub"
    dataset = open_hub(file.hub)[file.name]
    named = {c: f.names for c, f in dataset.features.items() if getattr(f, "names", None)}  # ClassLabel
    return ({c: class_of(v, named[c]) if c in named else v for c, v in row.items()} for row in dataset)


def _rows_of(batches: Iterable[dict[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _require_header(sample: TableSample) -> None:
    """Raises DataError where the first line is a row: a name that no column has, or a value its own column repeats."""
    for name, values in sample.columns.items():
        known = Counter(str(value) for value in values)
        is_repeated = len(known) < len(values) / 2 and known[name] > 1
        numbers = name.replace(".", "").isdigit() and all(v.replace(".", "").isdigit() for v in known if v)
        if is_repeated or len(name) > _LONG_NAME or (numbers and not _counts_up(list(sample.columns))):
            found = f"{quoted(name[:40])} is a value of its column" if is_repeated else f"it holds {quoted(name[:40])}"
            raise DataError(
                f"{sample.name}: the first line looks like a row, not like the names of the columns ({found}): put a "
                "line of names above it, such as `(echo 'label,text'; cat FILE) > NEW`"
            )


def _counts_up(names: list[str]) -> bool:
    """0, 1, 2: what pandas calls columns without a name; an unnamed first one is its index."""
    counted = [name for name in names if name]
    return all(n.isdigit() for n in counted) and all(int(b) == int(a) + 1 for a, b in pairwise(counted))
