"""Pictures of a study, drawn from its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertft_core.search.results import TrialResult


def history_picture(results: Sequence[TrialResult], metric: str, path: Path) -> Path:
    """Optimisation history: each trial's score by slot, the best so far as a line, pruned trials as crosses."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    done = [r for r in results if r.state == "complete" and r.score is not None]
    pruned = [r for r in results if r.state != "complete" and r.score is not None]
    axes.plot([r.slot for r in done], [r.score or 0.0 for r in done], "o", color="#1f6feb", label="complete")
    axes.plot([r.slot for r in pruned], [r.score or 0.0 for r in pruned], "x", color="#888888", label="pruned")
    best, line = float("-inf"), []
    for result in done:
        best = max(best, result.score or best)
        line.append(best)
    axes.step([r.slot for r in done], line, where="post", color="#d9480f", label="best so far")
    axes.set(xlabel="trial", ylabel=f"best validation {metric}", title="Search history")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    figure.savefig(path)
    return path
