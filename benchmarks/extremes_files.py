"""Flipped bits, a home that may only be read, surroundings that lack what most have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from extremes_kills import flip
from extremes_world import MAIN, Case, Met, bertft, learnable, table, unlike

_MOUNTED = """
import ctypes, subprocess
assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
for words in (["--make-rprivate", "/"], ["--bind", {home!r}, {home!r}], ["-o", "remount,bind,ro", {home!r}]):
    subprocess.run(["mount", *words], check=True)
"""
_READING = (
    ("history", "x"),
    ("nights", "x"),
    ("compare", "x", "1", "1", "--data", "rows.csv"),
    ("predict", "--model", "models:/x@champion", "--input", "rows.csv", "--output", "answers.csv"),
    ("report", "run.yaml"),
    ("doctor",),
    ("gc",),
)
_WRITING = (
    ("check", "run.yaml"),
    ("run", "run.yaml"),
    ("nightly", "run.yaml"),
    ("search", "run.yaml"),
    ("promote", "x"),
    ("rollback", "x", "--reason", "why"),
    ("resume", "x", "--reason", "why"),
    ("adopt", "x"),
    ("gc", "--apply"),
    ("doctor", "--repair"),
    ("deploy", "run.yaml"),
    ("up",),
)


def flipped(pattern: str, *command: str) -> Callable[[Path], Met]:
    """One bit in the middle of each file that matches; then the command."""

    def run(folder: Path) -> Met:
        files = [file for file in (folder / "home").glob(pattern) if file.is_file()]
        for file in files:
            flip(file)
        met = bertft(folder, *command)
        return met if files else met.but(f"no file is {pattern}")

    return run


def read_only(*verb: str) -> Callable[[Path], Met]:
    """A verb on a home whose disk cannot be written: mounted so for this process alone."""
    return lambda folder: bertft(folder, *verb, code=_MOUNTED.format(home=str(folder / "home")) + MAIN)


def no_working_directory(*verb: str) -> Callable[[Path], Met]:
    """A verb where the working directory was deleted."""
    gone = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
    return lambda folder: bertft(folder, *verb, code=gone + MAIN)


def no_home_variable(folder: Path) -> Met:
    """A run without HOME and USER."""
    table(folder, learnable(600))
    met = bertft(folder, "run", "run.yaml", is_cold=True, without=("HOME", "USER", "LOGNAME"))
    return met.but(unlike(folder, versions=[1], aliases={"champion": 1}))


_AGAIN = ("run", "run.yaml", "search.trials=0", "training.alpha=0.8")
_EVALUATE = ("evaluate", "run.yaml")
_NAMED = "it works, or one line says what to do"
_ANEW = "told by its digest and made anew"
_DAMAGED = "search/studies.db", "search", "run.yaml"
CASES = [
    Case("flipped bit in tokens", _ANEW, (0,), flipped("tokens/*/*.arrow", *_AGAIN), versions=1),
    Case("flipped bit in segments of hidden states", _ANEW, (0,), flipped("prefix/*/*.seg*", *_AGAIN), versions=1),
    Case("flipped bit in studies.db", _NAMED, (0, 1, 2), flipped(*_DAMAGED), versions=1),
    Case("flipped bit in fit/result.json", _ANEW, (0,), flipped("runs/*/fit/result.json", *_EVALUATE), versions=1),
    Case("deleted working directory, history", _NAMED, (0, 2), no_working_directory("history", "x"), versions=1),
    Case("deleted working directory, run", _NAMED, (2,), no_working_directory("run", "run.yaml"), versions=1),
    Case("no HOME, USER, LOGNAME, run", "as with them", (0,), no_home_variable),
    *(
        Case(f"read-only home, {' '.join(verb[: 2 if verb[0] in ('gc', 'doctor') else 1])}", _NAMED, (0, 1, 2), run, 1)
        for verb, run in ((verb, read_only(*verb)) for verb in (*_READING, *_WRITING))
    ),
]
