"""Our packages have plain names, which a project may give to folders of its own: what Python's path puts first wins."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

OURS = ("flows", "tasks")
_PLACE = Path(__file__).resolve().parents[2]
WAYS_OUT = (
    "rename that folder, put it into a package of your own, or begin nights at Prefect by "
    'run_deployment("bertft-nightly/NAME") in place of an import (docs/in_your_project.md)'
)


def hiding(name: str, path: Sequence[str] | None = None) -> Path | None:
    """The file of another project that Python finds for our package `name`; None where ours is found.

    path: where to look, in this order; default: sys.path.
    """
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.origin is None:  # without __init__.py a folder hides nothing
        return None
    found = Path(spec.origin).resolve()
    return None if _PLACE / name in found.parents else found
