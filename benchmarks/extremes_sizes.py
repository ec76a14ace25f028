"""Tables and searches at the edge of sense, with what they take of memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from extremes_world import Case, Met, bertft, learnable, table


def classes(count: int, each: int) -> Callable[[Path], Met]:
    """So many classes of so many rows."""

    def run(folder: Path) -> Met:
        table(folder, learnable(count * each, count))
        return bertft(folder, "run", "run.yaml")

    return run


def columns(folder: Path) -> Met:
    """2,000 columns that nobody asked for."""
    rest = {f"column {i}": i for i in range(2000)}
    table(folder, [{**row, **rest} for row in learnable(600)])
    return bertft(folder, "run", "run.yaml")


def long_text(folder: Path) -> Met:
    """One text of 5 MB among short ones."""
    rows = learnable(600)
    rows[0]["text"] += " very old" * 600_000
    table(folder, rows)
    return bertft(folder, "run", "run.yaml")


def many_answers(folder: Path) -> Met:
    """200,000 rows to predict."""
    with open(folder / "input.csv", "w", encoding="utf-8") as handle:
        handle.write("text\n")
        handle.writelines(f"{row['text']}\n" for row in learnable(200_000))
    model = ("predict", "--model", "models:/x@champion")
    met = bertft(folder, *model, "--input", "input.csv", "--output", "output.csv")
    written = len((folder / "output.csv").read_text(encoding="utf-8").splitlines()) - 1 if met.code == 0 else 0
    return met if written == 200_000 else met.but(f"{written} rows came out")


def many_trials(folder: Path) -> Met:
    """A search of 300 trials on 90 rows."""
    table(folder, learnable(90), search={"trials": 300, "stop_early": False})
    return bertft(folder, "search", "run.yaml")


CASES = [
    Case("300 classes of 10 rows", "a version", (0,), classes(300, 10)),
    Case("5,000 classes of 4 rows", "refused, classes that the draw left out of train named", (2,), classes(5000, 4)),
    Case("5,000 classes of 8 rows", "a version", (0,), classes(5000, 8)),
    Case("one row a class, 60 classes", "refused, classes and counts named", (2,), classes(60, 1)),
    Case("2,000 columns", "a version", (0,), columns),
    Case("a text of 5 MB", "a version", (0,), long_text),
    Case("200,000 rows through predict", "200,000 answers", (0,), many_answers, versions=1),
    Case("300 trials", "300 finished trials", (0,), many_trials),
]
