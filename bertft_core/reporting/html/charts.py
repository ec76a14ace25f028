"""Charts as inline SVG: small functions from numbers to markup, coloured by the page's CSS variables.

All are drawn 360 units wide, which is the width of a phone, so that their 11-unit text stays readable there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bertft_core.reporting.html.values import clipped, number, percent

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 34, 36
_PLOT = 170  # height of a line chart's plot area
_ROW, _MARK, _BELOW = 56, 40, 12  # of a chart of intervals: a row's height, its marks' place, numbers below the marks
_DIGIT = 6.6  # width of a digit of 11-unit text
_CELLS = 2000  # off-diagonal cells drawn of a large confusion matrix

Point = tuple[float, float]
Scale = Callable[[float], float]
Domain = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line: points by rising x; colour blue, orange or grey; a title for each point, shown under the pointer."""

    name: str
    points: Sequence[Point]
    colour: str
    is_dashed: bool = False
    marker: str = "circle"
    titles: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A title, the values it spans, how a tick is written, and where ticks stand (None: at round values)."""

    title: str
    domain: Domain
    written: Callable[[float], str]
    ticks: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """A row of a chart of intervals: name, value (`text`: as written), interval, others to compare with.

    others: (name, value, marker).
    """

    name: str
    text: str
    value: float
    interval: Domain | None
    others: Sequence[tuple[str, float, str]] = ()


def el(tag: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """One element; None children and None attributes are left out. `class_` is class, `aria_label` aria-label.

    >>> el("text", "1 < 2", class_="strong")
    Markup('<text class="strong">1 &lt; 2</text>')
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = join(children)
    return Markup(f"<{tag}{named}>{inside}</{tag}>" if inside else f"<{tag}{named}/>")


def join(children: Iterable[str | None]) -> Markup:
    """Children side by side, text escaped."""
    return Markup("").join(child for child in children if child is not None)


def line_chart(
    label: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    bands: Sequence[tuple[float, float, str]] = (),
    extra: Callable[[Scale, Scale], Markup] | None = None,
) -> Markup:
    """Lines with markers over x and y. bands (start, end, text) are shaded alternately; `extra` draws on top."""
    height = _TOP + _PLOT + _BOTTOM
    top = 0 if y.title else 16  # no empty line where a title would stand
    at_x, at_y = _scale(x.domain, (_LEFT, WIDTH - _RIGHT)), _scale(y.domain, (_TOP + _PLOT, _TOP))
    return el(
        "svg",
        *(_band(at_x, *band, is_shaded=i % 2 == 0) for i, band in enumerate(bands)),
        _frame(at_x, at_y, x, y),
        *(_line(s, at_x, at_y) for s in series),
        extra(at_x, at_y) if extra else None,
        viewBox=f"0 {top} {WIDTH} {height - top}",
        role="img",
        aria_label=label,
    )


def whisker_chart(label: str, rows: Sequence[Whisker], domain: Domain, *, zero: bool = False) -> Markup:
    """One row per value: its name, below it dot and interval on a shared axis, each number at its mark.

    zero: a strong line at 0.
    """
    at = _scale(domain, (8, WIDTH - 8))
    marks = ticks(domain, 5)
    digits = _digits(marks)
    tops = [0.0, *itertools.accumulate(_ROW + (_BELOW if row.others else 0) for row in rows)]
    bottom = tops[-1]
    grid = [
        el("line", x1=_r(at(t)), x2=_r(at(t)), y1=_r(top + _MARK - 8), y2=_r(top + _MARK + 8), class_=kind)
        for top in tops[:-1]  # about the marks alone: no line runs through a name or a number
        for t, kind in [*((t, "grid") for t in marks), *([(0.0, "axis")] if zero else [])]
    ]
    ends = {0: "start", len(marks) - 1: "end"}
    names = [
        _text(at(t), bottom + 14, number(t, digits, signed=zero), ends.get(i, "middle") if len(marks) > 1 else "middle")
        for i, t in enumerate(marks)
    ]
    lines = [_whisker_row(row, top, at) for row, top in zip(rows, tops, strict=False)]
    axis = el("line", x1=8, x2=WIDTH - 8, y1=_r(bottom), y2=_r(bottom), class_="axis")
    size = f"0 0 {WIDTH} {bottom + 20:.0f}"
    return el("svg", *grid, *lines, axis, *names, viewBox=size, role="img", aria_label=label)


def spark_whisker(label: str, value: float, interval: Domain | None, domain: Domain, reference: float) -> Markup:
    """A dot with its interval in the height of a line of text; the upright line is the reference."""
    at = _scale(domain, (4, 140))
    line = el("line", x1=_r(at(reference)), x2=_r(at(reference)), y1=0, y2=16, class_="axis")
    arm = None if interval is None else _arm(at, interval, 8)
    dot = el("circle", cx=_r(at(value)), cy=8, r=3.4, class_="f-blue")
    return el("svg", line, arm, dot, viewBox="0 0 144 16", role="img", aria_label=label)


def heat_map(label: str, counts: Sequence[Sequence[int]]) -> Markup:
    """A large confusion matrix without numbers: the shares of each true class, errors in orange."""
    n = len(counts)
    errors = [(i, j, row[j] / max(1, sum(row))) for i, row in enumerate(counts) for j in range(n) if i != j and row[j]]
    wrong = sorted(errors, key=lambda cell: -cell[2])[:_CELLS]
    right = [(i, i, row[i] / max(1, sum(row))) for i, row in enumerate(counts)]
    back = el("rect", width=n, height=n, class_="band")
    # an error of one row in a hundred must still be seen: opacity grows with the root of the share
    cells = [
        el("rect", x=j, y=i, width=1, height=1, class_=kind, fill_opacity=_r(0.15 + 0.85 * math.sqrt(share), 2))
        for kind, part in (("cell-right", right), ("cell-wrong", wrong))
        for i, j, share in part
    ]
    return el("svg", back, *cells, viewBox=f"0 0 {n} {n}", role="img", aria_label=label, shape_rendering="crispEdges")


def key(name: str, colour: str, marker: str = "circle", *, is_dashed: bool = False) -> Markup:
    """A legend entry: a piece of line with its marker, then the name."""
    line = el("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve s-{colour}{' dashed' if is_dashed else ''}")
    dot = None if marker == "none" else _marker(14, 6, colour, marker)
    return el("span", el("svg", line, dot, viewBox="0 0 28 12"), name, class_="key")


def point_key(name: str, colour: str, marker: str) -> Markup:
    """A legend entry of a marker alone."""
    return el("span", el("svg", _marker(14, 6, colour, marker), viewBox="0 0 28 12"), name, class_="key")


def ticks(domain: Domain, wanted: int) -> list[float]:
    """About `wanted` round values (1, 2 or 5 times a power of ten apart) within the domain.

    >>> ticks((0.0, 1.0), 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    low, high = domain
    step = _step(domain, wanted)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _step(domain: Domain, wanted: int) -> float:
    raw = (domain[1] - domain[0]) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def rounded_out(low: float, high: float, wanted: int = 4) -> Domain:
    """The domain widened to round values; one of no width gets some."""
    if high - low < 1e-9:
        low, high = low - max(abs(low), 1e-3) * 0.1, high + max(abs(high), 1e-3) * 0.1
    for _ in range(3):  # a wider domain may have wider steps
        step = _step((low, high), wanted)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high


def share_axis(title: str, domain: Domain) -> Axis:
    """An axis of shares in percent."""
    digits = max(0, _digits(ticks(domain, 4)) - 2)
    return Axis(title=title, domain=domain, written=lambda v: percent(v, digits))


def value_axis(title: str, domain: Domain) -> Axis:
    """An axis of plain numbers."""
    digits = _digits(ticks(domain, 4))
    return Axis(title=title, domain=domain, written=lambda v: number(v, digits))


def _digits(marks: Sequence[float]) -> int:
    """Decimals that tell the ticks apart."""
    return next((d for d in range(7) if all(abs(round(m, d) - m) < 1e-9 for m in marks)), 6)


def _scale(domain: Domain, target: Domain) -> Scale:
    (a, b), (c, d) = domain, target
    return lambda v: c + (min(max(v, a), b) - a) / (b - a) * (d - c)


def _r(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}"


def _text(x: float, y: float, value: str, anchor: str = "start", kind: str | None = None) -> Markup:
    return el("text", value, x=_r(x), y=_r(y), text_anchor=anchor, class_=kind)


def _frame(at_x: Scale, at_y: Scale, x: Axis, y: Axis) -> Markup:
    """Grid lines, ticks, axis titles: y's above the plot, so that nothing is read sideways."""
    right, bottom = WIDTH - _RIGHT, _TOP + _PLOT
    parts = []
    for t in y.ticks if y.ticks is not None else ticks(y.domain, 4):
        parts.append(el("line", x1=_LEFT, x2=right, y1=_r(at_y(t)), y2=_r(at_y(t)), class_="grid"))
        parts.append(_text(_LEFT - 6, at_y(t) + 4, y.written(t), "end"))
    for t in x.ticks if x.ticks is not None else ticks(x.domain, 5):
        parts.append(el("line", x1=_r(at_x(t)), x2=_r(at_x(t)), y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(_text(at_x(t), bottom + 16, x.written(t), "middle"))
    parts.append(el("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    titles = [_text(0, 10, y.title, kind="strong"), _text(right, bottom + 31, x.title, "end", "strong")]
    return join([*parts, *titles])


def _band(at_x: Scale, start: float, end: float, label: str, *, is_shaded: bool) -> Markup:
    a, b = at_x(start), at_x(end)
    shade = el("rect", x=_r(a), y=_TOP, width=_r(b - a), height=_PLOT, class_="band") if is_shaded else None
    return join([shade, _text((a + b) / 2, _TOP - 5, label, "middle")])


def _line(series: Series, at_x: Scale, at_y: Scale) -> Markup:
    places = [(at_x(a), at_y(b)) for a, b in series.points]
    path = " ".join(f"{_r(a)},{_r(b)}" for a, b in places)
    kind = f"curve s-{series.colour}{' dashed' if series.is_dashed else ''}"
    dots: list[Markup] = []
    if series.marker != "none":
        titles = [*series.titles, *[""] * (len(places) - len(series.titles))]
        dots = [
            _marker(x, y, series.colour, series.marker, title) for (x, y), title in zip(places, titles, strict=True)
        ]
    return join([el("polyline", points=path, class_=kind), *dots])


def _marker(x: float, y: float, colour: str, kind: str, title: str = "") -> Markup:
    name = el("title", title) if title else None
    if kind == "ring":
        return el("circle", name, cx=_r(x), cy=_r(y), r=3.6, class_=f"hollow s-{colour}")
    if kind == "square":
        return el("rect", name, x=_r(x - 3.2), y=_r(y - 3.2), width=6.4, height=6.4, class_=f"hollow s-{colour}")
    if kind == "triangle":
        d = f"M{_r(x - 4.2)} {_r(y + 3.4)} {_r(x + 4.2)} {_r(y + 3.4)} {_r(x)} {_r(y - 4)}Z"
        return el("path", name, d=d, class_=f"hollow s-{colour}")
    return el("circle", name, cx=_r(x), cy=_r(y), r=3.6, class_=f"f-{colour}")


def _whisker_row(row: Whisker, top: float, at: Scale) -> Markup:
    y = top + _MARK
    others = [_marker(at(v), y, "grey", marker, f"{name} {number(v)}") for name, v, marker in row.others]
    below = _apart([(at(v), number(v)) for _, v, _ in row.others])
    arm = None if row.interval is None else _arm(at, row.interval, y)
    dot = el("circle", cx=_r(at(row.value)), cy=_r(y), r=4.2, class_="f-blue")
    name = _text(0, top + 14, clipped(row.name, 52), kind="strong")
    values = [_text(x, y - 9, text, "middle", "value") for x, text in _apart([(at(row.value), row.text)])]
    return join([name, arm, *others, dot, *values, *(_text(x, y + 18, text, "middle") for x, text in below)])


def _apart(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Numbers at their places, or beside each other about the middle of them where they would overlap."""
    found = sorted(labels)
    places, texts = [x for x, _ in found], [text for _, text in found]
    width = _DIGIT * max(map(len, texts), default=0)
    gap = width + _DIGIT
    if any(b - a < gap for a, b in itertools.pairwise(places)):
        middle = sum(places) / len(places)
        places = [middle + (i - (len(places) - 1) / 2) * gap for i in range(len(places))]
    if places:  # within the picture
        aside = max(0.0, width / 2 - places[0]) - max(0.0, places[-1] + width / 2 - WIDTH)
        places = [place + aside for place in places]
    return list(zip(places, texts, strict=True))


def _arm(at: Scale, interval: Domain, y: float) -> Markup:
    a, b = at(interval[0]), at(interval[1])
    ends = [el("line", x1=_r(x), x2=_r(x), y1=_r(y - 4), y2=_r(y + 4), class_="curve s-blue") for x in (a, b)]
    return join([el("line", x1=_r(a), x2=_r(b), y1=_r(y), y2=_r(y), class_="curve s-blue"), *ends])
