"""BERTFT_HOME: where runs, caches and studies lie."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from bertft_core.base.errors import ConfigError, DamagedFile, InputError
from bertft_core.base.files import write_json
from bertft_core.base.records import read_record, set_aside

STATE_FORMAT = 1
LEAST_FREE = 300_000_000  # bytes: the stores of Prefect and MLflow, and a small model's checkpoint and copies


def board_file(home: Path) -> Path:
    """The page over all models of a home."""
    return home / "board.html"


@dataclass(frozen=True, kw_only=True)
class HomeFormat:
    """format.json of a home."""

    format: int


def read_format(home: Path) -> HomeFormat:
    """The format that a home says it has. Raises DamagedFile, FileNotFoundError."""
    return read_record(
        home / "format.json", HomeFormat, f"`bertft doctor --repair` writes it anew as format {STATE_FORMAT}"
    )


def open_home(path: Path | str, least_free: int = LEAST_FREE) -> Path:
    """Resolve BERTFT_HOME to an absolute path, create it with mode 0700, check its format version and free bytes.

    A damaged format.json is written anew. Raises InputError when the home cannot be written, holds another format, or
    has less than `least_free` bytes free.
    """
    home = Path(path).expanduser().resolve()
    if "?" in str(home):
        raise InputError(
            f"BERTFT_HOME {str(home)!r} holds a question mark, at which MLflow, Optuna and Prefect end the name of a "
            "database file: choose another folder"
        )
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = home / "format.json"
        try:
            found = read_format(home).format
        except (DamagedFile, FileNotFoundError) as fault:
            if isinstance(fault, DamagedFile):  # there is no other format that it could have had
                set_aside(stamp, fault)
            found = STATE_FORMAT
            write_json(stamp, asdict(HomeFormat(format=found)))
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
    if found != STATE_FORMAT:
        raise ConfigError(
            f"{home} has state format {found}, this bertft writes {STATE_FORMAT}: "
            "install the matching bertft release, or set BERTFT_HOME to a new folder"
        )
    if not os.access(home, os.W_OK):
        raise InputError(f"BERTFT_HOME {home} is not writable: set BERTFT_HOME to a folder you own")
    return home


def others_may_read(home: Path) -> str | None:
    """What to tell a person of a home that other users may read, and how to end it; None from the second time on."""
    told = home / ".told-of-readers"
    mode = stat.S_IMODE(home.stat().st_mode)
    with contextlib.suppress(OSError):  # a home that cannot be written: said again
        if not mode & 0o077:
            told.unlink(missing_ok=True)
            return None
        if told.exists():
            return None
        told.touch(mode=0o600)
    todo = f"chmod -R go= {shlex.quote(str(home))}"
    return f"BERTFT_HOME {home} may be entered by others (mode {mode:04o}): `{todo}` ends it"
