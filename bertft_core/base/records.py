"""Small JSON files and texts that are read back: checked when read, and a fault says what to do about it."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bertft_core.base.errors import DamagedFile

BROKEN = ".broken"  # ends the name of a file that was moved aside because nobody can read it
_SHOWN = 60  # characters of a value in a message
_LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


def read_record(path: Path | str, kind: type[T], remedy: str) -> T:
    """A small JSON file as a value of `kind`: a dataclass or a TypedDict. Keys that `kind` does not know are left out.

    A file may be cut off, empty, of another encoding, or hold something else: DamagedFile names the file, the key, what
    was wanted, what was found, and `remedy`, what to do about it. Raises FileNotFoundError where there is none, and
    OSError where the disk gives no answer.

    >>> read_record("machine.json", dict[str, int], "delete it")  # doctest: +SKIP
    DamagedFile: machine.json is damaged: wanted JSON, it is empty; delete it
    """
    return parse_record(Path(path).read_bytes(), kind, str(path), remedy)


def parse_record(text: str | bytes, kind: type[T], where: str, remedy: str) -> T:
    """As `read_record`, of a text that stands at `where`, such as a tag or a line of a log."""
    try:
        reader: TypeAdapter[T] = _reader(kind)  # type: ignore[arg-type]  # a type is hashable
        return reader.validate_json(text, strict=True)
    except ValidationError as fault:
        raise DamagedFile(f"{where} is damaged: {_wanted(fault, text)}; {remedy}") from None
    except ValueError as fault:  # what the value itself refuses, and lone surrogates in a text
        raise DamagedFile(f"{where} is damaged: {fault}; {remedy}") from None


def read_or_set_aside(path: Path, kind: type[T], remedy: str) -> T | None:
    """As `read_record`, of what can be made again: None where there is none, and where it is damaged (`set_aside`)."""
    try:
        return read_record(path, kind, remedy)
    except FileNotFoundError:
        return None
    except DamagedFile as fault:
        set_aside(path, fault)
        return None


def set_aside(path: Path, fault: Exception) -> Path:
    """Rename a damaged file to NAME.broken, so that what can be made again is, and say so; where it lies now.

    An earlier NAME.broken is replaced: it is the file of today that somebody may want to look at.
    """
    aside = path.with_name(path.name + BROKEN)
    os.replace(path, aside)
    _LOGGER.warning("%s (kept as %s)", fault, aside.name)
    return aside


@lru_cache(maxsize=64)
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _wanted(fault: ValidationError, text: str | bytes) -> str:
    """The first fault in words: the key, what was wanted, what was found."""
    error = fault.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        return "wanted JSON, it is empty" if not text.strip() else f"wanted JSON, found none ({error['ctx']['error']})"
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"wanted the key {key}, found none of that name"
    found = repr(error["input"])
    found = found if len(found) <= _SHOWN else found[: _SHOWN - 1] + "…"
    what = error["msg"].removeprefix("Value error, ")
    return f"{f'{key}: ' if key else ''}{what[0].lower()}{what[1:]}, found {found}"
