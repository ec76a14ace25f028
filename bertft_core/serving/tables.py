"""Score a table of any size: rows are read, answered and written batch by batch; the output is whole or absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.cells import cell, is_formula
from bertft_core.base.errors import InputError
from bertft_core.base.files import replacing
from bertft_core.config.run import DataConfig
from bertft_core.data.delimited import csv_records
from bertft_core.data.formats import decoding, json_objects, parquet_batches, parquet_types
from bertft_core.data.sources import Reading, SourceFile, inspect_source, kind_of

if TYPE_CHECKING:
    import pandas as pd

    from bertft_core.serving.artifact import ArtifactCard
    from bertft_core.serving.predictor import Predictor


_OF_SPREADSHEETS = (".csv", ".tsv")
_KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_ROWS, _CHARS = 4096, 8_000_000  # of one batch, all its strings together
Row = dict[str, Any]
Write = Callable[["pd.DataFrame"], None]


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """What a user says of a table.

    text, text_pair: its columns; None: found as `predict_frame` does. encoding: None reads it as the training rows were
    read. strict: whether a row that cannot be scored ends it. verbatim: whether texts that a spreadsheet would compute
    are written to .csv and .tsv as they are, instead of behind an apostrophe.
    """

    text: str | None = None
    text_pair: str | None = None
    encoding: str | None = None
    strict: bool = False
    verbatim: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoredTable:
    """How many rows were written, how many of them have no answer, by reason, and how many cells got an apostrophe."""

    rows: int
    faults: dict[str, int]
    formulas: int = 0


def score_table(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    model: str,
    run_id: str | None = None,
    settings: TableSettings | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> ScoredTable:
    """Write the rows of `source`, in order, with label, confidence, probability_<class>, error, model, run_id added.

    A row that cannot be scored (no text, a broken record) has the reason in error and no answer. Under `strict` it is
    an InputError, nothing is written, and there is no column error. model and run_id say who answered.

    Both sides are .csv, .tsv, .jsonl or .parquet by suffix. An input column that an answer would hide becomes
    input_<column>. Memory does not grow with the file.

    Raises InputError or DataError naming the file, the column, or the row (from 1, the header not counted).
    """
    settings = settings or TableSettings()
    require_writable(target)
    rows = Rows(inspected(source, predictor.card, settings))
    with closing(rows):
        return score_rows(predictor, rows, target, model=model, run_id=run_id, settings=settings, on_rows=on_rows)


def score_rows(
    predictor: Predictor,
    rows: Rows,
    target: Path,
    *,
    model: str,
    run_id: str | None,
    settings: TableSettings,
    most: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> ScoredTable:
    """As `score_table`, of the next rows of a file, at most `most` of them; `on_rows` hears how many of these."""
    import pandas as pd

    text, pair, start = settings.text, settings.text_pair, rows.at
    faults, formulas = Counter[str](), 0
    is_guarded = target.suffix.lower() in _OF_SPREADSHEETS and not settings.verbatim
    with _writer(target, _types(rows.file, predictor)) as write:
        for batch in rows.batches(most):
            places = range(rows.at + 1 - len(batch), rows.at + 1)
            frame = pd.DataFrame([row for row, _ in batch], index=places, dtype=object)
            broken = {place: fault for place, (_, fault) in zip(places, batch, strict=True) if fault}
            try:
                if settings.strict:
                    for place, why in broken.items():
                        raise InputError(f"row {place}: {why}: mend it")
                    scored = predictor.predict_frame(frame, text=text, text_pair=pair)
                else:
                    empty = predictor.faults(frame, text=text, text_pair=pair)
                    broken = {places[i]: why for i, why in empty.items()} | broken
                    scored = predictor.predict_frame(frame.drop(index=list(broken)), text=text, text_pair=pair)
                    scored = scored.astype({"label": "string", "abstain": "boolean"}).reindex(frame.index)
                    scored["error"] = pd.Series(broken, index=frame.index, dtype="string")
            except InputError as fault:
                raise InputError(f"{rows.file.name}: {fault}") from None
            faults.update(why.partition(", was")[0].partition(":")[0] for why in broken.values())
            scored = scored.assign(model=model, run_id=pd.Series(run_id, index=frame.index, dtype="string"))
            hidden = {c: f"input_{c}" for c in scored.columns if c in frame.columns}
            table = pd.concat([_writable(frame, predictor, settings).rename(columns=hidden), scored], axis=1)
            if is_guarded:
                table, found = _guarded(table)
                formulas += found
            write(table)
            if on_rows:
                on_rows(rows.at - start)
        if rows.at == start:
            raise InputError(f"--input {rows.file.path}: holds no rows")
    return ScoredTable(rows=rows.at - start, faults=dict(faults), formulas=formulas)


class Rows:
    """The rows of a file, read on part by part: every column, and what is wrong with the record ("" for nothing).

    at: how many have been read. CSV fields stay text ("NA" too). Close it at the end.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.at = 0
        self._rows = _rows(file)

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()

    def skip_to(self, place: int) -> None:
        """Leave out what lies before row `place`, from 0. Raises ValueError where that has been read."""
        if place < self.at:
            raise ValueError(f"row {place} is behind row {self.at}")
        self.at += sum(1 for _ in islice(self._rows, place - self.at))

    def batches(self, most: int | None = None) -> Iterator[list[tuple[Row, str]]]:
        """The next rows, at most `most`, as many at a time as memory is meant for."""
        rows: list[tuple[Row, str]] = []
        chars = 0
        for row, fault in islice(self._rows, most):
            rows.append((row, fault))
            self.at += 1
            chars += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(rows) >= _ROWS or chars >= _CHARS:
                yield rows
                rows, chars = [], 0
        if rows:
            yield rows


def _types(file: SourceFile, predictor: Predictor) -> dict[str, Any]:
    """Arrow's type of each input column, by the column's name in the output; none but of Parquet.

    The types of a batch's own values would differ from shard to shard where one of them holds no value.
    """
    if file.kind != "parquet":
        return {}
    answers = {"label", "confidence", "abstain", "error", "model", "run_id"}
    answers |= {f"probability_{name}" for name in predictor.classes}
    return {f"input_{n}" if n in answers else n: kind for n, kind in parquet_types(file).items()}


def _guarded(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The table with an apostrophe before each text that a spreadsheet would compute, and how many there are."""
    count = 0

    def guard(value: Any) -> Any:
        nonlocal count
        if not isinstance(value, str) or not is_formula(value):
            return value
        count += 1
        return cell(value)

    return table.map(guard).rename(columns=cell), count


def _writable(frame: pd.DataFrame, predictor: Predictor, settings: TableSettings) -> pd.DataFrame:
    """The rows as every kind of file takes them: no half characters, one type for texts where all are missing too."""
    frame = frame.map(lambda value: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value)
    texts = {*predictor.card.columns, settings.text, settings.text_pair, "text", "text_pair"} & set(frame.columns)
    return frame.astype(
        {name: "string" for name in texts if all(v is None or isinstance(v, str) for v in frame[name].tolist())}
    )


def inspected(source: Path, card: ArtifactCard, settings: TableSettings) -> SourceFile:
    """A table to score, and how it is read. Raises InputError or DataError where it cannot be."""
    if not source.is_file():
        raise InputError(f"--input {source}: no such file")
    if kind_of(source) is None:
        raise InputError(f"--input {source}: unknown kind {source.suffix!r}; wanted {', '.join(_KINDS)}, or such a .gz")
    label = card.label if isinstance(card.label, str) else list(card.label)
    columns = {"text": settings.text or card.text, "text_pair": settings.text_pair or card.text_pair}
    given = {"source": str(source), "encoding": settings.encoding, "label": label}
    config = DataConfig.model_validate({**given, **columns})
    (file,) = inspect_source(source, config, reading_of(card))
    return file


def reading_of(card: ArtifactCard) -> Reading:
    """How the training rows were read."""
    return Reading(encoding=card.encoding, delimiter=card.delimiter, quoting=card.quoting)


def _rows(file: SourceFile) -> Generator[tuple[Row, str]]:
    with decoding(file):
        if file.kind == "csv":
            yield from _csv_rows(file)
        elif file.kind == "jsonl":
            yield from ((item, "") for _, item in json_objects(file))
        else:
            for columns in parquet_batches(file):
                for values in zip(*columns.values(), strict=True):
                    yield dict(zip(columns, values, strict=True)), ""


def _csv_rows(file: SourceFile) -> Iterator[tuple[Row, str]]:
    assert file.dialect is not None
    header = file.dialect.header
    if len(set(header)) != len(header):
        raise InputError(f"{file.name}: a column name occurs twice in {list(header)}: rename it")
    for _, record in csv_records(file, file.dialect):
        if isinstance(record, str):  # a row left out here would shift every row after it
            yield dict.fromkeys(header), record.partition("\n")[0]
        else:
            yield dict(zip(header, record, strict=True)), ""


def require_writable(target: Path) -> None:
    """Raise InputError for an output of no kind that is written, or in no folder."""
    kind = target.suffix.lower()
    if kind not in _KINDS:
        raise InputError(f"--output {target}: unknown kind {kind or '(none)'}; wanted {', '.join(_KINDS)}")
    if not target.parent.is_dir():
        raise InputError(f"--output {target}: the folder {target.parent} does not exist")


@contextmanager
def _writer(target: Path, types: dict[str, Any]) -> Iterator[Write]:
    """A function that appends frames; `target` appears when the block ends well, else nothing is left."""
    kind = target.suffix.lower()
    opened = partial(_parquet_writer, types=types) if kind == ".parquet" else partial(_text_writer, kind=kind)
    with replacing(target, is_private=False) as part, opened(part) as write:
        yield write


@contextmanager
def _text_writer(part: Path, kind: str) -> Iterator[Write]:
    header: list[str] = []
    with open(part, "w", newline="", encoding="utf-8") as handle:

        def write(frame: pd.DataFrame) -> None:
            if kind == ".jsonl":
                frame.to_json(handle, orient="records", lines=True, force_ascii=False)
                return
            new = [c for c in frame.columns if c not in header] if header else []
            if new:
                raise InputError(
                    f"--output: column {new[0]!r} first occurs in row {frame.index[0]} or later: write .jsonl"
                )
            columns = header or list(frame.columns)
            frame.reindex(columns=columns).to_csv(
                handle, index=False, header=not header, sep="\t" if kind == ".tsv" else ",", lineterminator="\n"
            )
            header[:] = columns

        yield write


@contextmanager
def _parquet_writer(part: Path, types: dict[str, Any]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened: list[pq.ParquetWriter] = []

    def write(frame: pd.DataFrame) -> None:
        try:
            if opened:
                schema = opened[0].schema
            else:
                found = pa.Schema.from_pandas(frame, preserve_index=False)
                schema = pa.schema([field.with_type(types.get(field.name, field.type)) for field in found])
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        except (pa.ArrowException, KeyError) as fault:
            raise InputError(
                f"--output: rows from {frame.index[0]} on do not fit the first rows' types: {fault}"
            ) from None
        if not opened:
            opened.append(pq.ParquetWriter(part, table.schema))
        opened[0].write_table(table)

    try:
        yield write
    finally:
        for writer in opened:
            writer.close()
