"""What the report of a search shows: the results themselves, and what else is known; its summary in Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bertft_core.reporting.html.values import clipped, counted, duration, number
from bertft_core.reporting.search.pictures import MEASURES, measured, pruned_share
from bertft_core.search.knobs import best_of, knobs_of, score_name, written
from bertft_core.search.results import TrialResult, ranked
from bertft_core.search.winner import SearchWinner

_ONE_SEED = "The highest single score, from one seed each; ties by lower log loss, then by lower number."
_DECIMAL = re.compile(r"\d+\.\d+")
_BEST = 10  # trials of the summary
_COLUMNS = 12  # knobs of the summary
_CELL = 40  # characters of a cell of the summary
_BYTES = 16_000  # of the summary, without its last lines
_LINES = 20  # reasons and notes of the summary


@dataclass(frozen=True, kw_only=True)
class SearchPage:
    """A search of the model `title`, kept as `study`.

    trials, timeout (seconds): what the configuration allows. space: what each knob could be, in words.
    verdict: who won and why; None: the highest single score. measure: "latency" or "size", the second objective, with
    the slots of its Pareto `front`. notes: said before everything else, for example why the search ended.
    importances: of the knobs, with a `caution` on how far they can be trusted. log: knobs on a logarithmic scale.
    dashboard: the command that opens the study, without passwords.
    """

    title: str
    metric: str
    study: str = ""
    results: tuple[TrialResult, ...] = ()
    trials: int | None = None
    timeout: float | None = None
    space: Mapping[str, str] | None = None
    verdict: SearchWinner | None = None
    measure: str | None = None
    front: Collection[int] = ()
    notes: Sequence[str] = ()
    importances: Mapping[str, float] | None = None
    caution: str = ""
    log: Collection[str] = ()
    dashboard: str = ""

    @property
    def score(self) -> str:
        """What the score is called."""
        return score_name(self.metric)

    @property
    def measure_name(self) -> str:
        """What the second objective is called, "" without one."""
        return MEASURES[self.measure] if self.measure else ""

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names of what was varied."""
        return tuple(k.name for k in knobs_of(self.results))

    @property
    def winner(self) -> SearchWinner | None:
        """The verdict, else the highest single score; None where no trial was completed."""
        best = best_of(self.results)
        return self.verdict or (None if best is None else SearchWinner(best=best, how=_ONE_SEED))

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What stands under the title: how many trials, how much time, which hosts."""
        of = "" if self.trials is None else f" of {self.trials}"
        facts = {
            "trials": f"{len(self.results)}{of}",
            "time of all trials": duration(sum(r.seconds for r in self.results)),
            "of it on pruned trials": f"{100 * pruned_share(self.results):.0f} %",
        }
        timed = [r for r in self.results if r.finished > r.started > 0]
        if timed:
            facts["from first to last"] = duration(max(r.finished for r in timed) - min(r.started for r in timed))
        if self.timeout is not None:
            facts["time allowed"] = duration(self.timeout)
        hosts = sorted({r.host for r in self.results if r.host})
        if hosts:
            facts["host" if len(hosts) == 1 else "hosts"] = ", ".join(hosts)
        if self.study:
            facts["study"] = self.study
        return tuple(facts.items())

    @property
    def states(self) -> list[tuple[str, int]]:
        """(state, how many trials)."""
        return [(state_name(s), n) for s, n in sorted(Counter(r.state for r in self.results).items())]

    @property
    def reasons(self) -> list[tuple[str, str, int]]:
        """(state, reason, how many trials), the most frequent first; decimals in which reasons differ are left out."""
        alike: dict[tuple[str, str], list[str]] = {}
        for r in self.results:
            if r.reason:
                alike.setdefault((r.state, _DECIMAL.sub("…", r.reason)), []).append(r.reason)
        found = [
            (state_name(state), reason if len(set(told)) > 1 else told[0], len(told))
            for (state, reason), told in alike.items()
        ]
        return sorted(found, key=lambda line: -line[2])

    def cost(self, result: TrialResult) -> str:
        """A trial's second objective as text, a dash where it was not measured."""
        cost = measured(result, self.measure) if self.measure else None
        return "–" if cost is None else f"{cost:.4g}"


def state_name(state: str) -> str:
    """A trial's state as a word."""
    return {"fail": "failed"}.get(state, state)


def value_of(result: TrialResult, knob: str) -> str:
    """A trial's value of a knob as text, "" where it does not have it."""
    return written(result.params[knob]) if knob in result.params else ""


def optimism_sentence(page: SearchPage) -> str | None:
    """How much the best single score promised too much; None where it was not confirmed."""
    best, winner = best_of(page.results), page.winner
    if winner is None or best is None or best.score is None:
        return None
    confirmed = next((c for c in winner.confirmations if c.trial.slot == best.slot and c.scores), None)
    if confirmed is None:
        return None
    optimism = best.score - confirmed.mean
    promised = f"promised {number(optimism)} too much" if optimism >= 0 else f"promised {number(-optimism)} too little"
    return (
        f"The best single score, {number(best.score)} of trial {best.slot}, {promised}: with "
        f"{counted(len(confirmed.scores), 'further seed')} the trial reaches {number(confirmed.mean)} on average."
    )


def search_summary(page: SearchPage, where: str = "") -> str:
    """The search in Markdown, under 20 kB: winner, states, the ten best trials; `where`: address of the whole page."""
    lines = [f"# Search: {_cell(page.title, 200)}", ""]
    lines += [f"- {_cell(note, 400)}" for note in page.notes[:_LINES]]
    lines += [f"- {_cell(name)}: {_cell(value, 200)}" for name, value in page.facts[:_LINES]]
    best = page.winner
    if best is None:
        lines += ["", "**No trial was completed.**"]
    else:
        values = ", ".join(f"{_cell(k)} {_cell(written(v))}" for k, v in list(best.best.params.items())[:_COLUMNS])
        lines += [
            "",
            f"**Chosen: trial {best.best.slot}**, {_cell(page.score)} {number(best.best.score)} ({values})",
            "",
        ]
        lines += [_cell(text, 600) for text in (best.how, optimism_sentence(page)) if text]
    lines += [*_best_table(page), "", "## What became of the trials", ""]
    lines += [f"- {n} {_cell(state)}" for state, n in page.states]
    reasons = page.reasons
    lines += [f"    - {n} {_cell(state)}: {_cell(reason, 160)}" for state, reason, n in reasons[:_LINES]]
    if len(reasons) > _LINES:
        lines.append(f"    - {counted(len(reasons) - _LINES, 'more reason is', 'more reasons are')} on the page")
    last = [*(["", f"The whole report: {where[: _CELL * 20]}"] if where else [])]
    last += [*(["", f"Open the study: `{page.dashboard[: _CELL * 20]}`"] if page.dashboard else [])]
    room = _BYTES
    first: list[str] = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            first += ["", "Cut here: the rest is on the page."]
            break
        first.append(line)
    return "\n".join([*first, *last]) + "\n"


def _best_table(page: SearchPage) -> list[str]:
    best, knobs = ranked(page.results)[:_BEST], page.knobs
    if not best:
        return []
    head = ["trial", page.score, *([page.measure_name] if page.measure else []), *knobs[:_COLUMNS]]
    title = f"## The best {len(best)} of {counted(len(page.results), 'trial')}"
    lines = ["", title, "", _row(head), _row(["---"] * len(head))]
    for trial in best:
        cost = [page.cost(trial)] if page.measure else []
        lines.append(
            _row([str(trial.slot), number(trial.score), *cost, *(value_of(trial, k) for k in knobs[:_COLUMNS])])
        )
    more = len(knobs) - _COLUMNS
    return [*lines, *(["", f"{counted(more, 'more knob is', 'more knobs are')} on the page."] if more > 0 else [])]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(value: str, most: int = _CELL) -> str:
    """Text that means nothing in Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", clipped(value, most))
