"""CSV and TSV files: delimiter and quoting of each, and its records in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertft_core.data.formats import decoding, text_encoding

if TYPE_CHECKING:
    from bertft_core.config.run import DataConfig
    from bertft_core.data.sources import Reading, SourceFile

_MAX_FIELD = 20_000_000  # characters in one field; an unclosed quote stops here
_DELIMITERS = ",;\t|"
_KNOWN_LABELS = 10_000  # of a file, compared with the ends of lines inside of quoted fields


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one file is written. header: column names, stripped; none where the first record is broken.

    quoting: standard or none. swallowed: lines (from 1) at which records start whose quoted field holds rows of the
    file: line breaks, and before one of them a delimiter and a label that other rows have.
    """

    delimiter: str
    quoting: str
    header: tuple[str, ...]
    swallowed: frozenset[int] = frozenset()


def dialect_of(file: SourceFile, config: DataConfig, usual: Reading) -> Dialect:
    """Delimiter and quoting by configuration, else by content.

    auto: none where every line holds as many fields as the header and more records speak against quoting (it is broken,
    or swallows rows) than for it. usual.quoting: what counts where none speaks; usual.delimiter: where the header then
    holds a wanted column.
    """
    with decoding(file):
        quoting = "none" if config.quoting == "none" else "standard"
        delimiter = config.delimiter or _sniff_delimiter(file, config.columns, usual.delimiter, quoting)
        header = _header(file, delimiter, quoting)
        if config.quoting != "auto" or not header:
            return Dialect(delimiter=delimiter, quoting=quoting, header=header)
        has_quotes, is_even = _lines(file, delimiter, len(header))
        if not has_quotes:
            return Dialect(delimiter=delimiter, quoting=quoting, header=header)
        labels = [header.index(c) for c in config.label_columns if c in header]
        against, speaks_for, swallowed = _as_quoted(file, delimiter, labels)
        against += len(swallowed)
        is_usual = usual.quoting == "none" and against == speaks_for
        if is_even and (against > speaks_for or is_usual) and header == _header(file, delimiter, "none"):
            return Dialect(delimiter=delimiter, quoting="none", header=header)
        return Dialect(delimiter=delimiter, quoting=quoting, header=header, swallowed=swallowed)


def _sniff_delimiter(file: SourceFile, wanted: Collection[str], usual: str | None, quoting: str) -> str:
    """The one of comma, semicolon, tab, bar whose header has most wanted columns, then fields; of .tsv the tab."""
    if file.path.suffix.lower() == ".tsv":
        return "\t"
    if usual is not None and set(wanted) & set(_header(file, usual, quoting)):
        return usual

    def rank(delimiter: str) -> tuple[int, int, int]:
        header = _header(file, delimiter, quoting)
        return (len(set(wanted) & set(header)), len(header), -_DELIMITERS.index(delimiter))

    return max(_DELIMITERS, key=rank)


def _reader(lines: Iterable[str], delimiter: str, quoting: str) -> Any:
    if quoting == "none":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _open(file: SourceFile) -> Any:
    return open(file.path, newline="", encoding=text_encoding(file))


def _header(file: SourceFile, delimiter: str, quoting: str) -> tuple[str, ...]:
    with _open(file) as handle:
        try:
            row: list[str] = next((r for r in _reader(handle, delimiter, quoting) if r), [])
        except csv.Error:
            return ()
    return tuple(name.strip() for name in row)


def _lines(file: SourceFile, delimiter: str, width: int) -> tuple[bool, bool]:
    """Whether the file holds a quotation mark, and whether every line that is not blank has `width` fields."""
    has_quotes, is_even = False, True
    with _open(file) as handle:
        for line in handle:
            has_quotes = has_quotes or '"' in line
            is_even = is_even and (line.count(delimiter) == width - 1 or not line.strip("\r\n"))
            if has_quotes and not is_even:
                break
    return has_quotes, is_even


def _as_quoted(file: SourceFile, delimiter: str, labels: list[int]) -> tuple[int, int, frozenset[int]]:
    """Numbers of records with broken quoting and of surely quoted ones, and the first lines of those that swallow rows.

    Sure: a label in quotation marks, or a doubled mark. labels: places of the label columns.
    """
    taken: list[str] = []

    def lines(handle: Any) -> Iterator[str]:
        for line in handle:
            taken.append(line)
            yield line

    known: set[tuple[str, ...]] = set()
    inside: dict[int, list[tuple[str, ...]]] = {}
    width, broken, sure, previous = 0, 0, 0, csv.field_size_limit(_MAX_FIELD)
    try:
        with _open(file) as handle:
            reader = _reader(lines(handle), delimiter, "standard")
            while True:
                taken.clear()
                start = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    break
                except csv.Error:
                    broken += 1
                    continue
                width = width or len(fields)
                cells = [line.rstrip("\r\n").split(delimiter) for line in taken]
                if fields and len(fields) != width:
                    broken += 1
                elif len(taken) == 1 and fields:
                    marked = [cells[0][place] for place in labels if place < len(cells[0])]
                    sure += any(cell[:1] == '"' for cell in marked) or '""' in taken[0].replace('""""', "")
                    if len(known) < _KNOWN_LABELS:
                        known.add(tuple(fields[place] for place in labels))
                else:
                    ends = [tuple(row[place].strip('"') for place in labels) for row in cells[:-1] if len(row) == width]
                    inside |= {start: ends} if ends else {}
    finally:
        csv.field_size_limit(previous)
    swallowed = {line for line, ends in inside.items() if labels and not known.isdisjoint(ends)}
    return broken, sure, frozenset(swallowed)


def csv_records(file: SourceFile, dialect: Dialect) -> Iterator[tuple[int, list[str] | str]]:
    """(row from 1, fields) of each record below the header; a reason instead of fields for a broken one."""
    previous_limit, width = csv.field_size_limit(_MAX_FIELD), len(dialect.header)
    try:
        with _open(file) as handle:
            records = _records(_reader(handle, dialect.delimiter, dialect.quoting), dialect.swallowed)
            next(records, None)  # the header
            for number, record in enumerate(records, start=1):
                if not isinstance(record, str) and len(record) != width:
                    reason = f"wrong number of fields: {len(record)}, the header has {width}"
                    yield number, f"{reason}\n{' '.join(record)[:200]}"
                else:
                    yield number, record
    finally:
        csv.field_size_limit(previous_limit)


def _records(reader: Any, swallowed: frozenset[int]) -> Iterator[list[str] | str]:
    """Records that hold anything; a reason (str) for each line of a record with broken quoting, or with rows inside."""
    while True:
        before = reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:  # the reader goes on with the next line; count every line it swallowed
            kind = "field too long" if "field larger" in str(fault) else "broken quoting"
            for line in range(before + 1, reader.line_num + 1):
                yield f"{kind}: line {line}: {fault}"
            continue
        if before + 1 in swallowed:
            for line in range(before + 1, reader.line_num + 1):
                yield (
                    f"rows inside a quoted field: line {line} of the lines {before + 1} to {reader.line_num}; "
                    "data.quoting: none if the file is written without quoting, standard if that is one field"
                )
        elif fields:
            yield fields
