"""Whether a challenger replaces the champion: named checks over the same test rows, all evaluated, all shown.

One decision spends a share of an error budget, so that 30 nights together keep the level of one test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bertft_core.base.text import percent, plain
from bertft_core.config.metrics import score_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import (
    LATENCY,
    SIZE,
    Check,
    calibration_check,
    champion_fault_check,
    group_checks,
    groups_of,
)
from bertft_core.evaluation.gate.comparison import Case, Rows, compare, judge_anchor, judge_champion, score_model
from bertft_core.evaluation.scores.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class PromotionDecision:
    """promote?, why (the verdict first, one sentence), and everything it rests on.

    n: test rows. alpha: error of this decision; spent: decisions of the period before this one, of `allowed`.
    Scores: higher is better, log loss negated. difference, interval (two-sided, at the rule's level): challenger
    minus champion, None without a comparison. test: the rule's, or "first" where there is no champion yet.
    """

    promote: bool
    reason: str
    metric: str
    n: int
    alpha: float
    spent: int
    allowed: int
    checks: tuple[Check, ...]
    challenger_score: float
    champion_score: float | None
    difference: float | None
    interval: tuple[float, float] | None
    test: Literal["superiority", "non_inferiority", "first"]

    @property
    def has_spent(self) -> bool:
        """Whether this decision counts in the running period: it compared two models within the budget."""
        return self.difference is not None and self.spent < self.allowed

    def __str__(self) -> str:
        return f"{'promote' if self.promote else 'keep'}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PromotionDecision:
        """The decision that `to_json` wrote."""
        interval = value["interval"]
        return cls(
            **{**value, "checks": tuple(Check(**c) for c in value["checks"])}
            | {"interval": None if interval is None else (float(interval[0]), float(interval[1]))}
        )

    def to_markdown(self, title: str) -> str:
        """The verdict and a table of all checks as Markdown; names and texts are escaped."""
        lines = [
            f"## {plain(title)}",
            "",
            f"**{'Promoted' if self.promote else 'Not promoted'}**: {plain(self.reason)}",
            "",
            "| check | result | numbers |",
            "|---|---|---|",
            *(
                f"| {plain(c.name)} | {'✓ passed' if c.passed else '✗ failed'} | {plain(c.detail)} |"
                for c in self.checks
            ),
        ]
        return "\n".join(lines) + "\n"


def decide(
    rule: PromotionRule,
    labels: Any,
    p_challenger: Any,
    p_champion: Any | None,
    classes: Sequence[str],
    *,
    weights: Any = None,
    same_weights: bool = False,
    challenger_name: str = "the challenger",
    champion_name: str = "the champion",
    champion_fault: str | None = None,
    anchor_name: str = "the anchor",
    p_anchor: Any | None = None,
    predicted_challenger: Any = None,
    predicted_champion: Any = None,
    predicted_anchor: Any = None,
    slices: Mapping[str, Any] | None = None,
    spent: int = 0,
    given: Sequence[Check] = (),
) -> PromotionDecision:
    """Judge a challenger against the champion on the same test rows.

    labels [n] class indices, probabilities [n, C] in the order of `classes`; `predicted_*` [n] class indices
    where a model's decisions are not the argmax. Of multi-label rows labels and `predicted_*` are 0 and 1 [n, C], and a
    row is right where its whole set is. `p_champion` None: no champion yet, or, with `champion_fault` saying why, one
    that could not be scored. `p_anchor`: the last version promoted by superiority;
    non_inferiority must hold against it too, so that small losses cannot add up; superiority ignores it.
    `same_weights`: they are one model, never promoted. `weights` [n, C] (soft labels) enter log loss. `slices`:
    name -> mask [n]. `spent`: decisions of the running period whose `has_spent` is true. `given`: the
    caller's own checks; a failed one blocks.

    Raises DataError for no rows or a faulty slice, ArtifactError for probabilities that are no distributions.
    """
    rows = Rows(labels=np.asarray(labels), classes=classes, weights=weights)
    challenger = rows.model(challenger_name, p_challenger, predicted_challenger)
    ours = score_model(rows, challenger)
    own = (*given, *_unmeasured(rule, given), *_minima(rule, ours))
    if p_champion is None or champion_fault is not None:
        return _unopposed(rule, ours, own, champion_name, champion_fault, spent)
    champion = rows.model(champion_name, p_champion, predicted_champion)
    anchor = None if p_anchor is None else rows.model(anchor_name, p_anchor, predicted_anchor)
    case = Case(rule=rule, rows=rows, challenger=challenger, champion=champion, anchor=anchor, spent=spent)
    return _judge(case, ours, own, same_weights, slices or {})


def _judge(
    case: Case, ours: Scores, own: Sequence[Check], same_weights: bool, slices: Mapping[str, Any]
) -> PromotionDecision:
    rule, metric = case.rule, case.rule.metric
    theirs = score_model(case.rows, case.champion)
    shown = compare(rule, case.rows, case.challenger, case.champion, rule.level)
    test, reason = judge_champion(case, shown, theirs.score(metric))
    budget = _budget(rule, case.spent)
    checks = (
        *own,
        _another_model(case, same_weights),
        budget,
        test,
        *judge_anchor(case),
        *_groups(case, slices),
        *_calibration(rule, ours, theirs),
    )
    failed = [c for c in checks if not c.passed]
    share = "" if failed[:1] == [budget] else f"; {_share(rule, case.spent)}"
    return PromotionDecision(
        promote=not failed,
        reason=(_first_fault(failed, {test: reason}) or reason) + share,
        metric=metric,
        n=shown.n,
        alpha=rule.alpha,
        spent=case.spent,
        allowed=rule.allowed,
        checks=checks,
        challenger_score=ours.score(metric),
        champion_score=theirs.score(metric),
        difference=shown.difference,
        interval=(shown.low, shown.high),
        test=rule.test,
    )


def _unopposed(
    rule: PromotionRule, ours: Scores, own: Sequence[Check], champion_name: str, fault: str | None, spent: int
) -> PromotionDecision:
    shown = f"{score_title(rule.metric)} {ours.score(rule.metric):.4f} on {ours.n} rows"
    checks, lead = own, "no champion yet"
    if fault is not None:
        check = champion_fault_check(champion_name, fault, rule.champion_unavailable == "promote")
        checks, lead = (*own, check), check.detail
    failed = [c for c in checks if not c.passed]
    return PromotionDecision(
        promote=not failed,
        reason=_first_fault(failed, {}) or f"{lead}; {shown}",
        metric=rule.metric,
        n=ours.n,
        alpha=rule.alpha,
        spent=spent,
        allowed=rule.allowed,
        checks=tuple(checks),
        challenger_score=ours.score(rule.metric),
        champion_score=None,
        difference=None,
        interval=None,
        test="first" if fault is None else rule.test,
    )


def _first_fault(failed: Sequence[Check], reasons: Mapping[Check, str]) -> str:
    """What the first failed check says, and the names of the others; empty when none failed."""
    if not failed:
        return ""
    more = ", ".join(c.name for c in failed[1:])
    return reasons.get(failed[0], failed[0].detail) + (f" (also failed: {more})" if more else "")


def _minima(rule: PromotionRule, ours: Scores) -> list[Check]:
    checks = []
    for name, least in sorted(rule.min_score.items()):
        score = ours.score(name)
        verb = "reaches" if score >= least else "misses"
        detail = f"{score_title(name)} {score:.4f} {verb} the minimum of {least:.4f} (promotion.min_score.{name})"
        checks.append(Check(name=f"minimum {name}", passed=score >= least, detail=detail))
    return checks


def _unmeasured(rule: PromotionRule, given: Sequence[Check]) -> list[Check]:
    """A budget that is set but was not measured blocks: no setting is silently without effect."""
    budgets = {LATENCY: ("max_latency_ms", rule.max_latency_ms), SIZE: ("max_size_mb", rule.max_size_mb)}
    return [
        Check(name=name, passed=False, detail=f"not measured, but promotion.{key} allows {most:g}")
        for name, (key, most) in budgets.items()
        if most is not None and name not in {c.name for c in given}
    ]


def _another_model(case: Case, same_weights: bool) -> Check:
    same = same_weights or case.challenger.answers_like(case.champion)
    pair = f"{case.challenger.name} and {case.champion.name}"
    found = "equal weights" if same_weights else "equal answers on every row"
    detail = f"{pair} are the same model: {found}" if same else f"{pair} differ"
    return Check(name="another model", passed=not same, detail=detail)


def _budget(rule: PromotionRule, spent: int) -> Check:
    whom = "an equal model" if rule.test == "superiority" else f"a model worse by {rule.margin}"
    if spent < rule.allowed:
        rest = f"at most {percent(rule.alpha)} in this decision and {percent(1 - rule.level)} over the {rule.per}"
    else:
        rest = f"then no longer at most {percent(1 - rule.level)} (promotion.level, promotion.per)"
    return Check(
        name="error budget",
        passed=spent < rule.allowed,
        detail=f"{_share(rule, spent)}: the chance of promoting {whom} is {rest}",
    )


def _share(rule: PromotionRule, spent: int) -> str:
    if spent >= rule.allowed:
        return f"the error budget of this {rule.per} is spent ({spent} of {rule.allowed} decisions taken)"
    return f"decision {spent + 1} of {rule.allowed} in the error budget of this {rule.per}"


def _groups(case: Case, slices: Mapping[str, Any]) -> list[Check]:
    rule, y = case.rule, case.rows.labels
    most = {"class": rule.max_class_loss, "slice": rule.max_slice_loss}
    wanted = {kind: value for kind, value in most.items() if value is not None}
    groups = groups_of(y, case.challenger.decisions(), case.champion.decisions(), case.rows.classes, slices)
    return group_checks(groups, wanted, rule.level)


def _calibration(rule: PromotionRule, ours: Scores, theirs: Scores) -> list[Check]:
    return [] if rule.max_ece_gain is None else [calibration_check(ours.ece, theirs.ece, rule.max_ece_gain)]
