"""What the arms of paper_tables.py cost, and what difference they can show: arithmetic, before anything runs.

Work. A token of a text of T tokens costs each layer 2 (4 H^2 + 2 H I) FLOPs in its linear maps and 4 T H in attention
(width H, inner width I), twice that again backward. The last layer is counted whole; embeddings, norms, activations,
head and optimizer are not counted: the rates FLOP/s that turn work into minutes are measured on fits, counted alike.

Resolution. The difference of two arms' accuracies, mean over S seeds and n test rows, has two sources of noise. With
`within` the share of rows on which two seeds of one arm differ in being right, `between` the share on which two arms
of one seed differ more than that, and `spread` the deviation of an arm's true accuracy from seed to seed:
  seeds           (within / n + 2 spread^2) / S
  rows and seeds  seeds + between / n
A difference is called real if both 95 % intervals leave out zero (paper_page.py): Student's over seeds and a bootstrap
over rows and seeds. The smallest difference that is found 4 times in 5 is therefore the larger of
  (t(0.975, S - 1) + t(0.8, S - 1)) sqrt(seeds)   and   (1.96 + 0.84) sqrt(rows and seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paper_arms import BASE, CURVES, Arm

from bertft_core.training.schedules import UnfreezeSchedule

POINTS = 0.02  # what an arm must be able to show
ASSUMED_DISCORDANCE, ASSUMED_WITHIN = 0.10, 0.06  # until a pilot has measured them
ASSUMED_SPREAD = 0.005  # of docs/speed.md's 5 seeds: 1.47 points / t(0.975, 4) * sqrt(5), half of it rows, by two arms


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Sizes of the encoder."""

    layers: int
    width: int
    inner: int

    def forward(self, lengths: Any, layers: int | None = None) -> float:
        """FLOPs of texts of so many tokens through the lowest (or any other) `layers`, default all."""
        tokens = np.asarray(lengths, dtype=float)
        weights = 4 * self.width**2 + 2 * self.width * self.inner
        one = 2 * weights * tokens.sum() + 4 * self.width * (tokens**2).sum()
        return float(one * (self.layers if layers is None else layers))


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Tokens of each text of the splits, as they go through the encoder."""

    train: Any
    validation: Any
    test: Any


def layers_read(settings: dict[str, Any], n_layers: int) -> int:
    """How many layers, from the lowest, a fit computes."""
    layer = settings.get("model.layers")
    return layer + 1 if isinstance(layer, int) and layer >= 0 else n_layers


def fit_flops(settings: dict[str, Any], texts: Texts, encoder: Encoder) -> float:
    """FLOPs of a fit with its validations. Frozen layers are computed once a fit, as with an empty prefix cache."""
    used, epochs = layers_read(settings, encoder.layers), settings["epochs"]
    schedule = UnfreezeSchedule.of(settings["unfreezing"], encoder.layers, epochs)
    layer, validation = encoder.forward(texts.train, 1), encoder.forward(texts.validation, 1)
    total = 0.0
    for start, end, depth in schedule.phases():
        trained = min(depth, used)
        total += (end - start) * epochs * (layer * (max(trained, 1) + 2 * trained) + validation * max(trained, 1))
    return total + ((layer + validation) * used if schedule.cuts() else 0.0)


def test_flops(settings: dict[str, Any], texts: Texts, encoder: Encoder) -> float:
    """FLOPs of answering the test rows once."""
    return encoder.forward(texts.test, layers_read(settings, encoder.layers))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the difference of two arms is measured under. source: measured on which fits, or assumed."""

    within: float
    between: float
    spread: float
    source: str

    def resolvable(self, rows: int, seeds: int) -> float:
        """Smallest difference of accuracy that is found 4 times in 5 (module docstring); NaN with one seed."""
        from scipy import stats

        if seeds < 2:
            return math.nan
        by_seed = (self.within / rows + 2 * self.spread**2) / seeds
        students = float(stats.t.ppf(0.975, seeds - 1) + stats.t.ppf(0.8, seeds - 1))
        normal = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
        return max(students * math.sqrt(by_seed), normal * math.sqrt(by_seed + self.between / rows))


def noise_of(arm: Arm, right: dict[str, dict[int, Any]], arms: Sequence[Arm]) -> Noise:
    """What the records so far say. right: {arm.key(0): {seed: [rows] of whether the answer is right}}.

    The discordance is the arm's own with its baseline where both are there, else the largest of its table, else the
    largest of all, else assumed.
    """
    within = [d for own in right.values() for d in _between_seeds(own)]
    known = {(a.table, a.name): d for a in arms if (d := _discordance(a, right, arms)) is not None}
    own, table = known.get((arm.table, arm.name)), [d for (name, _), d in known.items() if name == arm.table]
    if own is not None:
        total, source = own, "its own"
    elif table:
        total, source = max(table), "largest of the table so far"
    elif known:
        total, source = max(known.values()), "largest of other tables so far"
    else:
        total, source = ASSUMED_DISCORDANCE, "assumed"
    inner = float(np.mean(within)) if within else ASSUMED_WITHIN
    return Noise(within=inner, between=max(0.0, total - inner), spread=ASSUMED_SPREAD, source=source)


def _between_seeds(own: dict[int, Any]) -> list[float]:
    rights = [own[seed] for seed in sorted(own)]
    return [float(np.mean(a != b)) for i, a in enumerate(rights) for b in rights[i + 1 :]]


def _discordance(arm: Arm, right: dict[str, dict[int, Any]], arms: Sequence[Arm]) -> float | None:
    if not arm.against:
        return None
    theirs = right.get(baseline(arm, arms).key(0), {})
    pairs = [np.mean(own != theirs[seed]) for seed, own in right.get(arm.key(0), {}).items() if seed in theirs]
    return float(np.mean(pairs)) if pairs else None


def baseline(arm: Arm, arms: Sequence[Arm]) -> Arm:
    """The arm that `arm` is measured against."""
    return next(a for a in arms if (a.table, a.name) == (arm.table, arm.against))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of one seed of an arm. curve: of the second fit, which is scored on the test rows on its way."""

    fit: float
    test: float
    curve: float = 0.0

    def minutes(self, rates: dict[str, float] | None) -> float:
        """By FLOP/s of fits and of scoring; NaN where no fit was timed yet."""
        if rates is None:
            return math.nan
        return ((self.fit + self.curve) / rates["fit"] + self.test / rates["test"]) / 60


def cost_of(arm: Arm, texts: Texts, encoder: Encoder, scorings: int) -> Cost:
    """scorings: how often a followed fit answers the test rows."""
    settings = arm.settings()
    fit, test = fit_flops(settings, texts, encoder), test_flops(settings, texts, encoder)
    return Cost(fit=fit, test=test, curve=fit + scorings * test if arm.table == CURVES else 0.0)


def rates_of(records: Sequence[tuple[dict[str, Any], Cost]], threads: int) -> dict[str, float] | None:
    """FLOP/s of fits and of scoring, from (record, cost) of plain fits; None without any.

    Seconds are processor seconds over threads, which other work on the machine moves little.
    """
    if not records:
        return None
    seconds = {part: sum(record[f"{part}_cpu"] for record, _ in records) / threads for part in ("fit", "test")}
    return {
        "fit": sum(cost.fit for _, cost in records) / seconds["fit"],
        "test": sum(cost.test for _, cost in records) / seconds["test"],
    }


def is_plain(settings: dict[str, Any]) -> bool:
    """Whether a fit's time can stand for that of others: nothing frozen, one text a row, all layers."""
    free = ("lr", "alpha", "tokenization.truncation")
    return settings.get("tokenization.truncation") != "chunks" and settings | {key: BASE[key] for key in free} == BASE
