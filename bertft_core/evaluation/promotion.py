"""Whether a challenger replaces the champion: a pure decision over the same test rows, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bertft_core.errors import ConfigError
from bertft_core.evaluation.intervals import RESAMPLES, PairedDifference, mcnemar, paired_difference
from bertft_core.evaluation.metrics import METRICS, Scores, scores

Names = tuple[str, str]  # challenger, champion
_WORDS = {"macro_f1": "macro F1", "accuracy": "accuracy", "log_loss": "negated log loss"}


@dataclass(frozen=True, kw_only=True)
class PromotionRule:
    """When a challenger is promoted.

    metric: the score compared. min_score: {metric: least score} the challenger must reach, with or without a
    champion (log loss counts negated, so its minimum is <= 0). min_gain >= 0: the difference must exceed it.
    level: of the paired interval, in (0.5, 1). no_worse_margin >= 0: the interval's lower bound must exceed
    -no_worse_margin; 0 asks for superiority. Raises ConfigError for a value out of range.
    """

    metric: str = "macro_f1"
    min_score: dict[str, float] = field(default_factory=dict)
    min_gain: float = 0.0
    level: float = 0.95
    no_worse_margin: float = 0.0
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"promotion.min_score.{name} is no metric; valid: {', '.join(METRICS)}"
            for name in self.min_score
            if name not in METRICS
        ]
        if self.metric not in METRICS:
            faults.append(f"promotion.metric must be one of {', '.join(METRICS)}, was {self.metric!r}")
        if self.min_score.get("log_loss", 0.0) > 0:
            least = self.min_score["log_loss"]
            faults.append(f"promotion.min_score.log_loss is negated, so at most 0: write {-least:g}, was {least:g}")
        if not 0.5 < self.level < 1:
            faults.append(f"promotion.level must lie in (0.5, 1), was {self.level:g}")
        for name in ("min_gain", "no_worse_margin"):
            if not getattr(self, name) >= 0:
                faults.append(f"promotion.{name} must be 0 or more, was {getattr(self, name)}")
        if self.resamples < 100:
            faults.append(f"promotion.resamples must be 100 or more, was {self.resamples}")
        if faults:
            raise ConfigError("; ".join(faults))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of the rule, whether it held, and the numbers behind it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class PromotionDecision:
    """promote?, why, both scores (higher is better), difference and interval (None without a champion)."""

    promote: bool
    reason: str
    metric: str
    n: int
    checks: tuple[Check, ...]
    challenger_score: float
    champion_score: float | None
    difference: float | None
    interval: tuple[float, float] | None

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
) -> PromotionDecision:
    """Judge a challenger against the champion on the same test rows.

    labels [n] class indices, probabilities [n, C] in the order of `classes`; `p_champion` None means no
    champion yet: then only the user's minima can stop the challenger. `same_weights`: they are one
    model, never promoted. `weights` [n, C] (soft labels) enter log loss. The names appear in the reasons.

    Raises DataError for no rows, ArtifactError for probabilities that are no distributions.
    """
    challenger = scores(labels, p_challenger, classes, weights)
    minima = [_minimum(name, least, challenger) for name, least in sorted(rule.min_score.items())]
    if p_champion is None:
        return _first(rule, challenger, minima)
    champion = scores(labels, p_champion, classes, weights)
    paired = paired_difference(
        labels, p_challenger, p_champion, classes, rule.metric, rule.level, rule.resamples, rule.seed, weights
    )
    same = same_weights or np.array_equal(np.asarray(p_challenger), np.asarray(p_champion))
    names = (challenger_name, champion_name)
    checks = (
        *minima,
        _not_the_same(same, names),
        _gain(rule, paired, names),
        _not_worse(rule, paired, names),
    )
    failed = [c for c in checks if not c.passed]
    return PromotionDecision(
        promote=not failed,
        reason=failed[0].detail if failed else _better(rule, challenger, champion, paired, names),
        metric=rule.metric,
        n=challenger.n,
        checks=checks,
        challenger_score=challenger.score(rule.metric),
        champion_score=champion.score(rule.metric),
        difference=paired.difference,
        interval=(paired.low, paired.high),
    )


def _first(rule: PromotionRule, challenger: Scores, minima: list[Check]) -> PromotionDecision:
    failed = [c for c in minima if not c.passed]
    score = challenger.score(rule.metric)
    return PromotionDecision(
        promote=not failed,
        reason=failed[0].detail
        if failed
        else f"no champion yet; {_WORDS[rule.metric]} {score:.4f} on {challenger.n} rows",
        metric=rule.metric,
        n=challenger.n,
        checks=tuple(minima),
        challenger_score=score,
        champion_score=None,
        difference=None,
        interval=None,
    )


def _minimum(name: str, least: float, challenger: Scores) -> Check:
    score = challenger.score(name)
    verb = "reaches" if score >= least else "misses"
    return Check(
        name=f"minimum {name}",
        passed=score >= least,
        detail=f"{_WORDS[name]} {score:.4f} {verb} the minimum of {least:.4f} (promotion.min_score.{name})",
    )


def _not_the_same(same: bool, names: Names) -> Check:
    pair = " and ".join(names)
    detail = f"{pair} are the same model: equal answers on every row" if same else f"{pair} differ"
    return Check(name="another model", passed=not same, detail=detail)


def _gain(rule: PromotionRule, paired: PairedDifference, names: Names) -> Check:
    words = _WORDS[rule.metric]
    if paired.difference > rule.min_gain:
        detail = f"{words} gains {paired.difference:+.4f}, more than {rule.min_gain:.4f}"
    elif paired.difference == 0:
        detail = f"a tie with {names[1]}: {words} is equal on {paired.n} rows"
    else:
        detail = (
            f"{words} differs by {paired.difference:+.4f} from {names[1]} on {paired.n} rows, wanted more "
            f"than {rule.min_gain:+.4f} (promotion.min_gain)"
        )
    return Check(name="gain", passed=paired.difference > rule.min_gain, detail=detail)


def _not_worse(rule: PromotionRule, paired: PairedDifference, names: Names) -> Check:
    passed = paired.low > -rule.no_worse_margin
    interval = f"{rule.level * 100:g} % interval [{paired.low:+.4f}, {paired.high:+.4f}]"
    discordant = f"only {names[0]} is right on {paired.a_only} rows, only {names[1]} on {paired.b_only}"
    lead = "gain shown" if passed else f"not distinguishable from {names[1]}: {paired.difference:+.4f}"
    return Check(
        name="interval",
        passed=passed,
        detail=(
            f"{lead}, {interval} {'lies' if passed else 'does not lie'} above {-rule.no_worse_margin:+.4f} "
            f"({discordant}; exact McNemar p {mcnemar(paired.a_only, paired.b_only):.3g})"
        ),
    )


def _better(rule: PromotionRule, challenger: Scores, champion: Scores, paired: PairedDifference, names: Names) -> str:
    return (
        f"{_WORDS[rule.metric]} {challenger.score(rule.metric):.4f} against "
        f"{champion.score(rule.metric):.4f} of {names[1]}: {paired.difference:+.4f}, "
        f"{rule.level * 100:g} % interval [{paired.low:+.4f}, {paired.high:+.4f}] on {paired.n} rows"
    )
