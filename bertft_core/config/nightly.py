"""The nightly section: when a night trains, and what it does where the classes or the number of rows change."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from bertft_core.config.fit import Part
from bertft_core.config.numbers import Number, Positive, Whole


def _target(value: str) -> str:
    kind, slash, name = value.partition("/")
    if value.startswith("env:") and value[4:].isidentifier():
        return value
    if urlsplit(value).scheme in ("http", "https"):
        raise ValueError("holds a URL, which may be a secret: put it into an environment variable and write env:NAME")
    if not (kind and slash and name) or "/" in name:
        raise ValueError(
            "wanted TYPE/NAME of a Prefect notification block, such as slack-webhook/ops, or env:VARIABLE with a URL"
        )
    return value


class NightlyConfig(Part):
    """When a night trains. Any trigger is enough; null switches one off. No part of what a run is.

    new_rows: rows that the last training did not see, below 1 as a share of its rows, from 1 as a number.
    label_shift: total variation distance between the class shares of the new rows and of the last training's rows, if
    chance alone does as much in less than one night of a hundred.
    text_drift: AUROC of telling new from old texts apart; the lower end of its interval must be above it.
    score_drop: accuracy that the champion lost on new rows against the lower end of what it shows on the last
    training's test rows; the interval must exclude less.
    max_age_days: since the last training, if any row came, went or changed.
    search_every_days: in between a night reuses the parameters found last.
    trials: of a night's search, None: search.trials. new_class: `extend` trains it, `warn` leaves its rows out.
    timeout: seconds after which a night is given up; the next one goes on from its checkpoints.
    notify: who is told of a night that failed, whose data were rejected, that leaves the model without a champion, or
    that hangs while others are due.
    """

    new_rows: Positive | None = 0.01
    label_shift: Annotated[Number, Field(gt=0, le=1)] | None = 0.1
    text_drift: Annotated[Number, Field(ge=0.5, lt=1)] | None = 0.55
    score_drop: Annotated[Number, Field(ge=0, lt=1)] | None = 0.03
    max_age_days: Positive | None = 30.0
    search_every_days: Annotated[Number, Field(ge=0)] = 7.0
    trials: Annotated[Whole, Field(ge=1)] | None = None
    new_class: Literal["fail", "warn", "extend"] = "fail"
    lost_class: Literal["fail", "warn"] = "fail"
    halved: Literal["fail", "warn"] = "fail"
    timeout: Positive | None = 43_200.0
    notify: list[Annotated[str, AfterValidator(_target)]] = Field(default_factory=list)
