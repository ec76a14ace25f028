"""Sampler and pruner of a study, by what search.sampler and search.pruner name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from sqlalchemy.exc import SQLAlchemyError

from bertft_core.base.errors import BertftError, ConfigError, fault_text
from bertft_core.config.search import SearchConfig
from bertft_core.config.strategies import Strategy
from bertft_core.search.space import every_point
from bertft_core.search.stopping import STARTUP, HalvingPruner

T = TypeVar("T")
HALVING_FROM = 9  # trials; below, too few reach a rung for a half of them to mean much
_MOST_POINTS = 100_000  # of a grid: ten times the most trials that there can be
_SAMPLERS: Mapping[str, tuple[type[BaseSampler], dict[str, Any]]] = {
    "tpe": (TPESampler, {"multivariate": True, "group": True}),
    "gp": (GPSampler, {"warn_independent_sampling": False}),
    "cmaes": (CmaEsSampler, {"warn_independent_sampling": False}),
    "random": (RandomSampler, {}),
    "grid": (RandomSampler, {}),  # never asked: `grid_points` has the parameters of every slot
}
_PRUNERS: Mapping[str, tuple[type[BasePruner], dict[str, Any]]] = {
    "halving": (HalvingPruner, {}),
    "median": (MedianPruner, {"n_startup_trials": STARTUP}),
    "none": (NopPruner, {}),
}


def sampler_for(search: SearchConfig, seed: int) -> BaseSampler:
    """The sampler of one slot, seeded by it: what a search has learnt lies in the study, not in this object.

    TPE and GP draw their first trials at random: a quarter of all, 2 to 10 (`startup_trials`); `auto` is TPE.
    Raises ConfigError for a class that cannot be imported or refuses its arguments.
    """
    name = "tpe" if search.sampler.name == "auto" else search.sampler.name
    arguments = search.sampler.arguments
    if name in ("tpe", "gp"):
        arguments = {"n_startup_trials": startup_trials(search.trials), **arguments}
    chosen = Strategy(name=name, arguments=arguments)
    return _made("search.sampler", chosen, _SAMPLERS, BaseSampler, seed)  # type: ignore[type-abstract]


def startup_trials(trials: int) -> int:
    """Trials at random before a model of the scores proposes any: Optuna's 10, fewer where the budget is small.

    >>> [startup_trials(trials) for trials in (5, 15, 100)]
    [2, 3, 10]
    """
    return min(10, max(2, trials // 4))


def pruner_name(search: SearchConfig) -> str:
    """The pruner by name; `auto` is successive halving from 9 trials, below that Optuna's median rule."""
    if search.pruner.name != "auto":
        return search.pruner.name
    return "halving" if search.trials >= HALVING_FROM else "median"


def pruner_for(search: SearchConfig) -> BasePruner:
    """The pruner of a study. Raises ConfigError as `sampler_for`."""
    chosen = search.pruner.model_copy(update={"name": pruner_name(search)})
    return _made("search.pruner", chosen, _PRUNERS, BasePruner, None)  # type: ignore[type-abstract]


def grid_points(search: SearchConfig, seed: int) -> list[dict[str, Any]]:
    """Every combination of the values that count together, in an order drawn by `seed`.

    Raises ConfigError where there are more trials than points, or too many points.
    """
    points = every_point(search, _MOST_POINTS)
    if len(points) > _MOST_POINTS:
        raise ConfigError(f"search.sampler: a grid of more than {_MOST_POINTS} points: search fewer values, or by tpe")
    if search.trials > len(points):
        n = len(points)
        raise ConfigError(f"search.trials: {search.trials}, but the grid of search.space has {n} points: set it to {n}")
    random.Random(seed).shuffle(points)
    return points


@contextlib.contextmanager
def blaming(key: str, chosen: Strategy) -> Iterator[None]:
    """What a class or arguments of the user's make go wrong is a ConfigError that names the key; a storage's is not."""
    try:
        yield
    except (BertftError, OSError, SQLAlchemyError, optuna.exceptions.OptunaError):
        raise
    except Exception as fault:
        if not chosen.arguments and ":" not in chosen.name:
            raise
        raise ConfigError(f"{key}: {chosen.name} failed ({fault_text(fault)}): look at its arguments") from fault


def _made(
    key: str, chosen: Strategy, known: Mapping[str, tuple[type[T], dict[str, Any]]], base: type[T], seed: int | None
) -> T:
    kind, usual = known.get(chosen.name) or (_imported(key, chosen.name, base), {})
    takes = inspect.signature(kind).parameters
    given = {**usual, **chosen.arguments, **({"seed": seed} if "seed" in takes and seed is not None else {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**given)
    except Exception as fault:  # whatever a class says of its arguments
        raise ConfigError(
            f"{key}.arguments: {kind.__name__} refuses them ({fault_text(fault)}); it takes {', '.join(takes)}"
        ) from None


def _imported(key: str, name: str, base: type[T]) -> type[T]:
    """The class of module:Class."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(
            f"{key}: {name} cannot be imported ({fault_text(fault)}): install its package, or put its folder on "
            "PYTHONPATH"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {name} is no class of Optuna's {base.__name__}")
    return found
