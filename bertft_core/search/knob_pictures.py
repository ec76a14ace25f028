"""Pictures of what was tried: every knob beside the score, two knobs against each other, which knobs mattered."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.search.results import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6feb", "#d9480f", "#888888"
SHADES = "viridis_r"  # the higher the score, the darker: the good ones must not be the faint ones
_ORDERED = 8  # whole numbers up to this many values stand at equal distances
_LONGEST = 18  # characters of a tick
_NAMED = 14  # ticks of a knob of choices
_BARS = 20  # knobs in the picture of importances
_ABSENT = -0.13  # where a line passes a knob that the trial does not have

Place = tuple[float, str]  # where on an axis from 0 to 1, and what is written there


@dataclass(frozen=True, kw_only=True)
class Knob:
    """An axis of a searched value. choices: labels at equal distances, where it is no plain numeric axis."""

    name: str
    is_number: bool
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    choices: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Where a value stands, from 0 to 1."""
        if self.choices:
            return (self.choices.index(written(value)) + 0.5) / len(self.choices)
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, float(value)))
        return 0.5 if high <= low else min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[Place]:
        """Ticks that can be read beside each other."""
        if self.choices:
            step = -(-len(self.choices) // _NAMED)
            return [((i + 0.5) / len(self.choices), c) for i, c in enumerate(self.choices)][::step]
        return [(self.place(v), f"{v:.3g}") for v in _round_values(self.low, self.high, self.is_log)]


def knobs_of(results: Sequence[TrialResult], log: Collection[str] = ()) -> tuple[Knob, ...]:
    """An axis for every knob of these trials, in their order; those named in `log` are logarithmic."""
    names = dict.fromkeys(name for r in results for name in r.params)
    return tuple(_knob(name, [r.params[name] for r in results if name in r.params], name in log) for name in names)


def _knob(name: str, values: Sequence[Any], is_log: bool) -> Knob:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) < len(values):
        labels = sorted({written(v) for v in values}, key=lambda label: (label != "none", label))
        return Knob(name=name, is_number=False, choices=tuple(labels))
    distinct = sorted(set(numbers))
    low, high = float(distinct[0]), float(distinct[-1])
    is_ordered = len(distinct) <= _ORDERED and all(float(v).is_integer() for v in distinct)
    choices = tuple(dict.fromkeys(written(v) for v in distinct)) if is_ordered else ()
    return Knob(name=name, is_number=True, low=low, high=high, is_log=is_log and low > 0, choices=choices)


def written(value: Any) -> str:
    """A value as a tick shows it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST // 2 - 1] + "…" + text[-_LONGEST // 2 :]


def _round_values(low: float, high: float, is_log: bool) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        return [low]
    if not is_log:
        found = [float(v) for v in MaxNLocator(nbins=5).tick_values(low, high)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        parts = (1, 2, 5) if len(decades) <= 3 else (1,)
        found = [m * 10.0**d for d in decades[:: -(-len(decades) // 8)] for m in parts]
    inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9) or math.isclose(v, 0.0) and low <= 0]
    return inside if len(inside) > 1 else [low, high]


def score_name(metric: str) -> str:
    """The score's name for an axis; log loss is negated, so that higher is better everywhere."""
    return f"validation {metric.replace('_', ' ').replace('f1', 'F1')}{', negated' if metric == 'log_loss' else ''}"


def scored(results: Sequence[TrialResult], state: str) -> list[tuple[TrialResult, float]]:
    """Trials of a state that have a finite score, each with it."""
    return [(r, r.score) for r in results if r.state == state and r.score is not None and math.isfinite(r.score)]


def best_of(results: Sequence[TrialResult]) -> TrialResult | None:
    """The complete trial with the highest score; ties by lower log loss, then by lower slot."""
    done = scored(results, "complete")
    return max(done, key=lambda d: (d[1], -(d[0].log_loss or 0.0), -d[0].slot))[0] if done else None


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest score to show: a few far below the others (a diverged fit) must not squeeze the rest.

    The lower end is Tukey's far fence, three times the distance between the quartiles below the first.
    """
    import numpy as np

    if not scores:
        return 0.0, 1.0
    first, third = (float(q) for q in np.quantile(scores, [0.25, 0.75]))
    high = max(scores)
    fence = first - 3 * (third - first) if third > first else min(scores)
    low = max(min(scores), fence)
    room = max(abs(high), 1e-3) * 1e-3 if high - low < 1e-9 else 0.0
    return low - room, high + room


def norm_of(results: Sequence[TrialResult]) -> Normalize:
    """The scale of colours of the complete trials."""
    from matplotlib.colors import Normalize

    return Normalize(*score_limits([score for _, score in scored(results, "complete")]), clip=True)


def add_colour_bar(figure: Figure, axes: Axes, norm: Normalize, metric: str) -> None:
    """The scale of colours at the right."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=SHADES), ax=axes, pad=0.02, aspect=30)
    bar.set_label(score_name(metric))


def parallel_picture(results: Sequence[TrialResult], metric: str, path: Path, log: Collection[str] = ()) -> Path:
    """Every knob as an upright axis, the score as the last; a trial is a line across. Returns `path`.

    Complete trials are coloured by score, the others faint grey, the best orange. Below an axis pass the trials
    that do not have the knob.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    knobs, norm, best = knobs_of(results, log), norm_of(results), best_of(results)
    figure = Figure(figsize=(min(24.0, 3.2 + 1.45 * len(knobs)), 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    shown = [s for state in ("complete", "pruned", "fail") for _, s in scored(results, state)]
    complete = [s for _, s in scored(results, "complete")]
    low, high = score_limits(complete or shown)
    last = Knob(name=score_name(metric).replace(" ", "\n", 1), is_number=True, low=low, high=max([high, *shown]))
    done = [r for r, _ in sorted(scored(results, "complete"), key=lambda d: d[1])]
    rest = [r for r in results if r.state != "complete"]
    alpha = max(0.2, min(0.85, 40 / max(1, len(results))))
    _draw_lines(axes, rest, knobs, last, [GREY] * len(rest), 0.45 * alpha, 0.8)
    _draw_lines(axes, done, knobs, last, [colormaps[SHADES](norm(r.score or 0.0)) for r in done], alpha, 1.3)
    if best is not None:
        _draw_lines(axes, [best], knobs, last, [ORANGE], 1.0, 2.4)
        axes.plot([], [], color=ORANGE, linewidth=2.4, label=f"best: trial {best.slot}")
    if rest:
        axes.plot([], [], color=GREY, linewidth=0.8, alpha=0.6, label=f"not completed ({len(rest)})")
    _draw_columns(axes, results, (*knobs, last))
    axes.set_title(f"What was tried, {len(results)} trials", pad=34)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.02), ncols=2, fontsize=9)
    add_colour_bar(figure, axes, norm, metric)
    figure.savefig(path)
    return Path(path)


def _draw_lines(
    axes: Axes, trials: Sequence[TrialResult], knobs: Sequence[Knob], last: Knob, colours: Sequence[Any], alpha: float,
    width: float,
) -> None:  # fmt: skip
    from matplotlib.collections import LineCollection

    lines = []
    for r in trials:
        places = [k.place(r.params[k.name]) if k.name in r.params else _ABSENT for k in knobs]
        places.append(_ABSENT if r.score is None or not math.isfinite(r.score) else last.place(r.score))
        lines.append(list(enumerate(places)))
    axes.add_collection(LineCollection(lines, colors=list(colours), alpha=alpha, linewidths=width))


def _draw_columns(axes: Axes, results: Sequence[TrialResult], columns: Sequence[Knob]) -> None:
    axes.set(xlim=(-0.45, len(columns) - 0.85), ylim=(_ABSENT - 0.05, 1.03))
    axes.axis("off")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    for x, knob in enumerate(columns):
        axes.axvline(x, ymin=0.15, ymax=0.98, color="#444444", linewidth=0.9)
        for y, label in knob.ticks():
            axes.plot([x - 0.025, x], [y, y], color="#444444", linewidth=0.9)
            axes.text(x - 0.04, y, label, ha="right", va="center", fontsize=8, bbox=box, parse_math=False, zorder=4)
        name = knob.name.replace(".", ".\n").replace("_", "_\u200b")
        axes.text(x, 1.06, name, ha="center", va="bottom", fontsize=9, fontweight="bold", parse_math=False)
        is_last = x == len(columns) - 1
        lacks = [r.score is None if is_last else knob.name not in r.params for r in results]
        if any(lacks):
            label = "no score" if is_last else "not set"
            axes.text(x - 0.04, _ABSENT, label, ha="right", va="center", fontsize=8, color="#666666", bbox=box, zorder=4)


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
    from matplotlib.figure import Figure

    pair = _pair(knobs_of(results, log), importances or {})
    if pair is None:
        return None
    x, y = pair
    norm, best = norm_of(results), best_of(results)
    figure = Figure(figsize=(6.8, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    both = [r for r in results if x.name in r.params and y.name in r.params]
    rest = [r for r in both if r.state != "complete"]
    done = [(r, s) for r, s in sorted(scored(both, "complete"), key=lambda d: d[1])]
    size = 46 if len(both) <= 100 else 18
    at = [(x.place(r.params[x.name]), y.place(r.params[y.name])) for r in rest]
    if at:
        axes.scatter(*zip(*at, strict=True), marker="x", s=size, color=GREY, linewidths=1.0, label="not completed")
    at = [(x.place(r.params[x.name]), y.place(r.params[y.name])) for r, _ in done]
    if at:
        axes.scatter(
            *zip(*at, strict=True), c=[s for _, s in done], cmap=SHADES, norm=norm, s=size, edgecolors="white",
            linewidths=0.5, label="complete",
        )  # fmt: skip
    if best is not None and best in both:
        place = (x.place(best.params[x.name]), y.place(best.params[y.name]))
        axes.scatter(*place, s=4 * size, facecolors="none", edgecolors=ORANGE, linewidths=1.8, label="best")
    axes.set(title=f"{x.name} and {y.name}", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set_xlabel(x.name + (" (logarithmic)" if x.is_log and not x.choices else ""))
    axes.set_ylabel(y.name + (" (logarithmic)" if y.is_log and not y.choices else ""))
    axes.set_xticks(*_split(x.ticks()))
    axes.set_yticks(*_split(y.ticks()))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=3, fontsize=9)
    add_colour_bar(figure, axes, norm, metric)
    figure.savefig(path)
    return Path(path)


def _split(ticks: Sequence[Place]) -> tuple[list[float], list[str]]:
    return [place for place, _ in ticks], [label for _, label in ticks]


def _pair(knobs: Sequence[Knob], importances: Mapping[str, float]) -> tuple[Knob, Knob] | None:
    numeric = {k.name: k for k in knobs if k.is_number and k.high > k.low}
    if "lr" in numeric and "alpha" in numeric:
        return numeric["lr"], numeric["alpha"]
    ranked = sorted(numeric.values(), key=lambda k: -importances.get(k.name, 0.0))
    return (ranked[0], ranked[1]) if len(ranked) > 1 else None


def importance_picture(importances: Mapping[str, float], trials: int, path: Path) -> Path:
    """Knobs by importance, the most important on top; `trials`: complete ones behind it. Returns `path`."""
    from matplotlib.figure import Figure

    shown = sorted(importances.items(), key=lambda item: -item[1])[:_BARS][::-1]
    figure = Figure(figsize=(6.8, 1.5 + 0.34 * len(shown)), dpi=120, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(shown)), [share for _, share in shown], color=BLUE, height=0.62)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in shown], padding=4, fontsize=9)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], parse_math=False)
    axes.set(xlim=(0, 1.12 * max(share for _, share in shown)), xlabel="share (PED-ANOVA)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title(f"Which knobs mattered: a hint from {trials} complete trials")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return Path(path)
