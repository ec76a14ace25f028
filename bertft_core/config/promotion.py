"""When a challenger is promoted: the settings of `promotion` in mlflow.yaml as a value that validates itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from bertft_core.base.errors import ConfigError
from bertft_core.config.metrics import METRICS

RESAMPLES = 10_000
Test = Literal["superiority", "non_inferiority"]
Period = Literal["night", "week", "month"]
PERIODS: dict[str, int] = {"night": 1, "week": 7, "month": 30}  # decisions that one error budget pays for


@dataclass(frozen=True, kw_only=True)
class PromotionRule:
    """When a challenger is promoted; each field but the last three is a key of `promotion` in mlflow.yaml.

    metric: the score compared. min_score: {metric: least score}, with or without a champion (log loss counts
    negated, so its minimum is <= 0). test: superiority asks for a difference above min_gain >= 0;
    non_inferiority for one above -margin, margin in (0, 1), and then min_gain is 0.
    level in (0.5, 0.999]: 1 - level bounds the chance that an equal model is promoted at all (superiority), or
    one worse by the margin (non_inferiority), over `per`: one night, a week of 7 or a month of 30 decisions.
    max_class_loss, max_slice_loss: largest loss of recall (where F1 falls too) or accuracy not to be shown, in (0, 1).
    max_ece_gain >= 0, max_latency_ms > 0 a row, max_size_mb > 0. None turns any of these off.
    champion_unavailable: what a champion that cannot be scored does. resamples >= 100 and seed: of bootstrap
    and permutations; `draws` raises resamples where the level needs more.

    Raises ConfigError that names every value out of range.
    """

    min_score: dict[str, float] = field(default_factory=dict)
    test: Test = "superiority"
    margin: float | None = None
    min_gain: float = 0.0
    level: float = 0.95
    per: Period = "month"
    max_class_loss: float | None = 0.05
    max_slice_loss: float | None = None
    max_ece_gain: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    champion_unavailable: Literal["keep", "promote"] = "keep"
    metric: str = "macro_f1"
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if faults := [*self._score_faults(), *self._choice_faults(), *self._range_faults()]:
            raise ConfigError("; ".join(faults))

    @property
    def allowed(self) -> int:
        """Decisions that the error budget of one period pays for."""
        return PERIODS[self.per]

    @property
    def alpha(self) -> float:
        """Error of one decision, one-sided: (1 - level) / allowed (Bonferroni over the period's decisions)."""
        return (1 - self.level) / self.allowed

    @property
    def draws(self) -> int:
        """Resamples used: at least so many that 5 of them lie beyond a bound at alpha."""
        return max(self.resamples, round(5 / self.alpha))

    def _score_faults(self) -> list[str]:
        valid = ", ".join(METRICS)
        faults = [
            f"promotion.min_score.{name} is no metric; valid: {valid}" for name in self.min_score if name not in METRICS
        ]
        if self.metric not in METRICS:
            faults.append(f"promotion.metric must be one of {valid}, was {self.metric!r}")
        if (least := self.min_score.get("log_loss", 0.0)) > 0:
            faults.append(f"promotion.min_score.log_loss is negated, so at most 0: write {-least:g}, was {least:g}")
        return faults

    def _choice_faults(self) -> list[str]:
        choices = {"test": get_args(Test), "per": tuple(PERIODS), "champion_unavailable": ("keep", "promote")}
        faults = [
            f"promotion.{name} must be one of {', '.join(valid)}, was {getattr(self, name)!r}"
            for name, valid in choices.items()
            if getattr(self, name) not in valid
        ]
        if self.test == "non_inferiority" and self.margin is None:
            faults.append("promotion.margin must be set where promotion.test is non_inferiority, such as 0.005")
        if self.test == "non_inferiority" and self.min_gain != 0:
            faults.append(f"promotion.min_gain belongs to superiority; with non_inferiority 0, was {self.min_gain}")
        if self.test == "superiority" and self.margin is not None:
            faults.append(f"promotion.margin belongs to non_inferiority; with superiority null, was {self.margin}")
        return faults

    def _range_faults(self) -> list[str]:
        ranges = {
            "level": (0.5 < self.level <= 0.999, "lie in (0.5, 0.999]"),
            "min_gain": (self.min_gain >= 0, "be 0 or more"),
            "resamples": (self.resamples >= 100, "be 100 or more"),
        }
        for name in ("margin", "max_class_loss", "max_slice_loss"):
            value = getattr(self, name)
            ranges[name] = (value is None or 0 < value < 1, "lie in (0, 1)")
        for name in ("max_latency_ms", "max_size_mb"):
            value = getattr(self, name)
            ranges[name] = (value is None or value > 0, "be above 0")
        ranges["max_ece_gain"] = (self.max_ece_gain is None or self.max_ece_gain >= 0, "be 0 or more")
        return [f"promotion.{n} must {w}, was {getattr(self, n)}" for n, (holds, w) in ranges.items() if not holds]
