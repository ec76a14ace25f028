"""The page of a night: its outcome first, drift where it was measured, everything as text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.reporting.night.document import NightPage, night_html

from .filled import drift, night

EVIL = '<script>alert("1")</script> & "><img src=x onerror=alert(2)> </style>'
X = "{http://www.w3.org/1999/xhtml}"


def tree(shown: NightPage) -> ET.Element:
    return ET.fromstring(night_html(shown))


def words_of(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_outcome_comes_first_and_classes_by_their_change() -> None:
    found = tree(night())
    assert [s.get("id") for s in found.iter(f"{X}section")] == ["outcome", "drift"]
    outcome = words_of(next(found.iter(f"{X}section")))
    assert outcome == "Kept No better than the champion rows 150"
    rows = [[words_of(cell) for cell in line] for line in next(found.iter(f"{X}tbody"))]
    assert sorted(row[:4] for row in rows) == [
        ["politics", "40.0 %", "70.0 %", "+30.0"],
        ["sport", "60.0 %", "30.0 %", "−30.0"],
    ]
    assert "30.0 %" in words_of(found) and "0.710" in words_of(found)


@pytest.mark.parametrize(
    ("is_good", "kind", "mark"), [(True, "promoted", "8.5 6"), (False, "kept", "M3 3"), (None, "none", None)]
)
def test_mark_says_whether_people_need_to_look(is_good: bool | None, kind: str, mark: str | None) -> None:
    section = next(tree(night(is_good=is_good)).iter(f"{X}section"))
    drawn = [path.get("d", "") for path in section.iter(f"{X}path")]
    assert section.get("class") == f"verdict {kind}" and len(drawn) == (mark is not None)
    assert all(mark in d for d in drawn)


def test_night_without_drift_has_no_such_part() -> None:
    assert [s.get("id") for s in tree(night(drift=None)).iter(f"{X}section")] == ["outcome"]


def test_text_drift_that_was_not_measured_says_why() -> None:
    alone = DomainShift(n_old=100, n_new=3, auroc=None, low=None, high=None, reason="only 3 new rows")
    assert "only 3 new rows" in words_of(
        tree(night(drift=DriftReport(label=drift().label, domain=alone, text=drift().text)))
    )


def test_every_text_is_shown_and_nothing_of_it_runs() -> None:
    facts = ((EVIL, EVIL),)
    found = tree(
        night(title=EVIL, night=EVIL[:30], outcome=EVIL, reason=EVIL, facts=facts, numbers=facts, drift=drift(EVIL))
    )
    assert len(list(found.iter(f"{X}script"))) == 1 and not list(found.iter(f"{X}img"))
    assert words_of(found).count("<script>alert") >= 8
