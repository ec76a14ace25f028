"""Activations of frozen layers, kept on disk across runs: found by content, verified when read, evicted by age.

In gradual unfreezing the layers below the cut are the pretrained ones, so that what goes into the cut is a pure
function of weights and token ids (AutoFreeze, arXiv 2102.01386, keeps it for one run). A key
names what all rows of a folder have in common, 16 bytes name a row. A fit does::

    view = cache.view(key, row_keys, lengths, width, "float16")
    with cache.building(name), cache.writer([key], width, "float16") as writer:
        view.refresh()  # another process may have built it meanwhile
        ...             # writer.add(...) for the rows of view.missing, until writer.is_full
    view.refresh()
    hidden, bad = view.read(rows, longest)
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft_core.base.errors import BusyError, InputError
from bertft_core.model.prefix.segments import Ints, Keys, Pending, Segment, checked_rows, find_rows, stored_dtype
from bertft_core.model.prefix.store import PrefixStore, checked_key, checked_name

SEGMENT_BYTES = 64 << 20  # a kill loses at most this much work per key; larger files make eviction coarse
_OPEN_FILES = 512  # half of the usual limit of 1024; further segments are opened for each read
_TOUCH_SECONDS = 60.0  # eviction looks at ages of hours
_POLL_SECONDS = 1.0  # between two calls of on_wait

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheFigures:
    """What a cache did so far.

    hits and misses are rows that a view found or did not find when it was opened; damaged counts files dropped,
    unstorable rows with a number that the stored type cannot hold; bytes are those of rows, or of whole files.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    evicted_bytes: int = 0
    damaged: int = 0
    unstorable: int = 0
    seconds_building: float = 0.0
    seconds_waiting: float = 0.0

    def __str__(self) -> str:
        return (
            f"prefix cache: {self.hits} rows found, {self.misses} not; {self.bytes_read / 1e6:.0f} MB read, "
            f"{self.bytes_written / 1e6:.0f} MB written, {self.evicted_bytes / 1e6:.0f} MB evicted; {self.damaged} "
            f"files damaged, {self.unstorable} rows not storable; built in {self.seconds_building:.1f} s"
        )


class PrefixCache:
    """The cache below `root`, of at most `budget_bytes`; one object per fit, which never evicts what it uses."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self.store = PrefixStore(Path(root), budget_bytes)
        self._counts: dict[str, Any] = {}
        self._segments: dict[Path, Segment] = {}
        self._open = 0

    @property
    def figures(self) -> CacheFigures:
        """What happened through this object so far."""
        return CacheFigures(**self._counts, evicted_bytes=self.store.evicted_bytes)

    def count(self, **more: float) -> None:
        """Add to the figures."""
        for name, value in more.items():
            self._counts[name] = self._counts.get(name, 0) + value

    def view(
        self, key: str, row_keys: NDArray[np.uint64], lengths: NDArray[np.int64], width: int, dtype: str
    ) -> PrefixView:
        """The rows of one data set under `key`: uint64 [n, 2] and their token counts [n]. Raises InputError."""
        return PrefixView(self, checked_key(key), *checked_rows(row_keys, lengths), width, stored_dtype(dtype))

    def writer(self, keys: Sequence[str], width: int, dtype: str) -> PrefixWriter:
        """A context in which rows are added under all `keys` at once. Raises InputError."""
        return PrefixWriter(self, [checked_key(k) for k in keys], width, stored_dtype(dtype))

    @contextlib.contextmanager
    def building(self, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Let one process at a time build `name` (hex); on_wait is called about once a second meanwhile.

        The lock dies with its holder. Where no lock can be made nothing can be written either: none is held.
        """
        begin = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                while not self.store.try_lock(stack, checked_name(name), _POLL_SECONDS):
                    if on_wait is not None:
                        on_wait()
            except OSError as fault:
                _log.warning("the prefix cache %s takes no lock: %s", self.store.root, fault)
            start = time.monotonic()
            self.count(seconds_waiting=start - begin)
            try:
                yield
            finally:
                self.count(seconds_building=time.monotonic() - start)

    def used_bytes(self) -> int:
        """Bytes of all files of all keys, those being written included at their final size."""
        return self.store.used_bytes()

    def segments(self, key: str, known: set[Path]) -> list[Segment]:
        """Whole segments of `key` that are not `known`, the newest first; damaged files are dropped."""
        new = [path for path in self.store.paths(key) if path not in known]
        return [s for s in (self._segment(path, key) for path in new) if s is not None]

    def _segment(self, path: Path, key: str) -> Segment | None:
        try:
            if path not in self._segments:
                self._segments[path] = Segment(path, key)
        except InputError as fault:
            self.drop(path, str(fault))
        except OSError:  # evicted meanwhile, or unreadable: its rows are missing
            return None
        return self._segments.get(path)

    def use(self, segment: Segment) -> None:
        """Spare a segment from eviction, and keep it open."""
        if self._open < _OPEN_FILES:
            with contextlib.suppress(OSError):  # reading it tries again
                self._open += segment.hold()
        self.store.spare(segment.path)

    def drop(self, path: Path, reason: str) -> None:
        """Delete a file that does not hold what it should: the next run computes its rows again."""
        _log.warning("the prefix cache drops %s: %s", path, reason)
        self.count(damaged=1)
        with contextlib.suppress(OSError):
            path.unlink()


class PrefixView:
    """The rows of one data set under one key: where they are stored, or that they are missing."""

    def __init__(
        self, cache: PrefixCache, key: str, row_keys: Keys, lengths: Ints, width: int, dtype: np.dtype[Any]
    ) -> None:
        self._cache, self._key, self._width, self._dtype = cache, key, width, dtype
        self._row_keys, self._lengths = row_keys, lengths
        self._segments: list[Segment] = []
        self._known: set[Path] = set()
        self._segment = np.full(len(lengths), -1, dtype=np.int64)
        self._row = np.zeros(len(lengths), dtype=np.int64)
        self._touched = time.monotonic()
        self.refresh()
        misses = len(self.missing)
        cache.count(hits=len(lengths) - misses, misses=misses)

    @property
    def missing(self) -> Ints:
        """Positions of the rows that are not stored, or were found damaged. int64, ascending."""
        return np.flatnonzero(self._segment < 0)

    def refresh(self) -> None:
        """Look for missing rows in segments that appeared since the last look."""
        missing = self.missing
        new = self._cache.segments(self._key, self._known)
        self._known.update(s.path for s in new)
        new = [s for s in new if (s.width, s.dtype) == (self._width, self._dtype)]
        if not new or not len(missing):
            return
        stored, lengths = np.concatenate([s.keys for s in new]), np.concatenate([s.readable_lengths for s in new])
        found = find_rows(stored, lengths, self._row_keys[missing], self._lengths[missing])
        missing, found = missing[found >= 0], found[found >= 0]
        begins = np.cumsum([0] + [len(s.keys) for s in new])
        owner = np.searchsorted(begins, found, side="right") - 1
        for number in np.unique(owner):
            self._cache.use(new[number])
        self._row[missing] = found - begins[owner]
        self._segment[missing] = owner + len(self._segments)
        self._segments += new

    def read(self, rows: NDArray[np.integer], width_tokens: int) -> tuple[NDArray[np.float32], Ints]:
        """Activations float32 [k, width_tokens, width] of positions `rows` [k], and the places in `rows` that failed.

        Zero beyond a row's tokens, and for rows that failed. A row is verified when this process first reads it; one
        that fails is missing from then on. Raises InputError when a row has more than `width_tokens` tokens.
        """
        rows = np.asarray(rows, dtype=np.int64)
        lengths, owner = self._lengths[rows], self._segment[rows]
        if len(rows) and lengths.max() > width_tokens:
            raise InputError(f"wanted rows of at most {width_tokens} tokens, found one of {lengths.max()}")
        out = np.empty((len(rows), width_tokens, self._width), dtype=np.float32)
        for place, length in enumerate(lengths.tolist()):
            out[place, length:] = 0.0
        is_bad = owner < 0
        for number in np.unique(owner[~is_bad]).tolist():
            places = np.flatnonzero(owner == number)
            is_bad[self._read_segment(number, self._row[rows[places]], out, places)] = True
        out[is_bad] = 0.0
        self._cache.count(bytes_read=int(lengths[~is_bad].sum()) * self._width * self._dtype.itemsize)
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            for number in np.unique(self._segment[self._segment >= 0]):
                self._cache.use(self._segments[number])
        return out, np.flatnonzero(is_bad)

    def _read_segment(self, number: int, rows: Ints, out: NDArray[np.float32], places: Ints) -> list[int]:
        segment = self._segments[number]
        failed, is_damaged = segment.read(rows.tolist(), out, places.tolist())
        if is_damaged:
            self._cache.drop(segment.path, "a row fails its checksum")
        if failed:
            lost = rows[np.isin(places, failed)]
            self._segment[(self._segment == number) & np.isin(self._row, lost)] = -1
        return failed


class PrefixWriter:
    """Collects rows and writes a segment per key whenever one is full; stops for good when there is no room."""

    def __init__(self, cache: PrefixCache, keys: list[str], width: int, dtype: np.dtype[Any]) -> None:
        self._cache, self._width, self._dtype = cache, width, dtype
        self._pending = {key: Pending() for key in keys}
        self.reason = ""
        for key in keys:  # says at once that nothing can be stored, not after the first 64 MB
            self._write(key)

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be stored; `reason` says why."""
        return bool(self.reason)

    def __enter__(self) -> PrefixWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        # rows added before an exception are whole: the next attempt need not compute them again
        for key, pending in self._pending.items():
            if pending.entries:
                self._write(key)

    def add(self, row_keys: NDArray[np.uint64], lengths: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Store rows: keys uint64 [k, 2], token counts [k], and for each key the activations [sum(lengths), width].

        A row with a number that the stored type cannot hold is left out under that key. Raises InputError.
        """
        keys, counts = checked_rows(row_keys, lengths)
        if values.keys() != self._pending.keys():
            raise InputError(f"wanted activations of {sorted(self._pending)}, found {sorted(values)}")
        for value in values.values():
            if value.shape != (counts.sum(), self._width) or value.dtype not in (np.float32, self._dtype):
                wanted = f"{self._dtype} or float32 [{counts.sum()}, {self._width}]"
                raise InputError(f"wanted activations {wanted}, found {value.dtype} {list(value.shape)}")
        for key, value in values.items():
            if len(counts) and not self.is_full:
                self._add(key, keys, counts, value)

    def _add(self, key: str, keys: Keys, lengths: Ints, value: NDArray[Any]) -> None:
        with np.errstate(over="ignore"):
            stored = value.astype(self._dtype, order="C")
        is_whole = np.logical_and.reduceat(np.isfinite(stored).all(axis=1), np.cumsum(lengths) - lengths)
        if not is_whole.all():
            self._cache.count(unstorable=int((~is_whole).sum()))
            stored, keys, lengths = stored[np.repeat(is_whole, lengths)], keys[is_whole], lengths[is_whole]
        self._pending[key].add(keys, lengths, stored)
        if self._pending[key].nbytes >= SEGMENT_BYTES:
            self._write(key)

    def _write(self, key: str) -> None:
        rows, self._pending[key] = self._pending[key], Pending()
        if self.is_full:
            return
        try:
            self._cache.store.write(key, rows)
            self._cache.count(bytes_written=rows.nbytes if rows.entries else 0)
        except (OSError, BusyError, InputError) as fault:
            self.reason = str(fault)
            _log.warning("the prefix cache takes no more rows: %s", self.reason)
