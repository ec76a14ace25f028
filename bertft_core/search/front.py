"""Score against cost: the trials that no other one beats on both, and the cheapest that is good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from bertft_core.search.results import TrialResult

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
