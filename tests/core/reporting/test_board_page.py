"""The board as a page: right values at their places, everything shown as text, well read by whoever does not see it."""

from __future__ import annotations

import datetime as dt
import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bertft_core.reporting.board import figures
from bertft_core.reporting.board.document import board_html
from bertft_core.reporting.board.page import OUTCOMES, BoardPage, Drift, ModelCard, Notice

from .filled_board import CARD, PAGE

EVIL = '<script>alert("1")</script> & "><img src=x onerror=alert(2)> </style>'
X = "{http://www.w3.org/1999/xhtml}"


def tree(page: BoardPage) -> ET.Element:
    return ET.fromstring(board_html(page))


def words_of(element: ET.Element | None) -> str:
    assert element is not None
    return " ".join(" ".join(element.itertext()).split())


def section(page: BoardPage, name: str) -> ET.Element:
    found = tree(page).find(f".//*[@id='{name}']")
    assert found is not None
    return found


def test_row_of_a_model_says_who_serves_since_when_how_good_how_the_nights_went_and_what_can_be_shown() -> None:
    (row,) = section(PAGE, "models").findall(f".//{X}tbody/{X}tr")
    cells = [words_of(cell) for cell in row]
    assert cells[:3] == ["tickets", "version 4 since 2026-11-21", "0.7761 0.7404 to 0.8100 macro F1"]
    assert cells[3].endswith("2026-11-30: failed") and cells[4:] == [
        "699 differences from 0.055",
        "AUROC 0.58 2026-11-20",
    ]
    assert row[0].find(f"{X}a").attrib["href"] == "#model-1"  # type: ignore[union-attr]


def test_what_waits_stands_first_with_its_exact_command() -> None:
    first = tree(PAGE).findall(f".//{X}section")[0]
    assert first.attrib["id"] == "waiting"
    commands = [words_of(code) for code in first.iter(f"{X}code")]
    assert commands == ["bertft promote tickets 5 --approve", "bertft nights tickets"]
    assert words_of(section(replace(PAGE, models=(replace(CARD, waiting=()),)), "waiting")).endswith("Nothing.")


def test_a_strip_has_a_mark_a_night_and_says_in_words_what_it_shows() -> None:
    drawn = ET.fromstring(figures.strip(CARD.nights, 30))
    assert len(drawn.findall("g")) == 30
    assert drawn.attrib["aria-label"] == (
        "30 nights, 2026-11-01 to 2026-11-30: 1 promoted, 1 kept, 27 skipped, 1 failed; the last: failed"
    )
    titles = [words_of(mark.find("title")) for mark in drawn.findall("g")]
    assert titles[0] == "2026-11-01: promoted: reason 1" and titles[-1] == "2026-11-30: failed: reason 30"
    assert figures.in_words(CARD.nights[:1], 14) == "1 night, 2026-11-01: 1 promoted; the last: promoted"


def test_the_latest_nights_stand_at_the_right_of_a_strip_that_is_not_full() -> None:
    drawn = ET.fromstring(figures.strip(CARD.nights[:2], 30))
    places = [float(mark.find("rect").attrib["x"]) for mark in drawn.findall("g")]  # type: ignore[union-attr]
    assert places == [28 * figures.CELL, 29 * figures.CELL]


def test_every_outcome_has_a_mark_of_its_own_shape() -> None:
    drawn = {str(figures.mark(outcome, 10, 10)) for outcome in OUTCOMES}
    assert len(drawn) == len(OUTCOMES)
    assert [words_of(key) for key in ET.fromstring(figures.legend())] == list(OUTCOMES)


def test_score_over_time_has_every_decision_with_its_interval_and_names_promoted_versions() -> None:
    chart = ET.fromstring(figures.score_chart(CARD)).find("svg")
    assert chart is not None
    assert [words_of(text) for text in chart.findall("g/text")] == ["v1", "v4"]
    assert [words_of(one.find("title")) for one in chart.findall("g")] == [
        "2026-11-01 version 1: promoted, 0.3000, 0.2500 to 0.3500",
        "2026-11-21 version 4: promoted, 0.7761",
        "2026-11-22 version 5: kept, 0.7829",
    ]
    lengths = [abs(float(arm.attrib["y1"]) - float(arm.attrib["y2"])) for arm in chart.findall("g/line")]
    assert lengths[0] > 10 and lengths[1:] == [0, 0]
    assert "version 1 0.3000 on 2026-11-01, version 4 0.7761 on 2026-11-21" in chart.attrib["aria-label"]
    assert not figures.score_chart(replace(CARD, decisions=CARD.decisions[:1]))


def test_a_rollback_is_a_line_with_the_version_that_came_back() -> None:
    back = replace(CARD.decisions[2], number=4, at="2026-11-24T02:41:09Z", champion="1", score=None, is_rollback=True)
    chart = ET.fromstring(figures.score_chart(replace(CARD, decisions=(*CARD.decisions, back)))).find("svg")
    assert chart is not None
    assert "back to v1" in [words_of(text) for text in chart.findall("text")]
    assert "rolled back to version 1 on 2026-11-24" in chart.attrib["aria-label"]


@pytest.mark.parametrize("gap", [0, 60, 3600, 86_400 * 40])
def test_a_chart_bears_decisions_of_one_moment_and_of_months(gap: int) -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    decisions = [
        replace(CARD.decisions[0], at=(begin + dt.timedelta(seconds=gap * i)).isoformat(), interval=None)
        for i in range(3)
    ]
    chart = ET.fromstring(figures.score_chart(replace(CARD, decisions=tuple(decisions)))).find("svg")
    assert chart is not None
    places = [float(mark.find("line").attrib["x1"]) for mark in chart.findall("g")]  # type: ignore[union-attr]
    assert places == sorted(places) and all(44 <= place <= 350 for place in places)
    assert (len(set(places)) == 3) == (gap > 0)


def test_a_model_says_who_decided_links_its_report_and_keeps_reasons_in_a_table() -> None:
    model = section(PAGE, "model-1")
    assert "Version 4 is champion since 2026-11-21, by a promotion ( nights@desk ). Its report" in words_of(model)
    assert [link.attrib["href"] for link in model.iter(f"{X}a")] == [CARD.champion.report, CARD.night_page]
    assert "version 3 was rolled back" in words_of(model)
    nights, decisions = (table.findall(f"{X}tbody/{X}tr") for table in model.iter(f"{X}table"))
    assert [words_of(cell) for cell in nights[0]] == ["2026-11-30", "failed", "–", "reason 30"]
    assert [words_of(cell) for cell in decisions[0]][1:6] == ["kept", "5", "0.7829", "0.7732", "4"]


def test_page_without_a_model_says_how_to_begin_and_one_without_a_champion_says_so() -> None:
    none = words_of(tree(replace(PAGE, models=(), disk=())))
    assert "No model yet" in none and "no run has registered a model" in none and "bertft run" in none
    alone = words_of(section(replace(PAGE, models=(ModelCard(name="new"),)), "model-1"))
    assert alone == "new There is no champion."
    unread = replace(PAGE, models=(ModelCard(name="new", is_read=False),))
    assert words_of(section(unread, "model-1")) == "new The registry did not say who is champion."


def test_disk_is_in_the_units_of_people_and_faults_are_said_first() -> None:
    disk = words_of(section(PAGE, "disk"))
    assert "2.5 GB in /srv/home , 40.0 GB free" in disk and "artifacts 2.5 GB runs 1.2 MB" in disk
    told = replace(PAGE, faults=("The registry is not shown: gone",))
    assert "The registry is not shown: gone" in words_of(section(told, "waiting"))


def test_everything_is_shown_as_text() -> None:
    evil = replace(
        CARD,
        name=EVIL,
        metric=EVIL,
        champion=replace(CARD.champion, by=EVIL, how=EVIL),  # type: ignore[type-var]
        nights=tuple(replace(night, reason=EVIL, name=EVIL) for night in CARD.nights),
        decisions=tuple(replace(one, reason=EVIL, by=EVIL, action=EVIL) for one in CARD.decisions),
        drift=(Drift(name=EVIL, value=EVIL, night=EVIL),),
        notes=(EVIL,),
        waiting=(Notice(text=EVIL, command=EVIL),),
    )
    shown = tree(BoardPage(written=EVIL, home=EVIL, registry=EVIL, models=(evil,), faults=(EVIL,), disk=((EVIL, 1),)))
    (script,) = shown.iter(f"{X}script")  # every page's own, known by its hash
    assert "alert" not in words_of(script) and not list(shown.iter(f"{X}img"))
    policy = shown.find(f".//{X}meta[@http-equiv]")
    assert policy is not None and policy.attrib["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    assert "script-src 'sha256-" in policy.attrib["content"]


def test_tables_have_headers_and_every_picture_has_words() -> None:
    shown = tree(PAGE)
    for table in shown.iter(f"{X}table"):
        assert all(head.attrib["scope"] == "col" for head in table.findall(f"{X}thead/{X}tr/{X}th"))
        assert all(row.find(f"{X}th").attrib["scope"] == "row" for row in table.findall(f"{X}tbody/{X}tr"))  # type: ignore[union-attr]
    pictures = [one for one in shown.iter() if one.tag.endswith("svg")]
    assert pictures and all(
        one.get("aria-label") or one.get("aria-hidden") or one.get("role") is None for one in pictures
    )
    levels = [int(one.tag[-1]) for one in shown.iter() if one.tag in {f"{X}h{n}" for n in (1, 2, 3)}]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_ten_models_stay_a_small_page() -> None:
    names = [f"model-{i}" for i in range(10)]
    text = board_html(replace(PAGE, models=tuple(replace(CARD, name=name) for name in names)))
    assert len(text) < 300_000 and all(name in text for name in names)
