"""The prepared data set as a handle: what lies on disk, what the gate saw, what identifies the content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import read_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.text import counted, multi_label_text

Part: TypeAlias = "pa.Table | pa.RecordBatch"
LEAST_SHOWN = 93  # rows on which an accuracy is known to 10 points


def _half_width(rows: int) -> float:
    """Half of the 95 % interval of an accuracy of 1/2 (Agresti and Coull 1998), the widest there is."""
    return 1.96 * math.sqrt(0.25 / (rows + 4))


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What the gate saw. rows_read = rows_used + rows_quarantined + duplicates_dropped.

    rows_filtered (data.where, data.sample) are not in rows_read. Parts of duplicates_dropped: rows_superseded
    (an older label by data.date) and overlaps {split: rows also in a split nearer to test}. quoting: none where every
    CSV file is read without quoting, else auto.
    """

    rows_read: int
    rows_used: int
    rows_quarantined: int
    duplicates_dropped: int
    rows_filtered: int
    reasons: dict[str, int]
    encodings: dict[str, int]
    class_counts: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    rows_superseded: int = 0
    overlaps: dict[str, int]
    quoting: str = "auto"


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """Rows of the three splits on disk. fingerprint: content of the kept rows, in order, and the classes."""

    directory: str
    fingerprint: str
    classes: tuple[str, ...]
    n_train: int
    n_validation: int
    n_test: int
    is_soft: bool
    has_pair: bool
    report: DataReport
    multi_label: bool = False

    @property
    def is_dense(self) -> bool:
        """Whether rows hold `weights`, a number for each class: soft weights, or 0 and 1 (multi-label)."""
        return self.is_soft or self.multi_label

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the gate of the rows saw, and what few rows of test and validation cannot show."""
        few = [
            f"{counted(n, 'row')} of {split}: {what} by {100 * _half_width(n):.0f} points either way (95 %); "
            f"{LEAST_SHOWN} rows make it 10. Label more, or raise data.split.{split} (docs/few_labels.md)"
            for split, n, what in (
                ("test", self.n_test, "an accuracy there is uncertain"),
                ("validation", self.n_validation, "the score that chooses epochs and trials is uncertain"),
            )
            if 0 < n < LEAST_SHOWN
        ]
        return (*self.report.warnings, *few)

    @property
    def path(self) -> Path:
        """The folder with train.arrow, validation.arrow, test.arrow, quarantine.jsonl and report.json."""
        return Path(self.directory)

    def table(self, split: str) -> pa.Table:
        """Memory-mapped split: row, file, text, text_pair, slices, label (index), fingerprint, weights, group.

        weights [C]: of soft rows, and 0 or 1 of multi-label ones, whose `label` is their rarest one, -1 without any.
        group: value of data.group, null without one.
        """
        return pa.ipc.open_file(pa.memory_map(str(self.path / f"{split}.arrow"))).read_all()

    def label_texts(self, table: pa.Table) -> list[str]:
        """The label of each row as text: its (largest) class, or its set as a JSON list."""
        if self.multi_label:
            return [multi_label_text(row, self.classes) for row in table["weights"].to_pylist()]
        return [self.classes[label] for label in table["label"].to_pylist()]

    def targets(self, split: str) -> Any:
        """Class indices [n] of a split's rows; of multi-label rows 0 and 1 [n, C]."""
        return self._weights(split).astype(np.int64) if self.multi_label else self.table(split)["label"].to_numpy()

    def soft_labels(self, split: str) -> Any:
        """Label weights float32 [n, C] of a split's rows, None unless labels are soft."""
        return self._weights(split) if self.is_soft else None

    def _weights(self, split: str) -> Any:
        parts = [np.zeros(0, dtype=np.float32)]
        parts += [part["weights"].flatten().to_numpy() for part in self.batches(split, "weights")]
        return np.concatenate(parts).reshape(-1, len(self.classes))

    def groups(self, split: str) -> Any:
        """Which rows of a split have one data.group, int64 [n]; a row without any is a group of its own.

        None where no row has one: each stands for itself.
        """
        column = self.table(split)["group"].combine_chunks()
        if column.null_count == len(column):
            return None
        codes = pc.fill_null(column.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(codes < 0, codes.max() + 1 + np.arange(len(codes)), codes)

    def batches(self, split: str, *columns: str) -> Iterator[pa.RecordBatch]:
        """These columns of a split, some rows at a time; read, not mapped, so that memory does not grow with it."""
        with pa.OSFile(str(self.path / f"{split}.arrow")) as source:
            schema = pa.ipc.open_file(source).schema
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
            reader = pa.ipc.open_file(source, options=options)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def rows(self, split: str, places: Any, *columns: str) -> pa.Table:
        """These columns of the rows at `places`, in that order; memory holds them and no more of the split."""
        wanted = np.asarray(places, dtype=np.int64)
        order = np.argsort(wanted, kind="stable")
        ordered, found, start = wanted[order], [self.table(split).schema.empty_table().select(columns)], 0
        for batch in self.batches(split, *columns):
            first, stop = np.searchsorted(ordered, (start, start + batch.num_rows))
            if first < stop:
                found.append(pa.table(batch.take(pa.array(ordered[first:stop] - start))).select(columns))
            start += batch.num_rows
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return take_rows(pa.concat_tables(found).combine_chunks(), back)

    def texts(self, split: str) -> RowStrings:
        """The text of each row, of a pair the first one."""
        return RowStrings(self, split, ("text",), lambda part: part["text"].to_pylist())

    def joined_texts(self, split: str) -> RowStrings:
        """The text of each row; those of a pair joined by a space."""
        if not self.has_pair:
            return self.texts(split)

        def joined(part: Part) -> list[str]:
            return [
                f"{a} {b or ''}" for a, b in zip(*(part[c].to_pylist() for c in ("text", "text_pair")), strict=True)
            ]

        return RowStrings(self, split, ("text", "text_pair"), joined)

    def test_fingerprint(self) -> str:
        """Hash of the test rows (content and label): the gate refuses to compare on other rows."""
        table = self.table("test")
        fingerprints = [f.as_py().hex() for f in table["fingerprint"]]
        labels = table["weights" if self.multi_label else "label"].to_pylist()
        return hash_json(sorted(zip(fingerprints, labels, strict=True)))

    def sources(self, split: str) -> RowStrings:
        """Where each row stands: file:row, or the file alone where a document is a row."""

        def sources(part: Part) -> list[str]:
            places = zip(part["file"].to_pylist(), part["row"].to_pylist(), strict=True)
            return [file if file.endswith(".txt") else f"{file}:{row}" for file, row in places]

        return RowStrings(self, split, ("file", "row"), sources)


def load_dataset_splits(directory: Path | str) -> DatasetSplits:
    """Read the handle of a finished folder. Raises ArtifactError when it is not one."""
    try:
        fields = read_json(Path(directory) / "report.json")
        report = DataReport(**{**fields["report"], "warnings": tuple(fields["report"]["warnings"])})
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ArtifactError(f"{directory} holds no prepared splits: {fault}") from None
    fields["multi_label"] = fields.pop("is_multi", False)
    fixed = {"directory": str(directory), "classes": tuple(fields["classes"]), "report": report}
    return DatasetSplits(**{**fields, **fixed})


@dataclass(frozen=True, eq=False)
class RowStrings(Sequence[str]):
    """A string for each row of a split, read from disk as it is asked for: a list of millions would not fit memory."""

    dataset: DatasetSplits
    split: str
    columns: tuple[str, ...]
    of_part: Callable[[Part], list[str]]  # the strings of some rows, from these columns

    def __len__(self) -> int:
        return int(getattr(self.dataset, f"n_{self.split}"))

    def __iter__(self) -> Iterator[str]:
        for batch in self.dataset.batches(self.split, *self.columns):
            yield from self.of_part(batch)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return self.at(range(len(self))[place])
        table = self.dataset.table(self.split).select(self.columns)
        return self.of_part(table.slice(range(len(self))[place], 1))[0]

    def at(self, places: Any) -> list[str]:
        """Those of the rows at `places`, in one pass over the split."""
        return self.of_part(self.dataset.rows(self.split, places, *self.columns))


def fingerprints_of(table: pa.Table) -> Any:
    """The column `fingerprint` of rows, uint8 [n, 16], without an object for each."""
    parts = [np.zeros((0, 16), dtype=np.uint8)]
    for chunk in table["fingerprint"].chunks:
        whole = np.frombuffer(chunk.buffers()[1] or b"", dtype=np.uint8).reshape(-1, 16)
        parts.append(whole[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)


def take_rows(table: pa.Table, places: Any) -> pa.Table:
    """The rows at `places`, also where there are none: pyarrow refuses an empty list, whose type it cannot tell."""
    return table.take(pa.array(places, type=pa.int64()))


class SplitContent:
    """Digests over the exact content of a split, equal however its rows were batched."""

    def __init__(self) -> None:
        self._hashes = [hashlib.sha256() for _ in range(6)]

    def add(self, part: pa.RecordBatch) -> None:
        """Lengths and bytes of text and pair, labels, weights."""
        blocks: list[bytes] = []
        for name in ("text", "text_pair"):
            lengths = pc.fill_null(pc.binary_length(part[name]), -1)
            joined = "".join(value or "" for value in part[name].to_pylist())
            blocks += [np.asarray(lengths).astype("<i8").tobytes(), joined.encode("utf-8")]
        blocks.append(part["label"].to_numpy().tobytes())
        if "weights" in part.schema.names:
            blocks.append(part["weights"].flatten().to_numpy().tobytes())
        for digest, block in zip(self._hashes, blocks, strict=False):
            digest.update(block)

    def digests(self) -> list[str]:
        """Hex digests, one per column."""
        return [digest.hexdigest() for digest in self._hashes]
