"""Activations of frozen layers, kept on disk across runs: found by content, verified when read, evicted by age.

Under the root lies one folder per key (what the numbers depend on: weights, cut, number type, versions) with
segments (prefix_segments.py). A row is found by the 16 bytes its caller made of its token ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertft_core.errors import BusyError, InputError
from bertft_core.state import exclusive
from bertft_core.training.prefix_segments import (
    SUFFIX,
    Ints,
    Keys,
    Pending,
    Segment,
    checked_rows,
    find_rows,
    stored_dtype,
)

SEGMENT_BYTES = 64 << 20  # a kill loses at most this much work per key; larger files make eviction coarse
LEAST_FREE_BYTES = 1_000_000_000  # of the disk, or this share of it if that is more: others need it too
LEAST_FREE_SHARE = 0.02
_OPEN_FILES = 512  # half of the usual limit of 1024; further segments are opened for each read
_TOUCH_SECONDS = 60.0  # eviction looks at ages of hours
_LOCK_SECONDS = 10.0  # the store's lock is held for milliseconds; a holder that hangs must not stop a fit
_POLL_SECONDS = 1.0  # between two calls of on_wait
_SEGMENT_NAME = re.compile(r"\d{20}-[0-9a-f]{8}\.seg(\d+)")
_PART = ".part"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheFigures:
    """What a cache did: rows that views found or not, bytes of rows read and written, seconds under `building`."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    damaged: int = 0
    overflowed: int = 0
    evicted_bytes: int = 0
    seconds_building: float = 0.0
    seconds_waiting: float = 0.0

    def __str__(self) -> str:
        return (
            f"prefix cache: {self.hits} rows found, {self.misses} not, {self.bytes_read / 1e6:.0f} MB read, "
            f"{self.bytes_written / 1e6:.0f} MB written, {self.evicted_bytes / 1e6:.0f} MB evicted, "
            f"{self.damaged} damaged, {self.overflowed} beyond float16, built in {self.seconds_building:.1f} s"
        )


class _File(NamedTuple):
    used_ns: int
    path: Path
    size: int


class PrefixCache:
    """The store below `root`, of at most `budget_bytes`; one object per fit, whose segments are never evicted."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self.root = Path(root)
        self.budget_bytes = budget_bytes
        self.figures = CacheFigures()
        self._segments: dict[Path, Segment] = {}
        self._own: set[Path] = set()
        self._held = 0

    def view(
        self, key: str, row_keys: NDArray[np.uint64], lengths: NDArray[np.int64], width: int, dtype: str
    ) -> PrefixView:
        """The rows of one data set under `key`: uint64 [n, 2] and their token counts [n]."""
        return PrefixView(self, _hex(key, 32), *checked_rows(row_keys, lengths), width, stored_dtype(dtype))

    def writer(self, keys: Sequence[str], width: int, dtype: str) -> PrefixWriter:
        """A context in which rows are added under all `keys` at once."""
        return PrefixWriter(self, [_hex(k, 32) for k in keys], width, stored_dtype(dtype))

    @contextlib.contextmanager
    def building(self, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Let one process at a time build `name` (hex); on_wait is called about once a second meanwhile.

        The lock dies with its holder. Where no lock can be made nothing can be written either, so none is held.
        """
        begin = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                while not self._locked(stack, f"{_hex(name, None)}.lock", _POLL_SECONDS):
                    if on_wait is not None:
                        on_wait()
            except OSError as fault:
                _log.warning("the prefix cache %s takes no lock: %s", self.root, fault)
            start = time.monotonic()
            self.count(seconds_waiting=start - begin)
            try:
                yield
            finally:
                self.count(seconds_building=time.monotonic() - start)

    def used_bytes(self) -> int:
        """Bytes of all files of all keys, those being written included at their final size."""
        return sum(f.size for f in self._files())

    def sweep(self) -> None:
        """Remove unfinished files of dead processes, files of older formats and empty folders."""
        try:
            with self.locked():
                _sweep(self.root)
        except (OSError, BusyError) as fault:
            _log.warning("the prefix cache %s was not swept: %s", self.root, fault)

    # What views and writers share -------------------------------------------------------------------------

    def count(self, **more: float) -> None:
        """Add to the figures."""
        known = {name: getattr(self.figures, name) + value for name, value in more.items()}
        self.figures = CacheFigures(**{**vars(self.figures), **known})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock: room is made and new files appear under it. Raises BusyError, OSError."""
        with contextlib.ExitStack() as stack:
            if not self._locked(stack, "store.lock", _LOCK_SECONDS):
                raise BusyError(f"{self.root / 'store.lock'} was held by another process for {_LOCK_SECONDS:.0f} s")
            yield

    def _locked(self, stack: contextlib.ExitStack, name: str, seconds: float) -> bool:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.root / name
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            stack.enter_context(exclusive(path, "the prefix cache", seconds))
        except BusyError:
            return False
        return True

    def segments(self, key: str, known: set[Path]) -> list[Segment]:
        """Whole segments of `key` that are not `known`, the newest first; damaged files are deleted."""
        found = []
        for path in sorted(_listed(self.root / key), reverse=True):
            if path in known or not path.name.endswith(SUFFIX):
                continue
            try:
                found.append(self._segments.setdefault(path, self._segments.get(path) or Segment(path, key)))
            except InputError as fault:
                self.discard(path, str(fault))
            except OSError:  # evicted meanwhile, or unreadable: its rows count as missing
                continue
        return found

    def use(self, segment: Segment) -> None:
        """Spare a segment from eviction: here for good, elsewhere by its age."""
        if segment.path not in self._own:
            self._own.add(segment.path)
            if self._held < _OPEN_FILES:
                self._held += 1
                with contextlib.suppress(OSError):
                    segment.hold()
        with contextlib.suppress(OSError):
            os.utime(segment.path)

    def discard(self, path: Path, reason: str) -> None:
        """Delete a file that does not hold what it should; its sound rows are computed again by the next run."""
        _log.warning("the prefix cache drops %s: %s", path, reason)
        self.count(damaged=1)
        with contextlib.suppress(OSError):
            path.unlink()

    def reserve(self, key: str, size: int) -> tuple[Path, int]:
        """Path and locked descriptor of a new unfinished file, once there is room for `size` bytes.

        Raises InputError saying why there is none, OSError and BusyError.
        """
        with self.locked():
            _sweep(self.root)
            self._make_room(size)
            folder = self.root / key
            folder.mkdir(exist_ok=True, mode=0o700)
            path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}{_PART}"
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # tells _sweep that the writer lives
                os.truncate(descriptor, size)  # counts as used from now on
            except OSError:
                os.close(descriptor)
                path.unlink()
                raise
        return path, descriptor

    def keep(self, part: Path) -> None:
        """Give a finished file its name."""
        path = part.with_name(part.name.removesuffix(_PART))
        self._own.add(path)
        os.rename(part, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_room(self, size: int) -> None:
        """Evict what was used longest ago until `size` more bytes keep within the budget and the disk."""
        files = sorted(self._files())
        over = sum(f.size for f in files) + size - self.budget_bytes
        short = size - _spare_bytes(self.root)
        idle = [f for f in files if f.path not in self._own and not f.path.name.endswith(_PART)]
        if max(over, short) > sum(f.size for f in idle):
            raise InputError(_no_room(self, over > short))
        for file in idle:
            if max(over, short) <= 0:
                return
            file.path.unlink(missing_ok=True)
            self.count(evicted_bytes=file.size)
            over -= file.size
            short = size - _spare_bytes(self.root)  # what others still read is freed when they are done
        if short > 0:
            raise InputError(_no_room(self, False))

    def _files(self) -> list[_File]:
        found = []
        for folder in _listed(self.root):
            for path in _listed(folder) if re.fullmatch(r"[0-9a-f]{32}", folder.name) else []:
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    found.append(_File(facts.st_mtime_ns, path, facts.st_size))
        return found


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
        self._touched = 0.0
        self.refresh()
        misses = len(self.missing)
        cache.count(hits=len(lengths) - misses, misses=misses)

    @property
    def missing(self) -> Ints:
        """Positions of the rows that are not stored, or were found damaged."""
        return np.flatnonzero(self._segment < 0)

    def refresh(self) -> None:
        """Look for missing rows in segments that appeared since the last look."""
        missing = self.missing
        new = self._cache.segments(self._key, self._known)
        self._known.update(s.path for s in new)
        new = [s for s in new if (s.width, s.dtype) == (self._width, self._dtype)]
        if not new or not len(missing):
            return
        lengths = np.concatenate([s.readable_lengths for s in new])
        found = find_rows(
            np.concatenate([s.keys for s in new]), lengths, self._row_keys[missing], self._lengths[missing]
        )
        begins = np.cumsum([0] + [len(s.keys) for s in new])
        missing, found = missing[found >= 0], found[found >= 0]
        owner = np.searchsorted(begins, found, side="right") - 1
        for number in np.unique(owner):
            self._cache.use(new[number])
        self._row[missing] = found - begins[owner]
        self._segment[missing] = owner + len(self._segments)
        self._segments += new

    def read(self, rows: NDArray[np.integer], width_tokens: int) -> tuple[NDArray[np.float32], Ints]:
        """Activations float32 [k, width_tokens, width], zero beyond a row's tokens, and places in `rows` that failed.

        A row is verified when this process first reads it; one that fails is missing from then on, and zero here.
        """
        lengths = self._lengths[rows]
        if len(rows) and lengths.max() > width_tokens:
            raise InputError(f"wanted rows of at most {width_tokens} tokens, found one of {lengths.max()}")
        out = np.empty((len(rows), width_tokens, self._width), dtype=np.float32)
        for place, length in enumerate(lengths.tolist()):
            out[place, length:] = 0.0
        owner = self._segment[rows]
        is_bad = owner < 0
        for number in np.unique(owner[~is_bad]).tolist():
            places = np.flatnonzero(owner == number)
            is_bad[self._read_segment(number, self._row[np.asarray(rows)[places]], out, places)] = True
        out[is_bad] = 0.0
        self._cache.count(bytes_read=int(lengths[~is_bad].sum()) * self._width * self._dtype.itemsize)
        self._touch()
        return out, np.flatnonzero(is_bad)

    def _read_segment(self, number: int, rows: Ints, out: NDArray[np.float32], places: Ints) -> list[int]:
        segment = self._segments[number]
        failed, is_damaged = segment.read(rows.tolist(), out, places.tolist())
        if is_damaged:
            self._cache.discard(segment.path, "a row fails its checksum")
        lost = rows[np.isin(places, failed)]
        if len(lost):
            self._segment[(self._segment == number) & np.isin(self._row, lost)] = -1
        return failed

    def _touch(self) -> None:
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            for number in np.unique(self._segment[self._segment >= 0]):
                self._cache.use(self._segments[number])


class PrefixWriter:
    """Collects rows and writes a segment per key whenever one is full; stops for good when there is no room."""

    def __init__(self, cache: PrefixCache, keys: list[str], width: int, dtype: np.dtype[Any]) -> None:
        self._cache, self._width, self._dtype = cache, width, dtype
        self._pending = {key: Pending() for key in keys}
        self.reason = ""
        for key in keys[:1]:
            self._try_write(key)

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
        for key in self._pending:
            self._try_write(key)

    def add(self, row_keys: NDArray[np.uint64], lengths: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Store rows: keys uint64 [k, 2], token counts [k], and for each key the activations [sum(lengths), width].

        A row with a number that float16 cannot hold is not stored under that key.
        """
        keys, counts = checked_rows(row_keys, lengths)
        if values.keys() != self._pending.keys():
            raise InputError(f"wanted activations of {sorted(self._pending)}, found {sorted(values)}")
        for value in values.values():
            if value.shape != (counts.sum(), self._width) or value.dtype not in (np.float32, self._dtype):
                wanted = f"{self._dtype} or float32 [{counts.sum()}, {self._width}]"
                raise InputError(f"wanted activations {wanted}, found {value.dtype} {list(value.shape)}")
        for key, value in values.items():
            if not self.is_full and len(counts):
                self._add(key, keys, counts, value)

    def _add(self, key: str, keys: Keys, lengths: Ints, value: NDArray[Any]) -> None:
        with np.errstate(over="ignore"):
            stored = value.astype(self._dtype, copy=False)
        is_whole = np.logical_and.reduceat(np.isfinite(stored).all(axis=1), np.cumsum(lengths) - lengths)
        if not is_whole.all():
            self._cache.count(overflowed=int((~is_whole).sum()))
            stored, keys, lengths = stored[np.repeat(is_whole, lengths)], keys[is_whole], lengths[is_whole]
        if len(lengths):
            self._pending[key].add(keys, lengths, stored)
        if self._pending[key].nbytes >= SEGMENT_BYTES:
            self._try_write(key)

    def _try_write(self, key: str) -> None:
        pending, self._pending[key] = self._pending[key], Pending()
        if self.is_full:
            return
        try:
            self._write(key, pending)
        except (OSError, BusyError, InputError) as fault:
            self.reason = str(fault)
            self._pending = {key: Pending() for key in self._pending}
            _log.warning("the prefix cache takes no more rows: %s", self.reason)

    def _write(self, key: str, pending: Pending) -> None:
        path, descriptor = self._cache.reserve(key, pending.nbytes)
        try:
            with open(descriptor, "wb") as handle:
                if pending.entries:
                    pending.write(handle, key)
                    handle.flush()
                    os.fsync(descriptor)
                    self._cache.keep(path)
                    self._cache.count(bytes_written=pending.nbytes)
        finally:
            path.unlink(missing_ok=True)


def _hex(name: str, digits: int | None) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{{digits or '1,64'}}}", name):
        raise InputError(f"wanted a name of {digits or '1 to 64'} hexadecimal digits, was {name!r}")
    return name


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there yet, or unreadable: holds nothing for us
        return []


def _spare_bytes(root: Path) -> int:
    """Bytes of the disk that may still be taken."""
    disk = shutil.disk_usage(root)
    return int(disk.free - max(LEAST_FREE_BYTES, LEAST_FREE_SHARE * disk.total))


def _no_room(cache: PrefixCache, is_budget: bool) -> str:
    if is_budget:
        return (
            f"training.prefix_cache_gb allows {cache.budget_bytes / 1e9:.3g} GB, and this fit alone needs more: "
            "raise it, or set training.prefix_cache to float16 (half the bytes)"
        )
    disk = shutil.disk_usage(cache.root)
    least = max(LEAST_FREE_BYTES, LEAST_FREE_SHARE * disk.total)
    return (
        f"the disk of {cache.root} has {disk.free / 1e9:.2f} GB free and {least / 1e9:.2f} GB of it stay free: "
        "make room, or set BERTFT_HOME to another disk"
    )


def _sweep(root: Path) -> None:
    """Remove what no living process will finish; the caller holds the store's lock."""
    for folder in _listed(root):
        for path in _listed(folder) if re.fullmatch(r"[0-9a-f]{32}", folder.name) else []:
            if _is_dead(path):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or a file
            folder.rmdir()


def _is_dead(path: Path) -> bool:
    if path.name.endswith(_PART):
        return _is_unlocked(path)
    match = _SEGMENT_NAME.fullmatch(path.name)
    return match is not None and int(match[1]) < int(SUFFIX.removeprefix(".seg"))


def _is_unlocked(path: Path) -> bool:
    """Whether the writer of an unfinished file is dead: the kernel drops its lock (a pid may be reused, or foreign)."""
    try:
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
