"""Pictures of what was tried: every knob beside the score, two knobs against each other, which knobs mattered."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.reporting.html.picture import BLUE, GREY, ORANGE, SOFT, add_legend, picture
from bertft_core.search.knobs import MANY, ORDERED, Knob, best_of, knobs_of, score_limits, score_name, scored, written
from bertft_core.search.results import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

SHADES = "viridis_r"  # the higher the score, the darker: the good ones must not be the faint ones
_BARS = 20  # knobs in the picture of importances
_COLUMNS = 16  # knobs beside each other
_LINE = 13  # characters of a line of a knob's name
_ABSENT = -0.13  # where a line passes a knob that the trial does not have


def norm_of(results: Sequence[TrialResult]) -> Normalize:
    """The scale of colours of the complete trials."""
    from matplotlib.colors import Normalize

    return Normalize(*score_limits([score for _, score in scored(results, "complete")]), clip=True)


def add_colour_bar(figure: Figure, axes: Axes, norm: Normalize, metric: str) -> None:
    """The scale of colours at the right."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=SHADES), ax=axes, pad=0.02, aspect=30)
    bar.set_label(score_name(metric))


def parallel_picture(
    results: Sequence[TrialResult],
    metric: str,
    path: Path,
    log: Collection[str] = (),
    importances: Mapping[str, float] | None = None,
) -> Path:
    """Every knob as an upright axis, the score as the last; a trial is a line across. Returns `path`.

    Of more than 16 knobs the most important ones, without importances those that took most values.

    Complete trials are coloured by score, the others faint grey, the best orange. Below an axis pass the trials
    that do not have the knob.
    """
    from matplotlib import colormaps

    knobs, norm, best = knobs_of(results, log), norm_of(results), best_of(results)
    values = {k.name: len({written(r.params.get(k.name)) for r in results}) for k in knobs}
    ranked = sorted(knobs, key=lambda k: (-(importances or {}).get(k.name, 0.0), -values[k.name]))
    knobs = tuple(k for k in knobs if k in ranked[:_COLUMNS])
    scores = [s for state in ("complete", "pruned", "fail") for _, s in scored(results, state)]
    complete = [s for _, s in scored(results, "complete")]
    low, high = score_limits(complete or scores)
    last = Knob(name=score_name(metric).replace(" ", "\n", 1), is_number=True, low=low, high=max([high, *scores]))
    done = [r for r, _ in sorted(scored(results, "complete"), key=lambda d: d[1])]
    rest = [r for r in results if r.state != "complete"]
    alpha = max(0.15, min(0.85, 40 / max(1, len(results))))
    spread = 0.0 if len(results) < ORDERED else 0.25
    with picture(path, 4.6, 2.6 + 1.05 * len(knobs)) as (figure, (axes,)):
        _draw_lines(axes, rest, knobs, last, [GREY] * len(rest), 0.45 * alpha, 0.8, spread)
        shades = [colormaps[SHADES](norm(r.score or 0.0)) for r in done]
        _draw_lines(axes, done, knobs, last, shades, alpha, 1.3, spread)
        if best is not None:
            _draw_lines(axes, [best], knobs, last, [ORANGE], 1.0, 2.4, spread)
            axes.plot([], [], color=ORANGE, linewidth=2.4, label=f"best single score: trial {best.slot}")
        if rest:
            axes.plot([], [], color=GREY, linewidth=0.8, alpha=0.6, label=f"not completed ({len(rest)})")
        _draw_columns(axes, results, (*knobs, last))
        figure.suptitle(f"What was tried, {len(results)} trials", x=0.01, ha="left", fontsize=12, fontweight="bold")
        add_legend(figure, 2)
        if done:
            add_colour_bar(figure, axes, norm, metric)
    return path


def _broken(name: str) -> str:
    """A name in short lines, broken after dots and underlines."""
    lines = [""]
    for part in re.findall(r"[^._ \n]*[._ \n]?", name):
        if len(lines[-1]) + len(part) > _LINE or lines[-1].endswith("\n"):
            lines[-1] = lines[-1].rstrip("\n")
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _draw_lines(
    axes: Axes,
    trials: Sequence[TrialResult],
    knobs: Sequence[Knob],
    last: Knob,
    colours: Sequence[Any],
    alpha: float,
    width: float,
    spread: float,
) -> None:
    from matplotlib.collections import LineCollection

    lines = []
    for r in trials:
        aside = 0.5 - (r.slot * 0.618) % 1.0  # many lines through one choice pass beside each other
        places = [
            k.place(r.params[k.name]) + (aside * spread / len(k.choices) if k.choices else 0.0)
            if k.name in r.params
            else _ABSENT
            for k in knobs
        ]
        places.append(_ABSENT if r.score is None or not math.isfinite(r.score) else last.place(r.score))
        lines.append(list(enumerate(places)))
    axes.add_collection(LineCollection(lines, colors=list(colours), alpha=alpha, linewidths=width))


def _draw_columns(axes: Axes, results: Sequence[TrialResult], columns: Sequence[Knob]) -> None:
    axes.set(xlim=(-0.55, len(columns) - 0.85), ylim=(_ABSENT - 0.05, 1.03))
    axes.axis("off")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for x, knob in enumerate(columns):
        axes.axvline(x, ymin=0.15, ymax=0.98, color=GREY, linewidth=0.9)
        for y, label in knob.ticks():
            axes.plot([x - 0.025, x], [y, y], color=GREY, linewidth=0.9)
            size = 9 if len(label) <= 10 else 7.5
            axes.text(x - 0.04, y, label, ha="right", va="center", fontsize=size, bbox=box, parse_math=False, zorder=4)
        bold: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold"}
        axes.text(x, 1.06, _broken(knob.name), ha="center", va="bottom", parse_math=False, **bold)
        is_last = x == len(columns) - 1
        lacks = [r.score is None if is_last else knob.name not in r.params for r in results]
        if any(lacks):
            label = "no score" if is_last else "not set"
            axes.text(x - 0.04, _ABSENT, label, ha="right", va="center", fontsize=9, color=SOFT, bbox=box, zorder=4)


def slice_picture(
    results: Sequence[TrialResult],
    metric: str,
    path: Path,
    log: Collection[str] = (),
    importances: Mapping[str, float] | None = None,
) -> Path | None:
    """Two numeric knobs against each other, coloured by score; None where fewer than two of them vary.

    lr and alpha where both vary, else the two most important ones (without importances: the first two).
    """
    numeric = {k.name: k for k in knobs_of(results, log) if k.is_number and k.high > k.low}
    ranked = sorted(numeric, key=lambda name: -(importances or {}).get(name, 0.0))
    if len(ranked) < 2:
        return None
    x, y = (numeric[name] for name in (("lr", "alpha") if {"lr", "alpha"} <= set(numeric) else ranked[:2]))
    norm, best = norm_of(results), best_of(results)
    with picture(path, 3.6) as (figure, (axes,)):
        both = [r for r in results if x.name in r.params and y.name in r.params]
        rest = [r for r in both if r.state != "complete"]
        done = sorted(scored(both, "complete"), key=lambda d: d[1])
        size = 46 if len(both) <= 100 else 18
        if rest:
            xs, ys = (k.places(rest) for k in (x, y))
            axes.scatter(xs, ys, marker="x", s=size, color=GREY, linewidths=1.0, label="not completed")
        if done:
            xs, ys = (k.places([r for r, _ in done]) for k in (x, y))
            shades: dict[str, Any] = {"c": [s for _, s in done], "cmap": SHADES, "norm": norm}
            axes.scatter(xs, ys, s=size, edgecolors="white", linewidths=0.5, label="complete", **shades)
        if best is not None and best in both:
            xs, ys = (k.places([best]) for k in (x, y))
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.8}
            axes.scatter(xs, ys, s=4 * size, label="best single score", **ring)
        axes.set_title(f"{x.name} and {y.name}", parse_math=False)
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        for knob, axis in ((x, axes.xaxis), (y, axes.yaxis)):
            axis.set_label_text(knob.name + (" (logarithmic)" if knob.is_log and not knob.choices else ""))
            axis.set_ticks([place for place, _ in knob.ticks()], [label for _, label in knob.ticks()])
        add_legend(figure, 3)
        if done:
            add_colour_bar(figure, axes, norm, metric)
    return path


def importance_picture(importances: Mapping[str, float], trials: int, path: Path) -> Path:
    """Knobs by importance, the most important on top; `trials`: complete ones behind it. Returns `path`."""
    names, shares = zip(*sorted(importances.items(), key=lambda item: -item[1])[:_BARS][::-1], strict=True)
    with picture(path, 1.3 + 0.28 * len(names)) as (_, (axes,)):
        bars = axes.barh(range(len(names)), shares, color=BLUE, height=0.62)
        axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares], padding=4, fontsize=8.5)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set(xlim=(0, 1.12 * max(shares)), xlabel="share of the explained variance (fANOVA)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.margins(y=0.6 / len(names) ** 1.2)
        axes.set_title(f"What mattered, {trials} complete trials{'' if trials >= MANY else ': a hint'}")
    return path
