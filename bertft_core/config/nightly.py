"""The nightly section: when a night trains, and what it does where the classes or the number of rows change."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from bertft_core.config.fit import Part
from bertft_core.config.numbers import Number, Positive, Whole


def _target(value: str) -> str:
    kind, slash, name = value.partition("/")
    if re.fullmatch(r"env:[A-Za-z_]\w*|plugin:[\w.-]+", value):
        return value
    if urlsplit(value).scheme in ("http", "https"):
        raise ValueError("holds a URL, which may be a secret: put it into an environment variable and write env:NAME")
    if not (kind and slash and name) or "/" in name:
        raise ValueError(
            "wanted TYPE/NAME of a Prefect notification block, such as slack-webhook/ops, env:VARIABLE with a URL, or "
            "plugin:NAME"
        )
    return value


class NightlyConfig(Part):
    """When a night trains. Any trigger is enough; null switches one off. No part of what a run is."""

    new_rows: Positive | None = 0.01
    """Trains where so many rows are new, or so many were relabelled or deleted: below 1 a share of the last training's
    rows, from 1 on a number."""
    label_shift: Annotated[Number, Field(gt=0, le=1)] | None = 0.1
    """Trains where the class shares of the new rows lie that far (total variation distance) from those of the last
    training's rows, and chance does as much in less than one night of a hundred."""
    text_drift: Annotated[Number, Field(ge=0.5, lt=1)] | None = 0.55
    """Trains where a classifier on the pretrained encoder's features tells new texts from old ones: the lower end of
    the AUROC's interval is above it (docs/drift.md)."""
    score_drop: Annotated[Number, Field(ge=0, lt=1)] | None = 0.03
    """Trains where the champion's accuracy on the new rows is that much below its accuracy on the last training's test
    rows, without those that it was trained on: the upper end of the one's 95 % interval is compared with the lower
    end of the other's."""
    max_age_days: Positive | None = 30.0
    """Trains where the last training is that old and some row changed since."""
    search_every_days: Annotated[Number, Field(ge=0)] = 7.0
    """In between a night reuses the parameters of the last search; `lr` and `epochs` that are `auto` and not searched
    follow its own rows."""
    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Of a night's search; null: `search.trials`."""
    new_class: Literal["fail", "warn", "extend"] = "fail"
    """A class that the last training did not know: the night is refused, or `extend` trains it, or `warn` leaves its
    rows out and counts them."""
    lost_class: Literal["fail", "warn"] = "fail"
    """A class without a row: the night is refused, or `warn` trains without it."""
    halved: Literal["fail", "warn"] = "fail"
    """Half of the rows are gone, or more: the night is refused, or `warn` trains on what is left."""
    timeout: Positive | None = 43_200.0
    """Seconds after which a night is given up, its trainers with it; the next one goes on from its checkpoints. null:
    no limit."""
    notify: list[Annotated[str, AfterValidator(_target)]] = Field(default_factory=list)
    """Who is told of a night that failed, whose data were rejected, that leaves the model without a champion, or that
    hangs while others are due: a Prefect notification block by TYPE/NAME, `env:VARIABLE` with a URL
    (docs/nightly.md#when-something-goes-wrong), or `plugin:NAME` (docs/plugins.md#a-notification)."""
