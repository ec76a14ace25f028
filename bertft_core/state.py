"""Files that survive a kill: atomic writes, content hashes, folders that are complete or absent, locks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from bertft_core.errors import BusyError, ConfigError, InputError

STATE_FORMAT = 1
LEAST_FREE = 300_000_000  # bytes: the stores of Prefect and MLflow, and a small model's checkpoint and copies
MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_POLL_SECONDS = 0.05  # between two looks at a lock that somebody holds


def hash_json(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash_file(path: Path | str) -> str:
    """sha256 (hex) of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path | str) -> str:
    """sha256 (hex) over relative names and bytes of every file below `folder`, in sorted order."""
    root = Path(folder)
    return hash_json([[str(p.relative_to(root)), hash_file(p)] for p in sorted(root.rglob("*")) if p.is_file()])


def encoder_fingerprint(pretrained: Path | str) -> str:
    """sha256 over the encoder's configuration, tokenizer and weight files (not over its model card)."""
    kinds = {".json", ".safetensors", ".txt", ".model"}
    files = sorted(p for p in Path(pretrained).iterdir() if p.suffix in kinds and p.is_file())
    return hash_json([[p.name, _unchanged_digest(p, p.stat().st_mtime_ns, p.stat().st_size)] for p in files])


@lru_cache(maxsize=64)
def _unchanged_digest(path: Path, modified_ns: int, size: int) -> str:
    # a run asks several times for the same 90 MB; the file's time and size tell whether it changed in between
    return hash_file(path)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump(value, handle, indent=1, ensure_ascii=False)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_json(path: Path | str) -> Any:
    """Read one JSON document."""
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def is_complete(folder: Path | str) -> bool:
    """Whether `folder` has a manifest and every file in it still has the manifest's digest."""
    root = Path(folder)
    try:
        digests = read_json(root / MANIFEST)["digests"]
        return all(hash_file(root / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def staged_folder(final: Path | str) -> Iterator[Path]:
    """Yield a sibling folder to fill; on success it gets a manifest and becomes `final`, else it vanishes.

    When another process completed `final` meanwhile, theirs stays (content-addressed folders are equal).
    """
    target = Path(final)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.part-"))
    try:
        yield staging
        names = sorted(p for p in staging.rglob("*") if p.is_file())
        write_json(staging / MANIFEST, {"digests": {str(p.relative_to(staging)): hash_file(p) for p in names}})
        os.chmod(staging, 0o755)
        if target.exists() and not is_complete(target):
            shutil.rmtree(target)
        try:
            os.rename(staging, target)
        except OSError:
            if not is_complete(target):
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """sha256 over bertft_core's Python sources: part of every run_key."""
    root = Path(__file__).parent
    return hash_json([[str(p.relative_to(root)), hash_file(p)] for p in sorted(root.rglob("*.py"))])


def mask_uri(uri: str) -> str:
    """`uri` with user and password, and the value of any secret in its query, replaced by ***."""
    shown = re.sub(r"(?<=://)[^/@\s]+@", "***@", uri)
    return re.sub(r"(?i)([?&;][^=&\s]*(?:token|password|secret|key|pwd)[^=&\s]*=)[^&\s'\"]+", r"\1***", shown)


def open_home(path: Path | str, least_free: int = LEAST_FREE) -> Path:
    """Resolve BERTFT_HOME to an absolute path, create it with mode 0700, check its format version and free bytes.

    Raises InputError when it cannot be written, holds another format, or has less than `least_free` bytes free.
    """
    home = Path(path).expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = home / "format.json"
        if not stamp.exists():
            write_json(stamp, {"format": STATE_FORMAT})
    except OSError as fault:
        raise InputError(
            f"BERTFT_HOME {home} cannot be written ({fault.strerror}): set BERTFT_HOME to a folder you own"
        ) from fault
    free = shutil.disk_usage(home).free
    if free < least_free:
        raise InputError(
            f"BERTFT_HOME {home} has {free / 1e6:.0f} MB free, wanted at least {least_free / 1e6:.0f} MB: make room "
            "(`bertft gc` lists what can go), or set BERTFT_HOME to another disk"
        )
    found = read_json(stamp).get("format")
    if found != STATE_FORMAT:
        raise ConfigError(
            f"{home} has state format {found}, this bertft writes {STATE_FORMAT}: "
            "install the matching bertft release, or set BERTFT_HOME to a new folder"
        )
    if not os.access(home, os.W_OK):
        raise InputError(f"BERTFT_HOME {home} is not writable: set BERTFT_HOME to a folder you own")
    return home


@contextlib.contextmanager
def exclusive(
    path: Path | str, what: str, timeout_seconds: float = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a lock file that the kernel releases when the process dies. on_wait(holder) is called once before waiting.

    Raises BusyError naming the holder when it is not free within `timeout_seconds`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    with open(target, "a+", encoding="utf-8") as handle:
        while not _locked(handle):
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            if on_wait is not None:
                on_wait(holder)
                on_wait = None
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"{what} is already running in process {holder}: wait for it, then run the command again"
                )
            time.sleep(_POLL_SECONDS)
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {os.uname().nodename}")
        handle.flush()
        yield


def _locked(handle: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
