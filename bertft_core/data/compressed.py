"""Files as they lie, or compressed by gzip, xz or zip: told by their first bytes, read as a stream."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast

from bertft_core.base.errors import DataError

SUFFIXES = (".gz", ".xz", ".zip")
_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"


def table_name(path: Path) -> str:
    """The file's name without the suffix of its compression; of a zip of one file, the name of that.

    Raises DataError for a damaged zip.
    """
    if path.suffix.lower() == ".zip" and is_compressed(path):
        names = zip_names(path)
        return Path(names[0]).name if len(names) == 1 else path.name
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def zip_names(path: Path) -> list[str]:
    """The files in a zip, without folders and what macOS adds. Raises DataError for a damaged one."""
    with reading(path), zipfile.ZipFile(path) as archive:
        return _names(archive)


def only_file(path: Path, names: Sequence[str]) -> str:
    """The one of `names`, the files in a zip. Raises DataError where there are none or several."""
    if len(names) != 1:
        found = ", ".join(names[:5]) or "none"
        raise DataError(f"{path.name}: wanted one file in the zip, found {len(names)}: {found}; unpack it")
    return names[0]


def is_compressed(path: Path) -> bool:
    """Whether the content is compressed, whatever the file's name."""
    with open(path, "rb") as handle:
        return handle.read(6).startswith((_GZIP, _XZ, _ZIP))


def open_bytes(path: Path) -> BinaryIO:
    """The content, decompressed while it is read. Raises DataError for a zip of several files or none, and what
    `reading` turns into one.
    """
    with open(path, "rb") as handle:
        start = handle.read(6)
    if start.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if start.startswith(_XZ):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if start.startswith(_ZIP):
        archive = zipfile.ZipFile(path)
        return cast(BinaryIO, archive.open(only_file(path, _names(archive))))
    return open(path, "rb")


def open_text(path: Path, encoding: str, newline: str | None = None) -> TextIOWrapper:
    """As `open_bytes`, decoded."""
    return TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline)


def _names(archive: zipfile.ZipFile) -> list[str]:
    hidden = ("__MACOSX/", ".")
    return [m.filename for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(hidden)]


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
