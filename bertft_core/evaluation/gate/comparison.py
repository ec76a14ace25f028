"""The gate's test: is the challenger better than the champion, or not worse by the margin, on the same rows?

Superiority needs two proofs at the error alpha of one decision: the lower bound of the paired bootstrap lies
above min_gain, and the one-sided paired permutation test (for accuracy the exact McNemar test) rejects equality.
The bootstrap alone is anti-conservative where few rows differ; the permutation test is exact for any number.
Non-inferiority has no exact test for macro F1: there the bootstrap is guarded by one more lost row. For log loss
with heavy tails its error stays approximate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from bertft_core.base.text import percent
from bertft_core.config.metrics import score_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import Check
from bertft_core.evaluation.scores.intervals import PairedDifference, mcnemar, paired_difference, paired_permutation
from bertft_core.evaluation.scores.label_sets import any_scores, are_sets, decided_sets, row_set_losses
from bertft_core.evaluation.scores.metrics import Ints, Scores, row_losses

POWER = 0.8  # at which "a difference that could have been shown" is stated
_RARE = 30  # a class with fewer test rows says nothing about its own recall


@dataclass(frozen=True, kw_only=True)
class GateRows:
    """The rows that a decision rests on, with their labels.

    labels: class indices [n], or 0 and 1 [n, C] (multi-label). classes: names in the order of the probabilities.
    weights: soft labels [n, C], which enter log loss, or None. slices: name -> mask [n].
    """

    labels: Any
    classes: Sequence[str]
    weights: Any = None
    slices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def are_sets(self) -> bool:
        """Whether the rows are multi-label."""
        return are_sets(self.labels)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's name and its answers to the test rows.

    p: probabilities [n, C]. predicted: decisions [n], None for the argmax; multi-label: 0 and 1 [n, C], None for
    probabilities of 1/2 and more.
    """

    name: str
    p: Any
    predicted: Any = None

    def decisions(self, rows: GateRows) -> Ints:
        """Class indices [n], or 0 and 1 [n, C]."""
        if rows.are_sets:
            return decided_sets(self.p, self.predicted).astype(np.int64)
        return np.asarray(np.asarray(self.p).argmax(axis=1) if self.predicted is None else self.predicted)

    def scores(self, rows: GateRows) -> Scores:
        """All scores on the rows."""
        return any_scores(rows.labels, self.p, rows.classes, rows.weights, self.predicted, ranking=False)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A challenger and a rival on the same rows under a rule; `spent` decisions of the period were taken before."""

    rule: PromotionRule
    rows: GateRows
    challenger: Model
    rival: Model
    spent: int = 0

    @cached_property
    def difference(self) -> PairedDifference:
        """score(challenger) - score(rival), with the interval at the rule's level: for the reader."""
        return self.at_level(self.rule.level)

    def at_level(self, level: float) -> PairedDifference:
        """The difference with its two-sided interval at `level`, by the rule's metric, draws and seed."""
        return paired_difference(
            self.rows.labels,
            self.challenger.p,
            self.rival.p,
            self.rows.classes,
            self.rule.metric,
            level,
            self.rule.draws,
            self.rule.seed,
            self.rows.weights,
            predicted_a=self.challenger.predicted,
            predicted_b=self.rival.predicted,
        )

    def test(self) -> tuple[Check, str]:
        """The rule's test, one-sided at rule.alpha: its check with all numbers, and the sentence for the reason."""
        rule, shown = self.rule, self.difference
        check, lead = _superiority(self) if rule.test == "superiority" else _non_inferiority(self)
        score = self.rival.scores(self.rows).score(rule.metric)
        summary = (
            f"{lead}: {score_title(rule.metric)} {score + shown.difference:.4f} against {score:.4f}, "
            f"{_interval(rule, shown)} on {shown.n} rows"
        )
        is_clear = check.passed or shown.high < 0
        return check, summary if is_clear else f"{summary}; {_could(rule, shown)}"

    def are_one_model(self) -> bool:
        """Whether both give equal probabilities and decisions on every row."""
        ours, theirs = (model.decisions(self.rows) for model in (self.challenger, self.rival))
        same = np.array_equal(np.asarray(self.challenger.p), np.asarray(self.rival.p))
        return same and np.array_equal(ours, theirs)


def _superiority(pair: Comparison) -> tuple[Check, str]:
    rule, rival, shown = pair.rule, pair.rival.name, pair.difference
    bound = pair.at_level(1 - 2 * rule.alpha).low
    p = _p_better(pair)
    passed = bound > rule.min_gain and p <= rule.alpha
    if passed:
        lead = f"better than {rival}"
    elif shown.high < 0:
        lead = f"worse than {rival}"
    elif bound > 0 and p <= rule.alpha:
        lead = f"better than {rival}, but not shown to gain more than {rule.min_gain:g} (promotion.min_gain)"
    else:
        lead = f"{'a tie, ' if shown.difference == 0 else ''}not distinguishable from {rival}"
    test = "exact McNemar" if rule.metric == "accuracy" else "permutation"
    detail = (
        f"{lead}: {_interval(rule, shown)}; {_at(pair)} the lower bound is {bound:+.4f} (wanted above "
        f"{rule.min_gain:+.4f}) and the {test} p, one-sided, {p:.2g} (wanted at most {rule.alpha:.2g}); "
        f"{_discordance(pair)}"
    )
    return Check(name="superiority", passed=passed, detail=detail), lead


def _non_inferiority(pair: Comparison) -> tuple[Check, str]:
    rule, rival, shown = pair.rule, pair.rival.name, pair.difference
    margin = float(rule.margin or 0.0)
    bound = _with_a_lost_row(pair).at_level(1 - 2 * rule.alpha).low
    passed = bound > -margin
    if passed:
        lead = f"not worse than {rival} by {margin:g} or more"
    elif shown.high < 0:
        lead = f"worse than {rival}"
    else:
        lead = f"not distinguishable from {rival} within {margin:g} (promotion.margin)"
    detail = (
        f"{lead}: {_interval(rule, shown)}; {_at(pair)} the lower bound is {bound:+.4f} (wanted above "
        f"{-margin:+.4f}); {_discordance(pair)}"
    )
    return Check(name="non-inferiority", passed=passed, detail=detail), lead


def _p_better(pair: Comparison) -> float:
    rule, rows = pair.rule, pair.rows
    if rule.metric == "accuracy":
        return mcnemar(pair.difference.a_only, pair.difference.b_only, "greater")
    return paired_permutation(
        rows.labels,
        pair.challenger.p,
        pair.rival.p,
        rows.classes,
        rule.metric,
        rule.draws,
        rule.seed,
        rows.weights,
        predicted_a=pair.challenger.predicted,
        predicted_b=pair.rival.predicted,
    )


def _with_a_lost_row(pair: Comparison) -> Comparison:
    """The comparison with one more row that only the rival gets right.

    Where few rows differ, losses not seen yet are possible: with none seen in n rows a loss of 3 / n is still
    likely at 5 % (the rule of three), but the bootstrap's bound is 0. k + 1 resampled losses have the mean and
    variance of the exact (Clopper-Pearson, gamma) bound for k. The row joins the rarest class with _RARE rows (or
    the largest), where it costs macro F1 most; for log loss it repeats the challenger's worst row.

    Of multi-label rows the new row has that class alone, and the challenger decides the next one.
    """
    rows, models = pair.rows, (pair.challenger, pair.rival)
    y = np.asarray(rows.labels, dtype=np.int64)
    p, says = [np.asarray(model.p) for model in models], [model.decisions(rows) for model in models]
    answers: list[int | None] = [None, None]
    if pair.rule.metric == "log_loss":
        if rows.are_sets:
            ours, theirs = (row_set_losses(y.astype(bool), each.astype(np.float64)) for each in p)
        else:
            ours, theirs = (row_losses(y, each, rows.weights) for each in p)
        row = int(np.argmax(ours - theirs))
    else:
        support = y.sum(axis=0) if rows.are_sets else np.bincount(y, minlength=len(rows.classes))
        large = support >= min(_RARE, support.max())
        right = int(np.argmin(np.where(large, support, len(y) + 1)))
        row = 0 if rows.are_sets else int(np.argmax(y == right))
        answers = [(right + 1) % len(rows.classes), right]
    taken = np.append(np.arange(len(y)), row)
    y, longer = y[taken], []
    for model, p_all, said_all, answer in zip(models, p, says, answers, strict=True):
        own, said = p_all[taken], said_all[taken]
        if answer is not None:
            own[-1] = np.eye(len(rows.classes))[answer]
            said[-1] = own[-1] if rows.are_sets else answer
        longer.append(Model(name=model.name, p=own, predicted=said))
    if rows.are_sets and answers[1] is not None:
        y[-1] = longer[1].predicted[-1]
    weights = None if rows.weights is None else np.asarray(rows.weights)[taken]
    longer_rows = replace(rows, labels=y, weights=weights)
    return replace(pair, rows=longer_rows, challenger=longer[0], rival=longer[1])


def detectable(rule: PromotionRule, shown: PairedDifference) -> float:
    """The true difference that as many rows show with 80 % power: (z(1 - alpha) + z(0.8)) standard errors.

    For accuracy the standard error is sqrt(discordance / n) (Dietterich 1998; 2.8 sqrt(d / n) at 5 % two-sided),
    for other metrics it is read off the interval. No fewer than log2(1 / alpha) rows, all in favour, show
    anything (exact McNemar).
    """
    normal = NormalDist()
    if rule.metric == "accuracy":
        error = math.sqrt((shown.a_only + shown.b_only) / shown.n**2)
    else:
        error = (shown.high - shown.low) / (2 * normal.inv_cdf((1 + rule.level) / 2))
    found = (normal.inv_cdf(1 - rule.alpha) + normal.inv_cdf(POWER)) * error
    return found if rule.metric == "log_loss" else max(found, math.ceil(math.log2(1 / rule.alpha)) / shown.n)


def _could(rule: PromotionRule, shown: PairedDifference) -> str:
    least = detectable(rule, shown)
    if rule.test == "non_inferiority":
        return f"on so many rows an equal model needs a margin of about {least:.4f} ({percent(POWER)} power)"
    return f"on so many rows about {least + rule.min_gain:+.4f} could have been shown ({percent(POWER)} power)"


def _at(pair: Comparison) -> str:
    rule = pair.rule
    return f"at {percent(rule.alpha)} error (decision {pair.spent + 1} of {rule.allowed} this {rule.per})"


def _interval(rule: PromotionRule, shown: PairedDifference) -> str:
    return f"{shown.difference:+.4f}, {percent(rule.level)} interval [{shown.low:+.4f}, {shown.high:+.4f}]"


def _discordance(pair: Comparison) -> str:
    shown = pair.difference
    return (
        f"only {pair.challenger.name} is right on {shown.a_only} rows, only {pair.rival.name} on {shown.b_only}: "
        f"exact McNemar p, two-sided, {mcnemar(shown.a_only, shown.b_only):.2g}"
    )
