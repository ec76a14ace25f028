"""Rows without labels beside the data of a configuration: which of them may train, and which it has already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.quality import equals
from bertft_core.data.readers import RowBatch, read_batches
from bertft_core.data.sources import HubDataset, SourceFile
from bertft_core.data.splits import key_digest, row_key, split_key, split_of

Cells = dict[str, Any]  # of a row, by column


@dataclass(frozen=True, kw_only=True)
class KnownTexts:
    """What the data holds. texts: digests of all texts, near-copies alike; held: what decides a row of no training."""

    texts: frozenset[bytes]
    held: frozenset[bytes]

    @classmethod
    def of(cls, dataset: DatasetSplits) -> KnownTexts:
        """Of every row of the three splits."""
        texts, held = set[bytes](), set[bytes]()
        for split in ("train", "validation", "test"):
            table = dataset.table(split).select(["text", "text_pair", "group"]).to_pylist()
            for text, pair, group in (row.values() for row in table):
                digest = key_digest(split_key(row_key(text, pair)))
                texts.add(digest)
                if split != "train":
                    held |= {digest, *([key_digest(group)] if group is not None else [])}
        return cls(texts=frozenset(texts), held=frozenset(held))


@dataclass(frozen=True, kw_only=True)
class UnlabelledRow:
    """A row that may train. text: digest of its text, near-copies alike; place: its file and number from 1."""

    cells: Cells
    text: bytes
    place: tuple[str, int]


def without_labels(data: DataConfig) -> DataConfig:
    """The same data for files that have no label column."""
    return data.model_copy(update={"label": data.text})


def row_keys(row: Cells, data: DataConfig) -> tuple[str, str]:
    """(what near-copies of a row's text have in common, "" without a text; what decides its split)."""
    text, pair, group = (row[column] if column else None for column in (data.text, data.text_pair, data.group))
    own = split_key(row_key(str(text or ""), str(pair) if pair else None))
    return own, own if group in (None, "") else str(group)


def rows_of(batch: RowBatch) -> Iterator[Cells]:
    """The rows of a batch, each by column."""
    for i in range(len(batch.rows)):
        yield {column: values[i] for column, values in batch.columns.items()}


def unlabelled_rows(
    source: Path | HubDataset, files: tuple[SourceFile, ...], data: DataConfig, known: KnownTexts
) -> Iterator[UnlabelledRow | None]:
    """Each row of a source, None for one that must not train; a text may come twice.

    It must not where it has no text, data.where leaves it out, the data has it or a near-copy of it, or the split would
    put it into validation or test. data: as `without_labels` gives it.
    """
    for batch in read_batches(source, data, files):
        yield from (None for _ in batch.faults)
        for place, row in zip(zip(batch.files, batch.rows, strict=True), rows_of(batch), strict=True):
            (own, deciding), is_wanted = row_keys(row, data), all(equals(row[k], v) for k, v in data.where.items())
            if not own or not is_wanted or any("\ud800" <= sign <= "\udfff" for sign in own + deciding):
                yield None
                continue
            # a class's own salt is not known before its label
            is_trained = data.source is None or split_of(deciding, data.split) == "train"
            text = key_digest(own)
            may = is_trained and text not in known.texts and key_digest(deciding) not in known.held
            yield UnlabelledRow(cells=row, text=text, place=place) if may else None
