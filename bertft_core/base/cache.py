"""BERTFT_CACHE: a folder or a bucket in which a worker finds what another one has made, though their homes vanish.

    KIND/NAME/STAMP/FILE …    what was kept; a stamp (milliseconds since 1970 and a random part) is never written twice
    KIND/NAME/STAMP.json      size and sha256 of each of these files, written last: without it, or with a file that is
                              not as it says, nothing was kept

Of several stamps the newest that is whole counts. A fault of the cache ends nothing: it is said once, the work goes on,
and nobody asks for a while. What is read back is held to its digests, and is safetensors, Arrow or JSON: whoever reads
it loads no code. Whoever may write there can change what is trained.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bertft_core.base.display import masked
from bertft_core.base.errors import DamagedFile, InputError, fault_text
from bertft_core.base.hashes import hash_file
from bertft_core.base.names import file_name
from bertft_core.base.records import parse_record

VARIABLE = "BERTFT_CACHE"
TOKENS, CHECKPOINTS = "tokens", "checkpoints"
_FORMAT = "v1"
_STAMP = re.compile(r"(\d{13})-[0-9a-f]{8}")
_PAUSE_SECONDS = 300.0  # after a fault; a server that is away would cost each fit its time-outs
_MOST_BYTES = 1 << 20  # of a STAMP.json
# Of a server that does not answer: a fit waits for it at its beginning. Options of s3fs, which hands them to botocore.
_PATIENCE = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is kept under a name. size: bytes of all its stamps; written: seconds since 1970, of the newest."""

    kind: str
    name: str
    size: int
    written: float


class Cache:
    """What is kept below one URL: a folder, s3://bucket/path, or another one that fsspec knows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | tuple[()] = ()
        self._silent_until, self._is_told = 0.0, False

    def pull(self, kind: str, name: str, target: Path, needed: Collection[str]) -> bool:
        """Put the newest whole files of a name into the folder `target`, all of them or none; whether that was done.

        needed: files without which they are not taken. Files come into their place in the order in which they were
        pushed, each at once.
        """
        if self._is_silent:
            return False
        try:
            fs, place = self._place(kind, name)
            documents = (path for path in _listed(fs, place) if path.endswith(".json"))
            for document in sorted(documents, key=_stamp, reverse=True):
                try:
                    return self._fetch(fs, document, target, needed)
                except (DamagedFile, FileNotFoundError, InputError) as fault:  # half of it, or removed meanwhile
                    _LOGGER.warning("%s of %s is not taken: %s", f"{kind}/{name}", masked(self.url), fault_text(fault))
        except Exception as fault:  # whatever the file system raises
            self._tell(f"{kind} of {name} could not be read", fault)
        return False

    def push(self, kind: str, name: str, files: Mapping[str, Path]) -> bool:
        """Keep these files, by the names that they shall have, and drop what was kept under the name before."""
        if self._is_silent:
            return False
        try:
            fs, place = self._place(kind, name)
            stamp = f"{time.time_ns() // 1_000_000:013}-{secrets.token_hex(4)}"
            for file, path in files.items():
                fs.put_file(str(path), f"{place}/{stamp}/{_plain(file)}")
            facts = {n: asdict(_File(bytes=p.stat().st_size, sha256=hash_file(p))) for n, p in files.items()}
            fs.pipe_file(f"{place}/{stamp}.json", json.dumps(facts).encode())
            _drop(fs, [path for path in _listed(fs, place) if _stamp(path) < stamp])
        except Exception as fault:  # whatever the file system raises
            self._tell(f"{kind} of {name} could not be kept", fault)
            return False
        return True

    def remove(self, kind: str, name: str) -> bool:
        """Drop what is kept under a name, if anything is; False where the file system had a fault."""
        if self._is_silent:
            return False
        try:
            fs, place = self._place(kind, name)
            _drop(fs, _listed(fs, place))
        except Exception as fault:  # whatever the file system raises
            self._tell(f"{kind} of {name} could not be removed", fault)
            return False
        return True

    def entries(self) -> list[Entry]:
        """All that is kept, also what a killed push left half. Raises whatever the file system raises."""
        fs, root = self._open()
        found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for kind in (TOKENS, CHECKPOINTS):
            place = f"{root}/{kind}"
            for path, facts in (fs.find(place, detail=True) if fs.exists(place) else {}).items():
                parts = path.removeprefix(place).strip("/").split("/")
                if len(parts) > 1 and _STAMP.match(parts[1]):
                    found.setdefault((kind, parts[0]), []).append((parts[1], facts["size"]))
        return [
            Entry(kind=kind, name=name, size=sum(n for _, n in files), written=int(max(files)[0][:13]) / 1000)
            for (kind, name), files in sorted(found.items())
        ]

    def _fetch(self, fs: Any, document: str, target: Path, needed: Collection[str]) -> bool:
        text = fs.cat_file(document, end=_MOST_BYTES)
        files = parse_record(text, dict[str, _File], document, "nothing is taken from there")
        if missing := set(needed) - files.keys():
            raise InputError(f"{document} names no {min(missing)}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.part-{os.getpid()}-") as scratch:
            for name, known in files.items():
                source, file = f"{document.removesuffix('.json')}/{_plain(name)}", Path(scratch) / name
                if fs.size(source) != known.bytes:
                    raise InputError(f"{source} has not the {known.bytes} bytes that were kept")
                fs.get_file(source, str(file))
                if hash_file(file) != known.sha256:
                    raise InputError(f"{source} is not what was kept")
            for name in files:
                os.replace(Path(scratch) / name, target / name)
        return True

    def _place(self, kind: str, name: str) -> tuple[Any, str]:
        fs, root = self._open()
        return fs, f"{root}/{kind}/{file_name(name)}"

    def _open(self) -> tuple[Any, str]:
        with self._lock:  # two threads may begin at once
            if not self._opened:
                from fsspec.core import split_protocol, url_to_fs

                scheme = split_protocol(self.url)[0] or "file"
                options: dict[str, Any] = {"use_listings_cache": False}  # another worker's files are news
                options |= {"auto_mkdir": True} if scheme in ("file", "local") else {}
                options |= {"config_kwargs": _PATIENCE} if scheme in ("s3", "s3a") else {}
                fs, root = url_to_fs(self.url, **options)
                self._opened = (fs, f"{root.rstrip('/')}/{_FORMAT}")
            fs, root = self._opened
        return fs, root

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() < self._silent_until

    def _tell(self, what: str, fault: Exception) -> None:
        self._silent_until = time.monotonic() + _PAUSE_SECONDS
        if not self._is_told:
            self._is_told = True
            text = "%s: %s in %s (%s); the work goes on without it, and asks again after %g s"
            _LOGGER.warning(text, VARIABLE, what, masked(self.url), fault_text(fault), _PAUSE_SECONDS)


def cache() -> Cache | None:
    """The cache that BERTFT_CACHE names, one object a process; None where it names none."""
    url = os.environ.get(VARIABLE)
    return _cache(url) if url else None


@lru_cache(maxsize=4)
def _cache(url: str) -> Cache:
    return Cache(url)


def _listed(fs: Any, place: str) -> list[str]:
    """Stamps below a place, as folders and as documents; what is named otherwise is not ours."""
    try:
        paths = [str(path).rstrip("/") for path in fs.ls(place, detail=False)]
    except FileNotFoundError:
        return []
    return [path for path in paths if _STAMP.fullmatch(_stamp(path))]


def _stamp(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _drop(fs: Any, paths: list[str]) -> None:
    """Documents go before their files; another worker may drop the same."""
    for path in sorted(paths, key=lambda path: not path.endswith(".json")):
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def _plain(name: str) -> str:
    if name != file_name(name):
        raise InputError(f"{name!r} is no plain file name")
    return name
