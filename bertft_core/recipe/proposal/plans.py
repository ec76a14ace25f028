"""Runs of a table without a configuration: the proposal that was made of it is kept, so that the same command goes on.

BERTFT_HOME/plans/NAME-<digest of source and what the user said>.yaml. New rows in the table do not change it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bertft_core.base.hashes import hash_json
from bertft_core.data.compressed import SUFFIXES
from bertft_core.data.sources import KINDS
from bertft_core.recipe.proposal.configuration import Asked, propose, write_new


def is_table(text: str) -> bool:
    """Whether a command's CONFIG is a table or another source of rows, by its name, and no YAML file."""
    path = Path(text)
    ending = path.with_suffix("").suffix if path.suffix.lower() in SUFFIXES else path.suffix
    return "://" in text or ending.lower() in KINDS or path.suffix.lower() in SUFFIXES or path.is_dir()


def plan_of(source: str, base_dir: Path, asked: Asked, home: Path) -> tuple[Path, bool]:
    """The configuration of a table, and whether it was made just now. Raises as `propose`."""
    place = source if "://" in source else str((base_dir / Path(source).expanduser()).resolve())
    folder = home / "plans"
    stem = Path(place.rstrip("/")).name.partition(".")[0]
    made = folder / f"{stem}-{hash_json([place, asdict(asked)])[:8]}.yaml"
    if made.is_file():
        return made, False
    proposal = propose(place, base_dir, asked, folder)
    folder.mkdir(exist_ok=True)
    write_new(made, proposal.text)
    return made, True
