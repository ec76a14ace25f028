"""Files that survive a kill: atomic writes, folders that are complete or absent, arrays by name."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import DamagedFile
from bertft_core.base.hashes import hash_file

MANIFEST = "manifest.json"
PRIVATE = 0o077  # umask: what we make is for its user alone
_UNFINISHED = re.compile(r"\.part(-|$)")
_WRITER = re.compile(r"[.-](\d+)-[0-9a-z_]{8}(\.|$)")  # of a staged folder, a file being replaced, a prefix segment
_QUIET_SECONDS = 3600.0
_USERS = "BERTFT_UMASK"  # the user's own, which processes of ours and flow runs of a worker inherit


def keep_private() -> None:
    """From now on this process and its children make files of mode 0600 and folders of mode 0700.

    For a process of our own, at its beginning; never in a host's. What users ask for elsewhere follows
    their own umask nevertheless: `replacing(…, is_private=False)` and `follow_umask`.
    """
    os.environ.setdefault(_USERS, f"{os.umask(PRIVATE):03o}")


def make_private(file: Path) -> None:
    """Make an empty file of mode 0600 where there is none: a database that another library fills."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def users_umask() -> int:
    """The user's own umask: that of the process, or of the command's before `keep_private`."""
    kept = os.environ.get(_USERS, "")
    return int(kept, 8) if kept and not kept.strip("01234567") else process_umask()


def process_umask() -> int:
    """What the modes of this process's new files lack."""
    with contextlib.suppress(OSError, StopIteration, ValueError):  # Linux: without a moment of another umask
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    found = os.umask(PRIVATE)
    os.umask(found)
    return found


def follow_umask(root: Path, mask: int) -> None:
    """Give a file, or a folder and all below it, the modes that `mask` allows, as far as they are ours."""
    for path in (root, *(root.rglob("*") if root.is_dir() else ())):
        if not path.is_symlink():
            with contextlib.suppress(PermissionError):  # another user's, who made it first
                path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


@contextlib.contextmanager
def replacing(path: Path | str, *, is_private: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends well, what is there replaces `path`, else it goes.

    A reader sees the old file or the new one, never half of one, and a power cut loses neither: the new file is on
    the disk (fsync) before it takes the name. Mode 0600; what is not private: as the user's umask says.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with open(part, "rb+") as handle:
            os.fsync(handle.fileno())
        part.chmod(0o600 if is_private else 0o666 & ~users_umask())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def read_json(path: Path | str, most_bytes: int = -1) -> Any:
    """Read one JSON document of at most `most_bytes`, -1 for any size. Raises OSError and ValueError alone."""
    with open(path, "rb") as handle:
        text = handle.read(most_bytes if most_bytes < 0 else most_bytes + 1)
    if 0 <= most_bytes < len(text):
        raise ValueError(f"more than {most_bytes} bytes")
    return parse_json(text)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError alone, also for values too deep for Python to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many values within values") from None


def is_complete(folder: Path | str) -> bool:
    """Whether `folder` has a manifest and every file in it still has the manifest's digest."""
    root = Path(folder)
    try:
        digests = read_json(root / MANIFEST)["digests"]
        return all(hash_file(root / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def is_reusable(folder: Path | str) -> bool:
    """`is_complete`; a folder that is has its age counted from now on by whoever cleans up."""
    if not is_complete(folder):
        return False
    mark_used(folder)
    return True


def mark_used(path: Path | str) -> None:
    """Make now the time of a file or folder; one that may only be read keeps its own."""
    with contextlib.suppress(OSError):
        os.utime(path)


def is_abandoned(path: Path) -> bool:
    """Whether a name is that of an unfinished file or folder, and its writer is gone.

    The name holds the writer's process id. One that lives may be a later process, so what nobody has written to for
    an hour has no writer either.
    """
    if not _UNFINISHED.search(path.name):
        return False
    writer = _WRITER.search(path.name)
    if writer is not None and not Path("/proc", writer[1]).exists() and Path("/proc/self").exists():
        return True
    return is_quiet(path)


def is_quiet(path: Path) -> bool:
    """Whether nobody has written to a file or folder, or to anything in it, for an hour."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    with contextlib.suppress(FileNotFoundError):  # it is being written
        return max(file.stat().st_mtime for file in files) < time.time() - _QUIET_SECONDS
    return False


@contextlib.contextmanager
def staged_folder(final: Path | str) -> Iterator[Path]:
    """Yield a sibling folder to fill; on success it gets a manifest and becomes `final`, else it vanishes.

    Private: modes 0700 and 0600.

    When another process completed `final` meanwhile, theirs stays (content-addressed folders are equal).
    """
    target = Path(final)
    with scratch_folder(target.parent, target.name) as staging:
        yield staging
        names = sorted(p for p in staging.rglob("*") if p.is_file())
        for path in staging.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        write_json(staging / MANIFEST, {"digests": {str(p.relative_to(staging)): hash_file(p) for p in names}})
        if target.exists() and not is_complete(target):
            shutil.rmtree(target)
        try:
            os.rename(staging, target)
        except OSError:
            if not is_complete(target):
                raise


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A private folder of `parent` (made where missing) that vanishes with the block.

    Its name says which process writes it, so that what a killed one left is told (`is_abandoned`).
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}.part-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save_arrays(file: Path, **arrays: Any) -> None:
    """Write an .npz, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part, open(part, "wb") as handle:
        np.savez(handle, **arrays)


def save_array(file: Path, array: Any) -> None:
    """Write an .npy, whole or not at all."""
    with replacing(file) as part, open(part, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def load_array(file: Path) -> Any:
    """What `save_array` wrote. Raises DamagedFile where nobody can read it, FileNotFoundError where there is none."""
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as fault:
        raise DamagedFile(
            f"{file} is damaged: wanted numbers (.npy), found none ({fault}); delete its folder, it is made again"
        ) from None


def load_arrays(file: Path, *names: str) -> dict[str, Any] | None:
    """The named arrays; None where there is no file that holds them all and can be read."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
