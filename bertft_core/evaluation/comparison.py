"""Two models on the same labelled rows: each one's scores, the paired difference, where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.evaluation.intervals import RESAMPLES, PairedDifference, mcnemar, paired_difference
from bertft_core.evaluation.metrics import METRICS, check_rows, decisions, scores

SHOWN = 10  # rows of the disagreement that are listed


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One row that the two models answer differently. row: index from 0 into the rows compared."""

    row: int
    label: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores by metric (higher is better, log loss negated), second minus first with intervals, disagreements.

    first_only, second_only: rows that only one of them gets right. p_value: exact McNemar. shown: the first ten
    of `disagreements` rows with different answers.
    """

    n: int
    level: float
    first: dict[str, float]
    second: dict[str, float]
    differences: dict[str, PairedDifference]
    first_only: int
    second_only: int
    p_value: float
    disagreements: int
    shown: tuple[Disagreement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(
    labels: Any,
    p_first: Any,
    p_second: Any,
    classes: Sequence[str],
    *,
    weights: Any = None,
    decided_first: Any = None,
    decided_second: Any = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same rows: labels [n] class indices, probabilities [n, C] in the order of `classes`.

    decided_* [n]: class indices, where a model's decisions are not the most probable class.
    Raises DataError for no rows, ArtifactError for probabilities that are no distributions.
    """
    guess_one = decisions(check_rows(labels, p_first, classes)[1], decided_first)
    guess_two = decisions(check_rows(labels, p_second, classes)[1], decided_second)
    one, two = (
        scores(labels, p, classes, weights, guess, ranking=False)
        for p, guess in ((p_first, guess_one), (p_second, guess_two))
    )
    differences = {
        metric: paired_difference(
            labels, p_second, p_first, classes, metric, level, resamples, seed, weights, guess_two, guess_one
        )
        for metric in METRICS
    }
    rows = np.flatnonzero(guess_one != guess_two)
    paired, answers = differences["accuracy"], {"label": labels, "first": guess_one, "second": guess_two}
    return Comparison(
        n=one.n,
        level=level,
        first={m: one.score(m) for m in METRICS},
        second={m: two.score(m) for m in METRICS},
        differences=differences,
        first_only=paired.b_only,
        second_only=paired.a_only,
        p_value=mcnemar(paired.b_only, paired.a_only),
        disagreements=len(rows),
        shown=tuple(
            Disagreement(row=int(r), **{key: str(classes[int(of[r])]) for key, of in answers.items()})
            for r in rows[:SHOWN]
        ),
    )
