"""When each layer trains and how fast: gradual unfreezing and the rate of every group at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import PROBE, SLANTED, UNFREEZING, Phases, TrainingConfig, number, phases_fault
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.layers import LayerRates, layer_rates, level_names

# fractions of a fit at which its score is reported to the search: where the stages of `late` end
RUNGS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class UnfreezeSchedule:
    """Depth as a function of progress in [0, 1): (start, depth) pairs, the first at 0, both rising.

    Depth is counted from the head: 0 head only, 1 head and top layer, L all layers, L+1 embeddings too. Raises
    ConfigError for pairs that do not rise, and for a depth that the encoder does not have.
    """

    n_layers: int
    starts: Phases

    def __post_init__(self) -> None:
        fault, deepest = phases_fault(self.starts), self.n_layers + 1
        if not fault and self.starts[-1][1] > deepest:
            fault = f"must not go deeper than {deepest} (the embeddings too) with {self.n_layers} layers"
        if fault:
            raise ConfigError(f"training.unfreezing {fault}, was {[list(pair) for pair in self.starts]}")

    @classmethod
    def gradual(cls, n_layers: int) -> Self:
        """Depth ceil(2L/3) from the first step: the lower third of the layers and the embeddings never train.

        As accurate as `none` as far as was measured, at 0.6 of its cost (docs/techniques/unfreezing.md).
        """
        return cls(n_layers=n_layers, starts=((0.0, math.ceil(2 * n_layers / 3)),))

    @classmethod
    def late(cls, n_layers: int) -> Self:
        """Depth 1, 2, ceil(2L/3), L+1 at progress 0, 1/4, 1/2, 3/4; stages that thaw nothing are left out.

        The idea is ULMFiT's (arXiv 1801.06146 §3.3); the stages are ours. What thaws last has little left of the fit.
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
    def head_first(cls, n_layers: int) -> Self:
        """The head alone for the first quarter, then everything (linear probing, then fine-tuning: arXiv 2202.10054).

        The paper trains the head to its end first. A quarter is ours: one epoch of four, as fastai's fine_tune gives
        the head one epoch; there `late` and `fast` thaw for the first time too, and the first rung judges.
        """
        return cls(n_layers=n_layers, starts=((0.0, 0), (0.25, n_layers + 1)))

    @classmethod
    def linear_probe(cls, n_layers: int) -> Self:
        """The head alone; it is fitted in one step (`linear_probe.train_head`)."""
        return cls(n_layers=n_layers, starts=((0.0, 0),))

    @classmethod
    def ulmfit(cls, n_layers: int, epochs: int) -> Self:
        """The head alone in the first epoch, one level more in each further one; the last trains everything.

        ULMFiT (arXiv 1801.06146 §3.3) begins with the last layer, which in its code is the new head, adds the next
        lower one every epoch, and trains all layers in the last stage: however few the epochs, ours does that too.

        >>> UnfreezeSchedule.ulmfit(6, 4).starts
        ((0.0, 0), (0.25, 1), (0.5, 2), (0.75, 7))
        """
        depths = [*range(min(epochs - 1, n_layers + 1)), n_layers + 1]
        return cls(n_layers=n_layers, starts=tuple((i / epochs, depth) for i, depth in enumerate(depths)))

    @classmethod
    def of(cls, unfreezing: str | Phases, n_layers: int, epochs: int) -> Self:
        """The schedule of a configuration's training.unfreezing and training.epochs, for an encoder of so many layers.

        Raises ConfigError for an unknown name and for phases that the encoder cannot have.
        """
        if not isinstance(unfreezing, str):
            return cls(n_layers=n_layers, starts=unfreezing)
        if unfreezing == "ulmfit":
            return cls.ulmfit(n_layers, epochs)
        named = {
            "gradual": cls.gradual,
            "late": cls.late,
            "fast": cls.fast,
            "none": cls.none,
            "head_first": cls.head_first,
            PROBE: cls.linear_probe,
        }
        if unfreezing not in named:
            raise ConfigError(f"training.unfreezing must be one of {', '.join(UNFREEZING)}, was {unfreezing!r}")
        return named[unfreezing](n_layers)

    def cuts(self) -> tuple[int, ...]:
        """Layers whose input comes from frozen layers, in some phase, rising; 0, the embeddings' output, is none.

        Depth d reads layer L - d's input. Depth 0 (the head alone) reads the top layer's, as depth 1 does: the top
        layer is then computed at [CLS] alone, and nothing is stored that depth 1 would not store.
        """
        return tuple(sorted({self.n_layers - max(depth, 1) for _, depth in self.starts if depth < self.n_layers} - {0}))

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
            steps.append(first_step(starts[0], total) if starts else None)
        return tuple(steps)

    def span(self, step: int, total: int) -> tuple[int, int]:
        """(first step, step after the last) of the phase in which ``step`` of ``total`` lies."""
        firsts = [first_step(start, total) for start, _ in self.starts]
        return max(first for first in firsts if first <= step), min((f for f in firsts if f > step), default=total)


def usable_cuts(schedule: UnfreezeSchedule, features: FeaturePlan | None) -> tuple[int, ...]:
    """The cuts of a schedule above which the head finds all that it reads: no feature lies below."""
    return tuple(cut for cut in schedule.cuts() if features is None or features.can_begin_at(cut))


def first_step(start: float, total: int) -> int:
    """The first step at or after progress ``start``, by the comparison that `depth_at` makes (7 / 100 >= 0.07)."""
    step = max(0, math.ceil(start * total) - 1)  # the product may be rounded up: 0.07 * 100 > 7
    while step / total < start:
        step += 1
    return step


@dataclass(frozen=True, kw_only=True)
class RateRow:
    """One level of the rates table; ``thaws_at`` is a fraction of the fit, None for never."""

    name: str
    lr: float
    weight_decay: float
    thaws_at: float | None


def rates_table(schedule: UnfreezeSchedule, peaks: LayerRates, weight_decay: float) -> tuple[RateRow, ...]:
    """Rows (name, peak lr, weight decay of its matrices, phase start) from the head down to the embeddings.

    Biases and norm weights have no weight decay.

    >>> from bertft_core.model.layers import layer_rates
    >>> [row.name for row in rates_table(UnfreezeSchedule.gradual(1), layer_rates(1, 1e-4, 0.9), 0.01)]
    ['head', 'layer 0', 'embeddings']
    """
    rows = []
    for level, (name, rate) in enumerate(zip(level_names(schedule.n_layers), peaks.by_level(), strict=True)):
        start = next((s for s, depth in schedule.starts if depth >= level), None)
        rows.append(RateRow(name=name, lr=rate, weight_decay=weight_decay, thaws_at=start))
    return tuple(rows)


def peak_rates(training: TrainingConfig, n_layers: int) -> LayerRates:
    """The peak rate of each level of an encoder of so many layers, by a configuration's training section."""
    return layer_rates(
        n_layers,
        number(training.lr),
        training.alpha,
        embedding_rate=training.embedding_rate,
        head_multiplier=training.head_multiplier,
    )


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """The factor on the peak rate over a fit, or over one phase of it; TrainingConfig says what its values may be.

    ``warmup_fraction`` shapes linear, cosine and constant; ``cut_fraction`` and ``ratio`` slanted_triangular alone.
    """

    schedule: str = "linear"
    warmup_fraction: float = 0.1
    cut_fraction: float = 0.1
    ratio: float = 32.0

    @classmethod
    def of(cls, training: TrainingConfig) -> Self:
        """The curve of a configuration's training section."""
        return cls(
            schedule=training.schedule,
            warmup_fraction=training.warmup_fraction,
            cut_fraction=training.cut_fraction,
            ratio=training.ratio,
        )

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
