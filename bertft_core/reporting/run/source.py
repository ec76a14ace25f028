"""What the model was made from: the fit's learning curve and the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bertft_core.reporting.html.charts import Axis, Series, key, line_chart, rounded_out, share_axis, value_axis
from bertft_core.reporting.html.markup import Child, Markup, clipped, data, el, folded, join, number, pairs, table
from bertft_core.reporting.run.page import DataFacts, EpochRow, Learning, ReportPage

_EPOCHS = 200
_CLASSES = 100
_ROWS = 60  # of the table of facts by split
_PHASES = 6  # that get a name; more would overlap

Read = Callable[[EpochRow], float]


def learning_section(page: ReportPage) -> Markup | None:
    """Losses and validation scores by step, the unfreezing phases shaded, and the epochs as a table."""
    learning = page.learning
    if learning is None or not (learning.epochs or learning.facts):
        return None
    curves = el("div", _losses(learning), _quality(learning), class_="pair") if learning.epochs else None
    lead = "Validation scores after each epoch."
    if len(learning.phases) > 1:
        lead += (
            " The bands are the phases of gradual unfreezing: depth 0 trains the head alone, each further one a layer."
        )
    return join(
        [
            el("h2", "Training"),
            el("p", lead, class_="lead") if learning.epochs else None,
            el("div", pairs(learning.facts), class_="facts") if learning.facts else None,
            curves,
            _epoch_table(learning.epochs) if learning.epochs else None,
        ]
    )


def _losses(learning: Learning) -> Markup:
    lines = [
        _series("train", learning, lambda e: e.train_loss, "orange", "ring", True),
        _series("validation", learning, lambda e: e.validation_loss, "blue", "circle", False),
    ]
    values = [v for e in learning.epochs for v in (e.train_loss, e.validation_loss)]
    return _curve("Loss, nats", learning, lines, value_axis("", rounded_out(0.0, max(values))))


def _quality(learning: Learning) -> Markup:
    lines = [
        _series("accuracy", learning, lambda e: e.accuracy, "orange", "ring", True),
        _series("macro F1", learning, lambda e: e.macro_f1, "blue", "circle", False),
    ]
    values = [v for e in learning.epochs for v in (e.accuracy, e.macro_f1)]
    return _curve("Validation score", learning, lines, share_axis("", _within(min(values), max(values))))


def _within(low: float, high: float) -> tuple[float, float]:
    a, b = rounded_out(low, high)
    return max(a, 0.0), min(b, 1.0)


def _series(name: str, learning: Learning, read: Read, colour: str, marker: str, is_dashed: bool) -> Series:
    epochs = learning.epochs[:_EPOCHS]
    titles = [f"epoch {e.epoch}, step {e.step:,}: {name} {number(read(e))}" for e in epochs]
    points = [(float(e.step), read(e)) for e in epochs]
    return Series(name=name, points=points, colour=colour, marker=marker, is_dashed=is_dashed, titles=titles)


def _curve(title: str, learning: Learning, lines: Sequence[Series], y: Axis) -> Markup:
    total = float(max(e.step for e in learning.epochs))
    x = Axis(title="step", domain=(0.0, total), written=lambda v: f"{v:,.0f}")
    named = len(learning.phases) <= _PHASES
    bands = (
        [
            (start * total, end * total, (f"depth {depth}" if i == 0 else str(depth)) if named else "")
            for i, (start, end, depth) in enumerate(learning.phases)
        ]
        if len(learning.phases) > 1
        else []
    )
    label = "; ".join(f"{s.name} from {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in lines)
    keys = [key(s.name, s.colour, s.marker, s.is_dashed) for s in lines]
    chart = line_chart(f"{title} by step: {label}", lines, x, y, bands=bands)
    return el("figure", el("p", title, class_="title"), chart, el("figcaption", *keys))


def _epoch_table(epochs: Sequence[EpochRow]) -> Markup:
    head = ["Epoch", "Step", "Train loss", "Validation loss", "Accuracy", "Macro F1"]
    rows: list[Sequence[Child]] = [
        [
            join([str(e.epoch), el("span", " kept", class_="tag") if e.best else None]),
            f"{e.step:,}",
            number(e.train_loss),
            number(e.validation_loss),
            number(e.accuracy),
            number(e.macro_f1),
        ]
        for e in epochs[:_EPOCHS]
    ]
    found = table(head, rows)
    return found if len(epochs) <= 6 else folded(f"All {len(epochs)} epochs", found)


def data_section(page: ReportPage) -> Markup | None:
    """What the data gate and the tokeniser saw."""
    facts = page.data
    if facts is None or not (facts.facts or facts.class_counts or facts.split_facts):
        return None
    tables = [part for part in (_split_table(facts), _class_counts(facts)) if part is not None]
    return join(
        [
            el("h2", "Data"),
            el("div", pairs(facts.facts), class_="facts") if facts.facts else None,
            el("div", *tables, class_="pair") if tables else None,
        ]
    )


def _split_table(facts: DataFacts) -> Markup | None:
    if not facts.split_facts:
        return None
    rows: list[Sequence[Child]] = [[clipped(name, 60), *values] for name, values in facts.split_facts[:_ROWS]]
    return el("div", table(["", *facts.splits], rows), class_="names")


def _class_counts(facts: DataFacts) -> Markup | None:
    if not facts.class_counts:
        return None
    rows: list[Sequence[Child]] = [
        [data(clipped(name, 60)), *(f"{n:,}" for n in counts)] for name, counts in facts.class_counts[:_CLASSES]
    ]
    more = len(facts.class_counts) - _CLASSES
    note = el("p", f"{more:,} more classes are not shown.", class_="note") if more > 0 else None
    found = join([table(["Rows by class", *facts.splits], rows), note])
    return el(
        "div",
        folded(f"Rows of {len(facts.class_counts):,} classes", found) if len(rows) > 30 else found,
        class_="names",
    )
