"""Attacks on bertft and the refusal that each must meet: a table, and exit code 1 where a door is open.

    python benchmarks/attacks.py [--only WORD]

One file per theme, `attacks_THEME.py` beside this one, has a list ATTACKS. Each attack works on the real thing, in a
temporary folder of its own and over loopback alone; what takes a training run stands in tests/ instead.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REFUSED, OPEN = "refused", "OPEN"  # what the words of an attack begin with
_SETTINGS = ("BERTFT_", "PREFECT_", "MLFLOW_", "AWS_", "GIT_")  # of the user, which no attack may meet


@dataclass(frozen=True)
class Attack:
    """An attempt to do what must not be done.

    point: the number of the door, 1 to 16, by theme: 1 local servers, 2 git, 3 registered models, 4 encoder folders,
    5 YAML, 6 names and paths, 7 database addresses, 8 passwords, 9 file modes, 10 a lost registry, 11 broken files,
    12 moved homes, 13 cleaning up, 14 hostile text, 15 hung nights, 16 clocks. expected: the refusal, in words.
    run: takes an empty folder and says what happened, beginning with "refused" or "OPEN".
    """

    point: int
    name: str
    expected: str
    run: Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attack met. happened: its own words, or the fault that ended it, which counts as an open door."""

    attack: Attack
    happened: str
    seconds: float

    @property
    def is_open(self) -> bool:
        """Whether the attack got through, or nobody can tell."""
        return not self.happened.startswith(REFUSED)


def collected(folder: Path = Path(__file__).parent) -> list[Attack]:
    """The attacks of all themes, by point."""
    themes = [importlib.import_module(file.stem) for file in sorted(folder.glob("attacks_*.py"))]
    return sorted((attack for theme in themes for attack in theme.ATTACKS), key=lambda attack: attack.point)


def attempted(attack: Attack) -> Outcome:
    """Run one attack in a folder that is its working directory and home, and is gone afterwards."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder, _within(Path(folder).resolve()):
        try:
            happened = attack.run(Path(folder).resolve())
        except Exception as fault:
            where = traceback.extract_tb(fault.__traceback__)[-1]
            happened = f"{OPEN}: {type(fault).__name__} at {Path(where.filename).name}:{where.lineno}: {fault}"
    return Outcome(attack=attack, happened=" ".join(happened.split()), seconds=time.monotonic() - begun)


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:
    """Working directory and environment of a user who has set nothing and owns this folder."""
    before, known = Path.cwd(), dict(os.environ)
    for name in known:
        if name.startswith(_SETTINGS):
            del os.environ[name]
    os.environ["HOME"] = str(folder)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(known)


def row(outcome: Outcome) -> str:
    """A line of the table, in Markdown."""
    cells = (outcome.attack.name, outcome.attack.expected, outcome.happened[:300])
    shown = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {outcome.attack.point} | {shown} | {outcome.seconds:.1f} |"


def main(arguments: Sequence[str]) -> int:
    """Print a row per attack as it ends. 0 where every door is closed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="attacks with this in their name, or this point")
    only = parser.parse_args(arguments).only
    chosen = [a for a in collected() if only in (str(a.point), "") or only in a.name]
    print("| point | attack | expected | what happened | seconds |\n|---|---|---|---|---|")
    outcomes = []
    for attack in chosen:
        outcomes.append(attempted(attack))
        print(row(outcomes[-1]), flush=True)
    left = [outcome for outcome in outcomes if outcome.is_open]
    print(f"\n{len(outcomes)} attacks, {len(left)} open")
    return 1 if left or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
