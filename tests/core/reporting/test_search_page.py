"""The report of a search: everything shown as text, counted rightly, in one file below 3 MB."""

from __future__ import annotations

import base64
import html
import re
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

from bertft_core.reporting.search.document import Picture, search_html
from bertft_core.reporting.search.page import SearchPage, optimism_sentence, search_summary
from bertft_core.search.results import TrialResult
from bertft_core.search.winner import Confirmation, SearchWinner
from bertft_core.training.results import TrainingResult

EVIL = '<script>alert("1")</script> & "><img src=x onerror=alert(2)> </style>'
X = "{http://www.w3.org/1999/xhtml}"


def image(width: int = 800, height: int = 400, size: int = 200) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\1" * size


def row(slot: int, score: float | None = 0.9, state: str = "complete", **more: Any) -> TrialResult:
    """A trial that has one of the two knobs of `page`."""
    known: dict[str, Any] = {"reason": "", "params": {"lr": f"{slot}e-5"}, "seconds": 12.0} | more
    of_fit = {name: known.pop(name) for name in ("latency_ms", "size_bytes") if name in known}
    if score is None:
        return TrialResult(slot=slot, number=slot, state=state, fit=None, **known)
    fit = TrainingResult(state=state, score=score, log_loss=0.3, seconds=known["seconds"], **of_fit)
    return TrialResult(slot=slot, number=slot, state=state, fit=fit, **known)


def page(**changes: Any) -> SearchPage:
    results = tuple(row(i, 0.8 + i / 100) for i in range(4))
    last = row(4, 0.84, params={"lr": "4e-5", "alpha": ""})
    given: dict[str, Any] = {"title": "news", "metric": "macro_f1", "results": (*results, last)}
    return SearchPage(**(given | changes))


def tree(shown: SearchPage, *pictures: Picture) -> ET.Element:
    return ET.fromstring(search_html(shown, pictures))


def words_of(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_page_has_a_row_of_every_trial_with_its_values() -> None:
    first = row(0, 0.5, params={"lr": "0e-5", "alpha": ""})
    found = tree(page(results=(first, *(row(i, 0.5 + i / 1000) for i in range(1, 70)))))
    rows = [[words_of(cell) for cell in line] for line in found.find(f".//*[@id='trials']//{X}tbody")]  # type: ignore[union-attr]
    assert [r[0].removesuffix(" chosen") for r in rows] == [str(i) for i in range(70)]
    assert rows[33][1:] == ["complete", "0.5330", "12", "33e-5", "–"]


def test_everything_is_shown_as_text() -> None:
    trial = row(0, 0.1, EVIL, params={EVIL: EVIL}, reason=EVIL, host=EVIL)
    evil = page(
        title=EVIL,
        metric=EVIL,
        results=(trial,),
        space={EVIL: EVIL},
        verdict=SearchWinner(best=trial, how=EVIL, confirmations=(Confirmation(trial=trial, scores=()),)),
        notes=(EVIL,),
        caution=EVIL,
        measure="size",
        dashboard=EVIL,
    )
    found = tree(evil, Picture(title=EVIL, note=EVIL, png=image()))
    (script,) = found.iter(f"{X}script")
    assert EVIL not in (script.text or "") and "sortable" in (script.text or "")
    assert [e.get("onerror") for e in found.iter(f"{X}img")] == [None]
    assert words_of(found).count("<script>") >= 14


def test_page_loads_nothing_from_elsewhere() -> None:
    text = search_html(page(), [Picture(title="p", note="", png=image())])
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", text)
    policy = r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='; img-src data:\""
    assert re.search(policy, html.unescape(text))


def test_pictures_are_inside_the_page() -> None:
    png = image(640, 360)
    (found,) = tree(page(), Picture(title="History", note="read it so", png=png)).iter(f"{X}img")
    assert base64.b64decode(found.get("src", "").partition(",")[2]) == png
    assert found.get("alt", "").startswith("History: ")
    assert (found.get("width"), found.get("height")) == ("640", "360")


def test_large_search_stays_below_three_megabytes_and_says_what_is_missing() -> None:
    heavy = tuple(Picture(title=f"picture {i}", note="", png=image(size=700_000)) for i in range(4))
    many = tuple(row(i, state="pruned", reason="below the median " * 20) for i in range(20_000))
    text = search_html(page(results=many), heavy)
    assert len(text.encode()) < 3_000_000
    shown = len(re.findall("<tr class=", text))
    assert f"{20_000 - shown:,} more trials are not shown" in text
    assert "Left out to keep the page small: picture 2, picture 3." in text


def test_chosen_trial_is_marked() -> None:
    lines = tree(page()).findall(f".//{X}tr[@class='best']")
    assert [words_of(line).split()[:2] for line in lines] == [["4", "chosen"]]


def test_reason_stands_beside_its_state() -> None:
    results = (row(0, params={"lr": "0e-5", "alpha": ""}), row(1, None, "fail", reason="the worker died"))
    lines = tree(page(results=results)).findall(f".//*[@id='trials']//{X}tbody/{X}tr")
    assert words_of(lines[1]) == "1 failed the worker died – 12 1e-5 –"


def test_absent_parts_leave_no_trace() -> None:
    ids = {e.get("id") for e in tree(page()).iter(f"{X}section")}
    assert ids == {"winner", "states", "trials"}


def test_search_without_a_completed_trial_says_so() -> None:
    found = tree(page(results=(row(0, None, "pruned", reason="diverged"),)))
    assert "No trial was completed" in words_of(found)


def test_confirmed_trials_stand_on_the_page_with_the_optimism() -> None:
    shown = page()
    confirmations = (
        Confirmation(trial=shown.results[4], scores=(0.80, 0.82)),
        Confirmation(trial=shown.results[3], scores=(0.81,)),
        Confirmation(trial=shown.results[2], scores=()),
    )
    text = words_of(
        tree(replace(shown, verdict=SearchWinner(best=shown.results[3], how="h", confirmations=confirmations)))
    )
    assert "The best single score, 0.8400 of trial 4, promised 0.0300 too much: with 2 further seeds" in text
    assert "4 0.8400 0.8100 0.0141 0.8000, 0.8200" in text
    assert "3 chosen 0.8300 0.8100 – 0.8100" in text
    assert "2 0.8200 – – –" in text


def test_a_best_score_that_was_beaten_by_its_further_seeds_promised_too_little() -> None:
    shown = page()
    confirmed = Confirmation(trial=shown.results[4], scores=(0.85,))
    sentence = optimism_sentence(
        replace(shown, verdict=SearchWinner(best=shown.results[4], how="h", confirmations=(confirmed,)))
    )
    assert (
        sentence is not None and "promised 0.0100 too little: with 1 further seed the trial reaches 0.8500" in sentence
    )


def test_optimism_is_silent_where_it_is_unknown() -> None:
    shown = page()
    assert optimism_sentence(replace(shown, verdict=SearchWinner(best=shown.results[4], how="h"))) is None


def test_summary_has_the_ten_best_and_where_the_page_lies() -> None:
    text = search_summary(page(results=tuple(row(i, i / 100) for i in range(30))), where="run/search.html")
    best = [int(line.split()[1]) for line in text.splitlines() if re.match(r"\| \d", line)]
    assert best == list(range(29, 19, -1))
    assert "run/search.html" in text


def test_summary_counts_states_with_their_reasons() -> None:
    pruned = [row(i, None, "pruned", reason="out of memory") for i in (4, 5)]
    text = search_summary(page(results=(*(row(i) for i in range(4)), *pruned)))
    assert "- 4 complete\n- 2 pruned\n    - 2 pruned: out of memory\n" in text


def test_summary_escapes_markdown() -> None:
    text = search_summary(page(results=(row(0, params={"lr": "a|b\n![x](http://y)", "alpha": "<b>"}),)))
    assert r"| 0 | 0.9000 | a\|b !\[x\](http://y) | \<b\> |" in text


def test_summary_stays_below_twenty_kilobytes() -> None:
    long = "|" * 5000
    params = {f"{i}{long}": long for i in range(60)}
    completed = [row(i, 0.1, params=params, host=f"{i}{long}") for i in range(50)]
    pruned = [row(i, None, "pruned", reason=f"{i}{long}") for i in range(50, 550)]
    results = (*completed, *pruned)
    huge = page(
        title=long,
        metric=long,
        results=results,
        verdict=SearchWinner(best=results[0], how=long),
        notes=(long,) * 50,
        measure="size",
    )
    assert len(search_summary(huge, where="x" * 200).encode()) < 20_000


def test_reasons_that_differ_in_measured_numbers_count_as_one() -> None:
    told = ("loss 1.0945 of 2", "loss 1.0767 of 2", "loss 1.0767 of 3", "stopped at 25% of the fit")
    results = tuple(row(i, state="pruned", reason=reason) for i, reason in enumerate(told))
    assert page(results=results).reasons == [
        ("pruned", "loss … of 2", 2),
        ("pruned", "loss 1.0767 of 3", 1),
        ("pruned", "stopped at 25% of the fit", 1),
    ]
