"""Pictures of an evaluation and of a fit, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport


_ANNOTATED = 20  # classes up to which each cell shows its count
_NAMED = 60  # classes up to which every tick has a name
_LONGEST = 24  # characters of a class name
_BLUE, _ORANGE, _GREEN, _GREY = "#1f6feb", "#d9480f", "#2b8a3e", "#888888"


def confusion_picture(report: EvaluationReport, path: Path) -> Path:
    """Confusion matrix, coloured by share of the true class's rows, counts inside; returns `path`."""
    from matplotlib.figure import Figure

    table, classes = np.asarray(report.confusion, dtype=np.int64), report.classes
    support = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(support, 1)
    n = len(classes)
    side = min(14.0, 3.2 + 0.45 * n)
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    ticks = np.arange(0, n, max(1, -(-n // _NAMED)))
    names = [_short(str(classes[i])) for i in ticks.tolist()]
    small = 9 if n <= _ANNOTATED else 6
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=small, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=small, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion, {int(table.sum())} rows")
    if n <= _ANNOTATED:
        for i, j in np.ndindex(n, n):
            colour = "white" if shares[i, j] > 0.5 else "black" if table[i, j] else "#bbbbbb"
            axes.text(j, i, str(table[i, j]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path)
    return Path(path)


def learning_curve_picture(
    history: Sequence[Mapping[str, Any]], path: Path, phases: Sequence[tuple[float, float, int]] = ()
) -> Path:
    """Losses (nats) and validation scores by step, epoch after epoch; returns `path`.

    history: mappings with the fields of training's EpochResult. phases: (start, end, depth), fractions of the
    fit, drawn as dotted lines; without them each epoch names the depth it ended with.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.8, 5.2), dpi=120, layout="constrained")
    losses, quality = figure.subplots(2, 1, sharex=True)
    steps = [point["step"] for point in history]
    losses.plot(steps, [p["train_loss"] for p in history], "o-", color=_GREY, label="train")
    losses.plot(steps, [p["validation_loss"] for p in history], "o-", color=_BLUE, label="validation")
    losses.set(ylabel="loss (nats)", title="Learning curve")
    quality.plot(steps, [p["accuracy"] for p in history], "o-", color=_ORANGE, label="accuracy")
    quality.plot(steps, [p["macro_f1"] for p in history], "s--", color=_GREEN, label="macro F1")
    total = max(steps, default=1)
    quality.set(xlabel="step", ylabel="validation score", xlim=(0, 1.04 * total))
    quality.xaxis.set_major_locator(MaxNLocator(integer=True))
    marks = [(start * total, depth) for start, _, depth in phases] or [(p["step"], p["depth"]) for p in history]
    for axes in (losses, quality):
        axes.margins(y=0.15)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for at, _ in marks:
            axes.axvline(at, color=_GREY, linestyle=":", linewidth=0.8)
    _name_depths(losses, marks, "left" if phases else "right")
    figure.savefig(path)
    return Path(path)


def _name_depths(axes: Any, marks: Sequence[tuple[float, int]], side: str) -> None:
    """Write the depth beside each mark, at most eight of them: more would overlap."""
    for at, depth in marks[:: max(1, -(-len(marks) // 8))]:
        axes.text(
            at,
            0.98,
            f" depth {depth} ",
            transform=axes.get_xaxis_transform(),
            va="top",
            ha=side,
            fontsize=7,
            color="#555555",
        )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
