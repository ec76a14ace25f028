"""One file of stored activations: rows, their index and a footer; whole or absent, every row with a checksum.

Layout: rows back to back ([tokens, width], no padding), the index (one entry per row), the footer (its own
checksum and the index's). Files are read with pread, not mapped: the kernel answers a file cut short or a bad
block with an error that makes the row "not stored", where a mapping would kill the process (SIGBUS). Both take
1.5 ms for 16 rows of 200 tokens and 384 float16 numbers, and share the page cache between processes alike.
"""

from __future__ import annotations

import contextlib
import os
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bertft_core.base.errors import InputError

FORMAT = 1
SUFFIX = f".seg{FORMAT}"
_INDEX = np.dtype([("key", "<u8", (2,)), ("length", "<u4"), ("crc", "<u4")])
_FOOTER = struct.Struct("<8s16sIIIQQI")  # magic, folder's key, format, item bytes, width, rows, tokens, index crc
_TAIL = struct.Struct("<I")  # checksum of the footer before it
_MAGIC = b"bertftPC"
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_UNREAD, _GOOD, _DAMAGED = 0, 1, 2
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads the second half of a key over the first

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]


def stored_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of "float32" or "float16". Raises InputError for any other name."""
    if name not in _DTYPES:
        raise InputError(f"training.prefix_cache stores float32 or float16, was asked for {name!r}")
    return _DTYPES[name]


def checked_rows(row_keys: NDArray[Any], lengths: NDArray[Any]) -> tuple[Keys, Ints]:
    """uint64 [n, 2] and int64 [n], after checking that they are. Raises InputError."""
    if row_keys.dtype != np.uint64 or row_keys.shape != (len(lengths), 2):
        raise InputError(
            f"wanted row keys of type uint64 [{len(lengths)}, 2], found {row_keys.dtype} {list(row_keys.shape)}"
        )
    counts = np.asarray(lengths, dtype=np.int64)
    if len(counts) and counts.min() < 1:
        raise InputError(f"wanted rows of at least one token, found a row of {counts.min()}")
    return row_keys, counts


def find_rows(stored: Keys, stored_lengths: Ints, keys: Keys, lengths: Ints) -> Ints:
    """Where each (key, length) stands in `stored`, the first place if several; -1 for absent. int64 [n].

    One sort of `stored` and a binary search per key: a million in a million takes about half a second.
    """
    mixed = stored[:, 0] ^ (stored[:, 1] * _MIX)
    order = np.argsort(mixed, kind="stable")
    mixed, wanted = mixed[order], keys[:, 0] ^ (keys[:, 1] * _MIX)
    at, found = np.searchsorted(mixed, wanted), np.full(len(keys), -1, dtype=np.int64)
    undecided = np.arange(len(keys))
    while len(undecided):
        undecided = undecided[at[undecided] < len(mixed)]
        undecided = undecided[mixed[at[undecided]] == wanted[undecided]]
        place = order[at[undecided]]
        is_same = (stored[place] == keys[undecided]).all(axis=1) & (stored_lengths[place] == lengths[undecided])
        found[undecided[is_same]] = place[is_same]
        undecided = undecided[~is_same]
        at[undecided] += 1
    return found


@dataclass(kw_only=True)
class Pending:
    """Rows of one folder that wait for their file: the values in the stored type, and the index entries."""

    chunks: list[NDArray[Any]] = field(default_factory=list)
    entries: list[NDArray[Any]] = field(default_factory=list)

    def add(self, row_keys: Keys, lengths: Ints, values: NDArray[Any]) -> None:
        """Take rows over, with their checksums. `values` [sum(lengths), width], C order, is not copied."""
        if not len(lengths):
            return
        entries = np.zeros(len(lengths), dtype=_INDEX)
        entries["key"], entries["length"] = row_keys, lengths
        ends = np.cumsum(lengths).tolist()
        entries["crc"] = [zlib.crc32(values[e - n : e].data) for e, n in zip(ends, lengths.tolist(), strict=True)]
        self.chunks.append(values)
        self.entries.append(entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the file that these rows would make."""
        index = sum(e.nbytes for e in self.entries)
        return sum(c.nbytes for c in self.chunks) + index + _FOOTER.size + _TAIL.size

    def write(self, handle: IO[bytes], key: str) -> None:
        """Write rows, index and footer."""
        index = np.concatenate(self.entries)
        for chunk in self.chunks:
            handle.write(chunk.data.cast("B"))
        handle.write(index.tobytes())
        width, item = self.chunks[0].shape[1], self.chunks[0].itemsize
        tokens = int(index["length"].sum(dtype=np.int64))
        footer = _FOOTER.pack(
            _MAGIC, bytes.fromhex(key), FORMAT, item, width, len(index), tokens, zlib.crc32(index.tobytes())
        )
        handle.write(footer + _TAIL.pack(zlib.crc32(footer)))


class Segment:
    """One file open for reading; what it says about itself was verified, its rows are when first read."""

    def __init__(self, path: Path, key: str) -> None:
        """Read the index. Raises InputError when the file is damaged or another folder's, OSError if unreadable."""
        self.path = path
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            index = self._read_index(descriptor, key)
        finally:
            os.close(descriptor)
        self.keys: Keys = np.ascontiguousarray(index["key"])
        self.lengths = index["length"].astype(np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._crcs = index["crc"].copy()
        self._states = np.zeros(len(index), dtype=np.uint8)
        self._held: int | None = None

    def _read_index(self, descriptor: int, key: str) -> NDArray[Any]:
        size, ending = os.fstat(descriptor).st_size, _FOOTER.size + _TAIL.size
        raw = os.pread(descriptor, ending, max(0, size - ending))
        footer = raw[: _FOOTER.size]
        if len(raw) < ending or _TAIL.unpack(raw[_FOOTER.size :])[0] != zlib.crc32(footer):
            raise InputError(f"{self.path} is damaged: its last {ending} bytes do not hold")
        magic, folder, version, item, width, rows, tokens, crc = _FOOTER.unpack(footer)
        if (magic, folder, version) != (_MAGIC, bytes.fromhex(key), FORMAT):
            raise InputError(f"{self.path} is no segment of {key} in format {FORMAT}")
        self.width, self.dtype = int(width), _DTYPES["float32" if item == 4 else "float16"]
        begin = tokens * width * item
        index = os.pread(descriptor, rows * _INDEX.itemsize, begin)
        if size != begin + rows * _INDEX.itemsize + ending or zlib.crc32(index) != crc:
            raise InputError(f"{self.path} is damaged: its index does not hold")
        return np.frombuffer(index, dtype=_INDEX)

    def damaged(self) -> int:
        """How many of its rows are not as they were written: reads them all. Raises OSError."""
        with self._descriptor() as descriptor:
            row = np.empty((int(self.lengths.max(initial=0)), self.width), np.float32)
            return sum(not self._copy(descriptor, i, row[:n]) for i, n in enumerate(self.lengths.tolist()))

    @property
    def readable_lengths(self) -> Ints:
        """Tokens of each row; -1 for a row that was found damaged."""
        return np.where(self._states == _DAMAGED, -1, self.lengths)

    def hold(self) -> bool:
        """Keep the file open, so that its rows stay readable when another process evicts it; False if it was."""
        if self._held is not None:
            return False
        self._held = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._held)
        return True

    def read(self, rows: Sequence[int], out: NDArray[np.float32], places: Sequence[int]) -> tuple[list[int], bool]:
        """Copy rows to out[place, :length]; the places that failed, and whether the file is damaged."""
        try:
            with self._descriptor() as descriptor:
                good = [self._copy(descriptor, r, out[p, : self.lengths[r]]) for r, p in zip(rows, places, strict=True)]
        except OSError:  # gone, unreadable, or no descriptor left: its rows are computed again
            return list(places), False
        failed = [p for p, is_good in zip(places, good, strict=True) if not is_good]
        return failed, bool(failed)

    @contextlib.contextmanager
    def _descriptor(self) -> Iterator[int]:
        if self._held is not None:
            yield self._held
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _copy(self, descriptor: int, row: int, target: NDArray[np.float32]) -> bool:
        if self._states[row] == _DAMAGED:
            return False
        data: NDArray[Any] = target if target.dtype == self.dtype else np.empty(target.shape, self.dtype)
        raw = data.data.cast("B")
        count = os.preadv(descriptor, [raw], int(self._starts[row]) * self.width * self.dtype.itemsize)
        if count != raw.nbytes or (self._states[row] == _UNREAD and zlib.crc32(raw) != self._crcs[row]):
            self._states[row] = _DAMAGED
            return False
        self._states[row] = _GOOD
        if data is not target:
            target[...] = data
        return True
