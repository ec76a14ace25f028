"""What a student trains on: training rows and rows without labels, the answers of a version as their labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bertft_core.base.files import is_reusable, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits, load_dataset_splits
from bertft_core.data.sources import HubDataset, SourceFile
from bertft_core.data.splits import SPLITS, key_digest, row_key
from bertft_core.recipe.unlabelled import KnownTexts, UnlabelledRow, unlabelled_rows

SOFT_LABELS_VERSION = 1
_SLAB = 1_024  # rows that are answered and written at a time
Answer = Callable[[list[str], "list[str] | None"], Any]  # texts and their pairs to probabilities [n, classes]


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """A source of rows without labels. data: how it is read, as `without_labels` gives it."""

    source: Path | HubDataset
    files: tuple[SourceFile, ...]
    data: DataConfig

    def rows(self, dataset: DatasetSplits) -> Iterator[UnlabelledRow]:
        """Those that may train, each text once."""
        seen = set[bytes]()
        for row in unlabelled_rows(self.source, self.files, self.data, KnownTexts.of(dataset)):
            if row is not None and row.text not in seen:
                seen.add(row.text)
                yield row


def soft_labelled(
    dataset: DatasetSplits,
    unlabelled: Unlabelled | None,
    teacher: str,
    answer: Answer,
    root: Path,
    on_rows: Callable[[int], None] = lambda count: None,
) -> DatasetSplits:
    """The splits with the teacher's probabilities as labels of the training rows, unlabelled rows behind them.

    Validation and test keep their rows and labels. teacher: digest of the weights that answer. Content-addressed below
    `root` by teacher and rows, whole or not there; its fingerprint says both, too. on_rows: rows answered so far.
    """
    files = [[file.name, file.digest] for file in unlabelled.files] if unlabelled else []
    key = hash_json([SOFT_LABELS_VERSION, dataset.fingerprint, dataset.path.name, teacher, files])
    folder = Path(root).resolve() / key[:32]
    if not is_reusable(folder):
        with staged_folder(folder) as staging:
            counts = _write_train(dataset, unlabelled, answer, staging / "train.arrow", on_rows)
            for split in SPLITS[1:]:
                _write_labelled(dataset, split, staging / f"{split}.arrow")
            shutil.copyfile(dataset.path / "quarantine.jsonl", staging / "quarantine.jsonl")
            write_json(staging / "report.json", _fields(dataset, key, counts))
    return load_dataset_splits(folder)


def _schema(dataset: DatasetSplits) -> pa.Schema:
    schema = dataset.table("train").schema
    return schema if "weights" in schema.names else schema.append(pa.field("weights", pa.list_(pa.float32())))


def _lists(weights: Any) -> pa.Array:
    """[n, C] as a column of lists."""
    rows, classes = weights.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * classes)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(weights, dtype=np.float32).ravel()))


def _write_train(
    dataset: DatasetSplits, unlabelled: Unlabelled | None, answer: Answer, file: Path, on_rows: Callable[[int], None]
) -> Any:
    """Write the training rows; how many unlabelled rows the teacher puts into each class, int64 [C]."""
    schema, table, done = _schema(dataset), dataset.table("train"), 0
    counts = np.zeros(len(dataset.classes), dtype=np.int64)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, table.num_rows, _SLAB):
            part = table.slice(start, _SLAB)
            pairs = part["text_pair"].to_pylist() if dataset.has_pair else None
            labels = _lists(answer(part["text"].to_pylist(), pairs))
            columns = {name: labels if name == "weights" else part[name] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
            done += part.num_rows
            on_rows(done)
        rest = unlabelled.rows(dataset) if unlabelled else iter(())
        while rows := list(islice(rest, _SLAB)):
            assert unlabelled is not None
            texts, pairs = _texts(rows, unlabelled.data)
            weights = answer(texts, pairs)
            tops = weights.argmax(axis=1)
            counts += np.bincount(tops, minlength=len(counts))
            columns = _columns(rows, unlabelled.data, texts, pairs) | {"label": tops, "weights": _lists(weights)}
            writer.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema))
            done += len(rows)
            on_rows(done)
    return counts


def _texts(rows: list[UnlabelledRow], data: DataConfig) -> tuple[list[str], list[str] | None]:
    texts = [str(row.cells[data.text]) for row in rows]
    return texts, [str(row.cells[data.text_pair] or "") for row in rows] if data.text_pair else None


def _columns(rows: list[UnlabelledRow], data: DataConfig, texts: list[str], pairs: list[str] | None) -> dict[str, Any]:
    """The columns of a split but its labels."""
    seconds: list[str] | list[None] = pairs or [None] * len(texts)
    both = zip(texts, seconds, strict=True)
    groups = [row.cells[data.group] if data.group else None for row in rows]
    return {
        "row": [row.place[1] for row in rows],
        "file": [row.place[0] for row in rows],
        "text": texts,
        "text_pair": seconds,
        "slices": [[str(row.cells[column]) for column in data.slices] for row in rows],
        "group": [None if group in (None, "") else str(group) for group in groups],
        "fingerprint": [key_digest(row_key(text, pair)) for text, pair in both],
    }


def _write_labelled(dataset: DatasetSplits, split: str, file: Path) -> None:
    """A split with its own labels, as weights too: 1 for the label where they were not soft."""
    schema, table = _schema(dataset), dataset.table(split)
    if "weights" not in table.schema.names:
        table = table.append_column("weights", _lists(np.eye(len(dataset.classes))[table["label"].to_numpy()]))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.cast(schema))


def _fields(dataset: DatasetSplits, fingerprint: str, counts: Any) -> dict[str, Any]:
    """report.json of the splits; counts: unlabelled rows of each class."""
    report, new = dataset.report, int(counts.sum())
    of = report.class_counts["train"]
    train = {name: of[name] + int(n) for name, n in zip(dataset.classes, counts, strict=True)}
    grown = replace(
        report,
        rows_read=report.rows_read + new,
        rows_used=report.rows_used + new,
        class_counts={**report.class_counts, "train": train},
        warnings=(),
    )
    fields = {name: value for name, value in asdict(dataset).items() if name not in ("directory", "multi_label")}
    own = {"fingerprint": fingerprint, "n_train": dataset.n_train + new, "is_soft": True, "is_multi": False}
    return {**fields, **own, "report": asdict(grown)}
