"""The report of a search: everything shown as text, counted rightly, in one file below 3 MB."""

from __future__ import annotations

import base64
import html
import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from bertft_core.base.errors import DataError
from bertft_core.reporting.search.document import search_html
from bertft_core.reporting.search.page import (
    ConfirmedRow,
    Picture,
    SearchPage,
    TrialRow,
    Winner,
    optimism_sentence,
    ranked,
    search_summary,
)

EVIL = '<script>alert("1")</script> & "><img src=x onerror=alert(2)> </style>'
X = "{http://www.w3.org/1999/xhtml}"


def image(width: int = 800, height: int = 400, size: int = 200) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\1" * size


def row(slot: int, score: float | None = 0.9, state: str = "complete", **more: Any) -> TrialRow:
    return TrialRow(slot=slot, state=state, score=score, seconds=12.0, values=(f"{slot}e-5", ""), **more)


def page(**changes: Any) -> SearchPage:
    given: dict[str, Any] = {
        "title": "news",
        "score": "validation macro F1",
        "knobs": ("lr", "alpha"),
        "trials": tuple(row(i, 0.8 + i / 100) for i in range(5)),
        "winner": Winner(slot=4, score=0.84, how="highest mean", values=(("lr", "4e-5"),)),
    }
    return SearchPage(**(given | changes))


def tree(shown: SearchPage) -> ET.Element:
    return ET.fromstring(search_html(shown))


def words_of(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_page_has_a_row_of_every_trial_with_its_values() -> None:
    found = tree(page(trials=tuple(row(i, 0.5 + i / 1000) for i in range(70))))
    rows = [[words_of(cell) for cell in line] for line in found.find(f".//*[@id='trials']//{X}tbody")]  # type: ignore[union-attr]
    assert [r[0].removesuffix(" chosen") for r in rows] == [str(i) for i in range(70)]
    assert rows[33][1:] == ["complete", "0.5330", "12", "33e-5", "–"]


def test_everything_is_shown_as_text() -> None:
    evil = page(
        title=EVIL,
        score=EVIL,
        knobs=(EVIL, "alpha"),
        trials=(TrialRow(slot=0, state=EVIL, score=0.1, seconds=1, values=(EVIL, ""), reason=EVIL, measure=EVIL),),
        facts=((EVIL, EVIL),),
        space=((EVIL, EVIL),),
        states=((EVIL, 1),),
        reasons=((EVIL, EVIL, 1),),
        winner=Winner(slot=0, score=0.1, how=EVIL, values=((EVIL, EVIL),)),
        notes=(EVIL,),
        pictures=(Picture(title=EVIL, note=EVIL, png=image()),),
        caution=EVIL,
        measure=EVIL,
        dashboard=EVIL,
    )
    found = tree(evil)
    tags = {e.tag.removeprefix(X) for e in found.iter()}
    assert "script" not in tags
    assert [e.get("onerror") for e in found.iter(f"{X}img")] == [None]
    assert words_of(found).count("<script>") >= 14


def test_page_loads_nothing_from_elsewhere() -> None:
    text = search_html(page(pictures=(Picture(title="p", note="", png=image()),)))
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html.unescape(text)


def test_pictures_are_inside_the_page() -> None:
    png = image(640, 360)
    (found,) = tree(page(pictures=(Picture(title="History", note="read it so", png=png),))).iter(f"{X}img")
    assert base64.b64decode(found.get("src", "").partition(",")[2]) == png
    assert (found.get("alt"), found.get("width"), found.get("height")) == ("History", "640", "360")


def test_large_search_stays_below_three_megabytes_and_says_what_is_missing() -> None:
    heavy = tuple(Picture(title=f"picture {i}", note="", png=image(size=700_000)) for i in range(4))
    many = tuple(row(i, state="pruned", reason="below the median " * 20) for i in range(20_000))
    text = search_html(page(trials=many, pictures=heavy))
    assert len(text.encode()) < 3_000_000
    shown = len(re.findall("<tr class=", text))
    assert f"{20_000 - shown:,} more trials are not shown" in text
    assert "Left out to keep the page small: picture 2, picture 3." in text


def test_chosen_trial_is_marked() -> None:
    lines = tree(page()).findall(f".//{X}tr[@class='best']")
    assert [words_of(line).split()[:2] for line in lines] == [["4", "chosen"]]


def test_reason_stands_beside_its_state() -> None:
    trials = (row(0), row(1, None, "failed", reason="the worker died"))
    lines = tree(page(trials=trials)).findall(f".//*[@id='trials']//{X}tbody/{X}tr")
    assert words_of(lines[1]) == "1 failed the worker died – 12 1e-5 –"


def test_absent_parts_leave_no_trace() -> None:
    ids = {e.get("id") for e in tree(page()).iter(f"{X}section")}
    assert ids == {"winner", "trials"}


def test_search_without_a_completed_trial_says_so() -> None:
    found = tree(page(winner=None, trials=(row(0, None, "pruned", reason="diverged"),)))
    assert "No trial was completed" in words_of(found)


def test_further_seeds_are_summed_up_without_the_first_score() -> None:
    confirmed = ConfirmedRow(slot=1, first=0.95, further=(0.90, 0.92))
    assert confirmed.mean == pytest.approx(0.91) and confirmed.spread == pytest.approx(0.01414, abs=1e-5)
    assert ConfirmedRow(slot=1, first=0.95, further=()).mean is None


def test_confirmed_trials_stand_on_the_page_with_the_optimism() -> None:
    rows = (ConfirmedRow(slot=4, first=0.84, further=(0.80, 0.82)), ConfirmedRow(slot=3, first=0.83, further=(0.81,)))
    winner = Winner(slot=3, score=0.83, how="h", confirmed=rows, single=(4, 0.84), optimism=0.03)
    text = words_of(tree(page(winner=winner)))
    assert "The best single score, 0.8400 of trial 4, promised 0.0300 too much: with 2 further seeds" in text
    assert "3 chosen 0.8300 0.8100 – 0.8100" in text


def test_optimism_is_silent_where_it_is_unknown() -> None:
    assert optimism_sentence(Winner(slot=0, score=0.5, how="h", single=(0, 0.5))) is None


def test_trials_must_have_a_value_for_every_knob() -> None:
    with pytest.raises(DataError, match="trial 0 has 2 values for 1 knobs"):
        page(knobs=("lr",))


def test_ranking_puts_incomplete_trials_last() -> None:
    trials = [row(0, 0.5), row(1, 0.9, "pruned"), row(2, 0.7), row(3, None, "failed")]
    assert [t.slot for t in ranked(trials)] == [2, 0, 1, 3]


def test_summary_has_the_ten_best_and_where_the_page_lies() -> None:
    text = search_summary(page(trials=tuple(row(i, i / 100) for i in range(30))), where="run/search.html")
    best = [int(line.split()[1]) for line in text.splitlines() if re.match(r"\| \d", line)]
    assert best == list(range(29, 19, -1))
    assert "run/search.html" in text


def test_summary_counts_states_with_their_reasons() -> None:
    text = search_summary(page(states=(("complete", 4), ("pruned", 2)), reasons=(("pruned", "out of memory", 2),)))
    assert "- 4 complete\n- 2 pruned\n    - 2 pruned: out of memory\n" in text


def test_summary_escapes_markdown() -> None:
    text = search_summary(page(trials=(replace(row(0), values=("a|b\n![x](http://y)", "<b>")),)))
    assert r"| 0 | 0.9000 | a\|b !\[x\](http://y) | \<b\> |" in text


def test_summary_stays_below_twenty_kilobytes() -> None:
    long = "|" * 5000
    huge = page(
        title=long,
        score=long,
        knobs=(long,) * 60,
        trials=tuple(TrialRow(slot=i, state="complete", score=0.1, seconds=1, values=(long,) * 60) for i in range(50)),
        winner=Winner(slot=0, score=0.1, how=long, values=((long, long),) * 60),
        facts=((long, long),) * 50,
        reasons=(("pruned", long, 1),) * 500,
        states=((long, 1),) * 4,
        notes=(long,) * 50,
        measure=long,
    )
    assert len(search_summary(huge, where="x" * 200).encode()) < 20_000
