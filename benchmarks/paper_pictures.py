"""Pictures of paper_page.py, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paper_arms import Arm

BLUE, ORANGE, GREY = "#1f6feb", "#d9480f", "#888888"
LINES = ("#1f6feb", "#2b8a3e", "#e8a400", "#d9480f")
Shown = tuple[Arm, list[float], dict[str, Any] | None, float | None]


def arms_picture(title: str, shown: Sequence[Shown], path: Path) -> Path:
    """Test errors of every seed, and differences with both intervals beside the paper's; returns `path`.

    shown: (arm, error of each seed in %, difference, the paper's difference in points).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 1.5 + 0.36 * len(shown)), dpi=120, layout="constrained")
    figure.set_facecolor("white")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (_, errors, difference, theirs) in enumerate(shown):
        if errors:
            left.plot(errors, [place] * len(errors), "o", color=BLUE, alpha=0.35, markersize=5, markeredgewidth=0)
            left.plot([np.mean(errors)], [place], "|", color=BLUE, markersize=15, markeredgewidth=2.5)
        if difference is not None:
            _interval(right, place, difference)
        if theirs is not None:
            right.plot([theirs], [place], "D", markerfacecolor="none", markeredgecolor=ORANGE, markersize=6, zorder=4)
    left.set_yticks(range(len(shown)), [arm.name for arm, *_ in shown])
    left.invert_yaxis()
    left.set(xlabel="test error, % (dots: seeds, bar: mean)", ylim=(len(shown) - 0.4, -0.6))
    right.axvline(0, color=GREY, linewidth=0.8)
    right.set(xlabel="points of accuracy over the arm named in the table")
    right.tick_params(left=False)
    for axes in (left, right):
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, any(theirs is not None for *_, theirs in shown))
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    return path


def _interval(axes: Any, place: int, difference: dict[str, Any]) -> None:
    for name, width, alpha in (("rows_and_seeds", 2, 1.0), ("seeds", 7, 0.35)):
        ends = [100 * end for end in difference[f"interval_{name}"]]
        axes.plot(ends, [place, place], "-", color=BLUE, linewidth=width, alpha=alpha, solid_capstyle="butt")
    axes.plot([100 * difference["difference"]], [place], "o", color=BLUE, markersize=5, zorder=3)


def _legend(figure: Any, has_paper: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=BLUE, linewidth=7, alpha=0.35, label="95 % over seeds"),
        Line2D([], [], color=BLUE, linewidth=2, label="95 % over rows and seeds"),
    ]
    if has_paper:
        marks.append(
            Line2D(
                [],
                [],
                marker="D",
                linestyle="",
                markerfacecolor="none",
                markeredgecolor=ORANGE,
                label="published difference",
            )
        )
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)


def curves_picture(title: str, followed: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> Path:
    """Training loss and test error over progress: thin lines seeds, thick lines their mean; returns `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9), dpi=120, layout="constrained")
    figure.set_facecolor("white")
    losses, errors = figure.subplots(1, 2)
    for colour, (name, seeds) in zip(LINES, followed.items(), strict=False):
        if not seeds:
            continue
        _lines(losses, [fit["train_loss"] for fit in seeds], colour, name)
        wrong = [[(at, 100 * (1 - accuracy)) for at, accuracy in fit["accuracy"]] for fit in seeds]
        _lines(errors, wrong, colour, name)
    losses.set(ylabel="training loss, mean of the epoch (nats)", xlabel="share of the fit", xlim=(0, 1.03))
    errors.set(ylabel="test error, %", xlabel="share of the fit", xlim=(0, 1.03))
    for axes in (losses, errors):
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = errors.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    return path


def _lines(axes: Any, seeds: Sequence[Sequence[Sequence[float]]], colour: str, name: str) -> None:
    values = np.array(seeds)  # [seeds, points, (progress, value)]
    for own in values:
        axes.plot(own[:, 0], own[:, 1], color=colour, alpha=0.25, linewidth=1)
    mean = values.mean(axis=0)
    axes.plot(mean[:, 0], mean[:, 1], "o-", color=colour, linewidth=2, markersize=4, label=name)
