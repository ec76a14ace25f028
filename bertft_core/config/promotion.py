"""When a challenger is promoted: the section `promotion` of mlflow.yaml as a value that validates itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from bertft_core.base.errors import ConfigError
from bertft_core.config.metrics import METRICS

RESAMPLES = 10_000
Test = Literal["superiority", "non_inferiority"]
Period = Literal["night", "week", "month", "year"]
Baseline = Literal["not_worse", "better", "off"]
PERIODS: dict[str, int] = {"night": 1, "week": 7, "month": 30, "year": 365}  # decisions that one error budget pays for
_CHOICES: dict[str, tuple[str, ...]] = {
    "test": get_args(Test),
    "per": tuple(PERIODS),
    "baseline": get_args(Baseline),
    "champion_unavailable": ("keep", "promote"),
    "metric": METRICS,
}
_OWN = ("metric", "resamples", "seed")  # fields that are no key of the file
_SHARE: tuple[Callable[[float], bool], str] = (lambda v: 0 < v < 1, "lie in (0, 1)")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "margin": _SHARE,
    "min_gain": (lambda v: v >= 0, "be 0 or more"),
    "level": (lambda v: 0.5 < v <= 0.999, "lie in (0.5, 0.999]"),
    "max_class_loss": _SHARE,
    "max_slice_loss": _SHARE,
    "max_ece_gain": (lambda v: v >= 0, "be 0 or more"),
    "max_latency_ms": (lambda v: v > 0, "be above 0"),
    "max_size_mb": (lambda v: v > 0, "be above 0"),
    "resamples": (lambda v: v >= 100, "be 100 or more"),
}


@dataclass(frozen=True, kw_only=True)
class PromotionRule:
    """When a challenger is promoted; each field but the last three is a key of `promotion` in mlflow.yaml.

    min_score: {metric: least score}, with or without a champion (log loss counts negated, so its minimum is <= 0).
    baseline: what a first version must be to the TF-IDF baseline: not shown worse, or shown better; in both cases it
        must be shown better than what knows nothing of the text. off: neither is asked.
    test: superiority asks for a difference above min_gain >= 0; non_inferiority for one above -margin, margin in
        (0, 1), and then min_gain is 0.
    level: in (0.5, 0.999]; 1 - level bounds the chance that an equal model is promoted at all (superiority), or one
        worse by the margin (non_inferiority), over `per`: one night, a week of 7, a month of 30 or a year of 365
        decisions.
    max_class_loss, max_slice_loss: largest loss of recall (where F1 falls too) or accuracy not to be shown, in (0, 1).
    max_ece_gain >= 0, max_latency_ms > 0 a row, max_size_mb > 0. None turns any of the max_ off.
    champion_unavailable: what happens when the champion cannot be scored.
    require_approval: a person has the last word.
    metric: the score compared, `evaluation.metric` of the run's configuration.
    resamples, seed: of bootstrap and permutations, >= 100; `draws` raises resamples where the level needs more.

    Raises ConfigError that names every value out of range.
    """

    min_score: Mapping[str, float] = field(default_factory=dict)
    baseline: Baseline = "not_worse"
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
    require_approval: bool = False
    metric: str = "macro_f1"
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        faults = []
        scores = self.min_score if isinstance(self.min_score, Mapping) else {}
        if scores is not self.min_score:
            faults.append(f"min_score must map metrics to least scores, was {self.min_score!r}")
        for name, least in scores.items():
            if name not in METRICS:
                faults.append(f"min_score.{name} is no metric; valid: {', '.join(METRICS)}")
            elif not _is_number(least):
                faults.append(f"min_score.{name} must be a number, was {least!r}")
            elif name == "log_loss" and least > 0:
                faults.append(f"min_score.log_loss is negated, so at most 0: write {-least:g}, was {least:g}")
        optional = {f.name for f in fields(self) if "None" in str(f.type)}
        for name, (holds, words) in _RANGES.items():
            value = getattr(self, name)
            if not (value is None and name in optional) and not (_is_number(value) and holds(value)):
                faults.append(f"{name} must {words}, was {value!r}")
        for name, valid in _CHOICES.items():
            if (value := getattr(self, name)) not in valid:
                faults.append(f"{name} must be one of {', '.join(valid)}, was {value!r}")
        if not isinstance(self.require_approval, bool):
            faults.append(f"require_approval must be true or false, was {self.require_approval!r}")
        if self.test == "non_inferiority" and self.margin is None:
            faults.append("margin must be set where promotion.test is non_inferiority, such as 0.005")
        if self.test == "non_inferiority" and self.min_gain != 0:
            faults.append(f"min_gain belongs to superiority; with non_inferiority 0, was {self.min_gain}")
        if self.test == "superiority" and self.margin is not None:
            faults.append(f"margin belongs to non_inferiority; with superiority null, was {self.margin}")
        if faults:
            raise ConfigError("; ".join(f"promotion.{fault}" for fault in faults))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PromotionRule:
        """The rule of a mapping read from mlflow.yaml. Raises ConfigError as the constructor does."""
        numbers: dict[str, Any] = {key: _number(value) for key, value in settings.items() if key in _RANGES}
        scores = settings.get("min_score", {})
        if isinstance(scores, Mapping):
            numbers["min_score"] = {metric: _number(least) for metric, least in scores.items()}
        return cls(**{**settings, **numbers})

    def settings(self) -> dict[str, Any]:
        """The keys of mlflow.yaml with their values."""
        return {key: value for key, value in asdict(self).items() if key not in _OWN}

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


SETTINGS = tuple(f.name for f in fields(PromotionRule) if f.name not in _OWN)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> Any:
    """YAML reads 5e-3 (no point) as a text: the number it stands for; anything else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value
