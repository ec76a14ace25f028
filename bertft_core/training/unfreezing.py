"""Gradual unfreezing as a pure schedule, and the table of rates that `bertft check` prints. No torch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

from bertft_core.errors import ConfigError
from bertft_core.model.layers import layer_rates, level_names

RUNGS = (0.25, 0.5, 0.75)  # contracts.md, Rates and phases: search rungs sit at these fractions of a fit


@dataclass(frozen=True, kw_only=True)
class UnfreezeSchedule:
    """Depth as a function of progress in [0, 1): (start, depth) pairs, the first at 0, both rising.

    Depth is counted from the head: 0 head only, 1 head and top layer, L all layers, L+1 embeddings too.
    """

    n_layers: int
    starts: tuple[tuple[float, int], ...]

    def __post_init__(self) -> None:
        fractions, depths = [s for s, _ in self.starts], [d for _, d in self.starts]
        rises = all(a < b for a, b in itertools.pairwise(self.starts))
        if not self.starts or fractions[0] != 0 or fractions != sorted(set(fractions)) or not rises:
            raise ConfigError(f"an unfreezing schedule starts at 0 and rises, was {self.starts}")
        if depths != sorted(set(depths)) or not 0 <= depths[0] <= depths[-1] <= self.n_layers + 1:
            raise ConfigError(f"depths must rise within 0..{self.n_layers + 1}, were {depths}")

    @classmethod
    def gradual(cls, n_layers: int) -> Self:
        """Depth 1, 2, ceil(2L/3), L+1 at progress 0, 1/4, 1/2, 3/4; stages that thaw nothing are left out.

        The idea is ULMFiT's (arXiv 1801.06146 §3.3); the stages are ours.
        """
        wanted = ((0.0, 1), (0.25, 2), (0.5, math.ceil(2 * n_layers / 3)), (0.75, n_layers + 1))
        kept: list[tuple[float, int]] = []
        for start, depth in wanted:
            if not kept or depth > kept[-1][1]:
                kept.append((start, min(depth, n_layers + 1)))
        return cls(n_layers=n_layers, starts=tuple(kept))

    @classmethod
    def fast(cls, n_layers: int) -> Self:
        """Depth 1, from progress 1/4 on ceil(L/3): the lower two thirds of the layers and embeddings never train."""
        top = max(1, math.ceil(n_layers / 3))
        return cls(n_layers=n_layers, starts=((0.0, 1), (0.25, top)) if top > 1 else ((0.0, 1),))

    @classmethod
    def none(cls, n_layers: int) -> Self:
        """Everything trains from the first step."""
        return cls(n_layers=n_layers, starts=((0.0, n_layers + 1),))

    @classmethod
    def named(cls, name: str, n_layers: int) -> Self:
        """Schedule by its configuration value: gradual, fast or none. Raises ConfigError otherwise."""
        schedules = {"gradual": cls.gradual, "fast": cls.fast, "none": cls.none}
        if name not in schedules:
            raise ConfigError(f"training.unfreezing must be one of {', '.join(schedules)}, was {name!r}")
        return schedules[name](n_layers)

    def cuts(self) -> tuple[int, ...]:
        """Layers whose input comes from frozen layers, in some phase, rising: L - depth, of the depths 1 .. L-1."""
        return tuple(sorted(self.n_layers - depth for _, depth in self.starts if 1 <= depth < self.n_layers))

    def depth_at(self, progress: float) -> int:
        """Depth at ``progress`` (steps done / steps in total)."""
        return max(depth for start, depth in self.starts if progress >= start)

    def phases(self) -> tuple[tuple[float, float, int], ...]:
        """(start, end, depth) of each phase, as fractions of the fit."""
        ends = [start for start, _ in self.starts[1:]] + [1.0]
        return tuple((start, end, depth) for (start, depth), end in zip(self.starts, ends, strict=True))

    def thaw_steps(self, total: int) -> tuple[int | None, ...]:
        """First step that trains each level (head, layer L-1 .. 0, embeddings); None for one never thawed."""
        steps: list[int | None] = []
        for level in range(self.n_layers + 2):
            starts = [start for start, depth in self.starts if depth >= level]
            steps.append(math.ceil(starts[0] * total) if starts else None)
        return tuple(steps)


@dataclass(frozen=True, kw_only=True)
class RateRow:
    """One level of the rates table; ``thaws_at`` is a fraction of the fit, None for never."""

    name: str
    lr: float
    weight_decay: float
    thaws_at: float | None


def rates_table(
    n_layers: int, lr: float, alpha: float, weight_decay: float, unfreezing: str = "gradual"
) -> tuple[RateRow, ...]:
    """Rows (name, peak lr, weight decay of its matrices, phase start) from the head down to the embeddings.

    Biases and norm weights have no weight decay. Raises ConfigError as `layer_rates` and
    `UnfreezeSchedule.named`.

    >>> [row.name for row in rates_table(1, 1e-4, 0.9, 0.01)]
    ['head', 'layer 0', 'embeddings']
    """
    rates = layer_rates(n_layers, lr, alpha).by_level()
    schedule = UnfreezeSchedule.named(unfreezing, n_layers)
    rows = []
    for level, (name, rate) in enumerate(zip(level_names(n_layers), rates, strict=True)):
        start = next((s for s, depth in schedule.starts if depth >= level), None)
        rows.append(RateRow(name=name, lr=rate, weight_decay=weight_decay, thaws_at=start))
    return tuple(rows)
