"""What a search varied, as columns for tables and pictures, and how much each knob mattered."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bertft_core.config.metrics import LOWER_IS_BETTER
from bertft_core.search.results import TrialResult, ranked

ORDERED = 8  # whole numbers up to this many values stand at equal distances
MANY = 30  # complete trials from which importances are more than a hint
MIN_TRIALS = 8  # below, three good trials would have to explain every knob: no importances, no parallel axes
_TREES = 16_000  # trees times trials: 3 s on one core
_LONGEST = 18  # characters of a tick
_NAMED = 14  # ticks of a knob of choices

Place = tuple[float, str]  # where on an axis from 0 to 1, and what is written there


@dataclass(frozen=True, kw_only=True)
class Knob:
    """An axis of a searched value. choices: labels at equal distances, where it is no plain numeric axis."""

    name: str
    is_number: bool
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    choices: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Where a value stands, from 0 to 1."""
        if self.choices:
            return (self.choices.index(written(value)) + 0.5) / len(self.choices)
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, float(value)))
        return 0.5 if high <= low else min(max((at - low) / (high - low), 0.0), 1.0)

    def places(self, results: Sequence[TrialResult]) -> list[float]:
        """Where the values of these trials stand; each trial must have the knob."""
        return [self.place(r.params[self.name]) for r in results]

    def ticks(self) -> list[Place]:
        """Ticks that can be read beside each other."""
        if self.choices:
            step = -(-len(self.choices) // _NAMED)
            return [((i + 0.5) / len(self.choices), _short(c)) for i, c in enumerate(self.choices)][::step]
        return [(self.place(v), written(v)) for v in _round_values(self.low, self.high, is_log=self.is_log)]


def knobs_of(results: Sequence[TrialResult], log: Collection[str] = ()) -> tuple[Knob, ...]:
    """An axis for every knob of these trials, in their order; those named in `log` are logarithmic."""
    names = dict.fromkeys(name for r in results for name in r.params)
    return tuple(
        _knob(name, [r.params[name] for r in results if name in r.params], is_log=name in log) for name in names
    )


def _knob(name: str, values: Sequence[Any], *, is_log: bool) -> Knob:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) < len(values):
        labels = sorted({written(v) for v in values}, key=lambda label: (label != "none", label))
        return Knob(name=name, is_number=False, choices=tuple(labels))
    distinct = sorted(set(numbers))
    low, high = float(distinct[0]), float(distinct[-1])
    is_ordered = len(distinct) <= ORDERED and all(float(v).is_integer() for v in distinct)
    choices = tuple(dict.fromkeys(written(v) for v in distinct)) if is_ordered else ()
    return Knob(name=name, is_number=True, low=low, high=high, is_log=is_log and low > 0, choices=choices)


def written(value: Any) -> str:
    """A value as text of one line.

    >>> written(0.00005), written(None)
    ('5e-5', 'none')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return (
            f"{value:.2e}".replace(".00e", "e").replace("0e-", "e-").replace("e-0", "e-")
            if 0 < abs(value) < 1e-3
            else f"{value:.4g}"
        )
    return " ".join(str(value).split())


def _short(label: str) -> str:
    """A tick's label; of an address the last part, of a long one both ends."""
    text = label.rsplit("/", 1)[-1] if len(label) > _LONGEST else label
    return text if len(text) <= _LONGEST else text[: _LONGEST // 2 - 1] + "…" + text[-(_LONGEST // 2) :]


def _round_values(low: float, high: float, *, is_log: bool) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        return [low]
    if not is_log:
        found = [float(v) for v in MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        parts = (1, 2, 5) if len(decades) <= 3 else (1,)
        found = [m * 10.0**d for d in decades[:: -(-len(decades) // 8)] for m in parts]
    inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9) or (math.isclose(v, 0.0) and low <= 0)]
    return inside if len(inside) > 1 else [low, high]


def score_name(metric: str) -> str:
    """The score's name for an axis; log loss is negated, so that higher is better everywhere."""
    return (
        f"validation {metric.replace('_', ' ').replace('f1', 'F1')}{', negated' if metric in LOWER_IS_BETTER else ''}"
    )


def scored(results: Sequence[TrialResult], state: str) -> list[tuple[TrialResult, float]]:
    """Trials of a state that have a finite score, each with it."""
    return [(r, r.score) for r in results if r.state == state and r.score is not None and math.isfinite(r.score)]


def best_of(results: Sequence[TrialResult]) -> TrialResult | None:
    """The first of `ranked`, None when no trial completed."""
    return next(iter(ranked(results)), None)


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest score to show: a few far below the others (a diverged fit) must not squeeze the rest.

    The lower end is Tukey's far fence, three times the distance between the quartiles below the first.
    """
    import numpy as np

    if not scores:
        return 0.0, 1.0
    first, third = (float(q) for q in np.quantile(scores, [0.25, 0.75]))
    fence = first - 3 * (third - first) if third > first else min(scores)
    low, high = min(s for s in scores if s >= fence), max(scores)
    room = max(abs(high), 1e-3) * 1e-3 if high - low < 1e-9 else 0.0
    return low - room, high + room


def knob_importances(
    results: Sequence[TrialResult],
    distributions: Mapping[str, BaseDistribution] | None = None,
    log: Collection[str] = (),
) -> dict[str, float] | None:
    """Share of each knob, most important first, summing to 1; None below 8 complete trials or for equal scores.

    fANOVA (Hutter et al. 2014, An efficient approach for assessing hyperparameter importance): a random forest
    learns the scores, and a knob's importance is the part of the forest's variance over the whole space that this
    knob explains alone. It says how much the score moves with a knob, bad regions included; it does not say which
    value is best, and what two knobs only do together is nobody's. With few trials it is a hint: see `caution`.
    Pruned trials do not count, their scores being from a shorter fit; a trial without a conditional knob counts with
    the knob's median or commonest value.

    Optuna 5's default, PED-ANOVA, needs more trials than a search of fits has: with 24 simulated random trials of
    five knobs it put the one categorical knob that mattered first in 20 % (its default, the best tenth) or 73 % (the
    best third) of 30 searches, fANOVA in all of 15; with 24 TPE trials of seven knobs the rank correlation with the
    true order was 0.28 (the best third) against 0.66.

    distributions: of the searched knobs; where absent, or where a value lies outside (a space that has changed),
    derived from the values, those of `log` on a logarithmic scale.
    """
    done = [r for r, _ in scored(results, "complete")]
    said = {name: {written(r.params[name]) for r in done if name in r.params} for r in done for name in r.params}
    done = [r for r in done if any(len(said[name]) > 1 for name in r.params)]  # of a trial apart nothing varies
    if len(done) < MIN_TRIALS or len({r.score for r in done}) < 2:
        return None
    spaces = _spaces(done, distributions or {}, log)
    names = [name for name, space in spaces.items() if not space.single()]
    if not names:
        return None
    trees = max(16, min(64, _TREES // len(done)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=trees, seed=0)
    found = optuna.importance.get_param_importances(_study(done, spaces), evaluator=evaluator, params=names)
    return {name: float(share) for name, share in found.items()}


def caution(results: Sequence[TrialResult]) -> str:
    """One sentence on how far the importances of these results can be trusted."""
    n = sum(r.state == "complete" and r.score is not None for r in results)
    what = "They say how much the score moves with a knob, not which value is best"
    if n < MANY:
        return (
            f"A hint only: the importances rest on {n} complete trials, and a few more may turn their order; where no "
            f"knob matters at all the first of four still gets about half. {what}."
        )
    return f"The importances rest on {n} complete trials of one search. {what}."


def log_knobs(distributions: Mapping[str, BaseDistribution]) -> frozenset[str]:
    """Names of the knobs that are searched on a logarithmic scale."""
    return frozenset(name for name, space in distributions.items() if getattr(space, "log", False))


def _study(done: Sequence[TrialResult], spaces: Mapping[str, BaseDistribution]) -> optuna.Study:
    """A study in memory that holds these trials; it asks nothing, so that its sampler draws no seed that matters."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    finally:
        optuna.logging.set_verbosity(before)
    usual = {name: _usual([_plain(r.params[name]) for r in done if name in r.params]) for name in spaces}
    for result in done:
        params = usual | {name: _plain(value) for name, value in result.params.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(spaces), value=result.score))
    return study


def _usual(values: Sequence[Any]) -> Any:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return statistics.median_low(values)
    return Counter(values).most_common(1)[0][0]


def _spaces(
    done: Sequence[TrialResult], given: Mapping[str, BaseDistribution], log: Collection[str]
) -> dict[str, BaseDistribution]:
    """The distribution of every knob: the given one when it holds all values."""
    names = dict.fromkeys(name for r in done for name in r.params)
    found: dict[str, BaseDistribution] = {}
    for name in names:
        values = [_plain(r.params[name]) for r in done if name in r.params]
        holds = name in given and all(_is_inside(given[name], value) for value in values)
        found[name] = given[name] if holds else _derived(values, is_log=name in log)
    return found


def _derived(values: Sequence[Any], *, is_log: bool) -> BaseDistribution:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return CategoricalDistribution(list({(type(v), v): v for v in values}.values()))
    low, high = min(numbers), max(numbers)
    logarithmic = is_log and low > 0
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)


def _is_inside(space: BaseDistribution, value: Any) -> bool:
    if isinstance(space, IntDistribution | FloatDistribution):
        return isinstance(value, int | float) and not isinstance(value, bool) and space.low <= value <= space.high
    return isinstance(space, CategoricalDistribution) and value in space.choices


def _plain(value: Any) -> Any:
    """A value as Optuna stores it: lists and the like as text."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
