"""The searched values as axes of a picture, and the scores beside them: plain numbers, nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from bertft_core.search.results import TrialResult, ranked

BLUE, ORANGE, GREY = "#1f6feb", "#d9480f", "#888888"
ORDERED = 8  # whole numbers up to this many values stand at equal distances
MANY = 30  # complete trials from which importances are more than a hint
_LONGEST = 18  # characters of a tick
_NAMED = 14  # ticks of a knob of choices

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

    def places(self, results: Sequence[TrialResult]) -> list[float]:
        """Where the values of these trials stand; each trial must have the knob."""
        return [self.place(r.params[self.name]) for r in results]

    def ticks(self) -> list[Place]:
        """Ticks that can be read beside each other."""
        if self.choices:
            step = -(-len(self.choices) // _NAMED)
            return [((i + 0.5) / len(self.choices), _short(c)) for i, c in enumerate(self.choices)][::step]
        return [(self.place(v), written(v)) for v in _round_values(self.low, self.high, self.is_log)]


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
    is_ordered = len(distinct) <= ORDERED and all(float(v).is_integer() for v in distinct)
    choices = tuple(dict.fromkeys(written(v) for v in distinct)) if is_ordered else ()
    return Knob(name=name, is_number=True, low=low, high=high, is_log=is_log and low > 0, choices=choices)


def written(value: Any) -> str:
    """A value as text of one line.

    >>> written(0.00005), written(None)
    ('5e-5', 'none')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return (
            f"{value:.2e}".replace(".00e", "e").replace("0e-", "e-").replace("e-0", "e-")
            if 0 < abs(value) < 1e-3
            else f"{value:.4g}"
        )
    return " ".join(str(value).split())


def _short(label: str) -> str:
    """A tick's label; of an address the last part, of a long one both ends."""
    text = label.rsplit("/", 1)[-1] if len(label) > _LONGEST else label
    return text if len(text) <= _LONGEST else text[: _LONGEST // 2 - 1] + "…" + text[-(_LONGEST // 2) :]


def _round_values(low: float, high: float, is_log: bool) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        return [low]
    if not is_log:
        found = [float(v) for v in MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        parts = (1, 2, 5) if len(decades) <= 3 else (1,)
        found = [m * 10.0**d for d in decades[:: -(-len(decades) // 8)] for m in parts]
    inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9) or (math.isclose(v, 0.0) and low <= 0)]
    return inside if len(inside) > 1 else [low, high]


def score_name(metric: str) -> str:
    """The score's name for an axis; log loss is negated, so that higher is better everywhere."""
    return f"validation {metric.replace('_', ' ').replace('f1', 'F1')}{', negated' if metric == 'log_loss' else ''}"


def scored(results: Sequence[TrialResult], state: str) -> list[tuple[TrialResult, float]]:
    """Trials of a state that have a finite score, each with it."""
    return [(r, r.score) for r in results if r.state == state and r.score is not None and math.isfinite(r.score)]


def best_of(results: Sequence[TrialResult]) -> TrialResult | None:
    """The first of `ranked`, None when no trial completed."""
    return next(iter(ranked(results)), None)


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest score to show: a few far below the others (a diverged fit) must not squeeze the rest.

    The lower end is Tukey's far fence, three times the distance between the quartiles below the first.
    """
    import numpy as np

    if not scores:
        return 0.0, 1.0
    first, third = (float(q) for q in np.quantile(scores, [0.25, 0.75]))
    fence = first - 3 * (third - first) if third > first else min(scores)
    low, high = min(s for s in scores if s >= fence), max(scores)
    room = max(abs(high), 1e-3) * 1e-3 if high - low < 1e-9 else 0.0
    return low - room, high + room
