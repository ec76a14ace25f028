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
from bertft_core.base.text import counted, percent, quoted

SLICE_ROWS = 30  # a smaller slice is listed, not judged: one row is more than 3 points of it
LATENCY, SIZE = "latency", "size"
_NAMED = 5  # classes or slices named in one text

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the rule, whether it held, and the numbers behind it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """A class or slice: n rows, those only the challenger gets right (gained) and only the champion (lost).

    f1_gain: of a class, its F1 on all rows, challenger minus champion; None of a slice.
    """

    kind: str
    name: str
    n: int
    gained: int
    lost: int
    f1_gain: float | None = None

    @property
    def difference(self) -> float:
        """Share of right rows, challenger minus champion: the difference in recall where it is a class."""
        return (self.gained - self.lost) / self.n

    def __str__(self) -> str:
        f1 = "" if self.f1_gain is None else f", F1 {self.f1_gain:+.4f}"
        counts = f"{self.gained} gained, {self.lost} lost"
        return f"{quoted(self.name)} {self.difference:+.4f} on {counted(self.n, 'row')} ({counts}{f1})"


def groups_of(
    labels: Any, decided: Any, champion_decided: Any, classes: Sequence[str], slices: Mapping[str, Any]
) -> list[Group]:
    """A group for each class and each slice (name -> mask [n]) that has rows.

    labels and both decisions: class indices [n], or 0 and 1 [n, C] (multi-label). Raises DataError for a mask that is
    not n booleans.
    """
    values = [np.asarray(a) for a in (labels, decided, champion_decided)]
    y, ours, theirs = (v == 1 if v.ndim == 2 else v[:, None] == np.arange(len(classes)) for v in values)  # [n, C]
    right, champion_right = (ours == y).all(axis=1), (theirs == y).all(axis=1)
    groups = []
    for name, own, one, two in zip(classes, y.T, ours.T, theirs.T, strict=True):
        groups.append(_group("class", name, own, one, two, _f1(own, one) - _f1(own, two)))
    for name, rows in slices.items():
        mask = np.asarray(rows)
        if mask.shape != right.shape or mask.dtype != np.bool_:
            raise DataError(
                f"slice {name!r} wants one boolean for each of {len(right)} rows, found {mask.dtype} {mask.shape}"
            )
        groups.append(_group("slice", name, mask, right, champion_right, None))
    return [group for group in groups if group.n]


def _group(kind: str, name: str, rows: Bools, ours: Bools, theirs: Bools, f1_gain: float | None) -> Group:
    """Among `rows`, those that only one of the two gets right."""
    gained, lost = (rows & ours & ~theirs).sum(), (rows & theirs & ~ours).sum()
    return Group(kind=kind, name=str(name), n=int(rows.sum()), gained=int(gained), lost=int(lost), f1_gain=f1_gain)


def _f1(own: Bools, decided: Bools) -> float:
    """F1 of a class: its rows, and the rows decided to be of it; 0 where it has neither."""
    return 2 * int((own & decided).sum()) / max(1, int(own.sum() + decided.sum()))


def group_checks(groups: Sequence[Group], most: Mapping[str, float], level: float) -> list[Check]:
    """For each kind in `most` ({"class": 0.05}): no class or slice is shown to lose more than that share.

    A group fails when the one-sided upper bound of its paired difference (score interval, Tango 1998) lies
    below -most and the exact one-sided McNemar p-value is at most the bound's error. That error is
    (1 - level) / (number of classes and slices judged): Bonferroni. Holm would decide alike, since one failure
    blocks and Holm's first step is Bonferroni, but gives no bounds to show. So an equal challenger is blocked
    here in at most 1 - level of all decisions, however small the groups. Slices under SLICE_ROWS rows, and
    classes too small for even a total loss to be shown, are listed as too small to judge.

    Recall alone can be had for nothing: a champion that answers one class everywhere has all of it, and whoever is
    better loses some. So a class is harmed only where its F1 falls as well; this makes a veto rarer, never likelier.
    """
    from scipy.stats import binom

    considered = [g for g in groups if g.kind in most and (g.kind == "class" or g.n >= SLICE_ROWS)]
    error = (1 - level) / max(1, len(considered))
    large = [g for g in considered if 0.5**g.n <= error]
    checks = []
    for kind, share in most.items():
        judged = sorted((g for g in large if g.kind == kind), key=lambda g: g.difference)
        worse = [g for g in judged if g.difference < -share and (g.f1_gain is None or g.f1_gain < 0)]
        p_values = [float(binom.sf(g.lost - 1, g.gained + g.lost, 0.5)) for g in worse]
        failed = [g for g, p in zip(worse, p_values, strict=True) if p <= error and upper_bound(g, error) < -share]
        what = {"class": "recall", "slice": "accuracy"}[kind]
        error_each = f"error {percent(error)} for each of {len(large)} classes and slices"
        rule = f"{share:.4f} (promotion.max_{kind}_loss; {error_each})"
        if failed:
            bounds = [f"{g}, upper bound {upper_bound(g, error):+.4f}" for g in failed]
            detail = f"worse {what} in {_listed(bounds)}; allowed is a loss of {rule}"
        elif judged:
            spared = " and F1 with it" if kind == "class" else ""
            detail = f"no {kind} is shown to lose more {what} than {rule}{spared}; lowest of {len(judged)}: {judged[0]}"
        else:
            detail = f"no {kind} has enough rows to show a loss of {what} above {rule}"
        small = [f"{quoted(g.name)} ({counted(g.n, 'row')})" for g in groups if g.kind == kind and g not in large]
        detail += f"; too small to judge: {_listed(small)}" if small else ""
        name = {"class": "classes", "slice": "slices"}[kind]
        checks.append(Check(name=name, passed=not failed, detail=detail))
    return checks


def upper_bound(group: Group, error: float) -> float:
    """Upper bound, one-sided at `error`, of the group's difference: Tango's score interval (Stat. Med. 17:891).

    The bound is the difference at which the score statistic of paired proportions equals -z.
    """
    from scipy.optimize import brentq

    z, n, gained, lost = NormalDist().inv_cdf(1 - error), group.n, group.gained, group.lost

    def excess(delta: float) -> float:
        b = (2 * n - gained + lost) * delta - gained - lost
        share_lost = (math.sqrt(b * b + 8 * n * lost * delta * (1 - delta)) - b) / (4 * n)
        deviation = math.sqrt(n * max(2 * share_lost + delta * (1 - delta), 1e-12))
        return (gained - lost - n * delta) / deviation + z

    return float(brentq(excess, group.difference, 1.0)) if group.difference < 1 else 1.0


def calibration_check(ece: float, champion_ece: float, most: float) -> Check:
    """The challenger's expected calibration error exceeds the champion's by at most `most`."""
    gain, passed = ece - champion_ece, ece - champion_ece <= most
    return Check(
        name="calibration",
        passed=passed,
        detail=f"{'calibrated about as well' if passed else 'worse calibrated'}: ECE {ece:.4f} against "
        f"{champion_ece:.4f}, {gain:+.4f}, allowed {most:+.4f} (promotion.max_ece_gain)",
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


def label_set_check(challenger: Sequence[str], champion: Sequence[str]) -> Check:
    """Both know the same classes, in any order: otherwise their scores answer different questions."""
    new, gone = sorted({*challenger} - {*champion}), sorted({*champion} - {*challenger})
    parts = [f"{what} {_listed([quoted(n) for n in names])}" for what, names in (("new", new), ("gone", gone)) if names]
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


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
