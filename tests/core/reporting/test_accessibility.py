"""Every page in a real Chromium: the rules of axe-core, the width of a phone, sorting and filtering by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import axe_core_python
import pytest

from bertft_core.recipe.search_report import write_search_report
from bertft_core.reporting.board.document import board_html
from bertft_core.reporting.night.document import night_html
from bertft_core.reporting.run.document import report_html
from bertft_core.reporting.run.page import ReportPage
from bertft_core.reporting.search.page import SearchPage
from bertft_core.search.results import TrialResult
from bertft_core.training.results import TrainingResult

from ...browser import Browser, browsing, find_browser
from .filled import full, night, parts
from .filled_board import PAGE as BOARD

pytestmark = [pytest.mark.orchestration, pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH")]
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
FOUND = """axe.run(document, {resultTypes: ["violations"]}).then(
  (said) => said.violations.map((fault) => `${fault.impact} ${fault.id}: ${fault.nodes[0].html.slice(0, 200)}`))"""


def trial(slot: int) -> TrialResult:
    fit = TrainingResult(state="complete", score=0.8 + slot / 100, log_loss=0.3, seconds=60.0)
    params = {"lr": (slot + 1) * 1e-5, "alpha": 0.9 - slot / 50}
    return TrialResult(slot=slot, number=slot, state="complete", reason="", params=params, fit=fit, seconds=60.0)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page there is, and a report that was judged and not released."""
    root = tmp_path_factory.mktemp("pages")
    judged = ReportPage(title="news", warnings=("only 46 test rows",), **{"scores": parts()["scores"]})
    texts = {"run": report_html(full("text", 25)), "judged": report_html(judged), "night": night_html(night())}
    texts |= {"board": board_html(BOARD)}
    for name, text in texts.items():
        (root / f"{name}.html").write_text(text, encoding="utf-8")
    search = SearchPage(title="news", metric="macro_f1", results=tuple(map(trial, range(13))), dashboard="optuna-…")
    return {name: root / f"{name}.html" for name in texts} | {"search": write_search_report(search, root).page}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as started:
        yield started


def show(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.wait_for(f"document.readyState === 'complete' && location.href === '{page.as_uri()}'")


@pytest.mark.parametrize("name", ["run", "judged", "night", "search", "board"])
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (390, True)])
def test_page_breaks_no_rule_of_accessibility(
    browser: Browser, pages: dict[str, Path], name: str, width: int, is_dark: bool
) -> None:
    browser.look(width, is_dark=is_dark)
    show(browser, pages[name])
    browser.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width  # nothing is read sideways
    browser.run(f"{AXE};0")
    assert browser.run(FOUND) == []


def test_rules_of_accessibility_are_asked(browser: Browser, pages: dict[str, Path]) -> None:
    browser.look(1280)
    show(browser, pages["judged"])
    browser.run("document.querySelector('.lead').style.color = '#ccc'; document.title = ''")
    browser.run(f"{AXE};0")
    assert {fault.split()[1] for fault in browser.run(FOUND)} == {"color-contrast:", "document-title:"}


def test_table_is_sorted_and_filtered_by_keyboard_and_no_other_script_runs(
    browser: Browser, pages: dict[str, Path]
) -> None:
    show(browser, pages["search"])
    shown = "Array.from(document.querySelectorAll('#trials tbody tr:not([hidden]) th'))"
    slots = f"{shown}.map((cell) => parseInt(cell.textContent))"
    assert browser.run(slots) == list(range(13))
    column = (
        "Array.from(document.querySelectorAll('#trials thead button')).find((one) => one.textContent.includes('F1'))"
    )
    for order, wanted in (("ascending", list(range(13))), ("descending", list(range(12, -1, -1)))):
        browser.run(f"{column}.focus()")
        browser.type("")  # Enter
        assert browser.run(f"{column}.closest('th').getAttribute('aria-sort')") == order
        assert browser.run(slots) == wanted
    browser.run("document.querySelector('#trials input').focus()")
    browser.type("0.9200")
    assert browser.run(slots) == [12]
    assert browser.run("document.querySelector('#trials output').textContent") == "1 of 13"
    foreign = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    assert browser.run(f"{foreign}, window.ran ?? 'refused'") == "refused"
