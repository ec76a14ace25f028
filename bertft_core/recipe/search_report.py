"""The report of a search from its results: pictures, the HTML page over them and a summary in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertft_core.config.run import RunConfig
from bertft_core.reporting.search.page import SearchPage, search_summary
from bertft_core.search.space import distributions, in_words
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import SearchWinner, pareto

PAGE = "search.html"
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


def report_search(
    study: SearchStudy, config: RunConfig, verdict: SearchWinner | None, folder: Path, where: str = ""
) -> SearchReport:
    """The report of a study as it stands; `verdict`: who won, once it is finished. where: the MLflow run."""
    from bertft_core.search.knobs import caution, knob_importances, log_knobs

    search = config.search
    assert search is not None, "a study has a search"
    results, spaces = study.results(), distributions(search)
    importances = knob_importances(results, spaces)
    page = SearchPage(
        title=config.name,
        study=study.name,
        metric=config.evaluation.metric,
        results=tuple(results),
        trials=search.trials,
        timeout=search.timeout,
        space=in_words(search),
        verdict=verdict,
        measure=search.second.measure if search.second else None,
        front=[r.slot for r in pareto(results, search.second.measure)] if search.second else (),
        notes=[study.stopped] if study.stopped else [],
        importances=importances,
        caution=caution(results) if importances else "",
        log=log_knobs(spaces),
        dashboard=study.storage.dashboard_command(),
    )
    return write_search_report(page, folder, where)


def write_search_report(page: SearchPage, folder: Path, where: str = "") -> SearchReport:
    """Write `folder`/search.html and the pictures beside it. where: the page's address for the summary."""
    from bertft_core.reporting.search.document import Picture, search_html
    from bertft_core.reporting.search.pictures import draw_all

    folder.mkdir(parents=True, exist_ok=True)
    winner = page.winner
    paths = draw_all(
        page.results,
        page.metric,
        folder,
        log=page.log,
        importances=page.importances,
        measure=page.measure,
        front=page.front,
        chosen=None if winner is None else winner.best.slot,
    )
    pictures = [
        Picture(title=title, note=note, png=p.read_bytes()) for p in paths for title, note in [_CAPTIONS[p.stem]]
    ]
    target = folder / PAGE
    target.write_text(search_html(page, pictures), encoding="utf-8")
    return SearchReport(page=target, pictures=paths, summary=search_summary(page, where or str(target)))
