"""Which knobs mattered in a search: Optuna's PED-ANOVA, from the results alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bertft_core.search.knobs import MANY, written
from bertft_core.search.results import TrialResult

MIN_TRIALS = 8  # complete ones; below, three good trials would have to explain every knob
# Share of the complete trials that counts as good. Optuna's 0.1 means two of 24: in 40 simulated searches of four
# knobs, 12 random trials each, the knob that mattered came first in 70 % with 0.1 and in 85 % with a third
# (16 trials: 72 and 100 %, 24 trials: 90 and 100 %).
_GOOD = 1 / 3


def knob_importances(
    results: Sequence[TrialResult],
    distributions: Mapping[str, BaseDistribution] | None = None,
    log: Collection[str] = (),
) -> dict[str, float] | None:
    """Share of each knob, most important first, summing to 1; None below 8 complete trials or for equal scores.

    PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255; for conditional knobs arXiv 2601.20800) measures how
    differently a knob's values lie among the best third of the complete trials than among all of them. It says which
    knob had to be right in order to be among the good ones; it does not say how much score a knob is worth nor which
    value is best, and of two knobs that only matter together it may name either. With few trials it is a hint: see
    `caution`. Pruned trials do not count, their scores being from a shorter fit.

    distributions: of the searched knobs; where absent, or where a value lies outside (a space that has changed),
    derived from the values, those of `log` on a logarithmic scale.
    """
    done = [r for r in results if r.state == "complete" and r.score is not None and math.isfinite(r.score)]
    if len(done) < MIN_TRIALS or len({r.score for r in done}) < 2:
        return None
    spaces = _spaces(done, distributions or {}, log)
    study = _study(done, spaces)
    names = [name for name, space in spaces.items() if not space.single()]
    if not names:
        return None
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_GOOD)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(share) for name, share in found.items()}


def caution(results: Sequence[TrialResult]) -> str:
    """One sentence on how far the importances of these results can be trusted."""
    n = sum(r.state == "complete" and r.score is not None for r in results)
    what = "They say which knobs had to be right to be among the best third of the trials, not what a knob is worth"
    if n < MANY:
        return f"A hint only: the importances rest on {n} complete trials, and a few more may turn their order. {what}."
    return f"The importances rest on {n} complete trials of one search. {what}."


def log_knobs(distributions: Mapping[str, BaseDistribution]) -> frozenset[str]:
    """Names of the knobs that are searched on a logarithmic scale."""
    return frozenset(name for name, space in distributions.items() if getattr(space, "log", False))


def space_facts(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """What each knob could be, in words."""
    return {name: _in_words(space) for name, space in distributions.items()}


def _in_words(space: BaseDistribution) -> str:
    if isinstance(space, CategoricalDistribution):
        return ", ".join(written(choice) for choice in space.choices)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    scale = ", logarithmic" if getattr(space, "log", False) else ""
    step = getattr(space, "step", None)
    every = f" in steps of {written(step)}" if step is not None and (step != 1 or isinstance(step, float)) else ""
    return f"{written(low)} to {written(high)}{scale}{every}"


def _study(done: Sequence[TrialResult], spaces: Mapping[str, BaseDistribution]) -> optuna.Study:
    """A study in memory that holds these trials; it asks nothing, so that its sampler draws no seed that matters."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    finally:
        optuna.logging.set_verbosity(before)
    for result in done:
        params = {name: _plain(value) for name, value in result.params.items()}
        used = {name: spaces[name] for name in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=used, value=result.score))
    return study


def _spaces(
    done: Sequence[TrialResult], given: Mapping[str, BaseDistribution], log: Collection[str]
) -> dict[str, BaseDistribution]:
    """The distribution of every knob: the given one when it holds all values."""
    names = dict.fromkeys(name for r in done for name in r.params)
    found: dict[str, BaseDistribution] = {}
    for name in names:
        values = [_plain(r.params[name]) for r in done if name in r.params]
        holds = name in given and all(_is_inside(given[name], value) for value in values)
        found[name] = given[name] if holds else _derived(values, name in log)
    return found


def _derived(values: Sequence[Any], is_log: bool) -> BaseDistribution:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return CategoricalDistribution(list({(type(v), v): v for v in values}.values()))
    low, high = min(numbers), max(numbers)
    logarithmic = is_log and low > 0
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)


def _is_inside(space: BaseDistribution, value: Any) -> bool:
    try:
        return bool(space._contains(space.to_internal_repr(value)))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """A value as Optuna stores it: lists and the like as text."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
