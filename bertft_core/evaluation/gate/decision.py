"""Whether a challenger replaces the champion: named checks over the same test rows, all evaluated, all shown.

One decision spends a share of an error budget, so that 30 nights together keep the level of one test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bertft_core.base.text import percent, plain, rows_text
from bertft_core.config.metrics import score_title
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import (
    LATENCY,
    SIZE,
    TRAINING,
    UNCOMPARED,
    Check,
    calibration_check,
    groups_check,
    part_checks,
    parts_of,
)
from bertft_core.evaluation.gate.comparison import Comparison, GateRows, Model, least_groups
from bertft_core.evaluation.gate.first import BASELINE, CHANCE, MAJORITY, First, against_baseline, first_checks
from bertft_core.evaluation.scores.intervals import Bootstrap, Interval, ece_gain_bound
from bertft_core.evaluation.scores.metrics import Scores


@dataclass(frozen=True, kw_only=True)
class PromotionDecision:
    """promote?, why (the verdict first, one sentence), and everything it rests on.

    n: test rows; groups: of them (data.group), None where each row stands for itself. alpha: error of this decision;
    spent: decisions of the period before this one, of `allowed`. Scores: higher is better, log loss negated.
    difference, interval (two-sided, at the rule's level): challenger minus champion, None without a comparison;
    baseline_difference, baseline_interval: minus the TF-IDF baseline. test: the rule's, or "first" where there is no
    champion to compare with; majority_score is asked for then alone.
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
    baseline_score: float | None = None
    baseline_difference: float | None = None
    baseline_interval: tuple[float, float] | None = None
    majority_score: float | None = None
    groups: int | None = None

    def __str__(self) -> str:
        return f"{'promote' if self.promote else 'keep'}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PromotionDecision:
        """The decision that `to_json` wrote."""
        pairs = {name: value.get(name) for name in ("interval", "baseline_interval")}
        intervals = {name: pair and (float(pair[0]), float(pair[1])) for name, pair in pairs.items()}
        return cls(**{**value, **intervals, "checks": tuple(Check(**c) for c in value["checks"])})

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
    """Judge a challenger against the champion on the same test rows; without one, by whether it is worth anything.

    A first version is compared with the TF-IDF baseline and with what knows nothing (`first.first_checks`). With a
    champion the baseline decides nothing: the reason says so where whoever is champion from now on is shown worse.

    anchor: the last version promoted by superiority; non_inferiority must hold against it too, so that small losses
        cannot add up; superiority ignores it.
    spent: decisions of the running period that compared two models within the budget.
    same_weights: challenger and champion are one model, which is never promoted.
    own_checks: what the caller measured; a failed one blocks. UNCOMPARED, why a champion is left out, is said first.

    Of multi-label rows one is right where its whole set is. Raises DataError for no rows or a faulty slice,
    ArtifactError for probabilities that are no distributions.
    """
    metric, ours, n_groups = rule.metric, challenger.scores(rows), rows.truth.n_groups
    minima = _minima(rule, ours)
    enough = () if n_groups is None else (groups_check(ours.n, n_groups, least_groups(rule, champion)),)
    checks = [*enough, *own_checks, *_not_measured(rule, own_checks), *minima]
    pair: Comparison | None = None
    first: list[First] = []
    if champion is None:
        first = list(first_checks(rule, rows, challenger, spent))
        checks += [found.check for found in first]
        against = {found.check.name: found.pair for found in first}
        failed = [check for check in checks if not check.passed]
        score = f"{score_title(metric)} {ours.score(metric):.4f} on {rows_text(ours.n, n_groups)}"
        reason = _first_reason(score, first, minima, checks)
    else:
        pair = Comparison(rule=rule, rows=rows, challenger=challenger, rival=champion, spent=spent)
        test, reason = pair.test()
        budget = _budget(rule, spent)
        checks += [_another_model(pair, same_weights=same_weights), budget, test]
        if anchor is not None and rule.test == "non_inferiority":
            checks.append(replace(replace(pair, rival=anchor).test()[0], name="anchor"))
        limits = {"class": rule.max_class_loss, "slice": rule.max_slice_loss}
        checks += part_checks(parts_of(rows.truth, *pair.both, rows.slices), limits, rule.level)
        if rule.max_ece_gain is not None:
            checks.append(_calibration(pair, rule.max_ece_gain))
        failed = [check for check in checks if not check.passed]
        if failed:  # the first says why, the others are named
            reason = (reason if failed[0] is test else failed[0].detail) + _also_failed(failed[1:])
        if failed[:1] != [budget]:
            reason += f"; {_share(rule, spent)}"
        against = {BASELINE: against_baseline(rule, rows, challenger)}
        live = against_baseline(rule, rows, champion) if failed else against[BASELINE]
        if live is not None and live.is_shown_worse():
            reason += f"; warning: {live.challenger.name} is worse than {live.rival.name}: {live}"
    champion_score, difference, interval = _numbers(pair)
    baseline_score, baseline_difference, baseline_interval = _numbers(against.get(BASELINE))
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
        champion_score=champion_score,
        difference=difference,
        interval=interval,
        test="first" if champion is None else rule.test,
        baseline_score=baseline_score,
        baseline_difference=baseline_difference,
        baseline_interval=baseline_interval,
        majority_score=_numbers(against.get(MAJORITY))[0],
        groups=n_groups,
    )


def _numbers(pair: Comparison | None) -> tuple[float | None, float | None, Interval | None]:
    """The rival's score, the difference to it and its interval, as far as there are some."""
    return (
        (None, None, None) if pair is None else (pair.rival_score, pair.difference.difference, pair.difference.interval)
    )


def _first_reason(score: str, first: Sequence[First], minima: Sequence[Check], checks: Sequence[Check]) -> str:
    """Why a version without a comparison is promoted or not: all that it is not worth first, with the numbers."""
    failed = [check for check in checks if not check.passed]
    lead = next((f"{check.detail}; " for check in checks if check.name == UNCOMPARED), "")
    faults = {found.check.name: found.summary for found in first} | {check.name: check.detail for check in minima}
    faults |= {check.name: check.detail for check in failed if check.name == TRAINING}
    if MAJORITY in {check.name for check in failed}:
        del faults[CHANCE]  # it says nothing more then
    said = [faults[check.name] for check in failed if check.name in faults]
    others = [check for check in failed if check.name not in faults]
    if said:
        return f"{lead}not worth promoting: {'; '.join(said)}{_also_failed(others)}"
    if others:
        return f"{lead or 'no champion yet: '}{others[0].detail}{_also_failed(others[1:])}"
    worth = "; ".join([score, *(found.summary for found in first if found.check.name != CHANCE)])
    return f"{lead or 'no champion yet; '}{worth}"


def _calibration(pair: Comparison, most: float) -> Check:
    rule, truth = pair.rule, pair.rows.truth
    how = Bootstrap(resamples=rule.draws, seed=rule.seed)
    ours, theirs = (truth.scores(said, ranking=False).ece for said in pair.both)
    return calibration_check(ours, theirs, ece_gain_bound(truth, *pair.both, rule.level, how), most, rule.level)


def _another_model(pair: Comparison, *, same_weights: bool) -> Check:
    names = f"{pair.challenger.name} and {pair.rival.name}"
    why = "equal weights" if same_weights else "equal answers on every row"
    is_same = same_weights or pair.are_one_model()
    detail = f"{names} are the same model: {why}" if is_same else f"{names} differ"
    return Check(name="another model", passed=not is_same, detail=detail)


def _also_failed(checks: Sequence[Check]) -> str:
    return f" (also failed: {', '.join(check.name for check in checks)})" if checks else ""


def _not_measured(rule: PromotionRule, measured: Sequence[Check]) -> list[Check]:
    """A budget that is set but was not measured fails: no setting is silently without effect."""
    budgets = {LATENCY: ("max_latency_ms", rule.max_latency_ms), SIZE: ("max_size_mb", rule.max_size_mb)}
    known = {check.name for check in measured}
    return [
        Check(name=name, passed=False, detail=f"not measured, but promotion.{key} allows {most:g}")
        for name, (key, most) in budgets.items()
        if most is not None and name not in known
    ]


def _minima(rule: PromotionRule, ours: Scores) -> list[Check]:
    checks = []
    for name, least in sorted(rule.min_score.items()):
        score = ours.score(name)
        verb = "reaches" if score >= least else "misses"
        detail = f"{score_title(name)} {score:.4f} {verb} the minimum of {least:.4f} (promotion.min_score.{name})"
        checks.append(Check(name=f"minimum {name}", passed=score >= least, detail=detail))
    return checks


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
