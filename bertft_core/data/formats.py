"""CSV, JSON lines and Parquet as they stand in a file: records with every field, in bounded memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import DataError

if TYPE_CHECKING:
    from bertft_core.data.sources import SourceFile


_MAX_FIELD = 20_000_000  # characters in one CSV field; an unclosed quote stops here
_DELIMITERS = ",;\t|"
_PARQUET_ROWS = 1_000  # of one batch


def text_encoding(file: SourceFile) -> str:
    """The encoding to open with; utf-8-sig drops a byte order mark where there is one."""
    return "utf-8-sig" if file.encoding == "utf-8" else str(file.encoding)


@contextmanager
def decoding(file: SourceFile) -> Iterator[None]:
    """Turn a byte that is none of the file's encoding into a DataError."""
    try:
        yield
    except UnicodeDecodeError as fault:
        raise DataError(
            f"data.encoding: {file.name} is no {file.encoding} (byte {fault.start}: {fault.reason}); name the right "
            "one (predict and compare: --encoding), or leave data.encoding out to have it decided per file"
        ) from None


def sniff_delimiter(file: SourceFile, wanted: Collection[str]) -> str:
    """The one of comma, semicolon, tab, bar whose header has most wanted columns, then fields; of .tsv the tab."""
    if file.path.suffix.lower() == ".tsv":
        return "\t"

    def rank(delimiter: str) -> tuple[int, int, int]:
        header = csv_header(file, delimiter)
        return (len(set(wanted) & set(header)), len(header), -_DELIMITERS.index(delimiter))

    return max(_DELIMITERS, key=rank)


def csv_header(file: SourceFile, delimiter: str) -> list[str]:
    """Column names, stripped; none when the first record is broken."""
    with open(file.path, newline="", encoding=text_encoding(file)) as handle:
        try:
            row: list[str] = next((r for r in csv.reader(handle, delimiter=delimiter, strict=True) if r), [])
        except csv.Error:
            return []
    return [name.strip() for name in row]


def csv_records(file: SourceFile, delimiter: str, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """(row from 1, fields) of each record below the header; a reason instead of fields for a broken one."""
    previous_limit = csv.field_size_limit(_MAX_FIELD)
    try:
        with open(file.path, newline="", encoding=text_encoding(file)) as handle:
            records = _records(csv.reader(handle, delimiter=delimiter, strict=True))
            next(records, None)  # the header
            for number, record in enumerate(records, start=1):
                if not isinstance(record, str) and len(record) != width:
                    reason = f"wrong number of fields: {len(record)}, the header has {width}"
                    yield number, f"{reason}\n{' '.join(record)[:200]}"
                else:
                    yield number, record
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


def json_objects(file: SourceFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank."""
    with open(file.path, encoding=text_encoding(file)) as handle:
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


def parquet_batches(file: SourceFile, columns: Collection[str] | None = None) -> Iterator[dict[str, list[Any]]]:
    """Columns (None: all) of 1,000 rows at a time. Raises DataError when the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            names = list(columns) if columns is not None else None
            for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
                yield batch.to_pydict()
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{file.name}: not readable as Parquet: {fault}") from None


def parquet_columns(file: SourceFile) -> list[str]:
    """Column names. Raises DataError when the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file.path).names)
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{file.name}: not readable as Parquet: {fault}") from None
