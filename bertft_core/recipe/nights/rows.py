"""Which rows the last training saw, and what tonight's differ in: by the hash of each row's text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import load_arrays, save_arrays
from bertft_core.base.text import counted
from bertft_core.data.dataset import DatasetSplits, fingerprints_of
from bertft_core.data.splits import SPLITS
from bertft_core.recipe.runs import RunFolder

Strings = npt.NDArray[np.bytes_]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Parallel over all splits: hash of the text (16 bytes), class (index into classes), split (index into SPLITS)."""

    hashes: Strings
    labels: Ints
    splits: Ints
    classes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: DatasetSplits) -> Rows:
        """The rows of prepared splits, ordered by hash."""
        hashes, labels, splits = [], [], []
        for number, split in enumerate(SPLITS):
            table = dataset.table(split)
            hashes.append(fingerprints_of(table).view("S16").reshape(-1))
            labels += dataset.label_texts(table)
            splits.append(np.full(table.num_rows, number, dtype=np.int32))
        names = sorted(set(labels)) if dataset.multi_label else dataset.classes  # sets count as classes
        place = {name: i for i, name in enumerate(names)}
        order = np.argsort(joined_hashes := np.concatenate(hashes), kind="stable")
        return cls(
            hashes=joined_hashes[order],
            labels=np.array([place[text] for text in labels], dtype=np.int32)[order],
            splits=np.concatenate(splits)[order],
            classes=tuple(place),
        )

    def save(self, folder: Path) -> Path:
        """Write folder/rows.npz, whole or not at all."""
        file, classes = RunFolder(folder).rows, np.array(self.classes)
        save_arrays(file, hashes=self.hashes, labels=self.labels, splits=self.splits, classes=classes)
        return file

    @classmethod
    def load(cls, folder: Path) -> Rows | None:
        """What `save` left there; None where there is nothing, or nothing that can be read."""
        stored = load_arrays(RunFolder(folder).rows, "hashes", "labels", "splits", "classes")
        return None if stored is None else cls(**{**stored, "classes": tuple(map(str, stored["classes"]))})

    @classmethod
    def require(cls, folder: Path) -> Rows:
        """As `load`. Raises ArtifactError where there is nothing that can be read."""
        rows = cls.load(folder)
        if rows is None:
            raise ArtifactError(f"{RunFolder(folder).rows} is missing or damaged: the rows of the last training")
        return rows

    def counts(self, chosen: npt.NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Rows by class, of all or of the chosen ones."""
        labels = self.labels if chosen is None else self.labels[chosen]
        counts = np.bincount(labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, counts, strict=True)}

    def is_in(self, other: Rows) -> npt.NDArray[np.bool_]:
        """Which of these rows' texts the other holds too."""
        return np.isin(self.hashes, other.hashes, assume_unique=True)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Tonight's rows against those of the last training; counts of rows, names of classes.

    relabelled: same text, other class. new_by_class: the class counts of the new rows alone.
    """

    before: int
    now: int
    new: int
    deleted: int
    relabelled: int
    moved: int
    new_classes: tuple[str, ...]
    lost_classes: tuple[str, ...]
    counts_before: dict[str, int]
    new_by_class: dict[str, int]

    def __str__(self) -> str:
        return f"{counted(self.now, 'row')}: {self.new} new, {self.deleted} deleted, {self.relabelled} relabelled"

    @property
    def any(self) -> bool:
        """Whether a row came, went or changed its class."""
        return bool(self.new or self.deleted or self.relabelled)


def changes_of_champion(rows: Any, classes: tuple[str, ...] | None, now: Rows) -> Changes:
    """As `changes`, by what a champion's evidence holds: keys of its training rows (uint64) and its classes.

    Training rows alone are compared: a row that was relabelled or moved is not known. None: nothing is known of it.
    """
    keys = now.hashes[now.splits == SPLITS.index("train")].view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    before = keys if rows is None else rows
    is_known, present = np.isin(keys, before), {name for name, n in now.counts().items() if n}
    past = present if classes is None else set(classes)
    return Changes(
        before=len(before),
        now=len(keys),
        new=int((~is_known).sum()),
        deleted=len(before) - len(np.intersect1d(keys, before)),
        relabelled=0,
        moved=0,
        new_classes=tuple(sorted(present - past)),
        lost_classes=tuple(sorted(past - present)),
        counts_before={},
        new_by_class={},
    )


def changes(before: Rows, now: Rows) -> Changes:
    """What came, went and changed. moved: rows in another split, which must be 0 unless data.split changed."""
    is_known = now.is_in(before)
    common, mine, theirs = np.intersect1d(now.hashes, before.hashes, assume_unique=True, return_indices=True)
    names_now = np.array(now.classes, dtype=object)[now.labels[mine]]
    names_then = np.array(before.classes, dtype=object)[before.labels[theirs]]
    present, past = ({name for name, n in rows.counts().items() if n} for rows in (now, before))
    return Changes(
        before=len(before.hashes),
        now=len(now.hashes),
        new=int((~is_known).sum()),
        deleted=len(before.hashes) - len(common),
        relabelled=int((names_now != names_then).sum()),
        moved=int((now.splits[mine] != before.splits[theirs]).sum()),
        new_classes=tuple(sorted(present - past)),
        lost_classes=tuple(sorted(past - present)),
        counts_before=before.counts(),
        new_by_class=now.counts(~is_known),
    )
