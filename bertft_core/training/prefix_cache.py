"""Hidden states of token rows on disk: immutable segments, memory-mapped, shared by processes, runs and nights.

A segment is one file: index (row keys, lengths, a checksum a row), then the states of its rows, flat and unpadded. It
is written under a temporary name and renamed, so that it is whole or not there. Segments are added and evicted, never
changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from bertft_core.errors import InputError
from bertft_core.state import exclusive

FORMAT = 1
_SUFFIX = ".states"
_MAGIC = b"bertft-prefix\n"
_SEGMENT_BYTES = 64_000_000
_ALIGN = 64
_KEY = re.compile(r"[0-9a-f]{16,64}")
_PART = re.compile(r"\.(\d+)-[0-9a-f]+\.part")
_LEAST_FREE, _FREE_SHARE = 1_000_000_000, 0.02  # of the disk: what others on it need to go on

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Segment:
    """One file, its index read. ``starts``: first token of each row; ``sums``: crc32 of its bytes."""

    path: Path
    keys: Keys
    lengths: Ints
    sums: NDArray[np.uint32]
    states: NDArray[Any]

    @property
    def starts(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    @classmethod
    def open(cls, path: Path, width: int, dtype: str) -> Self | None:
        """The file's index and mapped states; None when it is gone, damaged, or of another format, width or type."""
        try:
            with open(path, "rb") as handle:
                head = _read_head(handle)
                if head is None or (head["format"], head["width"], head["dtype"]) != (FORMAT, width, dtype):
                    return None
                index = handle.read(head["rows"] * 28)
            tokens, offset = head["tokens"], head["offset"]
            size = offset + tokens * width * np.dtype(dtype).itemsize
            if zlib.crc32(index) != head["index_sum"] or os.path.getsize(path) != size:
                return None
            states = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(tokens, width))
        except (OSError, ValueError, KeyError):
            return None
        n = head["rows"]
        return cls(
            path=path, states=states, keys=np.frombuffer(index, np.uint64, 2 * n).reshape(n, 2),
            lengths=np.frombuffer(index, np.int64, n, 16 * n), sums=np.frombuffer(index, np.uint32, n, 24 * n),
        )  # fmt: skip


def _read_head(handle: IO[bytes]) -> dict[str, Any] | None:
    if handle.read(len(_MAGIC)) != _MAGIC:
        return None
    head = json.loads(handle.readline(4096))
    return head if isinstance(head, dict) else None


def _write_segment(path: Path, keys: Keys, lengths: Ints, states: NDArray[Any]) -> None:
    """Write the whole file under a temporary name, flush it to the disk, rename it."""
    states = np.ascontiguousarray(states)
    ends = np.cumsum(lengths)
    sums = np.array([zlib.crc32(states[e - n : e].data) for e, n in zip(ends, lengths, strict=True)], dtype=np.uint32)
    index = keys.astype(np.uint64).tobytes() + lengths.astype(np.int64).tobytes() + sums.tobytes()
    head: dict[str, Any] = {
        "format": FORMAT, "width": states.shape[1], "dtype": str(states.dtype), "rows": len(keys),
        "tokens": len(states), "index_sum": zlib.crc32(index), "offset": 0,
    }  # fmt: skip
    length = len(_MAGIC) + len(json.dumps(head)) + 12 + len(index)  # 12: digits of the offset itself, and the newline
    head["offset"] = -(-length // _ALIGN) * _ALIGN
    part = path.with_name(f".{os.getpid()}-{uuid.uuid4().hex}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(_MAGIC + json.dumps(head).encode() + b"\n" + index)
            handle.write(b"\0" * (head["offset"] - handle.tell()))
            handle.write(states.data)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class PrefixCache:
    """All segments under ``root``: a folder per key (what the states depend on besides the row), at most
    ``budget_bytes`` together. Several processes may use it at once."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self._in_use: set[Path] = set()

    def folder(self, key: str) -> Path:
        """Where the segments of a key lie. Raises InputError unless the key is hexadecimal."""
        if not _KEY.fullmatch(key):
            raise InputError(f"a prefix key is 16 to 64 hexadecimal digits, was {key!r}")
        return self.root / key

    def view(self, key: str, row_keys: Keys, lengths: Ints, width: int, dtype: str) -> PrefixView:
        """The rows with these keys [n, 2] and lengths [n], as far as they are stored under ``key``."""
        view = PrefixView(cache=self, key=key, row_keys=row_keys, lengths=lengths, width=width, dtype=dtype)
        view.refresh()
        return view

    @contextlib.contextmanager
    def building(self, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """One process at a time: a second waits, after on_wait(), until the first ends or dies."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = exclusive(
                self.folder(name).with_suffix(".lock"), "building of the prefix cache", float("inf"),
                (lambda holder: on_wait()) if on_wait else None,
            )  # fmt: skip
            lock.__enter__()
        except OSError:  # a folder that cannot be written: the writer says so
            yield
            return
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def writer(self, keys: Sequence[str], width: int, dtype: str) -> PrefixWriter:
        """A context manager that adds rows under several keys at once, one for each cut."""
        return PrefixWriter(cache=self, keys=tuple(keys), width=width, dtype=dtype)

    def hold(self, path: Path) -> None:
        """Keep a segment from this process's own evictions, and mark it as used now."""
        self._in_use.add(path)
        with contextlib.suppress(OSError):
            os.utime(path)

    def used_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(size for _, size, _ in self._segments())

    def _segments(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every segment, least recently used first."""
        found = []
        for path in self.root.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process evicted it
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        return sorted(found)

    def make_room(self, size: int) -> str:
        """Evict what was used least recently until ``size`` more bytes fit; "" or why they do not."""
        segments = self._segments()
        used = sum(s for _, s, _ in segments)
        for _, bytes_of, path in segments:
            if used + size <= self.budget_bytes:
                break
            if path not in self._in_use:
                path.unlink(missing_ok=True)
                used -= bytes_of
        if used + size > self.budget_bytes:
            return f"training.prefix_cache_gb ({self.budget_bytes / 1e9:g}) is too small for this fit"
        disk = shutil.disk_usage(self.root)
        kept = max(_LEAST_FREE, int(_FREE_SHARE * disk.total))
        if disk.free - size < kept:
            return f"{self.root} has {disk.free / 1e9:.1f} GB free, {kept / 1e9:.1f} of which are left to others"
        return ""

    def sweep(self) -> None:
        """Remove what processes that died while writing left behind."""
        for path in self.root.glob("*/.*.part"):
            found = _PART.fullmatch(path.name)
            if found and not _is_alive(int(found[1])):
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass(kw_only=True, eq=False)
class PrefixView:
    """The stored states of the rows that one fit reads of one split, under one key."""

    cache: PrefixCache
    key: str
    row_keys: Keys
    lengths: Ints
    width: int
    dtype: str
    _segments: list[_Segment] = field(default_factory=list)
    _known: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        n = len(self.row_keys)
        self._segment_of = np.full(n, -1, dtype=np.int64)
        self._start_of = np.zeros(n, dtype=np.int64)
        self._sum_of = np.zeros(n, dtype=np.uint32)
        self._is_checked = np.zeros(n, dtype=np.bool_)
        self._order = np.argsort(self.row_keys[:, 0], kind="stable")

    @property
    def missing(self) -> Ints:
        """Positions of the rows that are not stored, or were found damaged."""
        return np.flatnonzero(self._segment_of < 0)

    def refresh(self) -> None:
        """Take in the segments that appeared since."""
        for path in sorted(self.cache.folder(self.key).glob(f"*{_SUFFIX}")):
            if path in self._known:
                continue
            self._known.add(path)
            segment = _Segment.open(path, self.width, self.dtype)
            if segment is None:
                path.unlink(missing_ok=True)  # no reader can use it: make room for its rows
            elif self._take(segment):
                self.cache.hold(path)

    def _take(self, segment: _Segment) -> bool:
        """Point rows that are still missing at this segment; whether any was."""
        places, members = self._matches(segment.keys)
        fits = (self._segment_of[places] < 0) & (self.lengths[places] == segment.lengths[members])
        places, members = places[fits], members[fits]
        if not len(places):
            return False
        self._segments.append(segment)
        self._segment_of[places] = len(self._segments) - 1
        self._start_of[places] = segment.starts[members]
        self._sum_of[places] = segment.sums[members]
        self._is_checked[places] = False
        return True

    def _matches(self, keys: Keys) -> tuple[Ints, Ints]:
        """(positions of this view's rows, rows of the segment) that have equal keys."""
        order = np.argsort(keys[:, 0], kind="stable")
        at = np.searchsorted(keys[order, 0], self.row_keys[:, 0])
        at = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(self.row_keys), dtype=np.int64)
        equal = (keys[at] == self.row_keys).all(axis=1) if len(order) else np.zeros(len(self.row_keys), dtype=np.bool_)
        places = np.flatnonzero(equal)
        return places, at[places]

    def read(self, rows: Ints, width_tokens: int) -> tuple[NDArray[np.float32], Ints]:
        """States [k, width_tokens, H] float32 of these positions, zero at padding; and the places in ``rows`` without.

        A row's checksum is compared when it is first read. A damaged row counts as missing from then on, and its
        segment is removed, so that the next build writes it anew.
        """
        found = np.zeros((len(rows), width_tokens, self.width), dtype=np.float32)
        bad = []
        for i, row in enumerate(rows):
            if self._segment_of[row] < 0:
                bad.append(i)
                continue
            start, segment = self._start_of[row], self._segments[self._segment_of[row]]
            states = segment.states[start : start + self.lengths[row]]
            if not self._is_checked[row]:
                if zlib.crc32(states.data) != self._sum_of[row]:
                    self._segment_of[row] = -1
                    segment.path.unlink(missing_ok=True)
                    bad.append(i)
                    continue
                self._is_checked[row] = True
            found[i, : len(states)] = states
        return found, np.array(bad, dtype=np.int64)


@dataclass(kw_only=True, eq=False)
class PrefixWriter:
    """Adds rows under several keys. ``reason`` says why nothing more is stored, "" while there is room."""

    cache: PrefixCache
    keys: tuple[str, ...]
    width: int
    dtype: str
    reason: str = ""
    bytes_written: int = 0
    _held: list[tuple[Keys, Ints, Mapping[str, NDArray[Any]]]] = field(default_factory=list)
    _held_bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether later rows are not stored any more."""
        return bool(self.reason)

    def __enter__(self) -> Self:
        self.cache.sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()

    def add(self, row_keys: Keys, lengths: Ints, values: Mapping[str, NDArray[Any]]) -> None:
        """Keep rows with the states of each key, flat [sum(lengths), width] of the writer's type."""
        for key in self.keys:
            expected = (int(lengths.sum()), self.width)
            if values[key].shape != expected or str(values[key].dtype) != self.dtype:
                raise ValueError(
                    f"states must be {expected} {self.dtype}, were {values[key].shape} {values[key].dtype}"
                )
        if self.is_full:
            return
        self._held.append((row_keys, lengths, values))
        self._held_bytes += values[self.keys[0]].nbytes
        if self._held_bytes >= _SEGMENT_BYTES:
            self._flush()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if not held or self.is_full:
            return
        row_keys, lengths = (np.concatenate([part[i] for part in held]) for i in (0, 1))
        try:
            for key in self.keys:
                states = np.concatenate([values[key] for _, _, values in held])
                self.reason = self.reason or self._write(key, row_keys, lengths, states)
        except OSError as fault:
            what = "the disk is full" if fault.errno == errno.ENOSPC else str(fault.strerror)
            self.reason = f"{self.cache.root}: {what}"

    def _write(self, key: str, row_keys: Keys, lengths: Ints, states: NDArray[Any]) -> str:
        folder = self.cache.folder(key)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = states.nbytes + 28 * len(row_keys) + 4096
        if reason := self.cache.make_room(size):
            return reason
        path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        _write_segment(path, row_keys, lengths, states)
        self.cache.hold(path)
        self.bytes_written += states.nbytes
        return ""
