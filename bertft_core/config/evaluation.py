"""The sections that judge and answer: evaluation and decision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import Part
from bertft_core.config.metrics import Metric
from bertft_core.config.numbers import Number, Positive, Share, Whole, no_bool


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as fault:
        raise ValueError(f"is no regular expression ({fault})") from None
    return value


def as_text(value: Any) -> Any:
    """What is written as a whole number and means a name, by its digits."""
    return str(value) if isinstance(no_bool(value), int) else value


ClassName = Annotated[str, BeforeValidator(as_text)]
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]{0,60}$")]


class EvaluationConfig(Part):
    """The metric that serves best epoch, trial score and gate alike, and the intervals."""

    metric: Metric = "macro_f1"
    """Decides best epoch, trial score and gate alike. `micro_f1` is for multi-label data alone, where accuracy is the
    share of rows whose whole set is right."""
    extra_metrics: list[MetricName] = Field(default_factory=list)
    """Metrics of plug-ins by name, reported beside the others without an interval; none of them decides
    (docs/plugins.md#a-metric)."""
    level: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals in the report."""
    resamples: Annotated[Whole, Field(ge=100, le=100_000)] = 10_000
    """Bootstrap resamples of those intervals."""
    review_rows: Annotated[Whole, Field(ge=0)] = 5_000
    """Training rows whose labels are looked through for errors; 0: none."""
    slices: dict[Annotated[str, Field(min_length=1)], Annotated[str, AfterValidator(_pattern)]] = Field(
        default_factory=dict
    )
    """`{name: regular expression}`: rows whose text it finds are a slice of their own, in the report and the gate."""


class DecisionConfig(Part):
    """How probabilities become an answer; fitted on validation, carried by the served model."""

    blend: Literal["auto", "off", "only"] = "auto"
    """The served answer is a blend of the encoder's with the TF-IDF baseline's, two weights and a bias for each class
    fitted on validation, where that is shown to help (`auto`); `only`: the baseline answers alone
    (docs/techniques/blend.md)."""
    temperature: bool = True
    """Temperature scaling, fitted on validation where no blend is. Under 200 validation rows all of `decision`, costs
    too, stays off, but for the blend, which wants 50."""
    thresholds: Literal["f_beta", "balanced_accuracy"] | None = None
    """A threshold for each class; kept only where a cross-fitted gain is shown. With `data.group` whole groups are
    folded and exchanged, 10 at least. Not beside `decision.costs`."""
    beta: Positive = 1.0
    """Of `f_beta`: how much recall weighs against precision."""
    costs: dict[ClassName, dict[ClassName, Annotated[Number, Field(ge=0)]]] | None = None
    """`{true: {decided: cost}}` by class name, 0 where a pair is left out; the least expected cost decides. Not beside
    `decision.thresholds`."""
    abstain_accuracy: Share | None = None
    """Wanted on the rows answered; the others get `abstain: true` and are left to a person."""

    @model_validator(mode="after")
    def _one_rule(self) -> DecisionConfig:
        if self.thresholds and self.costs:
            raise ValueError("thresholds and costs exclude each other: keep one")
        return self

    def cost_matrix(self, classes: Sequence[str]) -> tuple[tuple[float, ...], ...] | None:
        """costs as [true][decided] in the order of `classes`. Raises ConfigError for an unknown class."""
        if self.costs is None:
            return None
        unknown = {*self.costs, *(decided for row in self.costs.values() for decided in row)} - set(classes)
        if unknown:
            raise ConfigError(f"decision.costs: unknown class {sorted(unknown)[0]!r}; classes: {', '.join(classes)}")
        return tuple(tuple(self.costs.get(true, {}).get(decided, 0.0) for decided in classes) for true in classes)
