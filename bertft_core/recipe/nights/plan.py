"""How a night trains: with a search, or with the parameters found last. Written down, so that it outlasts a kill."""

from __future__ import annotations

import datetime as dt

from bertft_core.config.auto import follows_rows
from bertft_core.config.knobs import place
from bertft_core.config.run import RunConfig
from bertft_core.recipe.nights.log import LastTraining, TrainingPlan

_ENCODER = "model.pretrained"


def plan_training(
    config: RunConfig, last: LastTraining | None, rows: str, settings: str, moment: dt.datetime
) -> TrainingPlan:
    """Search, unless nothing is to be searched or the last search is younger than nightly.search_every_days.

    Without a search the last one's parameters stay; what is `auto` and was not searched follows tonight's rows.
    """
    search, nightly = config.search, config.nightly
    if search is None or not search.trials:
        return TrainingPlan(rows=rows, settings=settings, overrides=[], is_searched=False)
    if last and last.settings == settings and last.search_age_days(moment) < nightly.search_every_days:
        found = {knob: value for knob, value in last.params.items() if not follows_rows(config, knob)}
        if _ENCODER in found:  # base and adapted are words of a search alone
            model = config.with_values({_ENCODER: found[_ENCODER]}).model
            found |= {_ENCODER: model.pretrained} | ({"model.adapted": model.adapted} if config.adaptation else {})
        values = [f"{'.'.join(place(knob))}={value}" for knob, value in found.items()]
        return TrainingPlan(rows=rows, settings=settings, overrides=["search.trials=0", *values], is_searched=False)
    trials = [f"search.trials={nightly.trials}"] if nightly.trials and last else []
    return TrainingPlan(rows=rows, settings=settings, overrides=trials, is_searched=True)
