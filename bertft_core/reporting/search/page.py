"""What the report of a search shows, as plain values, and its summary in Markdown; `search_html` draws the page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bertft_core.base.errors import DataError
from bertft_core.reporting.html.markup import clipped, number
from bertft_core.reporting.run.page import Facts

_BEST = 10  # trials of the summary
_COLUMNS = 12  # knobs of the summary
_CELL = 40  # characters of a cell of the summary
_BYTES = 16_000  # of the summary, without its last lines
_LINES = 20  # reasons and notes of the summary


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial. values: as text, in the order of the page's knobs, "" for a knob it does not have.

    score: higher is better, None without one. measure: its second objective as text. reason: why it did not complete.
    """

    slot: int
    state: str
    score: float | None
    seconds: float
    values: tuple[str, ...]
    reason: str = ""
    measure: str = ""


@dataclass(frozen=True, kw_only=True)
class ConfirmedRow:
    """A trial that was fitted again: the score of the search, and the scores with further seeds."""

    slot: int
    first: float
    further: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean of the further seeds alone: the first score was selected for being high."""
        return statistics.fmean(self.further) if self.further else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the further seeds, None below two."""
        return statistics.stdev(self.further) if len(self.further) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The chosen trial and how it was chosen; values: its knobs. confirmed: the trials with further seeds.

    single: (slot, score) of the best trial by its one score. optimism: that score minus the mean over its further
    seeds, None where it has none.
    """

    slot: int
    score: float | None
    how: str
    values: Facts = ()
    confirmed: tuple[ConfirmedRow, ...] = ()
    single: tuple[int, float] | None = None
    optimism: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG image with its title and a sentence on how to read it."""

    title: str
    note: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class SearchPage:
    """A search. score: what it is called. facts: under the title. space: (knob, its values).

    states: (state, how many trials). reasons: (state, reason, how many). notes: said before everything else, for
    example why the search ended. measure: name of the second objective. dashboard: the command that opens the study.
    Raises DataError for a trial with another number of values than there are knobs.
    """

    title: str
    score: str
    knobs: tuple[str, ...] = ()
    trials: tuple[TrialRow, ...] = ()
    facts: Facts = ()
    space: Facts = ()
    states: tuple[tuple[str, int], ...] = ()
    reasons: tuple[tuple[str, str, int], ...] = ()
    winner: Winner | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    caution: str = ""
    measure: str = ""
    dashboard: str = ""

    def __post_init__(self) -> None:
        for trial in self.trials:
            if len(trial.values) != len(self.knobs):
                raise DataError(f"trial {trial.slot} has {len(trial.values)} values for {len(self.knobs)} knobs")


def optimism_sentence(winner: Winner) -> str | None:
    """How much the best single score promised too much; None where it was not confirmed."""
    if winner.single is None or winner.optimism is None:
        return None
    slot, score = winner.single
    further = next((len(row.further) for row in winner.confirmed if row.slot == slot), 0)
    seeds = f"{further} further seed{'' if further == 1 else 's'}"
    said = "promised" if winner.optimism >= 0 else "stayed"
    how = "too much" if winner.optimism >= 0 else "below what it does"
    mean = number(score - winner.optimism)
    return (
        f"The best single score, {number(score)} of trial {slot}, {said} {number(abs(winner.optimism))} {how}: "
        f"with {seeds} the trial reaches {mean} on average."
    )


def ranked(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Completed trials from the highest score, then the others by slot."""
    done = [t for t in trials if t.state == "complete" and t.score is not None]
    rest = [t for t in trials if t not in done]
    return sorted(done, key=lambda t: (-(t.score or 0.0), t.slot)) + sorted(rest, key=lambda t: t.slot)


def search_summary(page: SearchPage, where: str = "") -> str:
    """The search in Markdown, under 20 kB: winner, states, the ten best trials; `where`: address of the whole page."""
    lines = [f"# Search: {_cell(page.title, 200)}", ""]
    lines += [f"- {_cell(note, 400)}" for note in page.notes[:_LINES]]
    lines += [f"- {_cell(name)}: {_cell(value, 200)}" for name, value in page.facts[:_LINES]]
    lines += [*_chosen(page), *_best_table(page), "", "## What became of the trials", ""]
    lines += [f"- {n} {_cell(state)}" for state, n in page.states]
    lines += [f"    - {n} {_cell(state)}: {_cell(reason, 160)}" for state, reason, n in page.reasons[:_LINES]]
    if len(page.reasons) > _LINES:
        lines.append(f"    - {len(page.reasons) - _LINES} more reasons are on the page")
    last = [*(["", f"The whole report: {where[: _CELL * 20]}"] if where else [])]
    last += [*(["", f"Open the study: `{page.dashboard[: _CELL * 20]}`"] if page.dashboard else [])]
    return "\n".join([*_within(lines, _BYTES), *last]) + "\n"


def _chosen(page: SearchPage) -> list[str]:
    best = page.winner
    if best is None:
        return ["", "**No trial was completed.**"]
    values = ", ".join(f"{_cell(k)} {_cell(v)}" for k, v in best.values[:_COLUMNS])
    said = [_cell(text, 600) for text in (best.how, optimism_sentence(best)) if text]
    return ["", f"**Chosen: trial {best.slot}**, {_cell(page.score)} {number(best.score)} ({values})", "", *said]


def _best_table(page: SearchPage) -> list[str]:
    shown = [t for t in ranked(page.trials)[:_BEST] if t.state == "complete"]
    if not shown:
        return []
    head = ["trial", page.score, *([page.measure] if page.measure else []), *page.knobs[:_COLUMNS]]
    lines = ["", f"## The best {len(shown)} of {len(page.trials)}", "", _row(head), _row(["---"] * len(head))]
    for t in shown:
        extra = [t.measure] if page.measure else []
        lines.append(_row([str(t.slot), number(t.score), *extra, *t.values[:_COLUMNS]]))
    more = len(page.knobs) - _COLUMNS
    return [*lines, *(["", f"{more} more knobs are on the page."] if more > 0 else [])]


def _within(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, as many as fit into so many bytes."""
    room = most
    kept: list[str] = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            return [*kept, "", "Cut here: the rest is on the page."]
        kept.append(line)
    return kept


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(value: str, most: int = _CELL) -> str:
    """Text that means nothing in Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", clipped(value, most))
