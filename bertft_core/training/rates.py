"""The rate of each level at each update: peak x curve x warm-in. Plain numbers, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from bertft_core.errors import ConfigError
from bertft_core.fit_config import SLANTED, Schedule
from bertft_core.training.unfreezing import UnfreezeSchedule


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """The factor on the peak rate over a fit, or over one phase of it. Raises ConfigError on impossible values.

    ``warmup_fraction`` shapes linear, cosine and constant; ``cut_fraction`` and ``ratio`` slanted_triangular alone.
    """

    schedule: str = "linear"
    warmup_fraction: float = 0.1
    cut_fraction: float = 0.1
    ratio: float = 32.0

    def __post_init__(self) -> None:
        rules = (
            (self.schedule in get_args(Schedule), "schedule", f"be one of {get_args(Schedule)}", self.schedule),
            (0 <= self.warmup_fraction < 1, "warmup_fraction", "lie in [0, 1)", self.warmup_fraction),
            (0 < self.cut_fraction < 1, "cut_fraction", "lie in (0, 1)", self.cut_fraction),
            (1 < self.ratio < math.inf, "ratio", "be above 1", self.ratio),
        )
        faults = [f"training.{key} must {rule}, was {value!r}" for holds, key, rule, value in rules if not holds]
        if faults:
            raise ConfigError("; ".join(faults))

    def __str__(self) -> str:
        if self.schedule == SLANTED:
            return f"{self.schedule}, rises over {self.cut_fraction:.0%}, falls to 1/{self.ratio:g}"
        return f"{self.schedule}, warm-up over {self.warmup_fraction:.0%}"

    def factor(self, step: int, total: int) -> float:
        """Factor for update ``step`` (0 .. total-1), above 0 at each; for ``total``, where the curve ends.

        Warm-up step s of w takes (s+1)/(w+1), so that no update has rate 0; the peak 1.0 is at step w. From there
        linear falls to 0 in a line, cosine in half a wave (arXiv 1608.03983 without restarts), constant stays.

        >>> [RateCurve(warmup_fraction=0.25).factor(s, 4) for s in range(5)]
        [0.5, 1.0, 0.6666666666666666, 0.3333333333333333, 0.0]
        """
        if self.schedule == SLANTED:
            return slanted_triangular(step, total, self.cut_fraction, self.ratio)
        warmup = min(round(self.warmup_fraction * total), max(0, total - 1))  # the peak is an update's
        if step < warmup:
            return (step + 1) / (warmup + 1)
        left = (total - step) / max(1, total - warmup)
        return {"linear": left, "cosine": math.sin(math.pi / 2 * left) ** 2, "constant": 1.0}[self.schedule]


def slanted_triangular(step: int, total: int, cut_fraction: float, ratio: float) -> float:
    """ULMFiT's triangle: 1/ratio at step 0, 1 at step floor(cut_fraction * total), 1/ratio again at ``total``.

    Equation 3 of arXiv 1801.06146, the fall divided by total - cut: the same where cut_fraction * total is whole;
    elsewhere the printed cut * (1/cut_fraction - 1) is shorter than what is left, and its rates fall below 0. The
    rise takes a step at least (the printed equation divides by 0 there), where there are two.

    >>> [slanted_triangular(s, 10, 0.2, 4) for s in (0, 1, 2, 6, 10)]
    [0.25, 0.625, 1.0, 0.625, 0.25]
    """
    cut = min(max(1, math.floor(cut_fraction * total + 1e-9)), total - 1)  # 0.29 * 100 is 28.999...
    p = step / cut if step < cut else 1 - (step - cut) / (total - cut)
    return (1 + p * (ratio - 1)) / ratio


def warm_in_steps(total: int, phase: int) -> int:
    """Updates over which a level that thaws in a phase of ``phase`` updates, of a curve of ``total``, gets its rate.

    A tenth of the curve, as for the warm-up; at least 11, so that the first update is less than a tenth of the rate;
    never longer than the phase, at whose end the rate is reached. (A floor of 50, which is also advised, is longer than
    the phases of a night of a few hundred rows.)

    >>> [warm_in_steps(total, total // 4) for total in (4, 40, 114, 2000)]
    [1, 10, 11, 200]
    """
    return max(1, min(phase, max(11, round(0.1 * total))))


def warm_in(step: int, thaw_step: int, width: int) -> float:
    """Factor min(1, (updates since the thaw, this one included) / width); 1 for what trains from step 0.

    Without it Adam's first update of a late level is about lr * sign(gradient), whatever the gradient's size.
    """
    return 1.0 if thaw_step == 0 else min(1.0, (step - thaw_step + 1) / width)


@dataclass(frozen=True, kw_only=True)
class RatePlan:
    """The factors of a fit of ``total`` updates: one curve over all of it, or with ``phase_restart`` one a phase."""

    curve: RateCurve
    unfreezing: UnfreezeSchedule
    total: int
    phase_restart: bool = False

    def factors(self, step: int) -> tuple[float, ...]:
        """Factor on the peak rate of each level (head, layer L-1 .. 0, embeddings) at ``step``; 0 where frozen."""
        first, end = self._span(step)
        factor = self.curve.factor(step - first, end - first)
        return tuple(factor * self._warm_in(step, thaw) for thaw in self.unfreezing.thaw_steps(self.total))

    def _span(self, step: int) -> tuple[int, int]:
        return self.unfreezing.span(step, self.total) if self.phase_restart else (0, self.total)

    def _warm_in(self, step: int, thaw: int | None) -> float:
        if thaw is None or step < thaw:
            return 0.0
        first, end = self._span(thaw)  # of the curve on which the level came in
        phase_first, phase_end = self.unfreezing.span(thaw, self.total)
        return warm_in(step, thaw, warm_in_steps(end - first, phase_end - phase_first))
