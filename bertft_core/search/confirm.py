"""The winner's second test: the best trials again with further seeds, so that the luckiest seed does not win."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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
