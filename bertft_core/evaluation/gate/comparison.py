"""The gate's test: is the challenger better than the champion, or not worse by the margin, on the same rows?

Superiority needs two proofs at the error alpha of one decision: the lower bound of the paired resamples lies
above min_gain, and the one-sided paired permutation test (for accuracy the exact McNemar test) rejects equality.
The resamples alone are anti-conservative where few rows differ; the permutation test is exact for any number.
Non-inferiority has no exact test for macro F1: there the resamples are guarded by one more lost row. For log loss
with heavy tails its error stays approximate. Where rows belong to groups (data.group), whole groups are drawn,
exchanged and lost; with fewer than LEAST_GROUPS nothing is promoted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from bertft_core.base.text import NO_SPREAD, counted, percent, rows_text
from bertft_core.config.metrics import score_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import Check
from bertft_core.evaluation.scores.intervals import (
    Bootstrap,
    Interval,
    PairedDifference,
    accuracy_p,
    mcnemar,
    paired_difference,
    paired_permutation,
)
from bertft_core.evaluation.scores.labels import Labels, Predictions, labels_of
from bertft_core.evaluation.scores.metrics import Scores

POWER = 0.8  # at which "a difference that could have been shown" is stated
LEAST_GROUPS = 10  # of data.group among the test rows (docs/gate.md); an error of 2 ** -groups is the least there is
_RARE = 30  # a class with fewer test rows says nothing about its own recall


@dataclass(frozen=True, kw_only=True)
class GateRows:
    """The rows that a decision rests on, with their labels.

    labels: class indices [n], or 0 and 1 [n, C] (multi-label). classes: names in the order of the probabilities.
    weights: soft labels [n, C], which enter log loss, or None. groups [n]: equal for rows that belong together, None
        where each stands for itself. slices: name -> mask [n].
    baseline: probabilities [n, C] of the TF-IDF baseline, or None. shares: of the classes among the training rows [C],
        each for itself where a row has several; or None.
    """

    labels: Any
    classes: Sequence[str]
    weights: Any = None
    groups: Any = None
    slices: Mapping[str, Any] = field(default_factory=dict)
    baseline: Any = None
    shares: Any = None

    @cached_property
    def truth(self) -> Labels:
        """The labels as the value that models are judged against. Raises DataError for no rows or unknown labels."""
        return labels_of(self.labels, self.classes, self.weights, self.groups)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's name and its answers to the test rows.

    p: probabilities [n, C]. predicted: decisions [n], None for the argmax; multi-label: 0 and 1 [n, C], None for
    probabilities of 1/2 and more.
    """

    name: str
    p: Any
    predicted: Any = None

    def predictions(self, rows: GateRows) -> Predictions:
        """The answers, checked. Raises ArtifactError for probabilities that are no distributions."""
        return rows.truth.predictions(self.p, self.predicted)

    def scores(self, rows: GateRows) -> Scores:
        """All scores on the rows."""
        return rows.truth.scores(self.predictions(rows), ranking=False)


def least_groups(rule: PromotionRule, champion: Model | None) -> int:
    """Groups (data.group) of test rows without which nothing is promoted: LEAST_GROUPS, or more for a small error.

    Superiority, which a first version is asked too, exchanges whole groups: no p-value is below 2 ** -groups.
    """
    needs_p = champion is None or rule.test == "superiority"
    return max(LEAST_GROUPS, math.ceil(-math.log2(rule.alpha)) if needs_p else 0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A challenger and a rival on the same rows under a rule; `spent` decisions of the period were taken before."""

    rule: PromotionRule
    rows: GateRows
    challenger: Model
    rival: Model
    spent: int = 0

    @cached_property
    def both(self) -> tuple[Predictions, Predictions]:
        """Answers of the challenger and of the rival."""
        return self.challenger.predictions(self.rows), self.rival.predictions(self.rows)

    @cached_property
    def difference(self) -> PairedDifference:
        """score(challenger) - score(rival), with the interval at the rule's level: for the reader."""
        return self.at_level(self.rule.level)

    @cached_property
    def rival_score(self) -> float:
        """The rival's score by the rule's metric, higher is better."""
        return self.rival.scores(self.rows).score(self.rule.metric)

    def at_level(self, level: float) -> PairedDifference:
        """The difference with its two-sided interval at `level`, by the rule's metric, draws and seed."""
        how = Bootstrap(level=level, resamples=self.rule.draws, seed=self.rule.seed)
        return paired_difference(self.rows.truth, *self.both, self.rule.metric, how)

    def __str__(self) -> str:
        """Both scores and their difference with its interval, at the rule's level."""
        shown, theirs = self.difference, self.rival_score
        both = f"{theirs + shown.difference:.4f} against {theirs:.4f}"
        return f"{score_title(self.rule.metric)} {both}, {_interval(self.rule, shown)}"

    def test(self) -> tuple[Check, str]:
        """The rule's test, one-sided at rule.alpha: its check with all numbers, and the sentence for the reason."""
        rule, shown = self.rule, self.difference
        check, lead = superiority(self) if rule.test == "superiority" else _non_inferiority(self)
        summary = f"{lead}: {self} on {rows_text(shown.n, shown.groups)}"
        if check.passed or shown.high < 0:
            return check, summary
        least, power = detectable(rule, shown), f"({percent(POWER)} power)"
        if rule.test == "non_inferiority":
            return check, f"{summary}; on so many rows an equal model needs a margin of about {least:.4f} {power}"
        return check, f"{summary}; on so many rows about {least + rule.min_gain:+.4f} could have been shown {power}"

    @property
    def uses_mcnemar(self) -> bool:
        """Whether the exact McNemar test says all: accuracy of rows that each stand for themselves."""
        return self.rule.metric == "accuracy" and self.rows.groups is None

    def p_value(self) -> float:
        """One-sided, of challenger better than rival: exact McNemar for accuracy, else the paired permutation test.

        Of rows in groups the permutation test for accuracy too: whole groups are exchanged.
        """
        rule = self.rule
        if self.uses_mcnemar:
            return mcnemar(self.difference.a_only, self.difference.b_only, "greater")
        return paired_permutation(self.rows.truth, *self.both, rule.metric, rule.draws, rule.seed)

    def is_shown_worse(self) -> bool:
        """Whether the challenger is shown worse than the rival, at the error that the two-sided interval has above.

        The interval lies below 0, and the exact test of the rival against the challenger agrees: where few rows
        differ the interval alone says so too early.
        """
        turned = replace(self, challenger=self.rival, rival=self.challenger)
        return self.difference.high < 0 and turned.p_value() <= (1 - self.rule.level) / 2

    def are_one_model(self) -> bool:
        """Whether both give equal probabilities and decisions on every row."""
        ours, theirs = self.both
        same = np.array_equal(ours.probabilities, theirs.probabilities)
        return same and np.array_equal(ours.decided, theirs.decided)


def superiority(pair: Comparison) -> tuple[Check, str]:
    """The check of a challenger that is to be shown better by more than rule.min_gain, and what it comes to."""
    rule, rival, shown = pair.rule, pair.rival.name, pair.difference
    bound = pair.at_level(1 - 2 * rule.alpha).low
    p = pair.p_value()
    passed = bound > rule.min_gain and p <= rule.alpha
    if passed:
        lead = f"better than {rival}"
    elif shown.high < 0:
        lead = f"worse than {rival}"
    elif bound > 0 and p <= rule.alpha:
        lead = f"better than {rival}, but not shown to gain more than {rule.min_gain:g} (promotion.min_gain)"
    elif shown.low > 0:
        lead = f"better than {rival} by its interval, but not shown at the error of one decision"
    else:
        lead = f"{'a tie, ' if shown.difference == 0 else ''}not distinguishable from {rival}"
    test = "exact McNemar" if pair.uses_mcnemar else "permutation"
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


def _with_a_lost_row(pair: Comparison) -> Comparison:
    """The comparison with one more row that only the rival gets right.

    Where few rows differ, losses not seen yet are possible: with none seen in n rows a loss of 3 / n is still
    likely at 5 % (the rule of three), but the bootstrap's bound is 0. k + 1 resampled losses have the mean and
    variance of the exact (Clopper-Pearson, gamma) bound for k. The row joins the rarest class with _RARE rows (or
    the largest), where it costs macro F1 most; for log loss it repeats the challenger's worst row. Of rows in groups
    a whole group of the usual size is lost.

    Of multi-label rows the new row has that class alone, and the challenger decides the next one.
    """
    labels, models = pair.rows.truth, (pair.challenger, pair.rival)
    y, n_classes = labels.values, len(labels.classes)
    answers: tuple[int | None, int | None] = (None, None)
    if pair.rule.metric == "log_loss":
        ours, theirs = (labels.losses(said) for said in pair.both)
        row = int(np.argmax(ours - theirs))
    else:
        support = y.sum(axis=0) if labels.multi_label else np.bincount(y, minlength=n_classes)
        large = support >= min(_RARE, support.max())
        right = int(np.argmin(np.where(large, support, len(y) + 1)))
        row, answers = 0 if labels.multi_label else int(np.argmax(y == right)), ((right + 1) % n_classes, right)
    copies = round(len(y) / labels.n_groups) if labels.n_groups else 1
    taken = np.append(np.arange(len(y)), np.full(copies, row))
    y, longer = y[taken], []
    for model, said, answer in zip(models, pair.both, answers, strict=True):
        p, decided = said.probabilities[taken], said.decided[taken]
        if answer is not None:
            p[-copies:] = np.eye(n_classes)[answer]
            decided[-copies:] = p[-1] if labels.multi_label else answer
            y[-copies:] = decided[-1]  # the rival comes last and is right
        longer.append(Model(name=model.name, p=p, predicted=decided))
    weights = None if labels.weights is None else np.asarray(labels.weights)[taken]
    groups = None if labels.groups is None else np.append(labels.groups, np.full(copies, labels.n_groups))
    rows = replace(pair.rows, labels=y, weights=weights, groups=groups, slices={})
    return replace(pair, rows=rows, challenger=longer[0], rival=longer[1])


def detectable(rule: PromotionRule, shown: PairedDifference) -> float:
    """The true difference that as many rows show with 80 % power (`least_shown`).

    For accuracy the standard error is sqrt(discordance / n) (Dietterich 1998; 2.8 sqrt(d / n) at 5 % two-sided),
    for other metrics it is read off the interval.
    """
    if rule.metric == "accuracy" and shown.groups is None:
        error = math.sqrt((shown.a_only + shown.b_only) / shown.n**2)
    else:
        error = standard_error((shown.low, shown.high), rule.level)
    return least_shown(rule, error, shown.groups or shown.n)


def standard_error(interval: Interval, level: float) -> float:
    """That of a value whose two-sided interval at `level` this is."""
    return (interval[1] - interval[0]) / (2 * NormalDist().inv_cdf((1 + level) / 2))


def least_shown(rule: PromotionRule, error: float, n: int) -> float:
    """The true difference that is shown with 80 % power: (z(1 - alpha) + z(0.8)) standard errors (`error`).

    No fewer than log2(1 / alpha) of the n rows or groups, all in favour, show anything (exact McNemar).
    """
    normal = NormalDist()
    least = (normal.inv_cdf(1 - rule.alpha) + normal.inv_cdf(POWER)) * error
    if rule.metric == "log_loss":
        return least
    return max(least, math.ceil(math.log2(1 / rule.alpha)) / n)


def _at(pair: Comparison) -> str:
    rule = pair.rule
    return f"at {percent(rule.alpha)} error (decision {pair.spent + 1} of {rule.allowed} this {rule.per})"


def _interval(rule: PromotionRule, shown: PairedDifference) -> str:
    spread = f"{percent(rule.level)} interval [{shown.low:+.4f}, {shown.high:+.4f}]"
    return f"{shown.difference:+.4f}, {spread if shown.interval else NO_SPREAD}"


def _discordance(pair: Comparison) -> str:
    shown = pair.difference
    return (
        f"only {pair.challenger.name} is right on {counted(shown.a_only, 'row')}, "
        f"only {pair.rival.name} on {shown.b_only}: {'exact McNemar' if shown.groups is None else 'permutation'} p, "
        f"two-sided, {accuracy_p(pair.rows.truth, *pair.both):.2g}"
    )
