"""The search space: which values a trial takes, asked knob by knob, and a stable hash of the space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bertft_core.base.hashes import hash_json
from bertft_core.config.fit import PROBE
from bertft_core.config.knobs import is_integer
from bertft_core.config.run import RunConfig
from bertft_core.config.search import Choice, Range, SearchConfig, conditions_of, values_of

_POOLING = "model.pooling"


def suggest(trial: optuna.Trial, search: SearchConfig) -> dict[str, Any]:
    """Ask for every knob whose condition holds, knobs that others depend on first: {name: value}."""
    found: dict[str, Any] = {}
    for key in search.order:
        if _counts(search.space[key], found):
            found[key] = _ask(trial, key, search.space[key])
    return found


def every_point(search: SearchConfig, most: int) -> list[dict[str, Any]]:
    """Every combination of the listed values that count together; of a larger space one more than `most` of them."""
    points: list[dict[str, Any]] = [{}]
    for key in search.order:
        choice, longer = search.space[key], []
        for point in points:
            values = values_of(choice) if _counts(choice, point) else [None]
            longer += [{**point, key: value} if _counts(choice, point) else point for value in values]
        points = longer[: most + 1]
    return points


def distributions(search: SearchConfig) -> dict[str, BaseDistribution]:
    """What each knob is drawn from, conditions left aside."""
    return {key: _distribution(key, choice) for key, choice in search.space.items()}


def _distribution(key: str, choice: Choice) -> BaseDistribution:
    if not isinstance(choice, Range):
        return CategoricalDistribution(values_of(choice))
    if is_integer(key):
        return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def in_words(search: SearchConfig) -> dict[str, str]:
    """Each knob's choice as a reader would write it."""
    found = {}
    for key, choice in search.space.items():
        if isinstance(choice, Range):
            text = f"{choice.low:g} to {choice.high:g}{', log' if choice.log else ''}"
        else:
            text = ", ".join(map(str, values_of(choice)))
        when = [f"{parent} is {' or '.join(map(str, allowed))}" for parent, allowed in conditions_of(choice).items()]
        found[key] = f"{text} (when {' and '.join(when)})" if when else text
    return found


def _ask(trial: optuna.Trial, key: str, choice: Choice) -> Any:
    # the public suggest_* of the distribution's kind; Optuna has no public call that takes a distribution
    found = _distribution(key, choice)
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(key, found.choices)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(key, found.low, found.high, log=found.log)
    assert isinstance(found, FloatDistribution), "a range is of floats where it is not of integers"
    return trial.suggest_float(key, found.low, found.high, log=found.log)


def _counts(choice: Choice, above: Mapping[str, Any]) -> bool:
    """Whether the condition holds; a knob that does not count itself fulfils none."""
    return all(parent in above and above[parent] in allowed for parent, allowed in conditions_of(choice).items())


def values_inside(search: SearchConfig, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of the knobs that count, or None when one of them is missing or lies outside the space.

    Optuna only warns about an enqueued value outside its range and then uses it, so this is checked here. Other
    keys of `values`, such as knobs whose condition does not hold, are left out.
    """
    found: dict[str, Any] = {}
    for key in search.order:
        choice = search.space[key]
        if not _counts(choice, found):
            continue
        if key not in values or not _is_inside(key, choice, values[key]):
            return None
        found[key] = values[key]
    return found


def _is_inside(key: str, choice: Choice, value: Any) -> bool:
    if not isinstance(choice, Range):
        return value in values_of(choice)
    is_number = isinstance(value, int if is_integer(key) else int | float) and not isinstance(value, bool)
    return bool(is_number and choice.low <= value <= choice.high)


def first_values(search: SearchConfig, config: RunConfig) -> dict[str, Any]:
    """The configured values of the knobs that count: what is tried first.

    One that the space does not hold gives way to the nearest that it holds, of values without an order the first, so
    that it takes no other with it.
    """
    found: dict[str, Any] = {}
    for key in search.order:
        choice, value = search.space[key], config.value_of(key)
        if _counts(choice, found):
            found[key] = value if _is_inside(key, choice, value) else _nearest(key, choice, value)
    return found


def probe_values(search: SearchConfig, config: RunConfig) -> dict[str, Any] | None:
    """The values of the trial that fits the head alone; None where there is none, or unfreezing is searched or this.

    It reads the mean over the tokens where the configuration reads the encoder's own [CLS]: that was trained for
    another task, or never (docs/few_labels.md). A trial of its own: the sampler learns nothing from it.
    """
    is_known = "unfreezing" in search.space or config.training.unfreezing == PROBE
    if not search.linear_probe or is_known:
        return None
    is_stock = config.model.pooling == "cls" and _POOLING not in search.space
    return {"unfreezing": PROBE, **({_POOLING: "mean"} if is_stock else {})}


def is_probe(params: Mapping[str, Any], search: SearchConfig) -> bool:
    """Whether the values of a trial are those of `probe_values`."""
    return params.get("unfreezing") == PROBE and "unfreezing" not in search.space


def _nearest(key: str, choice: Choice, value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(choice, Range):
        inside = min(max(value, choice.low), choice.high) if is_number else choice.low
        return int(inside) if is_integer(key) else inside
    numbers = [v for v in values_of(choice) if isinstance(v, int | float) and not isinstance(v, bool)]
    return min(numbers, key=lambda v: abs(v - value)) if is_number and numbers else values_of(choice)[0]


def space_hash(search: SearchConfig) -> str:
    """Hash of the space: part of the study name, because Optuna lets a float range change silently."""
    return hash_json(search.model_dump(mode="json")["space"])[:12]
