"""The gate's checks that resample nothing: classes and slices, calibration, budgets, compatibility.

Pure functions from counts and measured numbers to a `Check`. What only the caller can find out (label sets,
latency, rows the champion has seen) is worded here too, so that every decision reads alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import DataError
from bertft_core.base.text import listed, percent, quoted, rows_text
from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.intervals import exchange_p
from bertft_core.evaluation.scores.labels import Labels, Predictions

SLICE_ROWS = 30  # a smaller slice is listed, not judged: one row is more than 3 points of it
LATENCY, SIZE, TRAINING, UNCOMPARED = "latency", "size", "training", "champion"
_NAMED = 5  # classes or slices named in one text

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the rule, whether it held, and the numbers behind it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A class or slice: n rows, those only the challenger gets right (gained) and only the champion (lost).

    f1_gain: of a class, its F1 on all rows, challenger minus champion; None of a slice. nets: gained less lost rows of
    each group (data.group) that has rows here; None where each row stands for itself.
    """

    kind: str
    name: str
    n: int
    gained: int
    lost: int
    f1_gain: float | None = None
    nets: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """Independent units: groups, or rows where each stands for itself."""
        return self.n if self.nets is None else len(self.nets)

    @property
    def design_effect(self) -> float:
        """How many rows weigh as much as one independent one: squares of the groups' nets over those of the rows."""
        differing = self.gained + self.lost
        return 1.0 if self.nets is None or not differing else max(1.0, sum(v * v for v in self.nets) / differing)

    def loss_p(self, error: float) -> float:
        """One-sided p-value of a loss: exact McNemar; with groups, by exchanging whole groups.

        `error`: what it is compared with; there are so many exchanges that 5 of them lie beyond it.
        """
        from scipy.stats import binom

        if self.nets is not None:
            return exchange_p([-net for net in self.nets], max(RESAMPLES, round(5 / error)))
        return float(binom.sf(self.lost - 1, self.gained + self.lost, 0.5))

    @property
    def difference(self) -> float:
        """Share of right rows, challenger minus champion: the difference in recall where it is a class."""
        return (self.gained - self.lost) / self.n

    @property
    def rows(self) -> str:
        """Its rows, and their groups, in words."""
        return rows_text(self.n, None if self.nets is None else len(self.nets))

    def __str__(self) -> str:
        f1 = "" if self.f1_gain is None else f", F1 {self.f1_gain:+.4f}"
        counts = f"{self.gained} gained, {self.lost} lost"
        return f"{quoted(self.name)} {self.difference:+.4f} on {self.rows} ({counts}{f1})"


def parts_of(
    labels: Labels, answers: Predictions, champion_answers: Predictions, slices: Mapping[str, Any]
) -> list[Part]:
    """A part for each class and each slice (name -> mask [n]) that has rows.

    Raises DataError for a mask that is not n booleans.
    """
    values = (labels.values, answers.decided, champion_answers.decided)
    names = labels.classes
    y, ours, theirs = (v == 1 if v.ndim == 2 else v[:, None] == np.arange(len(names)) for v in values)  # [n, C]
    right, champion_right = (ours == y).all(axis=1), (theirs == y).all(axis=1)
    parts = []
    for name, own, one, two in zip(names, y.T, ours.T, theirs.T, strict=True):
        parts.append(_part("class", name, own, one, two, labels.groups, _f1(own, one) - _f1(own, two)))
    for name, rows in slices.items():
        mask = np.asarray(rows)
        if mask.shape != right.shape or mask.dtype != np.bool_:
            raise DataError(
                f"slice {name!r} wants one boolean for each of {len(right)} rows, found {mask.dtype} {mask.shape}"
            )
        parts.append(_part("slice", name, mask, right, champion_right, labels.groups, None))
    return [part for part in parts if part.n]


def _part(kind: str, name: str, rows: Bools, ours: Bools, theirs: Bools, groups: Any, f1_gain: float | None) -> Part:
    """Among `rows`, those that only one of the two gets right."""
    nets, net = None, ours.astype(np.int64) - theirs
    if groups is not None:
        present, place = np.unique(groups[rows], return_inverse=True)
        nets = tuple(int(v) for v in np.bincount(place, weights=net[rows], minlength=len(present)))
    gained, lost = (rows & (net > 0)).sum(), (rows & (net < 0)).sum()
    return Part(
        kind=kind, name=str(name), n=int(rows.sum()), gained=int(gained), lost=int(lost), f1_gain=f1_gain, nets=nets
    )


def _f1(own: Bools, decided: Bools) -> float:
    """F1 of a class: its rows, and the rows decided to be of it; 0 where it has neither."""
    return 2 * int((own & decided).sum()) / max(1, int(own.sum() + decided.sum()))


def part_checks(parts: Sequence[Part], limits: Mapping[str, float | None], level: float) -> list[Check]:
    """For each kind in `limits` ({"class": 0.05}; None: not judged): no class or slice is shown to lose more than that.

    A part fails when the one-sided upper bound of its paired difference (score interval, Tango 1998) lies
    below -most and the exact one-sided McNemar p-value is at most the bound's error. Where rows belong to groups
    (data.group), whole groups are exchanged instead, and the bound counts rows by their design effect. The error is
    (1 - level) / (number of classes and slices judged): Bonferroni. Holm would decide alike, since one failure
    blocks and Holm's first step is Bonferroni, but gives no bounds to show. So an equal challenger is blocked
    here in at most 1 - level of all decisions, however small the parts. Slices under SLICE_ROWS rows, and
    classes too small for even a total loss to be shown, are listed as too small to judge.

    Recall alone can be had for nothing: a champion that answers one class everywhere has all of it, and whoever is
    better loses some. So a class is harmed only where its F1 falls as well; this makes a veto rarer, never likelier.
    """
    most = {kind: share for kind, share in limits.items() if share is not None}
    considered = [g for g in parts if g.kind in most and (g.kind == "class" or g.n >= SLICE_ROWS)]
    error = (1 - level) / max(1, len(considered))
    large = [g for g in considered if 0.5**g.units <= error]
    checks = []
    for kind, share in most.items():
        judged = sorted((g for g in large if g.kind == kind), key=lambda g: g.difference)
        worse = [g for g in judged if g.difference < -share and (g.f1_gain is None or g.f1_gain < 0)]
        failed = [g for g in worse if upper_bound(g, error) < -share and g.loss_p(error) <= error]
        what = {"class": "recall", "slice": "accuracy"}[kind]
        error_each = f"error {percent(error)} for each of {len(large)} classes and slices"
        rule = f"{share:.4f} (promotion.max_{kind}_loss; {error_each})"
        if failed:
            bounds = [f"{g}, upper bound {upper_bound(g, error):+.4f}" for g in failed]
            detail = f"worse {what} in {listed(bounds, _NAMED)}; allowed is a loss of {rule}"
        elif judged:
            spared = " and F1 with it" if kind == "class" else ""
            detail = f"no {kind} is shown to lose more {what} than {rule}{spared}; lowest of {len(judged)}: {judged[0]}"
        else:
            detail = f"no {kind} has enough rows to show a loss of {what} above {rule}"
        small = [f"{quoted(g.name)} ({g.rows})" for g in parts if g.kind == kind and g not in large]
        detail += f"; too small to judge: {listed(small, _NAMED)}" if small else ""
        name = {"class": "classes", "slice": "slices"}[kind]
        checks.append(Check(name=name, passed=not failed, detail=detail))
    return checks


def upper_bound(part: Part, error: float) -> float:
    """Upper bound, one-sided at `error`, of the part's difference: Tango's score interval (Stat. Med. 17:891).

    The bound is the difference at which the score statistic of paired proportions equals -z.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf(1 - error)
    n, gained, lost = (count / part.design_effect for count in (part.n, part.gained, part.lost))

    def excess(delta: float) -> float:
        b = (2 * n - gained + lost) * delta - gained - lost
        share_lost = (math.sqrt(b * b + 8 * n * lost * delta * (1 - delta)) - b) / (4 * n)
        deviation = math.sqrt(n * max(2 * share_lost + delta * (1 - delta), 1e-12))
        return (gained - lost - n * delta) / deviation + z

    return float(brentq(excess, part.difference, 1.0)) if part.difference < 1 else 1.0


def calibration_check(ece: float, champion_ece: float, bound: float, most: float, level: float) -> Check:
    """The challenger's calibration error is not *shown* to exceed the champion's by more than `most`.

    bound: the lower end, one-sided at `level`, of how much higher it is (`intervals.ece_gain_bound`).
    """
    passed = bound <= most
    return Check(
        name="calibration",
        passed=passed,
        detail=f"{'not shown to be worse calibrated' if passed else 'worse calibrated'}: ECE {ece:.4f} against "
        f"{champion_ece:.4f}, {ece - champion_ece:+.4f}, at least {bound:+.4f} at {percent(1 - level)} error, allowed "
        f"{most:+.4f} (promotion.max_ece_gain)",
    )


def groups_check(rows: int, groups: int, least: int) -> Check:
    """There are at least so many groups (data.group) of test rows: fewer show nothing, however many rows they have."""
    passed, enough = groups >= least, f"enough (at least {least})"
    verdict = enough if passed else f"too few to promote on: wanted {least} groups or more of test rows (data.group)"
    return Check(
        name="groups",
        passed=passed,
        detail=f"{rows_text(rows, groups)}, which are the independent units of every test here; {verdict}",
    )


def latency_check(milliseconds: float, most: float) -> Check:
    """A row is answered within `most` milliseconds; `milliseconds` is the median (p50) the caller measured."""
    passed = milliseconds <= most
    return Check(
        name=LATENCY,
        passed=passed,
        detail=f"{'fast enough' if passed else 'too slow'}: {milliseconds:.2f} ms a row (p50), "
        f"allowed {most:g} (promotion.max_latency_ms)",
    )


def size_check(megabytes: float, most: float) -> Check:
    """The served artefact takes at most `most` MB (10^6 bytes)."""
    passed = megabytes <= most
    return Check(
        name=SIZE,
        passed=passed,
        detail=f"{'small enough' if passed else 'too large'}: {megabytes:.1f} MB, "
        f"allowed {most:g} (promotion.max_size_mb)",
    )


def uncompared_check(fault: str) -> Check:
    """Says why a champion that there is is not compared with, where promotion.champion_unavailable lets that pass."""
    detail = f"not compared with the champion: {fault} (promotion.champion_unavailable: promote)"
    return Check(name=UNCOMPARED, passed=True, detail=detail)


def label_set_check(challenger: Sequence[str], champion: Sequence[str]) -> Check:
    """Both know the same classes, in any order: otherwise their scores answer different questions."""
    new, gone = sorted({*challenger} - {*champion}), sorted({*champion} - {*challenger})
    parts = [
        f"{what} {listed([quoted(n) for n in names], _NAMED)}"
        for what, names in (("new", new), ("gone", gone))
        if names
    ]
    detail = f"another label set: {'; '.join(parts)}" if parts else f"the same {len(set(champion))} classes"
    return Check(name="label set", passed=not parts, detail=detail)


def seen_rows_check(excluded: int, rows: int) -> Check:
    """How many of `rows` test rows were left out because the champion trained on them; fails when none is left."""
    passed = excluded < rows
    detail = (
        f"{excluded} of {rows} test rows left out, {rows - excluded} compared: the champion trained on them"
        if excluded
        else f"the champion trained on none of the {rows} test rows"
    )
    return Check(name="seen rows", passed=passed, detail=detail)
