"""Pictures of a search as PNG files, drawn from its results: scores, time, workers, the second objective.

Own pictures and not those of optuna.visualization.matplotlib: these mark what was pruned, what failed and what has no
score, keep one diverged trial from squeezing the others, name the chosen trial, and need no study, only its results.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.reporting.html.picture import BLUE, FAINT, GREY, INK, ORANGE, add_legend, picture
from bertft_core.reporting.html.values import duration
from bertft_core.reporting.search.knob_pictures import importance_picture, parallel_picture, slice_picture
from bertft_core.search.knobs import MIN_TRIALS, best_of, knobs_of, score_limits, score_name, scored
from bertft_core.search.results import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_LEAST = 3  # trials
_LABELLED = 60  # bars that carry their slot
_GROUPS = 100  # bars, where not every trial can have its own
_NEAR = 0.05  # of an axis: two labels of a front as near as this would overlap
_STATES = (("complete", BLUE), ("pruned", FAINT), ("fail", ORANGE))
_NAMES = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
MEASURES = {"latency": "time of one row (ms)", "size": "size (MB)"}


def draw_all(
    results: Sequence[TrialResult],
    metric: str,
    folder: Path,
    *,
    log: Collection[str] = (),
    importances: Mapping[str, float] | None = None,
    measure: str | None = None,
    front: Collection[int] = (),
    chosen: int | None = None,
) -> tuple[Path, ...]:
    """Draw into `folder` every picture that makes sense of these results, in the order to be read; their paths.

    history.png and times.png from three trials on (the table says it all of two), parallel.png from eight;
    importances.png where there are importances; slice.png where two numeric knobs vary; workers.png where start and
    end are known; front.png for a `measure` ("latency" or "size") known of two trials. log: knobs on a logarithmic
    scale. front, chosen: slots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(results) < _LEAST:
        return ()
    drawn: list[Path | None] = [history_picture(results, metric, folder / "history.png")]
    if importances:
        complete = len(scored(results, "complete"))
        drawn.append(importance_picture(importances, complete, folder / "importances.png"))
    if knobs_of(results) and len(results) >= MIN_TRIALS:
        drawn.append(parallel_picture(results, metric, folder / "parallel.png", log, importances))
    drawn.append(slice_picture(results, metric, folder / "slice.png", log, importances))
    if measure is not None:
        drawn.append(front_picture(results, metric, measure, folder / "front.png", front, chosen))
    drawn += [time_picture(results, folder / "times.png"), workers_picture(results, folder / "workers.png")]
    return tuple(path for path in drawn if path is not None)


def history_picture(results: Sequence[TrialResult], metric: str, path: Path) -> Path:
    """Each trial's score by slot, pruned and failed ones marked, the best so far as a line; returns `path`.

    Trials without a score, and the few whose score lies far below all others, stand at the lower edge.
    """
    from matplotlib.ticker import MaxNLocator

    with picture(path, 3.3) as (figure, (axes,)):
        done, pruned = scored(results, "complete"), scored(results, "pruned")
        low, high = score_limits([score for _, score in [*done, *pruned]])
        room = 0.06 * (high - low)
        axes.set(ylim=(low - 2 * room, high + room), title="Search history")
        size = 6 if len(results) <= 100 else 3
        for trials, mark, colour, state in ((done, "o", BLUE, "complete"), (pruned, "x", GREY, "pruned")):
            inside, label = [(r.slot, s) for r, s in trials if s >= low], f"{state} ({len(trials)})"
            if inside:
                axes.plot(*zip(*inside, strict=True), mark, color=colour, markersize=size, label=label)
        _mark_edge(axes, results, low, size)
        if done:
            slots = [r.slot for r, _ in done] + [max(r.slot for r in results)]
            best = list(itertools.accumulate((score for _, score in done), max))
            axes.step(
                slots, [*best, best[-1]], where="post", color=ORANGE, linewidth=1.4, zorder=1, label="best so far"
            )
        axes.set(xlabel="trial", ylabel=score_name(metric))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(figure, 4)
    return path


def _mark_edge(axes: Axes, results: Sequence[TrialResult], low: float, size: int) -> None:
    """At the lower edge: failed trials, pruned ones without a score, scores below the axis."""
    at_the_edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    known = {r.slot for state in ("complete", "pruned") for r, _ in scored(results, state)}
    kinds = (
        ("failed", "^", ORANGE, [r.slot for r in results if r.state == "fail"]),
        ("no score", "v", GREY, [r.slot for r in results if r.state != "fail" and r.slot not in known]),
        ("score far below", "v", INK, [r.slot for r in results if r.slot in known and (r.score or 0.0) < low]),
    )
    for label, mark, colour, slots in kinds:
        if slots:
            label = f"{label} ({len(slots)})"
            axes.plot(slots, [0.03] * len(slots), mark, color=colour, markersize=size, label=label, **at_the_edge)


def pruned_share(results: Sequence[TrialResult]) -> float:
    """Share of the trials' time that went into pruned ones, in [0, 1]."""
    total = sum(r.seconds for r in results)
    return sum(r.seconds for r in results if r.state == "pruned") / total if total > 0 else 0.0


def time_picture(results: Sequence[TrialResult], path: Path) -> Path:
    """Time of each trial as a bar by slot, pruned ones hatched; the sum stands in the title. Returns `path`.

    Above 200 trials a bar is the time of several together, stacked by what became of them.
    """
    from matplotlib.ticker import MaxNLocator

    width = 1 if len(results) <= 2 * _GROUPS else -(-len(results) // _GROUPS)
    places = sorted({r.slot // width * width for r in results})
    sums = {state: dict.fromkeys(places, 0.0) for state, _ in _STATES}
    for r in results:
        sums[r.state][r.slot // width * width] += r.seconds
    base = dict.fromkeys(places, 0.0)
    unit, divisor = _unit(max(sum(seconds[p] for seconds in sums.values()) for p in places))
    with picture(path, 3.0) as (figure, (axes,)):
        few = len(places) <= _LABELLED
        middles, edge = [p + (width - 1) / 2 for p in places], "white" if few else "none"
        for state, colour in _STATES:
            if n := sum(r.state == state for r in results):
                heights, bottom = ([part[p] / divisor for p in places] for part in (sums[state], base))
                hatch, label = "////" if state == "pruned" and few else None, f"{_NAMES[state]} ({n})"
                look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": edge, "linewidth": 0}
                axes.bar(middles, heights, 0.72 * width if few else width, bottom, label=label, **look)
                base = {p: base[p] + sums[state][p] for p in places}
        total = duration(sum(r.seconds for r in results))
        axes.set_title(f"Time per trial: {total} in all, {100 * pruned_share(results):.0f} % on pruned")
        axes.set(xlabel="trial" if width == 1 else f"trial ({width} to a bar)", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.01)
        axes.set_ylim(0, 1.06 * max(base.values()) / divisor or 1.0)
        add_legend(figure, 3)
    return path


def _unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds < 180 else ("minutes", 60.0) if seconds < 10_800 else ("hours", 3600.0)


def workers_picture(results: Sequence[TrialResult], path: Path) -> Path | None:
    """When each trial ran, in lanes of each host; None where the start and end of fewer than two are known.

    A lane is one trial at a time: a host has as many as it ran trials at once.
    """
    known = sorted((r for r in results if r.finished > r.started > 0), key=lambda r: r.started)
    if len(known) < 2:
        return None
    ends: dict[str, list[float]] = {}
    lanes: dict[int, tuple[str, int]] = {}  # of a slot: the first lane of its host that is free when it starts
    for r in known:
        free = ends.setdefault(r.host, [])
        lane = next((i for i, end in enumerate(free) if end <= r.started + 1e-6), len(free))
        free[lane : lane + 1] = [r.finished]
        lanes[r.slot] = (r.host, lane)
    names = sorted(set(lanes.values()), reverse=True)
    origin, end = known[0].started, max(r.finished for r in known)
    unit, divisor = _unit(end - origin)
    with picture(path, 1.9 + 0.34 * min(len(names), 24)) as (figure, (axes,)):
        for state, colour in _STATES:
            bars = [
                (names.index(lanes[r.slot]), (r.started - origin) / divisor, (r.finished - r.started) / divisor)
                for r in known
                if r.state == state
            ]
            if bars:
                rows, starts, lengths = zip(*bars, strict=True)
                line = 0.6 if len(known) <= _LABELLED else 0.0
                axes.barh(
                    rows, lengths, 0.7, starts, color=colour, edgecolor="white", linewidth=line, label=_NAMES[state]
                )
        for r in known if len(known) <= _LABELLED else ():
            if r.finished - r.started > 0.03 * (end - origin):
                place = ((r.started + r.finished) / 2 - origin) / divisor, names.index(lanes[r.slot])
                ink = "black" if r.state == "pruned" else "white"
                axes.text(*place, str(r.slot), ha="center", va="center", fontsize=7, color=ink)
        is_one = len({host for host, _ in names}) == 1
        labels = [f"worker {lane + 1}" if is_one else f"{host[:16] or 'host'} · {lane + 1}" for host, lane in names]
        axes.set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)
        axes.set_xlabel(f"{unit} since the first trial began")
        axes.set_title(f"Who ran what: {duration(end - origin)} from first to last")
        add_legend(figure, 3)
    return path


def measured(result: TrialResult, measure: str) -> float | None:
    """The second objective of a trial: milliseconds of one row, or megabytes (10**6 bytes)."""
    if measure == "latency":
        return result.latency_ms
    return None if result.size_bytes is None else result.size_bytes / 1e6


def front_picture(
    results: Sequence[TrialResult],
    metric: str,
    measure: str,
    path: Path,
    front: Collection[int] = (),
    chosen: int | None = None,
) -> Path | None:
    """Score against latency or size, the Pareto front as a line, the chosen trial ringed; None below two points.

    measure: "latency" or "size". front: slots on the front, chosen: the slot that was picked.
    """
    points = [(r.slot, x, s) for r, s in scored(results, "complete") if (x := measured(r, measure)) is not None]
    if len(points) < 2:
        return None
    low, high = score_limits([s for _, _, s in points])
    with picture(path, 3.4) as (figure, (axes,)):
        room = 0.08 * (high - low)
        axes.set(ylim=(low - room, high + 2 * room), xlabel=MEASURES[measure], ylabel=score_name(metric))
        others = [(x, max(s, low)) for slot, x, s in points if slot not in front]
        if others:
            size = 5 if len(others) <= 100 else 3
            axes.plot(*zip(*others, strict=True), "o", color=GREY, markersize=size, alpha=0.7, label="complete")
        on_front = sorted((x, max(s, low), slot) for slot, x, s in points if slot in front)
        if on_front:
            xs, ys, slots = zip(*on_front, strict=True)
            axes.step(xs, ys, "o-", where="post", color=BLUE, markersize=6, label=f"Pareto front ({len(slots)})")
        picked, best = [(x, max(s, low), slot) for slot, x, s in points if slot == chosen], best_of(results)
        for x, y, slot in picked:
            kind = "chosen, and the best score" if best is not None and best.slot == slot else "chosen"
            axes.plot([x], [y], "o", label=f"{kind}: trial {slot}", markersize=14, mfc="none", mec=ORANGE, mew=2)
        axes.margins(x=0.06)
        _name_points(axes, [*picked, *on_front])
        axes.set_title(f"Score against {'latency' if measure == 'latency' else 'size'}")
        add_legend(figure, 3)
    return path


def _name_points(axes: Axes, points: Sequence[tuple[float, float, int]]) -> None:
    """Write the slot over each point, the first ones first, where it does not run into another."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    named: list[tuple[float, float]] = []
    for x, y, slot in points:
        at = ((x - left) / (right - left), (y - low) / (high - low))
        if all(abs(at[0] - a) > _NEAR or abs(at[1] - b) > _NEAR for a, b in named):
            axes.annotate(str(slot), (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=8)
            named.append(at)
