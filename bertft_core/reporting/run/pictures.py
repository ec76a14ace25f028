"""Pictures of an evaluation and of a fit, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bertft_core.reporting.html.picture import BLUE, FAINT, GREY, ORANGE, SOFT, picture
from bertft_core.reporting.html.values import clipped, counted

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.training.results import EpochResult

_ANNOTATED = 20  # classes up to which each cell shows its count
_NAMED = 60  # classes up to which every tick has a name
_LONGEST = 24  # characters of a class name


def confusion_picture(report: EvaluationReport, path: Path) -> Path:
    """Confusion matrix, coloured by share of the true class's rows, counts inside; returns `path`."""
    table, classes = np.asarray(report.confusion, dtype=np.int64), report.classes
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    n = len(classes)
    side = min(14.0, 3.0 + 0.45 * n)
    ticks = np.arange(0, n, max(1, -(-n // _NAMED)))
    names = [clipped(str(classes[i]), _LONGEST) for i in ticks.tolist()]
    small = 9 if n <= _ANNOTATED else 6
    with picture(path, side, side + 0.8) as (figure, (axes,)):
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
        axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=small, parse_math=False)
        axes.set_yticks(ticks, names, fontsize=small, parse_math=False)
        axes.set(xlabel="predicted", ylabel="true", title=f"Confusion, {counted(int(table.sum()), 'row')}")
        if n <= _ANNOTATED:
            for i, j in np.ndindex(n, n):
                colour = "white" if shares[i, j] > 0.5 else "black" if table[i, j] else FAINT
                axes.text(j, i, str(table[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return path


def learning_curve_picture(
    history: Sequence[EpochResult], path: Path, phases: Sequence[tuple[float, float, int]] = ()
) -> Path:
    """Losses (nats) and validation scores by step, epoch after epoch; returns `path`.

    phases: (start, end, depth), fractions of the fit, drawn as dotted lines; without them each epoch names the depth it
    ended with.
    """
    from matplotlib.ticker import MaxNLocator

    steps = [e.step for e in history]
    total = max(steps, default=1)
    marks = [(start * total, depth) for start, _, depth in phases] or [(float(e.step), e.depth) for e in history]
    with picture(path, 4.4, rows=2) as (_, (losses, scores)):
        losses.plot(steps, [e.train_loss for e in history], "o--", color=ORANGE, mfc="white", label="train")
        losses.plot(steps, [e.validation_loss for e in history], "o-", color=BLUE, label="validation")
        losses.set(ylabel="loss (nats)", title="Learning curve")
        scores.plot(steps, [e.accuracy for e in history], "o--", color=ORANGE, mfc="white", label="accuracy")
        scores.plot(steps, [e.macro_f1 for e in history], "o-", color=BLUE, label="macro F1")
        scores.set(xlabel="step", ylabel="validation score", xlim=(0, 1.04 * total))
        scores.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (losses, scores):
            axes.margins(y=0.15)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            for at, _ in marks:
                axes.axvline(at, color=GREY, linestyle=":", linewidth=0.8)
        for at, depth in marks[:: max(1, -(-len(marks) // 8))]:  # more than eight names would overlap
            losses.text(
                at,
                0.98,
                f" depth {depth} ",
                transform=losses.get_xaxis_transform(),
                va="top",
                ha="left" if phases else "right",
                fontsize=7,
                color=SOFT,
            )
    return path
