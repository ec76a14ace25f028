from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from markupsafe import Markup

from bertft_core.reporting.html.charts import (
    Series,
    Whisker,
    el,
    heat_map,
    key,
    line_chart,
    point_key,
    rounded_out,
    share_axis,
    spark_whisker,
    ticks,
    value_axis,
    whisker_chart,
)
from bertft_core.reporting.html.values import clipped, counted, interval_text, number


def curve(points: list[tuple[float, float]], marker: str = "circle") -> ET.Element:
    line = Series(name="a", points=points, colour="blue", marker=marker)
    x, y = value_axis("step", (0.0, 10.0)), share_axis("score", (0.0, 1.0))
    return ET.fromstring(line_chart("a label", [line], x, y))


def test_points_are_drawn_where_the_axes_say() -> None:
    # the plot spans x 44..350 and y 204..34
    assert curve([(0, 0), (5, 0.5), (10, 1)]).find("polyline").get("points") == "44.0,204.0 197.0,119.0 350.0,34.0"


def test_points_outside_the_axes_are_drawn_at_their_edge() -> None:
    assert curve([(-5, 2)]).find("polyline").get("points") == "44.0,34.0"


@pytest.mark.parametrize(("marker", "tag"), [("circle", "circle"), ("ring", "circle"), ("square", "rect")])
def test_every_point_has_its_marker(marker: str, tag: str) -> None:
    assert len([e for e in curve([(1, 0.1), (2, 0.2)], marker).iter(tag)]) == 2


def test_a_line_without_markers_has_none() -> None:
    assert not list(curve([(1, 0.1), (2, 0.2)], "none").iter("circle"))


def test_bands_are_shaded_in_turn_and_named() -> None:
    x, y = value_axis("step", (0.0, 10.0)), value_axis("", (0.0, 1.0))
    bands = [(0.0, 5.0, "depth 1"), (5.0, 10.0, "2")]
    found = ET.fromstring(line_chart("", [], x, y, bands=bands))
    (rect,) = [e for e in found.iter("rect") if e.get("class") == "band"]
    assert (rect.get("x"), rect.get("width")) == ("44.0", "153.0")
    assert {"depth 1", "2"} < {e.text for e in found.iter("text")}


def test_every_chart_is_well_formed_and_has_a_name_for_readers_that_do_not_see() -> None:
    name = 'a "quoted" <label> & more'
    row = Whisker(
        name=name,
        text="0.9",
        value=0.9,
        interval=(0.8, 1.0),
        others=(("champion", 0.85, "ring"), ("baseline", 0.7, "triangle")),
    )
    charts = [
        whisker_chart(name, [row], (0.6, 1.0)),
        whisker_chart(name, [row], (-0.5, 1.0), zero=True),
        spark_whisker(name, 0.5, None, (0.0, 1.0), 0.4),
        heat_map(name, [[3, 1], [0, 0]]),
        line_chart(name, [], value_axis("a", (0, 1)), value_axis("b", (0, 1))),
    ]
    for chart in charts:
        found = ET.fromstring(chart)
        assert (found.get("role"), found.get("aria-label")) == ("img", name)
        assert len(found.get("viewBox").split()) == 4
    for mark in (key("a", "blue"), point_key("a", "grey", "triangle")):
        assert list(ET.fromstring(mark).iter())


def test_a_value_to_compare_with_has_its_own_marker_whatever_stands_before_it() -> None:
    row = Whisker(name="a", text="0.9", value=0.9, interval=None, others=(("baseline", 0.7, "triangle"),))
    found = ET.fromstring(whisker_chart("", [row], (0.6, 1.0)))
    assert [e.findtext("title") for e in found.iter("path")] == ["baseline 0.7000"]
    assert len(list(found.iter("circle"))) == 1


def test_each_number_stands_at_its_mark_or_beside_its_neighbour() -> None:
    others = (("champion", 0.905, "ring"), ("baseline", 0.9, "triangle"))
    row = Whisker(name="a", text="0.8000", value=0.8, interval=(0.7, 0.9), others=others)
    found = ET.fromstring(whisker_chart("", [row, row], (0.6, 1.0)))
    places = {e.text: float(e.get("x", "")) for e in found.iter("text")}
    dot = next(float(e.get("cx", "")) for e in found.iter("circle") if e.get("class") == "f-blue")
    assert places["0.8000"] == dot == 180
    assert places["0.9050"] - places["0.9000"] > 40 and 240 < places["0.9000"] < places["0.9050"] < 300
    at_the_edge = ET.fromstring(whisker_chart("", [Whisker(name="a", text="1.0000", value=1.0, interval=None)], (0, 1)))
    assert max(float(e.get("x", "")) for e in at_the_edge.iter("text") if e.text == "1.0000") < 345


def test_charts_name_no_colour_but_the_pages() -> None:
    row = Whisker(name="a", text="0.9", value=0.9, interval=(0.8, 1.0))
    drawn = whisker_chart("", [row], (0.6, 1.0)) + heat_map("", [[1, 1], [1, 1]])
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb\(", drawn)


@pytest.mark.parametrize(
    ("domain", "wanted", "found"),
    [
        ((0.0, 1.0), 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((0.94, 1.0), 4, [0.94, 0.96, 0.98, 1.0]),
        ((-0.03, 0.01), 5, [-0.03, -0.02, -0.01, 0.0, 0.01]),
        ((0.0, 273.0), 5, [0, 100, 200]),
    ],
)
def test_ticks_stand_at_round_values(domain: tuple[float, float], wanted: int, found: list[float]) -> None:
    assert ticks(domain, wanted) == pytest.approx(found)


def test_a_domain_is_rounded_out_to_its_own_ticks() -> None:
    low, high = rounded_out(0.896, 0.975)
    assert (low, high) == pytest.approx((0.85, 1.0)) and ticks((low, high), 4)[-1] == pytest.approx(high)


def test_a_domain_of_one_value_gets_a_width() -> None:
    low, high = rounded_out(0.5, 0.5)
    assert low < 0.5 < high
    low, high = rounded_out(0.0, 0.0)
    assert low < 0 < high


def test_text_is_escaped_and_markup_is_not_escaped_twice() -> None:
    inner = el("b", 'a < "b"')
    assert inner == "<b>a &lt; &#34;b&#34;</b>" and isinstance(inner, Markup)
    assert el("p", inner, None, "&", class_="x", aria_label='"', hidden=None) == (
        f'<p class="x" aria-label="&#34;">{inner}&amp;</p>'
    )


def test_numbers_have_a_true_minus_sign_and_no_negative_zero() -> None:
    assert number(-0.5) == "−0.5000" and number(0.5, signed=True) == "+0.5000"
    assert number(-0.00004) == "0.0000" and number(0.0, 2, signed=True) == "0.00"
    assert number(None) == "–" and number(1234.0, 0) == "1,234" and interval_text(None) is None


def test_clipped_text_is_one_line_of_at_most_so_many_characters() -> None:
    assert clipped("a\n b   c", 9) == "a b c"
    assert clipped("abcdefgh", 5) == "abcd…"


def test_a_counted_noun_has_its_plural() -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
