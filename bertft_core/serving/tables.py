"""Score a table of any size: rows are read, answered and written batch by batch; the output is whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import InputError
from bertft_core.base.files import replacing
from bertft_core.config.run import DataConfig
from bertft_core.data.delimited import csv_records
from bertft_core.data.formats import decoding, json_objects, parquet_batches
from bertft_core.data.sources import Reading, SourceFile, inspect_source, kind_of

if TYPE_CHECKING:
    import pandas as pd

    from bertft_core.serving.artifact import ArtifactCard
    from bertft_core.serving.predictor import Predictor


_KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_ROWS, _CHARS = 4096, 8_000_000  # of one batch, all its strings together
Row = dict[str, Any]
Write = Callable[["pd.DataFrame"], None]


def score_table(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    model: str,
    text: str | None = None,
    text_pair: str | None = None,
    encoding: str | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Write the rows of `source` with label, confidence, probability_<class> and `model` added; returns how many.

    encoding: of `source`; None reads it as the training rows were read. Both sides are .csv, .tsv, .jsonl or .parquet
    by suffix; text columns are found as `predict_frame` does. An input column that an answer would hide becomes
    input_<column>. Memory does not grow with the file.

    Raises InputError or DataError naming the file, the column, or the row (from 1, the header not counted).
    """
    import pandas as pd

    done = 0
    with _writer(target) as write:
        for rows in _batches(_inspected(source, predictor.card, text, text_pair, encoding)):
            frame = pd.DataFrame(rows, index=range(done + 1, done + 1 + len(rows)), dtype=object)
            try:
                scored = predictor.predict_frame(frame, text=text, text_pair=text_pair).assign(model=model)
            except InputError as fault:
                raise InputError(f"{source.name}: {fault}") from None
            hidden = {c: f"input_{c}" for c in scored.columns if c in frame.columns}
            write(pd.concat([frame.rename(columns=hidden), scored], axis=1))
            done += len(rows)
            if on_rows:
                on_rows(done)
        if not done:
            raise InputError(f"--input {source}: holds no rows")
    return done


def _batches(file: SourceFile) -> Iterator[list[Row]]:
    rows: list[Row] = []
    chars = 0
    for row in _rows(file):
        rows.append(row)
        chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(rows) >= _ROWS or chars >= _CHARS:
            yield rows
            rows, chars = [], 0
    if rows:
        yield rows


def _inspected(
    source: Path, card: ArtifactCard, text: str | None, text_pair: str | None, encoding: str | None
) -> SourceFile:
    if not source.is_file():
        raise InputError(f"--input {source}: no such file")
    if kind_of(source) is None:
        raise InputError(f"--input {source}: unknown kind {source.suffix!r}; wanted {', '.join(_KINDS)}, or such a .gz")
    label = card.label if isinstance(card.label, str) else list(card.label)
    columns = {"text": text or card.text, "text_pair": text_pair or card.text_pair, "label": label}
    config = DataConfig.model_validate({"source": str(source), "encoding": encoding, **columns})
    (file,) = inspect_source(source, config, reading_of(card))
    return file


def reading_of(card: ArtifactCard) -> Reading:
    """How the training rows were read."""
    return Reading(encoding=card.encoding, delimiter=card.delimiter, quoting=card.quoting)


def _rows(file: SourceFile) -> Iterator[Row]:
    """Rows with every column. CSV fields stay text ("NA" too)."""
    with decoding(file):
        if file.kind == "csv":
            yield from _csv_rows(file)
        elif file.kind == "jsonl":
            yield from (item for _, item in json_objects(file))
        else:
            for columns in parquet_batches(file):
                yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _csv_rows(file: SourceFile) -> Iterator[Row]:
    assert file.dialect is not None
    header = file.dialect.header
    if len(set(header)) != len(header):
        raise InputError(f"{file.name}: a column name occurs twice in {list(header)}: rename it")
    for number, record in csv_records(file, file.dialect):
        if isinstance(record, str):  # a row left out here would shift every row after it
            raise InputError(f"{file.name}: row {number}: {record.partition(chr(10))[0]}: mend it")
        yield dict(zip(header, record, strict=True))


@contextmanager
def _writer(target: Path) -> Iterator[Write]:
    """A function that appends frames; `target` appears when the block ends well, else nothing is left."""
    kind = target.suffix.lower()
    if kind not in _KINDS:
        raise InputError(f"--output {target}: unknown kind {kind or '(none)'}; wanted {', '.join(_KINDS)}")
    if not target.parent.is_dir():
        raise InputError(f"--output {target}: the folder {target.parent} does not exist")
    with replacing(target) as part, _parquet_writer(part) if kind == ".parquet" else _text_writer(part, kind) as write:
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
def _parquet_writer(part: Path) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened: list[pq.ParquetWriter] = []

    def write(frame: pd.DataFrame) -> None:
        try:
            schema = opened[0].schema if opened else None
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
