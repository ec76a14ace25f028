"""Whether a challenger replaces the champion: named checks over the same test rows, all evaluated, all shown.

One decision spends a share of an error budget, so that 30 nights together keep the level of one test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bertft_core.base.text import percent, plain
from bertft_core.config.metrics import score_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import LATENCY, SIZE, Check, calibration_check, group_checks, groups_of
from bertft_core.evaluation.gate.comparison import Comparison, GateRows, Model
from bertft_core.evaluation.scores.intervals import PairedDifference
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
    rows: GateRows,
    challenger: Model,
    champion: Model | None = None,
    anchor: Model | None = None,
    *,
    spent: int = 0,
    same_weights: bool = False,
    own_checks: Sequence[Check] = (),
) -> PromotionDecision:
    """Judge a challenger against the champion on the same test rows; without a champion, by the minima alone.

    anchor: the last version promoted by superiority; non_inferiority must hold against it too, so that small losses
        cannot add up; superiority ignores it.
    spent: decisions of the running period whose `has_spent` is true.
    same_weights: challenger and champion are one model, which is never promoted.
    own_checks: what the caller measured; a failed one blocks.

    Of multi-label rows one is right where its whole set is. Raises DataError for no rows or a faulty slice,
    ArtifactError for probabilities that are no distributions.
    """
    metric, ours = rule.metric, challenger.scores(rows)
    checks = [*own_checks]
    budgets = {LATENCY: ("max_latency_ms", rule.max_latency_ms), SIZE: ("max_size_mb", rule.max_size_mb)}
    for name, (key, most) in budgets.items():  # set but not measured blocks: no setting is silently without effect
        if most is not None and name not in {check.name for check in own_checks}:
            detail = f"not measured, but promotion.{key} allows {most:g}"
            checks.append(Check(name=name, passed=False, detail=detail))
    for name, least in sorted(rule.min_score.items()):
        score = ours.score(name)
        verb = "reaches" if score >= least else "misses"
        detail = f"{score_title(name)} {score:.4f} {verb} the minimum of {least:.4f} (promotion.min_score.{name})"
        checks.append(Check(name=f"minimum {name}", passed=score >= least, detail=detail))
    reason = f"no champion yet; {score_title(metric)} {ours.score(metric):.4f} on {ours.n} rows"
    budget: Check | None = None
    test: Check | None = None
    theirs: Scores | None = None
    difference: PairedDifference | None = None
    if champion is not None:
        pair = Comparison(rule=rule, rows=rows, challenger=challenger, rival=champion, spent=spent)
        theirs, difference = champion.scores(rows), pair.difference
        budget = _budget(rule, spent)
        test, reason = pair.test()
        names = f"{challenger.name} and {champion.name}"
        why = "equal weights" if same_weights else "equal answers on every row"
        is_same = same_weights or pair.are_one_model()
        detail = f"{names} are the same model: {why}" if is_same else f"{names} differ"
        checks += [Check(name="another model", passed=not is_same, detail=detail), budget, test]
        if anchor is not None and rule.test == "non_inferiority":
            checks.append(replace(replace(pair, rival=anchor).test()[0], name="anchor"))
        decided, champion_decided = (answers.decided for answers in pair.both)
        groups = groups_of(rows.truth.values, decided, champion_decided, rows.classes, rows.slices)
        limits = (("class", rule.max_class_loss), ("slice", rule.max_slice_loss))
        checks += group_checks(groups, {kind: most for kind, most in limits if most is not None}, rule.level)
        if rule.max_ece_gain is not None:
            checks.append(calibration_check(ours.ece, theirs.ece, rule.max_ece_gain))
    failed = [check for check in checks if not check.passed]
    if failed:  # the first says why, the others are named
        more = ", ".join(check.name for check in failed[1:])
        first = reason if failed[0] is test else failed[0].detail
        reason = first + (f" (also failed: {more})" if more else "")
    if champion is not None and failed[:1] != [budget]:
        reason += f"; {_share(rule, spent)}"
    return PromotionDecision(
        promote=not failed,
        reason=reason,
        metric=metric,
        n=ours.n,
        alpha=rule.alpha,
        spent=spent,
        allowed=rule.allowed,
        checks=tuple(checks),
        challenger_score=ours.score(metric),
        champion_score=None if theirs is None else theirs.score(metric),
        difference=None if difference is None else difference.difference,
        interval=None if difference is None else (difference.low, difference.high),
        test="first" if champion is None else rule.test,
    )


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
