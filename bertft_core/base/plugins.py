"""What installed packages add to bertft: entry points by group and name, loaded only when they are used."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from bertft_core.base.errors import ConfigError, fault_text

NOTIFIERS = "bertft.notifiers"  # whom nights tell; the other groups stand where they are read


def installed(group: str) -> EntryPoints:
    """All entry points of a group. Read once for the same places: 500 distributions take 20 ms."""
    return _read(group, _places())


def find(group: str, name: str) -> EntryPoint | None:
    """The installed one of this name, not loaded yet. Raises ConfigError when there are two."""
    found = installed(group).select(name=name) if name else ()
    if len(found) > 1:
        origins = ", ".join(sorted(f"{e.value} of {e.dist.name if e.dist else '?'}" for e in found))
        raise ConfigError(f"two entry points of {group} are called {name!r} ({origins}): uninstall one")
    return next(iter(found), None)


def load(key: str, entry: EntryPoint) -> Any:
    """What the entry point names. Raises ConfigError naming `key` and the package where it cannot be imported."""
    try:
        return entry.load()
    except Exception as fault:  # whatever a package does when it is imported
        package = entry.dist.name if entry.dist else "its package"
        raise ConfigError(
            f"{key}: {entry.name} is {entry.value} of {package}, which cannot be imported ({fault_text(fault)})"
        ) from fault


@lru_cache(maxsize=8)
def _read(group: str, places: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def _places() -> tuple[tuple[str, int], ...]:
    """Where distributions may lie, and when one came or went there (ns; 0: no such folder)."""
    return tuple((place, os.stat(place or ".").st_mtime_ns if os.path.isdir(place or ".") else 0) for place in sys.path)
