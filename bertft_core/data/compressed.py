"""Files as they lie, or compressed by gzip, xz or zip: told by their first bytes, read as a stream."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast

from bertft_core.base.errors import DataError

SUFFIXES = (".gz", ".xz", ".zip")
_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"


def table_name(path: Path) -> str:
    """The file's name without the suffix of its compression; of a zip file, the name of the one file in it."""
    if path.suffix.lower() == ".zip":
        with reading(path):
            return Path(_member(zipfile.ZipFile(path)).filename).name
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def is_compressed(path: Path) -> bool:
    """Whether the content is compressed, whatever the file's name."""
    with open(path, "rb") as handle:
        return handle.read(6).startswith((_GZIP, _XZ, _ZIP))


def open_bytes(path: Path) -> BinaryIO:
    """The content, decompressed while it is read. Raises what `reading` turns into a DataError."""
    with open(path, "rb") as handle:
        start = handle.read(6)
    if start.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if start.startswith(_XZ):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if start.startswith(_ZIP):
        archive = zipfile.ZipFile(path)
        return cast(BinaryIO, archive.open(_member(archive)))
    return open(path, "rb")


def open_text(path: Path, encoding: str, newline: str | None = None) -> TextIOWrapper:
    """As `open_bytes`, decoded."""
    return TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline)


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    hidden = ("__MACOSX/", ".")
    found = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(hidden)]
    if len(found) != 1:
        names = ", ".join(member.filename for member in found[:5]) or "none"
        raise zipfile.BadZipFile(f"wanted one file in it, found {len(found)}: {names}; unpack it")
    return found[0]


@contextmanager
def reading(path: Path, name: str = "") -> Iterator[None]:
    """Turn a file that cannot be read or decompressed into a DataError."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile, RuntimeError) as fault:
        # RuntimeError: zipfile's word for a file that wants a password
        raise DataError(f"{name or path.name}: cannot be decompressed: {fault}") from None
    except OSError as fault:
        raise DataError(f"{name or path.name}: cannot be read: {fault.strerror or fault}") from None
