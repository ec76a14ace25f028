"""CSV and TSV files: delimiter and quoting of each, and its records in bounded memory."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertft_core.data.compressed import open_text, table_name
from bertft_core.data.formats import decoding, text_encoding

if TYPE_CHECKING:
    from bertft_core.config.run import DataConfig
    from bertft_core.data.sources import Reading, SourceFile

_MAX_FIELD = 20_000_000  # characters in one field; an unclosed quote stops here
_DELIMITERS = ",;\t|"
_STATED = re.compile(r'"?sep=(.)"?[\r\n]*')  # the first line that Excel writes and reads
_LINE_END = re.compile(r"\r\n|\r|\n")
_MOST_COMMENTS = 1_000  # lines
_KNOWN_LABELS = 10_000  # of a file, or inside of one record: as written


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one file is written. header: column names, stripped; none where the first record is broken.

    quoting: standard or none. swallowed: lines (from 1) at which records start whose quoted field holds rows of the
    file: a line with as many fields as the header whose label, written as other rows write it, stands in the field.
    skipped: lines above the header.
    """

    delimiter: str
    quoting: str
    header: tuple[str, ...]
    swallowed: frozenset[int] = frozenset()
    skipped: int = 0


def dialect_of(file: SourceFile, config: DataConfig, usual: Reading) -> Dialect:
    """Delimiter and quoting by configuration, else by content.

    auto: none where every line holds as many fields as the header and more records speak against quoting (it is broken,
    or swallows rows) than for it. usual.quoting: what counts where none speaks; usual.delimiter: where the header then
    holds a wanted column. A record that swallows rows is a fault under standard too.
    """
    with decoding(file):
        quoting = "none" if config.quoting == "none" else "standard"
        skipped, stated = _above_header(file, config.columns)
        start = Dialect(delimiter=config.delimiter or stated or ",", quoting=quoting, header=(), skipped=skipped)
        if not config.delimiter and not stated:
            start = replace(start, delimiter=_sniff_delimiter(file, config.columns, usual.delimiter, start))
        standard = replace(start, header=_header(file, start))
        if config.quoting == "none" or not standard.header:
            return standard
        has_quotes, is_even = _lines(file, standard)
        if not has_quotes:
            return standard
        labels = [standard.header.index(c) for c in config.label_columns if c in standard.header]
        against, speaks_for, swallowed = _as_quoted(file, standard, labels)
        if config.quoting == "standard":
            return replace(standard, swallowed=swallowed)
        against += len(swallowed)
        is_usual = usual.quoting == "none" and against == speaks_for
        plain = replace(standard, quoting="none")
        if is_even and (against > speaks_for or is_usual) and standard.header == _header(file, plain):
            return plain
        return replace(standard, swallowed=swallowed)


def _above_header(file: SourceFile, wanted: Collection[str]) -> tuple[int, str | None]:
    """How many lines stand above the header (Excel's sep=; and comments that begin with #), and the stated delimiter.

    Lines with # are comments only where the line below them names a wanted column and none of them does.
    """
    stated: re.Match[str] | None = None
    comments: list[str] = []
    below = ""
    with open_text(file.path, text_encoding(file), newline="") as handle:
        for number, line in enumerate(handle):
            if number == 0 and (stated := _STATED.fullmatch(line)):
                continue
            if not line.startswith("#") or number == _MOST_COMMENTS:
                below = line
                break
            comments.append(line)

    def names(line: str) -> set[str]:
        return {cell.strip(' "#') for cell in re.split(f"[{_DELIMITERS}]", line.rstrip("\r\n"))} & set(wanted)

    is_comment = bool(names(below)) and not any(map(names, comments))
    return bool(stated) + len(comments) * is_comment, stated[1] if stated else None


def _sniff_delimiter(file: SourceFile, wanted: Collection[str], usual: str | None, start: Dialect) -> str:
    """The one of comma, semicolon, tab, bar whose header has most wanted columns, then fields; of .tsv the tab."""
    if table_name(file.path).lower().endswith(".tsv"):
        return "\t"
    if usual is not None and set(wanted) & set(_header(file, replace(start, delimiter=usual))):
        return usual

    def rank(delimiter: str) -> tuple[int, int, int]:
        header = _header(file, replace(start, delimiter=delimiter))
        return (len(set(wanted) & set(header)), len(header), -_DELIMITERS.index(delimiter))

    return max(_DELIMITERS, key=rank)


def _reader(lines: Iterable[str], dialect: Dialect) -> Any:
    if dialect.quoting == "none":
        return csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=dialect.delimiter, strict=True)


def _open(file: SourceFile, dialect: Dialect) -> Any:
    handle = open_text(file.path, text_encoding(file), newline="")
    for _ in range(dialect.skipped):
        handle.readline()
    return handle


def _header(file: SourceFile, dialect: Dialect) -> tuple[str, ...]:
    with _open(file, dialect) as handle:
        try:
            row: list[str] = next((r for r in _reader(handle, dialect) if r), [])
        except csv.Error:
            return ()
    return tuple(name.strip() for name in row)


def _lines(file: SourceFile, dialect: Dialect) -> tuple[bool, bool]:
    """Whether the file holds a quotation mark, and whether every line that is not blank has the header's fields."""
    delimiter, width = dialect.delimiter, len(dialect.header)
    has_quotes, is_even = False, True
    with _open(file, dialect) as handle:
        for line in handle:
            has_quotes = has_quotes or '"' in line
            is_even = is_even and (width in (1, line.count(delimiter) + 1) or not line.strip("\r\n"))
            if has_quotes and not is_even:
                break
    return has_quotes, is_even


def _as_quoted(file: SourceFile, dialect: Dialect, labels: list[int]) -> tuple[int, int, frozenset[int]]:
    """Numbers of records with broken quoting and of surely quoted ones, and the first lines of those that swallow rows.

    Sure: a label in quotation marks, or a doubled mark. labels: places of the label columns.
    """
    taken: list[str] = []

    def lines(handle: Any) -> Iterator[str]:
        for line in handle:
            taken.append(line)
            yield line

    known: set[tuple[str, ...]] = set()
    inside: dict[int, set[tuple[str, ...]]] = {}
    width, broken, sure, previous = 0, 0, 0, csv.field_size_limit(_MAX_FIELD)
    try:
        with _open(file, dialect) as handle:
            reader = _reader(lines(handle), dialect)
            while True:
                taken.clear()
                start = dialect.skipped + reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    break
                except csv.Error:
                    broken += 1
                    continue
                width = width or len(fields)
                cells = [line.rstrip("\r\n").split(dialect.delimiter) for line in taken]
                if fields and len(fields) != width > 1:
                    broken += 1
                elif len(taken) == 1 and fields:
                    marked = [cells[0][place] for place in labels if place < len(cells[0])]
                    sure += any(cell[:1] == '"' for cell in marked) or '""' in taken[0].replace('""""', "")
                    if len(known) < _KNOWN_LABELS and len(cells[0]) == width:
                        known.add(tuple(marked))
                elif labels and fields:
                    breaks = [place for place, field in enumerate(fields) for _ in _LINE_END.findall(field)]
                    # A line begins in the field of the break before it and ends in that of the break behind it: a label
                    # between the two is the record's own, by lines as by fields.
                    for row, begin, end in zip(cells, [-1, *breaks], [*breaks, width], strict=False):
                        if len(row) == width:
                            is_own = all(begin < place < end for place in labels)
                            found = known if is_own else inside.setdefault(start, set())
                            if len(found) < _KNOWN_LABELS:
                                found.add(tuple(row[place] for place in labels))
    finally:
        csv.field_size_limit(previous)
    swallowed = {line for line, found in inside.items() if not known.isdisjoint(found)}
    return broken, sure, frozenset(swallowed)


def csv_records(file: SourceFile, dialect: Dialect) -> Iterator[tuple[int, list[str] | str]]:
    """(row from 1, fields) of each record below the header; a reason instead of fields for a broken one.

    Of one column each line is a cell: an empty one too if another follows, and delimiters in it are text.
    """
    previous_limit, width = csv.field_size_limit(_MAX_FIELD), len(dialect.header)
    try:
        with _open(file, dialect) as handle:
            records = _records(_reader(handle, dialect), dialect)
            next(filter(None, records), None)  # the header
            done = blank = 0  # rows; lines that are empty cells if a row follows
            for record in records:
                if not record:
                    blank += width == 1
                    continue
                yield from ((done + i, [""]) for i in range(1, blank + 1))
                number = done = done + blank + 1
                blank = 0
                if not isinstance(record, str) and width == 1:
                    yield number, [dialect.delimiter.join(record)]
                elif not isinstance(record, str) and len(record) != width:
                    reason = f"wrong number of fields: {len(record)}, the header has {width}"
                    yield number, f"{reason}\n{' '.join(record)[:200]}"
                else:
                    yield number, record
    finally:
        csv.field_size_limit(previous_limit)


def _records(reader: Any, dialect: Dialect) -> Iterator[list[str] | str]:
    """Records, [] for a blank line; a reason (str) for each line of one with broken quoting, or with rows inside."""
    while True:
        first = dialect.skipped + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:  # the reader goes on with the next line; count every line it swallowed
            kind = "field too long" if "field larger" in str(fault) else "broken quoting"
            for line in range(first, dialect.skipped + reader.line_num + 1):
                yield f"{kind}: line {line}: {fault}"
            continue
        last = dialect.skipped + reader.line_num
        if first in dialect.swallowed:
            for line in range(first, last + 1):
                yield (
                    f"rows inside a quoted field: line {line} of the lines {first} to {last}; data.quoting: none if "
                    "the file is written without quoting; else mend the quotation marks"
                )
        else:
            yield fields
