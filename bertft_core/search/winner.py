"""Which trial wins: the finalists repeated with further seeds, and the Pareto front of score and cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bertft_core.search.results import TrialResult, ranked

Measure = Literal["latency", "size"]

# Latencies this close, relative to the lower one, are one latency: one model was timed 7 % apart (training/machine.py).
_NOISE: dict[Measure, float] = {"latency": 0.1, "size": 0.0}
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One finalist: the score that brought it here, and its scores with further seeds."""

    trial: TrialResult
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the further seeds alone: the first score was selected for being high."""
        return statistics.fmean(self.scores) if self.scores else float("-inf")

    @property
    def spread(self) -> float | None:
        """Standard deviation over the further seeds, None below two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True, kw_only=True)
class SearchWinner:
    """Who won a search and why. optimism: of the single-seed best, first score minus confirmed mean; else None."""

    best: TrialResult
    how: str
    confirmations: tuple[Confirmation, ...] = ()
    optimism: float | None = None


def finalists(results: Sequence[TrialResult], top: int) -> list[TrialResult]:
    """The best completed trial of each of the `top` best sets of parameters: a set needs no second confirmation."""
    found: list[TrialResult] = []
    for trial in ranked(results):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:top]


def confirm_slots(best: Sequence[TrialResult], seeds: int) -> list[tuple[TrialResult, int]]:
    """(trial, index of the further seed) per slot of the confirming study: every finalist gets the same seeds."""
    return [(trial, index) for trial in best for index in range(seeds)]


def confirmed_winner(best: Sequence[TrialResult], seeds: int, fits: Sequence[TrialResult]) -> SearchWinner:
    """The finalist with the highest mean over further seeds, of those with the most fits that trained to their end.

    best: the finalists by rank; fits: results of the slots of `confirm_slots`. Raises ValueError without a finalist.
    """
    scores: dict[int, list[float]] = {rank: [] for rank in range(len(best))}
    for fit in fits:
        if fit.state == "complete" and fit.score is not None:
            scores[fit.slot // seeds].append(fit.score)
    confirmations = tuple(Confirmation(trial=t, scores=tuple(scores[rank])) for rank, t in enumerate(best))
    winner = max(confirmations, key=lambda c: (len(c.scores), c.mean))  # of equals the first
    first = confirmations[0]
    optimism = (first.trial.score or 0.0) - first.mean if first.scores else None
    how = "no confirming fit completed: the best single score"
    if winner.scores:
        how = f"highest mean of {len(winner.scores)} further seeds among the {len(best)} best"
    return SearchWinner(best=winner.trial, how=how, confirmations=confirmations, optimism=optimism)


def pareto(results: Iterable[TrialResult], measure: Measure) -> tuple[TrialResult, ...]:
    """The complete, measured trials that no other one beats, cheapest first.

    Rule: a trial is beaten by one with at least its score and at most its cost, one of the two being better. Of
    trials equal in both the lowest slot stands for all. Costs: latency_ms or size_bytes.
    """
    front: list[_Measured] = []
    for trial in sorted(_measured(results, measure), key=lambda t: (t.cost, -t.score, t.result.slot)):
        if math.isfinite(trial.cost) and (not front or trial.score > front[-1].score):
            front.append(trial)
    return tuple(trial.result for trial in front)


def cheapest_within(results: Iterable[TrialResult], measure: Measure, within: float) -> TrialResult | None:
    """The cheapest complete trial whose score is at most `within` below the best; None when none completed.

    Rule: `within` is absolute, in units of the metric. Latencies within 10 % of the lowest in reach count as that
    lowest (timing noise shall not cost score); sizes are compared exactly. Of equally cheap trials the highest
    score wins, then the lower cost, then the lower slot. A trial that was not measured is the dearest. No other
    trial beats the chosen one in the sense of `pareto`.
    """
    trials = _measured(results, measure)
    if not trials:
        return None
    least = max(t.score for t in trials) - within - _ROUNDING
    reach = [t for t in trials if t.score >= least]
    limit = min(t.cost for t in reach) * (1 + _NOISE[measure])
    cheap = [t for t in reach if t.cost <= limit]
    return min(cheap, key=lambda t: (-t.score, t.cost, t.result.slot)).result


class _Measured(NamedTuple):
    score: float
    cost: float
    result: TrialResult


def _measured(results: Iterable[TrialResult], measure: Measure) -> list[_Measured]:
    """The complete trials with score and cost; infinity where the cost was not measured."""
    found = []
    for result in results:
        if result.state == "complete" and result.score is not None:
            cost = result.latency_ms if measure == "latency" else result.size_bytes
            found.append(_Measured(result.score, math.inf if cost is None else float(cost), result))
    return found
