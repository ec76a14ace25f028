"""JSON lines and Parquet as they stand in a file: records with every field, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import DataError

if TYPE_CHECKING:
    from bertft_core.data.sources import SourceFile


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
