"""The charts of a run's report, each from the part of the page that it draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from bertft_core.base.text import NO_SPREAD
from bertft_core.reporting.html.charts import (
    Axis,
    Scale,
    Series,
    Whisker,
    el,
    join,
    key,
    line_chart,
    point_key,
    rounded_out,
    share_axis,
    spark_whisker,
    value_axis,
    whisker_chart,
)
from bertft_core.reporting.html.values import clipped, counted, interval_text, number, percent
from bertft_core.reporting.run.page import Calibration, Confusion, Coverage, DifferenceRow, ReportPage

if TYPE_CHECKING:
    from bertft_core.evaluation.scores.metrics import ClassScores
    from bertft_core.evaluation.scores.slices import SliceScore
    from bertft_core.training.results import EpochResult

NAME = 80  # characters of a score's name
EPOCHS = 200
_POINT = 0.01
_PHASES = 6  # that get a name; more would overlap
_POINTS = 300  # of the coverage curve


def figure(chart: Markup, keys: Sequence[Markup] = (), title: str = "") -> Markup:
    """A chart with its title above and its legend below."""
    head = el("p", title, class_="title") if title else None
    return el("figure", head, chart, el("figcaption", *keys) if keys else None)


def score_chart(page: ReportPage) -> Markup:
    """Scores that are shares, with their intervals, on one axis; nothing where there are none."""
    drawn = [(s, s.value) for s in page.scores if s.value is not None and not s.is_lower_better and s.interval]
    if not drawn:
        return Markup("")
    ends = [end for s, v in drawn for end in (v, *(s.interval or ()), s.champion, s.baseline) if end is not None]
    rows = [
        Whisker(
            name=clipped(s.name, NAME),
            text=number(value),
            value=value,
            interval=s.interval,
            others=[
                (name, v, marker)
                for name, v, marker in (("champion", s.champion, "ring"), ("TF-IDF baseline", s.baseline, "triangle"))
                if v is not None
            ],
        )
        for s, value in drawn
    ]
    label = "; ".join(f"{row.name} {row.text}, {interval_text(row.interval)}" for row in rows)
    keys = [key("this model and its interval", "blue")]
    if any(s.champion is not None for s, _ in drawn):
        keys.append(point_key("champion", "grey", "ring"))
    if any(s.baseline is not None for s, _ in drawn):
        keys.append(point_key("TF-IDF baseline", "grey", "triangle"))
    return figure(whisker_chart(label, rows, rounded_out(min(ends), max(ends))), keys)


def difference_chart(differences: Sequence[DifferenceRow]) -> Markup:
    """Paired differences with their intervals about zero."""
    # at least a point either way: an axis of no width would make a difference of nothing
    ends = [end for d in differences for end in (d.value, *(d.interval or ()))] + [-_POINT, _POINT]
    rows = [
        Whisker(name=clipped(d.name, NAME), text=number(d.value, signed=True), value=d.value, interval=d.interval)
        for d in differences
    ]
    spreads = (interval_text(row.interval, signed=True) or NO_SPREAD for row in rows)
    label = "; ".join(f"{row.name} {row.text}, {spread}" for row, spread in zip(rows, spreads, strict=True))
    return figure(whisker_chart(label, rows, rounded_out(min(ends), max(ends)), zero=True))


def by_f1(classes: Sequence[ClassScores]) -> list[ClassScores]:
    """Classes from the lowest F1, those without one last."""
    return sorted(classes, key=lambda c: (c.f1 is None, c.f1))


def weakest(classes: Sequence[ClassScores]) -> ClassScores | None:
    """The class of the lowest F1, of several that with the most rows; None where all are alike."""
    known = [c for c in classes if c.f1 is not None]
    if len({c.f1 for c in known}) < 2:
        return None
    return min(known, key=lambda c: (c.f1, -c.support))


def confused(confusion: Confusion) -> list[tuple[int, int, str, str]]:
    """(rows, rows of the class, class, what it was decided as) of every confusion, the most frequent first."""
    cells = [
        (count, sum(row), confusion.classes[i], confusion.classes[j])
        for i, row in enumerate(confusion.counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: -cell[0])


def cell_shade(confusion: Confusion, row: int, column: int) -> tuple[str, float]:
    """The kind of a cell (zero, right or wrong) and its shade; errors are rare: theirs saturates at a tenth."""
    count = confusion.counts[row][column]
    share = count / max(1, sum(confusion.counts[row]))
    if not count:
        return "zero", 0.0
    return ("right", 0.08 + 0.4 * share) if row == column else ("wrong", 0.12 + 0.45 * min(1.0, 10 * share))


def overall_accuracy(page: ReportPage) -> float:
    """Accuracy over all rows: the score of that name, else the mean of the slices by rows."""
    for score in page.scores:
        if score.name == "accuracy" and score.value is not None:
            return score.value
    return sum(s.accuracy * s.n for s in page.slices) / max(1, sum(s.n for s in page.slices))


def slice_groups(slices: Sequence[SliceScore]) -> list[tuple[str, list[SliceScore]]]:
    """Slices by what they divide, in their order."""
    return [(group, list(parts)) for group, parts in itertools.groupby(slices, key=lambda s: s.group)]


def slice_domain(slices: Sequence[SliceScore], overall: float) -> tuple[float, float]:
    """The axis that holds every slice's interval."""
    ends = [end for s in slices for end in (s.accuracy, *s.interval)] + [overall]
    return rounded_out(min(ends), max(ends))


def slice_chart(part: SliceScore, domain: tuple[float, float], overall: float) -> Markup:
    """A slice's accuracy with its interval, in the height of a line of text."""
    label = f"{number(part.accuracy)}, {interval_text(part.interval)}"
    return spark_whisker(label, part.accuracy, part.interval, domain, overall)


def reliability_chart(calibration: Calibration) -> Markup:
    """Accuracy against confidence, before and after blend and temperature, about the diagonal."""
    after = ("as served", calibration.after, "blue", "circle", False)
    before = ("the encoder", calibration.before, "orange", "ring", True)
    alone = ("the model", calibration.before or calibration.after, "blue", "circle", False)
    curves = [before, after] if calibration.before and calibration.after else [alone]
    low = min(v for _, bins, *_ in curves for b in bins for v in (b.confidence, b.accuracy))
    domain = (max(0.0, rounded_out(low, 1.0)[0]), 1.0)
    lines = [
        Series(name="", points=[(domain[0], domain[0]), (1.0, 1.0)], colour="grey", marker="none"),
        *(
            Series(
                name=name,
                points=[(b.confidence, b.accuracy) for b in bins],
                colour=colour,
                marker=marker,
                is_dashed=is_dashed,
                titles=[
                    f"confidence {number(b.confidence, 3)}, accuracy {number(b.accuracy, 3)}, {counted(b.rows, 'row')}"
                    for b in bins
                ],
            )
            for name, bins, colour, marker, is_dashed in curves
        ),
    ]
    label = "accuracy by confidence, " + "; ".join(f"{name}: {counted(len(bins), 'bin')}" for name, bins, *_ in curves)
    chart = line_chart(label, lines, share_axis("confidence", domain), share_axis("accuracy", domain))
    note = "Below the diagonal the model is too sure of itself. Each point is a bin of about equally many rows."
    keys = [key(name, colour, marker, is_dashed=is_dashed) for name, _, colour, marker, is_dashed in curves]
    return figure(chart, [*keys, el("br"), escape(note)], "Reliability")


def coverage_chart(curve: Coverage) -> Markup:
    """Accuracy of the most confident share of the rows, the chosen share marked."""
    points = list(zip(curve.coverage, curve.accuracy, strict=True))
    if len(points) > _POINTS:
        points = [points[i] for i in sorted({round(i * (len(points) - 1) / (_POINTS - 1)) for i in range(_POINTS)})]
    # the first few rows alone swing between 0 and 1: they must not set the axis
    steady = [a for c, a in points if c >= 0.05] or [a for _, a in points]
    domain = (max(0.0, rounded_out(min(steady), 1.0)[0]), 1.0)

    def chosen(at_x: Scale, at_y: Scale) -> Markup:
        if curve.chosen is None:
            return Markup("")
        x, y = at_x(curve.chosen[0]), at_y(curve.chosen[1])
        d = f"M{x:.1f} {at_y(domain[0]):.1f} {x:.1f} {y:.1f} {at_x(0.0):.1f} {y:.1f}"
        dot = el("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_="f-orange")
        return join([el("path", d=d, class_="guide"), dot])

    chart = line_chart(
        curve.sentence[:300] or f"accuracy falls to {number(curve.accuracy[-1], 3)} when all rows are answered",
        [Series(name="accuracy", points=points, colour="blue", marker="none")],
        Axis(
            title="share of the rows answered, most confident first", domain=(0.0, 1.0), written=lambda v: percent(v, 0)
        ),
        share_axis("accuracy of the answers", domain),
        extra=chosen,
    )
    keys = [key("accuracy", "blue", "none")]
    keys += [point_key("the chosen share", "orange", "circle")] if curve.chosen else []
    return figure(chart, keys, "Accuracy against coverage")


def loss_chart(page: ReportPage) -> Markup:
    """Losses of training and validation by step."""
    lines = [
        _curve("train", page, lambda e: e.train_loss, "orange"),
        _curve("validation", page, lambda e: e.validation_loss, "blue"),
    ]
    _, top = _span(lines)
    return _learning_chart("Loss, nats", page, lines, value_axis("", rounded_out(0.0, top)))


def validation_chart(page: ReportPage) -> Markup:
    """Accuracy and macro F1 on validation by step."""
    lines = [
        _curve("accuracy", page, lambda e: e.accuracy, "orange"),
        _curve("macro F1", page, lambda e: e.macro_f1, "blue"),
    ]
    low, high = rounded_out(*_span(lines))
    return _learning_chart("Validation score", page, lines, share_axis("", (max(low, 0.0), min(high, 1.0))))


def _span(lines: Sequence[Series]) -> tuple[float, float]:
    values = [value for line in lines for _, value in line.points]
    return min(values), max(values)


def _curve(name: str, page: ReportPage, read: Callable[[EpochResult], float], colour: str) -> Series:
    assert page.fit is not None, "the charts of a fit need one"
    epochs = page.fit.history[:EPOCHS]
    is_second = colour == "orange"  # drawn so that it is told apart without its colour
    return Series(
        name=name,
        points=[(float(e.step), read(e)) for e in epochs],
        colour=colour,
        marker="ring" if is_second else "circle",
        is_dashed=is_second,
        titles=[f"epoch {e.epoch}, step {e.step:,}: {name} {number(read(e))}" for e in epochs],
    )


def _learning_chart(title: str, page: ReportPage, lines: Sequence[Series], y: Axis) -> Markup:
    total = max(step for step, _ in lines[0].points)
    is_named = len(page.phases) <= _PHASES
    bands = [
        (start * total, end * total, (f"depth {depth}" if i == 0 else str(depth)) if is_named else "")
        for i, (start, end, depth) in enumerate(page.phases)
    ]
    label = "; ".join(f"{s.name} from {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in lines)
    x = Axis(title="step", domain=(0.0, total), written=lambda v: f"{v:,.0f}")
    chart = line_chart(f"{title} by step: {label}", lines, x, y, bands=bands if len(bands) > 1 else ())
    return figure(chart, [key(s.name, s.colour, s.marker, is_dashed=s.is_dashed) for s in lines], title)
