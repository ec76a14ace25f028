"""The page: one file that shows everything as text, parts that vanish, a size that is capped."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bertft_core.reporting.html as html
from bertft_core.base.errors import DataError
from bertft_core.evaluation.gate.checks import Check
from bertft_core.evaluation.scores.metrics import ClassScores
from bertft_core.reporting.run import excerpt
from bertft_core.reporting.run.document import report_html
from bertft_core.reporting.run.page import Confusion, DifferenceRow, ReleaseFacts, ReportPage, ScoreRow

from .filled import full, gate, parts, wrong

EVIL = '<script>alert("1")</script> & \'x\' "><img src=x onerror=alert(2)> <!-- ]]> </style></title>'
OWN_SCRIPT = (Path(html.__path__[0]) / "templates" / "page.js").read_text("utf-8")
X = "{http://www.w3.org/1999/xhtml}"


def tree(page: ReportPage) -> ET.Element:
    return ET.fromstring(report_html(page))


def words_of(element: ET.Element) -> str:
    return "".join(element.itertext())


class _Tags(HTMLParser):
    """What a browser's tokeniser sees: every tag and every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}


def test_the_example_page_fills_every_part() -> None:
    names = {f.name for f in fields(ReportPage)} - {"title", "facts", "level", "rows", "groups"}
    assert set(parts()) == names


def test_script_in_any_text_is_shown_and_not_run() -> None:
    found = _Tags(report_html(full(EVIL)))
    assert not found.tags & {"img", "iframe", "link", "object"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    page = tree(full(EVIL))
    (script,) = page.iter(f"{X}script")
    assert script.attrib == {} and script.text == OWN_SCRIPT
    texts = {section.get("id"): words_of(section) for section in page.iter(f"{X}section")}
    assert texts.pop("training")  # which shows numbers alone
    assert len(texts) == 10
    for name, text in texts.items():
        assert '<script>alert("1")</script>' in text, name


def test_nothing_is_loaded_from_outside() -> None:
    text = report_html(full())
    found = _Tags(text)
    assert all(value.startswith("#") for name, value in found.attributes if name in {"href", "src", "xlink:href"})
    assert "url(" not in text and "@import" not in text
    digest = base64.b64encode(hashlib.sha256(OWN_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in found.attributes


def test_language_title_and_viewport_are_given() -> None:
    page = tree(full("news & co"))
    assert page.get("lang") == "en"
    assert page.findtext(f"{X}head/{X}title") == "news & co · evaluation"
    viewports = [m.get("content") for m in page.iter(f"{X}meta") if m.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]


def test_an_empty_page_has_a_title_and_no_heading_below_it() -> None:
    page = tree(ReportPage(title="x"))
    assert not list(page.iter(f"{X}section")) and not list(page.iter(f"{X}nav"))
    assert [e.tag for e in page.iter() if re.fullmatch(rf"{X}h\d", e.tag)] == [f"{X}h1"]


SECTION_OF = {
    "release": "verdict",
    "summary": "verdict",
    "warnings": "verdict",
    "scores": "scores",
    "differences": "scores",
    "classes": "classes",
    "confusion": "classes",
    "slices": "slices",
    "errors": "errors",
    "words": None,
    "suspects": "suspects",
    "suspects_note": None,
    "calibration": "calibration",
    "coverage": "calibration",
    "fit": "training",
    "phases": None,
    "data": "data",
    "config_yaml": "configuration",
    "lineage": "lineage",
}


@pytest.mark.parametrize("name", SECTION_OF)
def test_one_part_alone_makes_its_own_section_and_no_other(name: str) -> None:
    page = tree(ReportPage(title="x", **{name: parts()[name]}))
    wanted = SECTION_OF[name]
    assert [s.get("id") for s in page.iter(f"{X}section")] == ([wanted] if wanted else [])
    for heading in page.iter(f"{X}h2"):
        assert words_of(heading).strip()


@pytest.mark.parametrize("name", [name for name in SECTION_OF if SECTION_OF[name]])
def test_a_missing_part_leaves_the_others_as_they_were(name: str) -> None:
    empty = {f.name: f.default for f in fields(ReportPage)}[name]
    whole, less = tree(full()), tree(replace(full(), **{name: empty}))
    ids = [s.get("id") for s in less.iter(f"{X}section")]
    gone = {s.get("id") for s in whole.iter(f"{X}section")} - set(ids)
    assert gone <= {SECTION_OF[name]}
    assert [a.get("href") for a in less.iter(f"{X}a")] == [f"#{i}" for i in ids]


def test_the_verdict_comes_first_and_failed_checks_lead() -> None:
    checks = (Check(name="size", passed=True, detail=""), Check(name="gain", passed=False, detail=""))
    kept = ReleaseFacts(outcome="kept", reason="too small", decision=gate(checks))
    page = tree(replace(full(), warnings=(), release=kept))
    first = next(page.iter(f"{X}section"))
    assert first.get("id") == "verdict" and words_of(first).startswith("Not promoted")
    assert [words_of(li)[:10] for li in first.iter(f"{X}li")][:2] == ["failedgain", "passedsize"]


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(DataError, match="perhaps"):
        ReleaseFacts(outcome="perhaps", reason="")  # type: ignore[arg-type]


def test_control_characters_and_lone_surrogates_do_not_break_the_page() -> None:
    page = report_html(full("a\x00b\x1b[31m\ud800c\ufffe"))
    assert "a\ufffdb\ufffd[31m\ufffdc\ufffd" in words_of(ET.fromstring(page))
    assert page.encode("utf-8")


@pytest.mark.parametrize("text", ["&" * 20_000, "字" * 20_000, "& " * 20_000])
def test_the_page_stays_below_3_mb_whatever_is_put_in(text: str) -> None:
    page = full(text, 300)
    many = tuple((text[:3], 0.1 * (-1) ** i) for i in range(3000))
    assert (
        len(report_html(replace(page, words=(many,) * len(page.errors), config_yaml=text * 10)).encode("utf-8"))
        < 3_000_000
    )


def test_what_is_left_out_is_said() -> None:
    text = words_of(tree(full("x", 300)))
    for phrase in ("270 more", "580 more are not shown", "240 more are not shown here", "200 of 300 slices are shown"):
        assert phrase in text


def test_a_matrix_of_many_classes_becomes_a_picture() -> None:
    few = tree(ReportPage(title="x", confusion=parts(n=20)["confusion"]))
    many = tree(ReportPage(title="x", confusion=parts(n=21)["confusion"]))
    assert [t.get("class") for t in few.iter(f"{X}table")] == [None, "matrix"]
    assert [t.get("class") for t in many.iter(f"{X}table")] == [None]
    assert len(list(many.iter(f"{X}rect"))) == 1 + 21 * 21


def test_the_most_frequent_confusions_come_first() -> None:
    confusion = Confusion(classes=("a", "b", "c"), counts=((8, 2, 0), (0, 5, 5), (0, 0, 1)))
    page = tree(ReportPage(title="x", confusion=confusion))
    rows = [[words_of(cell) for cell in row] for row in next(page.iter(f"{X}tbody"))]
    assert rows == [["b as c", "5", "50.0 %"], ["a as b", "2", "20.0 %"]]


def test_a_confusion_that_is_not_square_is_refused() -> None:
    with pytest.raises(DataError, match="2 classes"):
        Confusion(classes=("a", "b"), counts=((1, 2),))


def test_the_strongest_word_of_a_long_text_is_shown_and_the_gaps_add_up() -> None:
    words = tuple((f"w{i}", 0.5 if i == 300 else 0.0) for i in range(400))
    page = tree(ReportPage(title="x", errors=(wrong(),), words=(words,)))
    quote = words_of(next(e for e in page.iter(f"{X}p") if e.get("class") == "quote"))
    gaps = [int(n) for n in re.findall(r"\[… (\d+) words?\]", quote)]
    shown = re.findall(r"\bw\d+", quote)
    assert {"w299", "w300", "w301"} < set(shown) and len(shown) + sum(gaps) == 400


def test_words_are_shaded_by_sign_and_relative_weight() -> None:
    noise = tuple((f"w{i}", 0.002 * (-1) ** i) for i in range(9))
    words = (("up", 0.04), ("half", 0.02), ("down", -0.04), *noise, ("none", 0.0))
    page = tree(ReportPage(title="x", errors=(wrong(),), words=(words,)))
    quote = next(e for e in page.iter(f"{X}p") if e.get("class") == "quote")
    spans = {s.text: (s.get("class"), s.get("style"), s.get("title")) for s in quote.iter(f"{X}span")}
    assert spans == {
        "up": ("for", "--a:0.55", "+0.0400"),
        "half": ("for", "--a:0.30", "+0.0200"),
        "down": ("against", "--a:0.55", "−0.0400"),
    }
    assert words_of(quote) == "up half down w0 w1 w2 w3 w4 w5 w6 w7 w8 none"
    assert "Strongest: “up” +0.040, “down” −0.040, “half” +0.020" in words_of(page)


def test_words_within_their_own_scatter_are_not_shaded() -> None:
    rng = random.Random(0)
    texts = [tuple((f"w{i}", rng.gauss(0, 0.05)) for i in range(64)) for _ in range(200)]
    assert sum(bool(excerpt.strongest(text)) for text in texts) / 200 < 0.3  # chance alone: in about one text of five
    spiked = [(*text, ("goal", 0.4)) for text in texts]
    assert all(excerpt.strongest(text)[0] == ("goal", 0.4) for text in spiked)
    page = tree(ReportPage(title="x", errors=(wrong(),), words=(tuple((f"w{i}", 0.03) for i in range(9)),)))
    assert "No word stands out" in words_of(page) and not [s for s in page.iter(f"{X}span") if s.get("style")]


def test_one_lowest_f1_is_marked_and_none_where_all_are_alike() -> None:
    def marked(*scores: tuple[str, float | None, int]) -> list[str]:
        classes = tuple(
            ClassScores(name=name, precision=None, recall=0.5, f1=f1, support=rows, predicted=1)
            for name, f1, rows in scores
        )
        page = tree(ReportPage(title="x", classes=classes))
        return [words_of(row) for row in page.iter(f"{X}tr") if any(s.get("class") == "low" for s in row.iter())]

    assert [row[:1] for row in marked(("a", 0.0, 5), ("b", 0.0, 9), ("c", 0.8, 9))] == ["b"]
    assert marked(("a", 1.0, 5), ("b", 1.0, 9)) == [] == marked(("a", None, 5), ("b", 0.5, 9))


def test_differences_say_what_their_interval_shows() -> None:
    given = (("up", 0.2, (0.1, 0.3)), ("down", -0.2, (-0.3, -0.1)), ("flat", 0.0, (-0.1, 0.1)))
    rows = tuple(DifferenceRow(name=n, value=v, interval=i) for n, v, i in given)
    text = words_of(tree(ReportPage(title="x", differences=rows)))
    assert "up: better, +0.2000" in text and "down: worse, −0.2000" in text and "flat: not distinguishable" in text


def test_groups_and_scores_without_an_interval_are_said_in_words() -> None:
    scores = (ScoreRow(name="MCC", value=None, no_interval="undefined: all answers are of one class"),)
    flat = (DifferenceRow(name="log loss", value=0.0, interval=None),)
    text = words_of(tree(ReportPage(title="x", rows=500, groups=25, scores=scores, differences=flat)))
    assert "500 in 25 groups" in text and "on 500 test rows in 25 groups (data.group)" in text
    assert "undefined: all answers are of one class" in text
    assert "log loss: 0.0000 (no interval: the same on every row)" in text.replace("+", "")
