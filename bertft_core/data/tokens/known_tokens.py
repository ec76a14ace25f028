"""Ids of rows that an earlier night tokenised in the same way, found by the content of the row."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertft_core.base.files import is_complete
from bertft_core.data.splits import SPLITS

LOOK_BACK = 8  # folders of the same tokenizer and settings: last night's of a few configurations that share them
MANNER = b"bertft-manner"  # in the metadata of a split: tokenizer files, settings and versions, as one hash
KEY_BYTES = 16
_PERSON = b"bertft-token-1"
_log = logging.getLogger(__name__)

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def row_keys(texts: Any, pairs: Any | None) -> Keys:
    """blake2b of each row's exact text and pair, uint64 [n, 2]; Arrow string arrays, pairs may hold nulls."""
    first = texts.cast(pa.large_binary()).to_pylist()
    second = pairs.cast(pa.large_binary()).to_pylist() if pairs is not None else [None] * len(first)
    keys = bytearray()
    for text, pair in zip(first, second, strict=True):
        digest = hashlib.blake2b(text, digest_size=KEY_BYTES, person=_PERSON).digest()
        if pair is not None:  # a pair hashes under another name, after a digest of fixed length
            digest = hashlib.blake2b(digest + pair, digest_size=KEY_BYTES, person=_PERSON + b"p").digest()
        keys += digest
    return np.frombuffer(bytes(keys), dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class KnownPart:
    """One split of an earlier night, views of its file; `order` sorts `keys[:, 0]`."""

    keys: Keys
    order: Places
    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    pair_start: npt.NDArray[np.int32]
    uncut: npt.NDArray[np.int32]

    def find(self, keys: Keys) -> Places:
        """Row of each key, int64 [n], -1 where it is not here.

        The first half of a key is looked up, the second compared: of rows that share a first half only one is found.
        """
        if not len(self.order):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.searchsorted(self.keys[:, 0], keys[:, 0], sorter=self.order)
        row = self.order[np.minimum(place, len(self.order) - 1)]
        return np.where((self.keys[row] == keys).all(axis=1), row, -1)


@dataclass(frozen=True, kw_only=True)
class KnownRows:
    """Parts that may hold rows of today."""

    parts: tuple[KnownPart, ...]

    def find(self, keys: Keys) -> tuple[Places, Places]:
        """(part, row in it) of each key, int64 [n] each; part -1 where nobody knows the row."""
        part, row = np.full(len(keys), -1, dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        for number, known in enumerate(self.parts):
            open_rows = np.flatnonzero(part < 0)
            rows = known.find(keys[open_rows])
            hit = open_rows[rows >= 0]
            part[hit], row[hit] = number, rows[rows >= 0]
        return part, row


def known_rows(root: Path, manner: str, wanted: Keys) -> KnownRows:
    """What the newest folders under `root` hold of `wanted`, when they were tokenised in this `manner`.

    A folder counts only when every file has its digest; one that is damaged, or that is deleted meanwhile, is passed
    over. What is returned stays readable after a deletion: the files are mapped.
    """
    parts: list[KnownPart] = []
    missing = wanted
    for folder in itertools.islice(_newest(root, manner), LOOK_BACK):
        if not len(missing):
            break
        opened = [part for split in SPLITS if (part := _open(folder / f"{split}.arrow")) is not None]
        useful = [part for part in opened if (part.find(missing) >= 0).any()]
        if not useful or not is_complete(folder):
            continue
        parts += useful
        missing = missing[KnownRows(parts=tuple(useful)).find(missing)[0] < 0]
    return KnownRows(parts=tuple(parts))


def _newest(root: Path, manner: str) -> Iterator[Path]:
    """Folders of this manner, the youngest first."""
    ages = []
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            if not folder.name.startswith(".") and folder.is_dir():
                ages.append((folder.stat().st_mtime_ns, folder))
        except OSError:  # deleted meanwhile
            continue
    for _, folder in sorted(ages, reverse=True):
        with contextlib.suppress(OSError, pa.ArrowException):
            with pa.OSFile(str(folder / f"{SPLITS[0]}.arrow")) as source:
                stored = (pa.ipc.open_file(source).schema.metadata or {}).get(MANNER)
            if stored == manner.encode():
                yield folder


def _open(file: Path) -> KnownPart | None:
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
        keys = np.frombuffer(batch["key"].buffers()[1] or b"", dtype=np.uint64).reshape(-1, 2)[: batch.num_rows]
        ids = batch["input_ids"]
        return KnownPart(
            keys=keys,
            order=np.argsort(keys[:, 0], kind="stable"),
            ids=ids.values.to_numpy(),
            offsets=ids.offsets.to_numpy(),
            pair_start=batch["pair_start"].to_numpy(),
            uncut=batch["uncut"].to_numpy(),
        )
    except (OSError, pa.ArrowException, KeyError, ValueError) as fault:
        _log.info("%s is not used: %s", file, fault)
        return None
