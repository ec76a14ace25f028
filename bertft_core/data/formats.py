"""JSON and Parquet as they stand in a file: records with every field, in bounded memory."""

from __future__ import annotations

import codecs
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import DataError
from bertft_core.data.compressed import open_text

if TYPE_CHECKING:
    from bertft_core.data.sources import SourceFile


_PARQUET_ROWS = 1_000  # of one batch
_JSON_BLOCK = 1 << 20  # characters of an array that are read at once
_SIGN = re.compile(r"[^ \t\r\n]")


def text_encoding(file: SourceFile) -> str:
    """The encoding to open with; utf-8-sig drops a byte order mark where there is one."""
    name = codecs.lookup(str(file.encoding)).name
    return "utf-8-sig" if name == "utf-8" else name


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
    """(number from 1, object) of each row: a line that is not blank, an element of an array, or a place of columns.

    Columns: one object for the whole file whose values are lists, or objects by row as pandas writes them. It is read
    whole; lines and arrays are read in bounded memory. Raises DataError naming the row.
    """
    with open_text(file.path, text_encoding(file)) as handle:
        sign = handle.read(1)
        while sign.isspace():
            sign = handle.read(1)
        items = _elements(handle, file.name) if sign == "[" else None
        if items is None:
            handle.close()
            items = _lines(file)
        for number, item in items:
            if not isinstance(item, dict):
                raise DataError(f"{file.name}:{number}: wanted a JSON object, found {type(item).__name__}")
            yield number, item


def _lines(file: SourceFile) -> Iterator[tuple[int, Any]]:
    with open_text(file.path, text_encoding(file)) as handle:
        lines = ((number, line) for number, line in enumerate(handle, start=1) if line.strip())
        start = next(lines, None)
        if start is None:
            return
        following = next(lines, None)
        try:
            whole = json.loads(start[1] if following is None else "{}")
            if following is not None and start[1].strip() == "{":  # one object over many lines
                whole = json.loads("".join(line for _, line in itertools.chain([start, following], lines)))
        except (ValueError, RecursionError) as fault:
            raise DataError(f"{file.name}:{start[0]}: broken JSON ({fault}); mend or remove it") from None
        if columns := _columns(whole, file.name):
            yield from enumerate(columns, start=1)
            return
        for number, line in itertools.chain([start], [following] if following else [], lines):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as fault:
                raise DataError(
                    f"{file.name}:{number}: broken JSON ({fault}); wanted one object per line: mend or remove it"
                ) from None


def _columns(whole: Any, name: str) -> list[dict[str, Any]]:
    """The rows of an object of columns; none where it is a row itself."""
    if not isinstance(whole, dict) or not whole or not all(isinstance(v, list | dict) for v in whole.values()):
        return []
    if set(whole) <= {"columns", "index", "data"} and {"columns", "data"} <= set(whole):  # pandas' orient="split"
        return [dict(zip(whole["columns"], row, strict=True)) for row in whole["data"]]
    if len({len(values) for values in whole.values()}) > 1:
        sizes = ", ".join(f"{key!r} {len(values)}" for key, values in list(whole.items())[:5])
        raise DataError(f"{name}: one JSON object whose columns differ in length: {sizes}; wanted one object per line")
    if all(isinstance(values, list) for values in whole.values()):
        return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]
    rows = next(values for values in whole.values() if isinstance(values, dict))
    return [
        {key: v.get(row) if isinstance(v, dict) else v[place] for key, v in whole.items()}
        for place, row in enumerate(rows)
    ]


def _elements(handle: Any, name: str) -> Iterator[tuple[int, Any]]:
    """(number from 1, element) of an array whose opening bracket is read."""
    decoder, text, place, number, size = json.JSONDecoder(), "", 0, 1, _JSON_BLOCK
    while True:
        place = _next_sign(text, place)
        if text[place : place + 1] == "]":
            rest, block = text[place + 1 :].strip(), text
            while block and not rest:
                block = handle.read(_JSON_BLOCK)
                rest = block.strip()
            if rest:
                raise DataError(
                    f"{name}: more stands behind the end of the JSON array: {rest[:40]!r}; wanted one array, or one "
                    "object per line"
                )
            return
        try:
            if number > 1 and text[place : place + 1] == ",":
                start = _next_sign(text, place + 1)
            elif number > 1:
                raise ValueError("wanted a comma or the end of the array")
            else:
                start = place
            item, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as fault:
            block = handle.read(size)
            if not block:
                raise DataError(f"{name}:{number}: broken JSON array ({fault}): mend or remove the element") from None
            text, place, size = text[place:] + block, 0, 2 * size
            continue
        yield number, item
        number, size = number + 1, _JSON_BLOCK


def _next_sign(text: str, place: int) -> int:
    """The first place from `place` on that is no white space of JSON; the end where there is none."""
    sign = _SIGN.search(text, place)
    return len(text) if sign is None else sign.start()


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
    return list(parquet_types(file))


def parquet_types(file: SourceFile) -> dict[str, Any]:
    """Column name -> type, as Arrow has it. Raises DataError when the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {field.name: field.type for field in pq.read_schema(file.path)}
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{file.name}: not readable as Parquet: {fault}") from None


def cell(value: Any) -> Any:
    """A value as JSON holds it: dates in ISO 8601, bytes as UTF-8, NaN, NaT and NA as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        return value.decode(
            "utf-8", "surrogateescape"
        )  # a byte that is none becomes a lone surrogate, which is refused
    if isinstance(value, dict):
        return {str(key): cell(part) for key, part in value.items()}
    if hasattr(value, "tolist"):  # of NumPy, a number or an array
        return cell(value.tolist())
    if hasattr(value, "isoformat"):
        text = str(value.isoformat())
        return None if text == "NaT" else text
    if isinstance(value, Iterable):
        return [cell(part) for part in value]
    text = str(value)
    return None if text == "<NA>" else text
