"""The gate's test: is the challenger better than the champion, or not worse by the margin, on the same rows?

Superiority needs two proofs at the error alpha of one decision: the lower bound of the paired bootstrap lies
above min_gain, and the one-sided paired permutation test (for accuracy the exact McNemar test) rejects equality.
The bootstrap alone is anti-conservative where few rows differ; the permutation test is exact for any number.
Non-inferiority has no exact test for macro F1: there the bootstrap is guarded by one more lost row. For log loss
with heavy tails its error stays approximate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
class Rows:
    """The test rows: labels [n] (multi-label: 0 and 1 [n, C]), class names, soft labels [n, C] or None."""

    labels: Any
    classes: Sequence[str]
    weights: Any = None

    @property
    def are_sets(self) -> bool:
        """Whether the rows are multi-label."""
        return are_sets(self.labels)

    def model(self, name: str, p: Any, predicted: Any) -> Model:
        """A model with its answers to these rows."""
        return Model(name=name, p=p, predicted=predicted, is_multi=self.are_sets)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's name and its answers: probabilities p [n, C], decisions [n] or None for the argmax.

    is_multi: decisions are 0 and 1 [n, C], or None for probabilities of 1/2 and more.
    """

    name: str
    p: Any
    predicted: Any = None
    is_multi: bool = False

    def decisions(self) -> Ints:
        """Class indices [n], or 0 and 1 [n, C]."""
        if self.is_multi:
            return decided_sets(self.p, self.predicted).astype(np.int64)
        return np.asarray(np.asarray(self.p).argmax(axis=1) if self.predicted is None else self.predicted)

    def answers_like(self, other: Model) -> bool:
        """Whether both give equal probabilities and decisions on every row."""
        same = np.array_equal(np.asarray(self.p), np.asarray(other.p))
        return same and np.array_equal(self.decisions(), other.decisions())


@dataclass(frozen=True, kw_only=True)
class Case:
    """A rule, the rows, and the models that meet on them; `spent` decisions were taken in this period before."""

    rule: PromotionRule
    rows: Rows
    challenger: Model
    champion: Model
    anchor: Model | None
    spent: int


def score_model(rows: Rows, model: Model) -> Scores:
    """All scores of a model on the rows."""
    return any_scores(rows.labels, model.p, rows.classes, rows.weights, model.predicted, ranking=False)


def compare(rule: PromotionRule, rows: Rows, a: Model, b: Model, level: float) -> PairedDifference:
    """score(a) - score(b) with its two-sided interval at `level`, by the rule's metric, draws and seed."""
    return paired_difference(
        rows.labels,
        a.p,
        b.p,
        rows.classes,
        rule.metric,
        level,
        rule.draws,
        rule.seed,
        rows.weights,
        predicted_a=a.predicted,
        predicted_b=b.predicted,
    )


def judge_champion(case: Case, shown: PairedDifference, champion_score: float) -> tuple[Check, str]:
    """The rule's test against the champion: its check with all numbers, and the sentence for the reason.

    `shown` is the difference with the interval at the rule's level, for the reader; the test itself is one-sided
    at rule.alpha.
    """
    rule = case.rule
    if rule.test == "superiority":
        check, lead = _superiority(case, shown)
    else:
        check, lead = _non_inferiority(case, case.champion, shown)
    summary = (
        f"{lead}: {score_title(rule.metric)} {champion_score + shown.difference:.4f} against {champion_score:.4f}, "
        f"{_interval(rule, shown)} on {shown.n} rows"
    )
    is_settled = check.passed or shown.high < 0
    return check, summary if is_settled else f"{summary}; {_could(rule, shown)}"


def judge_anchor(case: Case) -> list[Check]:
    """Under non_inferiority the test holds against the anchor too: many small losses cannot add up."""
    if case.anchor is None or case.rule.test != "non_inferiority":
        return []
    shown = compare(case.rule, case.rows, case.challenger, case.anchor, case.rule.level)
    return [replace(_non_inferiority(case, case.anchor, shown)[0], name="anchor")]


def _superiority(case: Case, shown: PairedDifference) -> tuple[Check, str]:
    rule, rival = case.rule, case.champion.name
    bound = compare(rule, case.rows, case.challenger, case.champion, 1 - 2 * rule.alpha).low
    p = _p_better(case, shown)
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
        f"{lead}: {_interval(rule, shown)}; {_at(case)} the lower bound is {bound:+.4f} (wanted above "
        f"{rule.min_gain:+.4f}) and the {test} p, one-sided, {p:.2g} (wanted at most {rule.alpha:.2g}); "
        f"{_discordance(case.challenger, case.champion, shown)}"
    )
    return Check(name="superiority", passed=passed, detail=detail), lead


def _non_inferiority(case: Case, rival: Model, shown: PairedDifference) -> tuple[Check, str]:
    rule, margin = case.rule, float(case.rule.margin or 0.0)
    bound = compare(rule, *_with_a_lost_row(case, rival), 1 - 2 * rule.alpha).low
    passed = bound > -margin
    if passed:
        lead = f"not worse than {rival.name} by {margin:g} or more"
    elif shown.high < 0:
        lead = f"worse than {rival.name}"
    else:
        lead = f"not distinguishable from {rival.name} within {margin:g} (promotion.margin)"
    detail = (
        f"{lead}: {_interval(rule, shown)}; {_at(case)} the lower bound is {bound:+.4f} (wanted above "
        f"{-margin:+.4f}); {_discordance(case.challenger, rival, shown)}"
    )
    return Check(name="non-inferiority", passed=passed, detail=detail), lead


def _p_better(case: Case, shown: PairedDifference) -> float:
    rule, rows, a, b = case.rule, case.rows, case.challenger, case.champion
    if rule.metric == "accuracy":
        return mcnemar(shown.a_only, shown.b_only, "greater")
    return paired_permutation(
        rows.labels,
        a.p,
        b.p,
        rows.classes,
        rule.metric,
        rule.draws,
        rule.seed,
        rows.weights,
        predicted_a=a.predicted,
        predicted_b=b.predicted,
    )


def _with_a_lost_row(case: Case, rival: Model) -> tuple[Rows, Model, Model]:
    """The rows and one more that only the rival gets right.

    Where few rows differ, losses not seen yet are possible: with none seen in n rows a loss of 3 / n is still
    likely at 5 % (the rule of three), but the bootstrap's bound is 0. k + 1 resampled losses have the mean and
    variance of the exact (Clopper-Pearson, gamma) bound for k. The row joins the rarest class with _RARE rows (or
    the largest), where it costs macro F1 most; for log loss it repeats the challenger's worst row.
    """
    rows, challenger = case.rows, case.challenger
    y = np.asarray(rows.labels, dtype=np.int64)
    if rows.are_sets:
        return _with_a_lost_set(case, rival, y)
    if case.rule.metric == "log_loss":
        loss, theirs = (row_losses(y, np.asarray(m.p), rows.weights) for m in (challenger, rival))
        row, right, wrong = int(np.argmax(loss - theirs)), None, None
    else:
        support = np.bincount(y, minlength=len(rows.classes))
        large = support >= min(_RARE, support.max())
        right = int(np.argmin(np.where(large, support, len(y) + 1)))
        row, wrong = int(np.argmax(y == right)), (right + 1) % len(rows.classes)
    taken = np.append(np.arange(len(y)), row)
    longer = Rows(
        labels=y[taken], classes=rows.classes, weights=None if rows.weights is None else np.asarray(rows.weights)[taken]
    )
    return longer, _lengthened(challenger, taken, wrong), _lengthened(rival, taken, right)


def _with_a_lost_set(case: Case, rival: Model, y: Ints) -> tuple[Rows, Model, Model]:
    """`_with_a_lost_row` of multi-label rows: the new row has the class alone, the challenger decides the next one."""
    rows, challenger = case.rows, case.challenger
    if case.rule.metric == "log_loss":
        loss, theirs = (row_set_losses(y.astype(bool), np.asarray(m.p, dtype=np.float64)) for m in (challenger, rival))
        taken = np.append(np.arange(len(y)), int(np.argmax(loss - theirs)))
        longer = [replace(m, p=np.asarray(m.p)[taken], predicted=m.decisions()[taken]) for m in (challenger, rival)]
        return replace(rows, labels=y[taken]), longer[0], longer[1]
    support = y.sum(axis=0)
    large = support >= min(_RARE, support.max())
    right = int(np.argmin(np.where(large, support, len(y) + 1)))
    one, other = (np.eye(y.shape[1])[[i % y.shape[1]]] for i in (right, right + 1))
    longer = [
        replace(m, p=np.vstack([np.asarray(m.p), said]), predicted=np.vstack([m.decisions(), said.astype(np.int64)]))
        for m, said in ((challenger, other), (rival, one))
    ]
    return replace(rows, labels=np.vstack([y, one.astype(np.int64)])), longer[0], longer[1]


def _lengthened(model: Model, taken: Ints, answer: int | None) -> Model:
    p, predicted = np.asarray(model.p)[taken], model.decisions()[taken]
    if answer is not None:
        p[-1], predicted[-1] = np.eye(p.shape[1])[answer], answer
    return Model(name=model.name, p=p, predicted=predicted)


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


def _at(case: Case) -> str:
    rule = case.rule
    return f"at {percent(rule.alpha)} error (decision {case.spent + 1} of {rule.allowed} this {rule.per})"


def _interval(rule: PromotionRule, shown: PairedDifference) -> str:
    return f"{shown.difference:+.4f}, {percent(rule.level)} interval [{shown.low:+.4f}, {shown.high:+.4f}]"


def _discordance(a: Model, b: Model, shown: PairedDifference) -> str:
    return (
        f"only {a.name} is right on {shown.a_only} rows, only {b.name} on {shown.b_only}: "
        f"exact McNemar p, two-sided, {mcnemar(shown.a_only, shown.b_only):.2g}"
    )
