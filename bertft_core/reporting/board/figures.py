"""The strip of nights and the course of scores, as inline SVG."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from markupsafe import Markup

from bertft_core.reporting.board.page import OUTCOMES, Decision, ModelCard, NightMark
from bertft_core.reporting.html.charts import (
    Axis,
    Scale,
    Series,
    el,
    join,
    key,
    line_chart,
    point_key,
    rounded_out,
    value_axis,
)
from bertft_core.reporting.html.values import clipped, counted, interval_text, number

CELL, HEIGHT = 12, 16  # units of one night in a strip
NIGHTS, IN_TABLE = 30, 14  # nights of a strip, and of the short one in a row of the overview
DECISIONS = 60  # points of a chart: more would overlap
_DAY = 86_400.0
_EMPTY = "no night yet"


def strip(nights: Sequence[NightMark], most: int) -> Markup:
    """The last nights side by side, the latest at the right; where there are fewer the left stays empty."""
    shown = nights[-most:]
    first = most - len(shown)
    marks = [
        el(
            "g",
            el("title", f"{night.night}: {night.outcome}: {clipped(night.reason, 200)}"),
            el("rect", x=(first + place) * CELL, y=0, width=CELL, height=HEIGHT, fill_opacity=0),
            mark(night.outcome, (first + place + 0.5) * CELL, HEIGHT / 2),
        )
        for place, night in enumerate(shown)
    ]
    rest = el("line", x1=0, x2=first * CELL, y1=HEIGHT / 2, y2=HEIGHT / 2, class_="guide") if first else None
    size = f"0 0 {most * CELL} {HEIGHT}"
    return el("svg", rest, *marks, viewBox=size, role="img", aria_label=in_words(nights, most), class_="strip")


def in_words(nights: Sequence[NightMark], most: int) -> str:
    """What a strip shows, for whoever does not see it."""
    if not nights:
        return _EMPTY
    shown = nights[-most:]
    counts = ", ".join(f"{n} {outcome}" for outcome, n in ModelCard(name="", nights=tuple(shown)).counts(most))
    span = shown[0].night if len(shown) == 1 else f"{shown[0].night} to {shown[-1].night}"
    return f"{counted(len(shown), 'night')}, {span}: {counts}; the last: {shown[-1].outcome}"


def mark(outcome: str, x: float, y: float) -> Markup:
    """The sign of an outcome about a point; each has a shape of its own, so that no colour is needed to tell them."""
    if outcome == "promoted":
        return el("path", d=f"M{x - 4.6} {y + 4.6} {x + 4.6} {y + 4.6} {x} {y - 5}Z", class_="f-blue")
    if outcome == "kept":
        return el("rect", x=x - 4, y=y - 1.3, width=8, height=2.6, class_="f-blue")
    if outcome == "awaiting approval":
        return el("circle", cx=x, cy=y, r=3.8, class_="hollow s-blue")
    if outcome == "data rejected":
        return el("rect", x=x - 3.6, y=y - 3.6, width=7.2, height=7.2, class_="hollow s-orange")
    if outcome == "failed":
        d = f"M{x - 3.6} {y - 3.6} {x + 3.6} {y + 3.6} M{x + 3.6} {y - 3.6} {x - 3.6} {y + 3.6}"
        return el("path", d=d, class_="curve s-orange")
    return el("circle", cx=x, cy=y, r=1.7, class_="f-grey")  # skipped


def legend() -> Markup:
    """The signs of a strip with their names."""
    return el("p", *map(_key, OUTCOMES), class_="note")


def _key(outcome: str) -> Markup:
    sign = el("svg", mark(outcome, 14, 6), viewBox="0 -2 28 16", aria_hidden="true")
    return el("span", sign, outcome, class_="key")


def score_chart(card: ModelCard) -> Markup:
    """Scores of the versions that were decided on, over time, each with its interval; promotions are marked.

    Nothing where fewer than two decisions have a score: one is said in words. The line is the champion on the same
    rows, as each decision saw it.
    """
    drawn = [decision for decision in card.decisions if decision.score is not None][-DECISIONS:]
    if len(drawn) < 2:
        return Markup("")
    back = [(_seconds(one.at), one) for one in card.decisions if one.is_rollback and one.number > drawn[0].number]
    times = [_seconds(decision.at) for decision in drawn]
    values = [v for d in drawn for v in (d.score, d.champion_score, *(d.interval or ())) if v is not None]
    rivals = [(t, d.champion_score) for t, d in zip(times, drawn, strict=True) if d.champion_score is not None]
    if len(rivals) < 2:
        rivals = []  # no line
    series = [Series(name="champion", points=rivals, colour="grey", marker="none")] if rivals else []
    low, high = rounded_out(min(values), max(values))
    y = (low, high if max(values) > 1 else min(high, 1.0))  # no share is above 1
    chart = line_chart(
        _said(card, drawn),
        series,
        _time_axis([*times, *(time for time, _ in back)]),
        value_axis(card.metric, y),
        extra=lambda at_x, at_y: join(
            [
                *(_rollback(one, at_x(time), at_y(y[0]), at_y(y[1])) for time, one in back),
                *(_point(one, at_x(time), at_y) for time, one in zip(times, drawn, strict=True)),
            ]
        ),
    )
    keys = [_key("promoted"), point_key("not promoted", "blue", "ring")]
    keys += [key("the champion before, on the same rows", "grey", "none")] if rivals else []
    keys += [el("span", "an upright line is a 95 % interval", class_="key")] if any(d.interval for d in drawn) else []
    return el("figure", chart, el("figcaption", *keys))


def _point(decision: Decision, x: float, at_y: Scale) -> Markup:
    assert decision.score is not None
    y, written = at_y(decision.score), f"{number(decision.score)}"
    spread = f", {interval_text(decision.interval)}" if decision.interval else ""
    title = el("title", f"{decision.at[:10]} version {decision.version}: {decision.action}, {written}{spread}")
    low, high = (at_y(end) for end in decision.interval or (decision.score, decision.score))
    arm = el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{low:.1f}", y2=f"{high:.1f}", class_="spread")
    if not decision.is_promotion:
        return el("g", title, arm, el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.4, class_="hollow s-blue"))
    name = el("text", f"v{decision.version}", x=f"{x:.1f}", y=f"{min(y, high) - 8:.1f}", text_anchor="middle")
    return el("g", title, arm, mark("promoted", round(x, 1), round(y, 1)), name)


def _rollback(one: Decision, x: float, bottom: float, top: float) -> Markup:
    line = el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{bottom:.1f}", y2=f"{top:.1f}", class_="guide")
    name = el("text", f"back to v{one.champion}", x=f"{x - 4:.1f}", y=f"{bottom - 6:.1f}", text_anchor="end")
    return join([line, name])


def _said(card: ModelCard, drawn: Sequence[Decision]) -> str:
    promoted = [f"version {d.version} {number(d.score)} on {d.at[:10]}" for d in drawn if d.is_promotion]
    span = f"{drawn[0].at[:10]} to {drawn[-1].at[:10]}"
    said = f"{card.metric} of {counted(len(drawn), 'decision')}, {span}; promoted: {', '.join(promoted) or 'none'}"
    if back := [f"to version {d.champion} on {d.at[:10]}" for d in card.decisions if d.is_rollback]:
        said += f"; rolled back {', '.join(back)}"
    return f"{said}; the table of decisions has every number"


def _seconds(at: str) -> float:
    try:
        return dt.datetime.fromisoformat(at).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _time_axis(times: Sequence[float]) -> Axis:
    """Days, or hours of one day; a single moment stands in the middle."""
    first, last = min(times), max(times)
    room = max((last - first) * 0.04, 60.0)
    domain = (first - room, last + room)
    written = "%m-%d" if last - first > 1.5 * _DAY else "%H:%M"
    wanted = 4 if last - first > 120 else 0
    ticks = [first + (last - first) * i / wanted for i in range(wanted + 1)] if wanted else [first]

    def shown(moment: float) -> str:
        return dt.datetime.fromtimestamp(moment, dt.UTC).strftime(written)

    return Axis(title="hour, UTC" if written == "%H:%M" else "month and day", domain=domain, written=shown, ticks=ticks)
