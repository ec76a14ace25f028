"""From results to the report of a search: counts, the winner, files."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from bertft_core.recipe.search_report import SearchReport, write_search_report
from bertft_core.reporting.search.page import SearchPage
from bertft_core.search.knobs import knob_importances, log_knobs
from bertft_core.search.results import TrialResult
from bertft_core.search.winner import Confirmation, SearchWinner
from bertft_core.training.results import TrainingResult

SPACE = {"lr": FloatDistribution(1e-5, 1e-3, log=True), "pooling": CategoricalDistribution(["cls", "<mean>"])}


def trial(slot: int, score: float | None, state: str = "complete", reason: str = "") -> TrialResult:
    params = {"lr": (slot + 1) * 1e-5, "pooling": ["cls", "<mean>"][slot % 2]}
    return TrialResult(
        slot=slot,
        number=slot,
        state=state,
        reason=reason,
        params=params,
        fit=None if score is None else TrainingResult(state=state, score=score, log_loss=0.3, seconds=60.0),
        seconds=60.0,
        started=100.0 + 60 * slot,
        finished=160.0 + 60 * slot,
        host="a",
    )


RESULTS = (
    *(trial(i, 0.8 + i / 100) for i in range(9)),
    trial(9, 0.6, "pruned", "below the median"),
    trial(10, None, "pruned", "out of memory"),
    trial(11, None, "fail", "died <twice>"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SearchReport:
    confirmations = (
        Confirmation(trial=RESULTS[8], scores=(0.84, 0.86)),
        Confirmation(trial=RESULTS[7], scores=(0.86, 0.87)),
    )
    page = SearchPage(
        title="news",
        metric="macro_f1",
        results=RESULTS,
        trials=12,
        timeout=7200,
        space={"lr": "1e-5 to 0.001, logarithmic", "pooling": "cls, <mean>"},
        verdict=SearchWinner(best=RESULTS[7], how="highest mean of 2 further seeds", confirmations=confirmations),
        importances=knob_importances(RESULTS, SPACE),
        log=log_knobs(SPACE),
        dashboard="optuna-dashboard sqlite:///search.db",
    )
    return write_search_report(page, tmp_path_factory.mktemp("report"))


def shown(report: SearchReport) -> str:
    text = re.sub(r"(?s)<(style|script)>.*?</\1>|data:image[^\"]*", "", report.page.read_text(encoding="utf-8"))
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_page_names_every_trial_s_values(report: SearchReport) -> None:
    text = shown(report)
    assert all(f"{r.slot + 1}e-5 {r.params['pooling']}" in text for r in RESULTS[:8])


def test_page_shows_the_pictures_that_were_written(report: SearchReport) -> None:
    inside = re.findall(r"data:image/png;base64,([^\"]*)", report.page.read_text(encoding="utf-8"))
    assert [base64.b64decode(data) for data in inside] == [path.read_bytes() for path in report.pictures]
    assert [p.stem for p in report.pictures] == ["history", "importances", "parallel", "times", "workers"]


def test_states_are_counted_with_their_reasons(report: SearchReport) -> None:
    text = shown(report)
    assert "complete 9 failed 1 pruned 2" in text
    assert "died <twice> failed 1" in text


def test_facts_say_how_much_time_was_spent(report: SearchReport) -> None:
    text = shown(report)
    assert "trials 12 of 12 time of all trials 12 min of it on pruned trials 17 %" in text
    assert "time allowed 2 h 00 min" in text


def test_winner_is_the_given_one_and_the_optimism_that_of_the_single_best(report: SearchReport) -> None:
    text = shown(report)
    assert "Trial 7 is chosen Highest mean of 2 further seeds. validation macro F1 0.8700" in text
    assert "with 2 further seeds 0.8650 lr 8e-5" in text
    assert "0.8800 of trial 8, promised 0.0300 too much" in text


def test_space_is_told_in_words(report: SearchReport) -> None:
    assert "lr 1e-5 to 0.001, logarithmic pooling cls, <mean>" in shown(report)


def test_without_a_chosen_trial_the_best_single_score_wins(tmp_path: Path) -> None:
    found = write_search_report(SearchPage(title="t", metric="accuracy", results=RESULTS[:3]), tmp_path)
    assert "Trial 2 is chosen The highest single score" in shown(found)
    assert "validation accuracy 0.8200" in shown(found)


def test_second_objective_is_a_column(tmp_path: Path) -> None:
    sized = [replace(r, fit=r.fit and replace(r.fit, size_bytes=91_000_000 + r.slot * 10**6)) for r in RESULTS[:3]]
    page = SearchPage(title="t", metric="accuracy", results=tuple(sized), measure="size", front=[0])
    found = write_search_report(page, tmp_path)
    assert "2 chosen complete 0.8200 93 60" in shown(found)
    assert "front" in {p.stem for p in found.pictures}


@pytest.mark.parametrize("n", [0, 1])
def test_search_without_pictures_still_has_a_page(tmp_path: Path, n: int) -> None:
    found = write_search_report(SearchPage(title="t", metric="accuracy", results=RESULTS[:n]), tmp_path)
    assert found.pictures == () and f"trials {n} " in shown(found)
