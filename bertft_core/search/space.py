"""The search space: which values a trial may take, as Optuna distributions and as a stable hash."""

from __future__ import annotations

from typing import Any

import optuna

from bertft_core.config import Range, SearchConfig, TrainingConfig
from bertft_core.state import hash_json

_INTEGERS = {"batch_size", "epochs"}


def distributions(search: SearchConfig) -> dict[str, optuna.distributions.BaseDistribution]:
    """One Optuna distribution per searched key; a list is categorical, a range is float or integer."""
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for key, choice in sorted(search.space.items()):
        if not isinstance(choice, Range):
            values = [int(v) if key in _INTEGERS else float(v) for v in choice]
            found[key] = optuna.distributions.CategoricalDistribution(values)
        elif key in _INTEGERS:
            found[key] = optuna.distributions.IntDistribution(int(choice.low), int(choice.high), log=choice.log)
        else:
            found[key] = optuna.distributions.FloatDistribution(choice.low, choice.high, log=choice.log)
    return found


def space_hash(search: SearchConfig) -> str:
    """Hash of the space: part of the study name, because Optuna lets a float range change silently."""
    return hash_json(search.model_dump(mode="json")["space"])[:12]


def defaults_inside(search: SearchConfig, training: TrainingConfig) -> dict[str, Any] | None:
    """The configured training values, when every searched one lies inside the space, else None.

    Optuna only warns about an enqueued value outside its range and then uses it, so this is checked here.
    """
    values = {str(key): getattr(training, key) for key in search.space}
    found = distributions(search)
    return values if all(_is_inside(found[key], value) for key, value in values.items()) else None


def _is_inside(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return value in distribution.choices
    return bool(distribution.low <= value <= distribution.high)  # type: ignore[attr-defined]
