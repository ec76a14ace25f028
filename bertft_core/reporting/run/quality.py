"""Where it is weak, and whether its probabilities can be believed: classes, slices, calibration, coverage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bertft_core.reporting.html.charts import (
    Axis,
    Scale,
    Series,
    heat_map,
    key,
    line_chart,
    point_key,
    rounded_out,
    share_axis,
    spark_whisker,
)
from bertft_core.reporting.html.markup import (
    Child,
    Markup,
    clipped,
    data,
    el,
    folded,
    join,
    number,
    percent,
    scroll,
    span_of,
    table,
)
from bertft_core.reporting.run.page import BinRow, Calibration, ClassRow, Confusion, Coverage, ReportPage, SliceRow

_NAME = 60  # characters of a class or slice name
_CLASSES = 300  # rows of the table of classes
_UNFOLDED = 60  # classes up to which their table stands open
_NUMBERED = 20  # classes up to which the matrix shows its numbers
_HEATED = 400  # classes up to which it is drawn at all
_CONFUSED = 10  # most frequent confusions listed
_SLICES = 200
_POINTS = 300  # of the coverage curve


def classes_section(page: ReportPage) -> Markup | None:
    """Scores by class, the most frequent confusions, the confusion matrix."""
    if not page.classes and page.confusion is None:
        return None
    tables = join([_class_table(page.classes), _most_confused(page.confusion) if page.confusion else None])
    drawn = _confusion(page.confusion) if page.confusion else None
    return join([el("h2", "Classes"), el("div", el("div", tables), drawn, class_="pair")])


def _class_table(rows: Sequence[ClassRow]) -> Markup | None:
    if not rows:
        return None
    ordered = sorted(rows, key=lambda r: (r.f1 is None, r.f1)) if len(rows) > _NUMBERED else list(rows)
    lowest = min((r.f1 for r in rows if r.f1 is not None), default=None)
    head = ["Class", "F1", "Precision", "Recall", "Rows", "Decided"]
    lines = [
        [
            data(clipped(r.name, _NAME)),
            el("span", number(r.f1), class_="low" if r.f1 == lowest and len(rows) > 1 else None),
            number(r.precision),
            number(r.recall),
            f"{r.rows:,}",
            f"{r.predicted:,}",
        ]
        for r in ordered[:_CLASSES]
    ]
    found = join([table(head, lines), el("p", " ".join(_class_notes(rows)), class_="note")])
    if len(rows) > _UNFOLDED:
        found = folded(f"All {len(rows):,} classes", found)
    return el("div", el("p", "By class", class_="title"), found, class_="names")


def _class_notes(rows: Sequence[ClassRow]) -> list[str]:
    notes = ["The lowest F1 is marked."] if len(rows) > 1 and any(r.f1 is not None for r in rows) else []
    notes += ["Lowest F1 first."] if len(rows) > _NUMBERED else []
    notes += [f"{_CLASSES} of {len(rows):,} classes are shown."] if len(rows) > _CLASSES else []
    undefined = any(r.f1 is None or r.precision is None for r in rows)
    return [*notes, *(["A dash: undefined, no row to judge by."] if undefined else [])]


def _confusion(confusion: Confusion) -> Markup | None:
    n = len(confusion.classes)
    caption = "Rows are the true classes, columns what was decided; shaded by the share of the true class."
    if n <= _NUMBERED:
        return el("div", el("p", "Confusion", class_="title"), el("p", caption, class_="note"), _matrix(confusion))
    if n > _HEATED:
        return None
    note = f"{caption} Blue is right, orange is wrong; in the order of the classes."
    chart = heat_map(f"confusion of {n} classes", confusion.counts)
    return el("figure", el("p", "Confusion", class_="title"), chart, el("figcaption", note))


def _matrix(confusion: Confusion) -> Markup:
    names = [clipped(name, _NAME) for name in confusion.classes]
    head = el("tr", el("th"), *(el("th", el("span", data(name)), scope="col") for name in names))
    lines = [
        el("tr", el("th", data(name), scope="row"), *_cells(i, row))
        for i, (name, row) in enumerate(zip(names, confusion.counts, strict=True))
    ]
    return scroll(el("table", el("thead", head), el("tbody", *lines), class_="matrix"))


def _cells(place: int, row: Sequence[int]) -> list[Markup]:
    support = max(1, sum(row))
    found = []
    for column, count in enumerate(row):
        if not count:
            found.append(el("td", "0", class_="zero"))
        elif column == place:
            found.append(el("td", f"{count:,}", class_="right", style=f"--a:{0.08 + 0.4 * count / support:.2f}"))
        else:  # errors are rare: their shade saturates at a tenth of the class
            shade = 0.12 + 0.45 * min(1.0, 10 * count / support)
            found.append(el("td", f"{count:,}", class_="wrong", style=f"--a:{shade:.2f}"))
    return found


def _most_confused(confusion: Confusion) -> Markup | None:
    cells = [
        (count, sum(row), confusion.classes[i], confusion.classes[j])
        for i, row in enumerate(confusion.counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    if not cells:
        return el("p", "No row was decided wrongly.", class_="note")
    worst = sorted(cells, key=lambda cell: -cell[0])[:_CONFUSED]
    lines: list[Sequence[Child]] = [
        [join([data(clipped(a, 30)), " as ", data(clipped(b, 30))]), f"{count:,}", percent(count / support)]
        for count, support, a, b in worst
    ]
    more = f" (the {_CONFUSED} most frequent of {len(cells):,})" if len(cells) > _CONFUSED else ""
    head = [f"Confused{more}", "Rows", "Of the class"]
    return el("div", el("h3", "What is taken for what"), el("div", table(head, lines), class_="names"))


def slices_section(page: ReportPage) -> Markup | None:
    """Accuracy by slice with intervals about the overall accuracy."""
    if not page.slices:
        return None
    shown = page.slices[:_SLICES]
    overall = _overall(page)
    ends = [e for s in shown for e in (s.accuracy, *(s.interval or ())) if e is not None] + [overall]
    domain = rounded_out(min(ends), max(ends))
    parts = [
        el("div", el("p", data(clipped(group, _NAME)), class_="title"), _slice_table(list(rows), domain, overall))
        for group, rows in itertools.groupby(shown, key=lambda s: s.group)
    ]
    cut = f" {_SLICES} of {len(page.slices):,} slices are shown." if len(page.slices) > _SLICES else ""
    lead = f"Accuracy of parts of the test rows with {page.level * 100:g} % intervals, drawn from "
    lead += (
        f"{percent(domain[0], 0)} to {percent(domain[1], 0)}; the upright line is all rows, {percent(overall)}.{cut}"
    )
    return join([el("h2", "Slices"), el("p", lead, class_="lead"), el("div", *parts, class_="pair names")])


def _slice_table(rows: Sequence[SliceRow], domain: tuple[float, float], overall: float) -> Markup:
    return table(["Slice", "Rows", "Accuracy", ""], [_slice(s, domain, overall) for s in rows])


def _overall(page: ReportPage) -> float:
    """Accuracy over all rows: the score of that name, else the mean of the slices by rows."""
    for score in page.scores:
        if score.name == "accuracy" and score.value is not None:
            return score.value
    known = [(s.accuracy, s.rows) for s in page.slices if s.accuracy is not None]
    return sum(a * n for a, n in known) / max(1, sum(n for _, n in known))


def _slice(row: SliceRow, domain: tuple[float, float], overall: float) -> Sequence[Child]:
    shown = span_of(row.interval)
    label = f"{number(row.accuracy)}, {shown}"
    drawn = None if row.accuracy is None else spark_whisker(label, row.accuracy, row.interval, domain, overall)
    name = join([data(clipped(row.name, _NAME)), el("small", row.note[:200]) if row.note else None])
    return [name, f"{row.rows:,}", join([number(row.accuracy), el("small", shown) if shown else None]), drawn]


def calibration_section(page: ReportPage) -> Markup | None:
    """Reliability diagram, calibration scores, accuracy against coverage."""
    if page.calibration is None and page.coverage is None:
        return None
    statement = page.coverage.sentence[:300] if page.coverage else ""
    left = _reliability(page.calibration) if page.calibration else None
    right = _coverage(page.coverage) if page.coverage and page.coverage.coverage else None
    return join(
        [
            el("h2", "Calibration and coverage"),
            el("p", statement[:1].upper() + statement[1:], class_="statement") if statement else None,
            el("div", left, right, class_="pair"),
            _calibration_notes(page.calibration) if page.calibration else None,
        ]
    )


def _reliability(calibration: Calibration) -> Markup | None:
    if not calibration.before and not calibration.after:
        return None
    after = ("after temperature", calibration.after, "blue", "circle", False)
    before = ("before", calibration.before, "orange", "ring", True)
    alone = ("the model", calibration.before or calibration.after, "blue", "circle", False)
    given = [before, after] if calibration.before and calibration.after else [alone]
    low = min(v for _, bins, *_ in given for b in bins for v in (b.confidence, b.accuracy))
    domain = (max(0.0, rounded_out(low, 1.0)[0]), 1.0)
    diagonal = [(domain[0], domain[0]), (1.0, 1.0)]
    lines = [
        Series(name="", points=diagonal, colour="grey", marker="none"),
        *(
            Series(
                name=name,
                points=[(b.confidence, b.accuracy) for b in bins],
                colour=colour,
                is_dashed=dashed,
                marker=marker,
                titles=[_bin_title(b) for b in bins],
            )
            for name, bins, colour, marker, dashed in given
        ),
    ]
    label = "accuracy by confidence, " + "; ".join(f"{name}: {len(bins)} bins" for name, bins, *_ in given)
    chart = line_chart(label, lines, share_axis("confidence", domain), share_axis("accuracy", domain))
    keys = [key(name, colour, marker, dashed) for name, _, colour, marker, dashed in given]
    note = "Below the diagonal the model is too sure of itself. Each point is a bin of about equally many rows."
    return el("figure", el("p", "Reliability", class_="title"), chart, el("figcaption", *keys, el("br"), note))


def _bin_title(row: BinRow) -> str:
    return f"confidence {number(row.confidence, 3)}, accuracy {number(row.accuracy, 3)}, {row.rows:,} rows"


def _calibration_notes(calibration: Calibration) -> Markup:
    after = any(a is not None for _, _, a in calibration.scores)
    head = ["Lower is better", "Before", "After"] if after else ["Lower is better", "Value"]
    rows: list[Sequence[Child]] = [
        [clipped(name, _NAME), number(before), *([number(a)] if after else [])]
        for name, before, a in calibration.scores
    ]
    notes = [el("li", data(note[:600])) for note in calibration.notes[:20]]
    return join([table(head, rows) if rows else None, el("ul", *notes, class_="note") if notes else None])


def _coverage(curve: Coverage) -> Markup:
    points = _thinned(list(zip(curve.coverage, curve.accuracy, strict=True)))
    # the first few rows alone swing between 0 and 1: they must not set the axis
    settled = [a for c, a in points if c >= 0.05] or [a for _, a in points]
    domain = (max(0.0, rounded_out(min(settled), 1.0)[0]), 1.0)
    line = Series(name="accuracy", points=points, colour="blue", marker="none")

    def chosen(at_x: Scale, at_y: Scale) -> Markup:
        if curve.chosen is None:
            return Markup("")
        x, y = at_x(curve.chosen[0]), at_y(curve.chosen[1])
        d = f"M{x:.1f} {at_y(domain[0]):.1f} {x:.1f} {y:.1f} {at_x(0.0):.1f} {y:.1f}"
        return join(
            [el("path", d=d, class_="guide"), el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_="f-orange")]
        )

    label = curve.sentence[:300] or f"accuracy falls to {number(curve.accuracy[-1], 3)} when all rows are answered"
    x = Axis(
        title="share of the rows answered, most confident first", domain=(0.0, 1.0), written=lambda v: percent(v, 0)
    )
    chart = line_chart(label, [line], x, share_axis("accuracy of the answers", domain), extra=chosen)
    keys = [key("accuracy", "blue", "none")]
    keys += [point_key("the chosen share", "orange", "circle")] if curve.chosen else []
    return el("figure", el("p", "Accuracy against coverage", class_="title"), chart, el("figcaption", *keys))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _POINTS:
        return points
    picked = sorted({round(i * (len(points) - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    return [points[i] for i in picked]
