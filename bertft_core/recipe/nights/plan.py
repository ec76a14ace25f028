"""What a night asks of the chain: a search, or the parameters found last. Kept with the night, whatever kills it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from bertft_core.config.knobs import place
from bertft_core.config.run import RunConfig
from bertft_core.recipe.nights.log import Basis


@dataclass(frozen=True, kw_only=True)
class Plan:
    """rows, asked: what it stands for, as in `Basis`. overrides: of the configuration. is_searched: by a new search."""

    rows: str
    asked: str
    overrides: list[str]
    is_searched: bool


def make_plan(config: RunConfig, basis: Basis | None, rows: str, asked: str, moment: dt.datetime) -> Plan:
    """Search, unless nothing is to be searched or the last search is younger than nightly.search_every_days."""
    search, nightly = config.search, config.nightly
    if search is None or not search.trials:
        return Plan(rows=rows, asked=asked, overrides=[], is_searched=False)
    if basis and basis.asked == asked and basis.search_age_days(moment) < nightly.search_every_days:
        values = [f"{'.'.join(place(knob))}={value}" for knob, value in basis.params.items()]
        return Plan(rows=rows, asked=asked, overrides=["search.trials=0", *values], is_searched=False)
    trials = [f"search.trials={nightly.trials}"] if nightly.trials and basis else []
    return Plan(rows=rows, asked=asked, overrides=trials, is_searched=True)
