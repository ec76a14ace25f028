"""The report of a search from its results: pictures, the HTML page over them and a summary in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bertft_core.config.run import RunConfig
from bertft_core.reporting.search.page import ConfirmedRow, Picture, SearchPage, TrialRow, Winner, search_summary
from bertft_core.reporting.search.pictures import MEASURES, draw_all, duration, measured, pruned_share
from bertft_core.search.knobs import best_of, knobs_of, score_name, written
from bertft_core.search.results import TrialResult
from bertft_core.search.space import distributions, in_words
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import Verdict, pareto

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


PAGE = "search.html"
Confirmed = Sequence[tuple[TrialResult, Sequence[float]]]
_SHOWN = {"fail": "failed"}
_ONE_SEED = "The highest single score, from one seed each; ties by lower log loss, then by lower number."
# (title, how to read it) by the file's name
_CAPTIONS = {
    "history": ("Search history", "Each trial's score, and the best of all completed trials so far."),
    "importances": ("Importances", "How much the score moves with each knob (fANOVA)."),
    "parallel": (
        "What was tried",
        "A line is a trial, coloured by its score. Below an axis pass the trials without that knob.",
    ),
    "slice": ("Two knobs", "Where the good trials lie; a best trial at an edge asks for a wider range."),
    "front": ("Second objective", "No trial is at once better and cheaper than one on the front."),
    "times": ("Time per trial", "Of fitting and validating; hatched trials were stopped early."),
    "workers": ("Who ran what", "A lane is one trial at a time; gaps are time in which nothing was fitted."),
}


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """Files of a search's report, and its summary in Markdown (under 20 kB)."""

    page: Path
    pictures: tuple[Path, ...]
    summary: str

    def __str__(self) -> str:
        return f"search report {self.page} with {len(self.pictures)} pictures"


def report_search(
    study: SearchStudy, config: RunConfig, found: Verdict | None, folder: Path, where: str = ""
) -> SearchReport:
    """The report of a study as it stands; `found` is its winner once it is finished. where: the MLflow run."""
    search = config.search
    assert search is not None, "a study has a search"
    results = study.results()
    folder.mkdir(parents=True, exist_ok=True)
    return write_search_report(
        results,
        folder,
        title=f"{config.name}: {study.name}",
        metric=config.evaluation.metric,
        distributions=distributions(search),
        trials=search.trials,
        timeout=search.timeout,
        best=found.best if found else None,
        how=found.how if found else "",
        confirmed=[(c.trial, c.scores) for c in found.confirmations] if found else (),
        measure=search.second.measure if search.second else None,
        front=[r.slot for r in pareto(results, search.second.measure)] if search.second else (),
        dashboard=study.storage.dashboard_command(),
        notes=[study.stopped] if study.stopped else [],
        space=in_words(search),
        where=where,
    )


def write_search_report(
    results: Sequence[TrialResult],
    folder: Path,
    *,
    title: str,
    metric: str,
    distributions: Mapping[str, BaseDistribution],
    trials: int | None = None,
    timeout: float | None = None,
    best: TrialResult | None = None,
    how: str = "",
    confirmed: Confirmed = (),
    measure: str | None = None,
    front: Collection[int] = (),
    dashboard: str = "",
    notes: Sequence[str] = (),
    space: Mapping[str, str] | None = None,
    where: str = "",
) -> SearchReport:
    """Write `folder`/search.html and the pictures beside it.

    trials, timeout (seconds): of the configuration. best, how: the chosen trial and why (None: the highest single
    score). confirmed: (trial, scores with further seeds). measure: "latency" or "size" with the slots of its
    `front`. dashboard: the command that opens the study, without passwords. space: what each knob could be, in words
    (None: from `distributions`). where: the page's address for the summary.
    """
    from bertft_core.reporting.search.document import search_html
    from bertft_core.search.knobs import caution, knob_importances, log_knobs, space_facts

    importances, log = knob_importances(results, distributions), log_knobs(distributions)
    chosen = best or best_of(results)
    pictures = draw_all(
        results,
        metric,
        folder,
        log=log,
        importances=importances,
        measure=measure,
        front=front,
        chosen=None if chosen is None else chosen.slot,
    )
    page = replace(
        _page(results, title, metric, measure),
        facts=_facts(results, trials, timeout),
        space=tuple((space if space is not None else space_facts(distributions)).items()),
        winner=None if chosen is None else _winner(results, chosen, how or _ONE_SEED, confirmed),
        notes=tuple(notes),
        pictures=tuple(_picture(path) for path in pictures),
        caution=caution(results) if importances else "",
        dashboard=dashboard,
    )
    target = folder / PAGE
    target.write_text(search_html(page), encoding="utf-8")
    return SearchReport(page=target, pictures=pictures, summary=search_summary(page, where or str(target)))


def _page(results: Sequence[TrialResult], title: str, metric: str, measure: str | None) -> SearchPage:
    return SearchPage(
        title=title,
        score=score_name(metric),
        knobs=tuple(k.name for k in knobs_of(results)),
        trials=_rows(results, measure),
        states=tuple((_SHOWN.get(s, s), n) for s, n in sorted(Counter(r.state for r in results).items())),
        reasons=_reasons(results),
        measure=MEASURES[measure] if measure else "",
    )


def _rows(results: Sequence[TrialResult], measure: str | None) -> tuple[TrialRow, ...]:
    names = [k.name for k in knobs_of(results)]
    found = []
    for r in results:
        cost = measured(r, measure) if measure else None
        row = TrialRow(
            slot=r.slot,
            state=_SHOWN.get(r.state, r.state),
            score=r.score,
            seconds=r.seconds,
            values=tuple(written(r.params[name]) if name in r.params else "" for name in names),
            reason=r.reason,
            measure="" if cost is None else f"{cost:.4g}",
        )
        found.append(row)
    return tuple(found)


def _facts(results: Sequence[TrialResult], trials: int | None, timeout: float | None) -> tuple[tuple[str, str], ...]:
    spent = sum(r.seconds for r in results)
    known = [r for r in results if r.finished > r.started > 0]
    facts = [("trials", f"{len(results)}" + (f" of {trials}" if trials is not None else ""))]
    facts.append(("time of all trials", duration(spent)))
    facts.append(("of it on pruned trials", f"{100 * pruned_share(results):.0f} %"))
    if known:
        wall = max(r.finished for r in known) - min(r.started for r in known)
        facts.append(("from first to last", duration(wall)))
    if timeout is not None:
        facts.append(("time allowed", duration(timeout)))
    hosts = sorted({r.host for r in results if r.host})
    if hosts:
        facts.append(("hosts", ", ".join(hosts)))
    return tuple(facts)


def _reasons(results: Sequence[TrialResult]) -> tuple[tuple[str, str, int], ...]:
    counted = Counter((_SHOWN.get(r.state, r.state), r.reason) for r in results if r.reason)
    return tuple((state, reason, n) for (state, reason), n in counted.most_common())


def _winner(results: Sequence[TrialResult], best: TrialResult, how: str, confirmed: Confirmed) -> Winner:
    rows = tuple(
        ConfirmedRow(slot=trial.slot, first=trial.score, further=tuple(scores))
        for trial, scores in confirmed
        if trial.score is not None
    )
    first = best_of(results)
    single = None if first is None or first.score is None else (first.slot, first.score)
    mean = next((row.mean for row in rows if single is not None and row.slot == single[0]), None)
    return Winner(
        slot=best.slot,
        score=best.score,
        how=how,
        values=tuple((name, written(value)) for name, value in best.params.items()),
        confirmed=rows,
        single=single,
        optimism=None if single is None or mean is None else single[1] - mean,
    )


def _picture(path: Path) -> Picture:
    title, note = _CAPTIONS[path.stem]
    return Picture(title=title, note=note, png=path.read_bytes())
