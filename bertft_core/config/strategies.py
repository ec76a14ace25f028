"""What proposes the values of a search's trials, and what gives trials up: by name, or by a class and its arguments."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from bertft_core.config.fit import Part

SAMPLERS = ("auto", "cmaes", "gp", "grid", "random", "tpe")
PROBED_SAMPLERS = ("auto", "random", "tpe")  # the others learn from trials with equal knobs, a grid has its points
PRUNERS = ("auto", "halving", "median", "none")
_NO_WILCOXON = (
    "it compares a trial with the best one instance by instance, and a fit has three scores (1/4, 1/2, 3/4): of three "
    "pairs its p-value is 1/8 or more, above its own threshold of 0.1"
)


class Strategy(Part):
    """A sampler or pruner by its name or its class, and what it is called with."""

    name: str
    """One of those that come with bertft, or `module:Class` of Optuna's or your own (docs/search.md#strategies)."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of its class."""


def _read_strategy(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping | Strategy):
        raise ValueError("wanted a name, or {name, arguments}")
    return value


def _known_strategy(value: Strategy, names: Sequence[str]) -> Strategy:
    if value.name == "wilcoxon" and "halving" in names:
        raise ValueError(f"has no use here: {_NO_WILCOXON}; take one of {', '.join(names)}")
    if value.name not in names and not re.fullmatch(r"[\w.]+:\w+", value.name):
        near = difflib.get_close_matches(value.name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be one of {', '.join(names)}, or module:Class{hint}")
    if value.arguments and value.name in ("auto", "grid", "halving", "none"):
        raise ValueError(f"{value.name} takes no arguments: take them out")
    if "seed" in value.arguments:
        raise ValueError("seed is given by slot, from training.seed: take it out of the arguments")
    return value


Sampler = Annotated[
    Strategy, BeforeValidator(_read_strategy), AfterValidator(lambda value: _known_strategy(value, SAMPLERS))
]
Pruner = Annotated[
    Strategy, BeforeValidator(_read_strategy), AfterValidator(lambda value: _known_strategy(value, PRUNERS))
]
