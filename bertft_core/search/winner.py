"""Which trial wins: the finalists repeated with further seeds, and the Pareto front of score and cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bertft_core.search.results import TrialResult, ranked


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
class Verdict:
    """Who won a search and why. optimism: of the single-seed best, first score minus confirmed mean; else None."""

    best: TrialResult
    how: str
    confirmations: tuple[Confirmation, ...] = ()
    optimism: float | None = None


def finalists(results: Sequence[TrialResult], top: int) -> list[TrialResult]:
    """The `top` best completed trials, by the order of `ranked`."""
    return ranked(results)[:top]


def contenders(results: Sequence[TrialResult], top: int) -> list[TrialResult]:
    """The best completed trial of each of the `top` best sets of parameters: a set needs no second confirmation."""
    found: list[TrialResult] = []
    for trial in ranked(results):
        if all(trial.params != other.params for other in found):
            found.append(trial)
    return found[:top]


def confirm_slots(finalists_: Sequence[TrialResult], seeds: int) -> list[tuple[TrialResult, int]]:
    """(trial, index of the further seed) per slot of the confirming study: every finalist gets the same seeds."""
    return [(trial, index) for trial in finalists_ for index in range(seeds)]


def judge(chosen: Sequence[TrialResult], seeds: int, fits: Sequence[TrialResult]) -> Verdict:
    """The finalist with the highest mean over further seeds; a finalist whose fits all failed cannot win.

    chosen: by rank; fits: results of the slots of `confirm_slots`. Raises ValueError without a finalist.
    """
    scores: dict[int, list[float]] = {rank: [] for rank in range(len(chosen))}
    for fit in fits:
        if fit.state == "complete" and fit.score is not None:
            scores[fit.slot // seeds].append(fit.score)
    found = [Confirmation(trial=t, scores=tuple(scores[rank])) for rank, t in enumerate(chosen)]
    best = max(found, key=lambda c: (c.mean, -chosen.index(c.trial)))
    first = found[0]
    optimism = (first.trial.score or 0.0) - first.mean if first.scores else None
    how = "no confirming fit completed: the best single score"
    if best.scores:
        how = f"highest mean of {len(best.scores)} further seeds among the {len(found)} best"
    return Verdict(best=best.trial, how=how, confirmations=tuple(found), optimism=optimism)


Measure = Literal["latency", "size"]

# Latencies this close, relative to the lower one, are one latency: one model was timed 7 % apart (training/cost.py).
_NOISE: dict[Measure, float] = {"latency": 0.1, "size": 0.0}
_ROUNDING = 1e-9


def pareto(results: Iterable[TrialResult], measure: Measure) -> tuple[TrialResult, ...]:
    """The complete, measured trials that no other one beats, cheapest first.

    Rule: a trial is beaten by one with at least its score and at most its cost, one of the two being better. Of
    trials equal in both the lowest slot stands for all. Costs: latency_ms or size_bytes.
    """
    front: list[TrialResult] = []
    measured = [r for r in _scored(results) if math.isfinite(_cost(r, measure))]
    for result in sorted(measured, key=lambda r: (_cost(r, measure), -_score(r), r.slot)):
        if not front or _score(result) > _score(front[-1]):
            front.append(result)
    return tuple(front)


def choose(results: Iterable[TrialResult], measure: Measure, within: float) -> TrialResult | None:
    """The cheapest complete trial whose score is at most `within` below the best; None when none completed.

    Rule: `within` is absolute, in units of the metric. Latencies within 10 % of the lowest in reach count as that
    lowest (timing noise shall not cost score); sizes are compared exactly. Of equally cheap trials the highest
    score wins, then the lower cost, then the lower slot. A trial that was not measured is the dearest. No other
    trial beats the chosen one in the sense of `pareto`.
    """
    scored = _scored(results)
    if not scored:
        return None
    floor = max(map(_score, scored)) - within - _ROUNDING
    reach = [r for r in scored if _score(r) >= floor]
    limit = min(_cost(r, measure) for r in reach) * (1 + _NOISE[measure])
    cheap = [r for r in reach if _cost(r, measure) <= limit]
    return min(cheap, key=lambda r: (-_score(r), _cost(r, measure), r.slot))


def _scored(results: Iterable[TrialResult]) -> list[TrialResult]:
    return [r for r in results if r.state == "complete" and r.score is not None]


def _score(result: TrialResult) -> float:
    assert result.score is not None
    return result.score


def _cost(result: TrialResult, measure: Measure) -> float:
    value = result.latency_ms if measure == "latency" else result.size_bytes
    return math.inf if value is None else float(value)
