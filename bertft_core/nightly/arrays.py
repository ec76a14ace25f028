"""Arrays between nights: a file that is whole or absent, and that counts as absent where it cannot be read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def save_arrays(file: Path, **arrays: Any) -> None:
    """Write an .npz so that a reader sees the old file or the new one, never half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with open(part, "wb") as handle:
        np.savez(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, file)


def load_arrays(file: Path, *names: str) -> dict[str, Any] | None:
    """The named arrays; None where there is no file that holds them all and can be read."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
