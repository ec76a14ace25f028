"""The files of the prefix cache below one folder: locks, room, eviction by age, and what dead processes left.

One folder per key, one file per segment (prefix_segments.py says what is in them). Files have mode 0600 and
folders 0700: activations are as confidential as the texts they come from.
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bertft_core.base.errors import BusyError, InputError
from bertft_core.base.locks import exclusive
from bertft_core.model.prefix.segments import FORMAT, SUFFIX, Pending

LEAST_FREE_BYTES = 1_000_000_000  # of the disk, or this share of it if that is more: others need it too
LEAST_FREE_SHARE = 0.02
_LOCK_SECONDS = 10.0  # the store's lock is held for milliseconds; a holder that hangs must not stop a fit
_KEY = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[0-9a-f]{1,64}")
_SEGMENT = re.compile(r".*\.seg(\d+)")
_PART = ".part"

_log = logging.getLogger(__name__)


class _File(NamedTuple):
    used_ns: int
    path: Path
    size: int


class PrefixStore:
    """At most `budget_bytes` of files below `root`; `own` are those that this fit needs and never evicts.

    A file that is being written is locked itself (flock, no lock file beside it) and has its final size from the start:
    whether its writer lives and how much room it takes show without a list that a kill would leave behind.
    """

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self.own: set[Path] = set()
        self.evicted_bytes = 0

    def try_lock(self, stack: contextlib.ExitStack, name: str, seconds: float) -> bool:
        """Hold a lock until `stack` closes; False when another process held it all the time. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.root / f"{name}.lock"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            stack.enter_context(exclusive(path, "the prefix cache", seconds))
        except BusyError:
            return False
        return True

    def paths(self, key: str) -> list[Path]:
        """The segments of `key`, the newest first."""
        return sorted((p for p in _listed(self.root / key) if p.name.endswith(SUFFIX)), reverse=True)

    def used_bytes(self) -> int:
        """Bytes of all files of all keys, those being written included at their final size."""
        return sum(f.size for f in self._files())

    def spare(self, path: Path) -> None:
        """Keep a file from eviction: for good by this fit, and by its age from others."""
        self.own.add(path)
        with contextlib.suppress(OSError):  # evicted already, by another process
            os.utime(path)

    def write(self, key: str, rows: Pending) -> None:
        """Store a segment under `key`, after evicting what makes room for it.

        A segment without rows is not kept, but shows whether one could be. Raises InputError or BusyError
        saying why there is no room, OSError when the disk refuses; no unfinished file stays behind.
        """
        part, descriptor = self._reserve(key, rows.nbytes)
        try:
            with open(descriptor, "wb") as handle:
                if rows.entries:
                    rows.write(handle, key)
                    handle.flush()
                    os.fsync(descriptor)
                    self._keep(part)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if not self.try_lock(stack, "store", _LOCK_SECONDS):
                raise BusyError(f"another process held {self.root / 'store.lock'} for {_LOCK_SECONDS:.0f} s")
            yield

    def _reserve(self, key: str, size: int) -> tuple[Path, int]:
        """Path and descriptor of a new unfinished file that counts as `size` bytes from now on."""
        with self._locked():
            self._sweep()
            self._make_room(size)
            folder = self.root / key
            folder.mkdir(exist_ok=True, mode=0o700)
            part = folder / f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}{_PART}"
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # _is_dead asks for it
                os.truncate(descriptor, size)
            except OSError:
                os.close(descriptor)
                part.unlink()
                raise
        return part, descriptor

    def _keep(self, part: Path) -> None:
        path = part.with_name(part.name.removesuffix(_PART))
        self.own.add(path)  # before another thread of ours could evict it
        os.rename(part, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_room(self, size: int) -> None:
        """Evict what was used longest ago until `size` more bytes keep within the budget and the disk."""
        files = sorted(self._files())
        idle = [f for f in files if f.path not in self.own and not f.path.name.endswith(_PART)]
        evictable = sum(f.size for f in idle)
        over = sum(f.size for f in files) + size - self.budget_bytes
        short = size - _spare_bytes(self.root)
        if over > evictable:
            raise InputError(
                f"training.prefix_cache_gb allows {self.budget_bytes / 1e9:.3g} GB, and this fit alone needs more: "
                "raise it, or set training.prefix_cache to float16 (half the bytes of float32)"
            )
        if short > evictable:
            raise InputError(_disk_is_full(self.root))
        for file in idle:
            if max(over, short) <= 0:
                return
            file.path.unlink(missing_ok=True)
            self.evicted_bytes += file.size
            over -= file.size
            short = size - _spare_bytes(self.root)  # what other processes still read is not free yet
        if short > 0:
            raise InputError(_disk_is_full(self.root))

    def _files(self) -> list[_File]:
        found = []
        for path in self._everything():
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                found.append(_File(facts.st_mtime_ns, path, facts.st_size))
        return found

    def _everything(self) -> Iterator[Path]:
        for folder in _listed(self.root):
            if _KEY.fullmatch(folder.name):
                yield from _listed(folder)

    def _sweep(self) -> None:
        for path in self._everything():
            if _is_dead(path):
                path.unlink(missing_ok=True)
        for folder in _listed(self.root):
            if _KEY.fullmatch(folder.name):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()


def checked_key(key: str) -> str:
    """`key` if it is 32 hexadecimal digits. Raises InputError."""
    if not _KEY.fullmatch(key):
        raise InputError(f"wanted a key of 32 hexadecimal digits, was {key!r}")
    return key


def checked_name(name: str) -> str:
    """`name` if it is 1 to 64 hexadecimal digits. Raises InputError."""
    if not _NAME.fullmatch(name):
        raise InputError(f"wanted a name of 1 to 64 hexadecimal digits, was {name!r}")
    return name


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there yet, no folder, or unreadable: holds nothing for us
        return []


def _is_dead(path: Path) -> bool:
    """Whether nobody will finish or read a file: its writer's lock is gone (pids are reused), or its format is old."""
    if not path.name.endswith(_PART):
        match = _SEGMENT.fullmatch(path.name)
        return match is not None and int(match[1]) < FORMAT
    try:
        with open(path, "r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _least_free(total: int) -> float:
    return max(LEAST_FREE_BYTES, LEAST_FREE_SHARE * total)


def _spare_bytes(root: Path) -> float:
    """Bytes of the disk that may still be taken."""
    disk = shutil.disk_usage(root)
    return disk.free - _least_free(disk.total)


def _disk_is_full(root: Path) -> str:
    disk = shutil.disk_usage(root)
    return (
        f"the disk of {root} has {disk.free / 1e9:.2f} GB free, of which {_least_free(disk.total) / 1e9:.2f} GB stay "
        "free for others: make room, or set BERTFT_HOME to another disk"
    )
