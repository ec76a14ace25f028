"""Two models on the same labelled rows: each one's scores, the paired difference, where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.base.text import set_text
from bertft_core.config.metrics import metrics_of
from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.intervals import PairedDifference, mcnemar, paired_difference
from bertft_core.evaluation.scores.label_sets import any_scores, are_sets, check_sets, decided_sets
from bertft_core.evaluation.scores.metrics import check_rows, decisions

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

    decided_* [n]: class indices, where a model's decisions are not the most probable class. Multi-label: labels and
    decided_* are 0 and 1 [n, C], and a row is right where its whole set is.
    Raises DataError for no rows, ArtifactError for probabilities that are no distributions.
    """
    metrics = metrics_of(multi_label=are_sets(labels))
    guess_one, guess_two = (
        _guess(labels, p, classes, said) for p, said in ((p_first, decided_first), (p_second, decided_second))
    )
    one, two = (
        any_scores(labels, p, classes, weights, guess, ranking=False)
        for p, guess in ((p_first, guess_one), (p_second, guess_two))
    )
    differences = {
        metric: paired_difference(
            labels, p_second, p_first, classes, metric, level, resamples, seed, weights, guess_two, guess_one
        )
        for metric in metrics
    }
    rows = np.unique(np.nonzero(guess_one != guess_two)[0])
    paired, answers = differences["accuracy"], {"label": labels, "first": guess_one, "second": guess_two}
    return Comparison(
        n=one.n,
        level=level,
        first={m: one.score(m) for m in metrics},
        second={m: two.score(m) for m in metrics},
        differences=differences,
        first_only=paired.b_only,
        second_only=paired.a_only,
        p_value=mcnemar(paired.b_only, paired.a_only),
        disagreements=len(rows),
        shown=tuple(
            Disagreement(row=int(r), **{key: _name(of[r], classes) for key, of in answers.items()})
            for r in rows[:SHOWN]
        ),
    )


def _guess(labels: Any, probabilities: Any, classes: Sequence[str], decided: Any) -> Any:
    if are_sets(labels):
        return decided_sets(check_sets(labels, probabilities, classes)[1], decided)
    return decisions(check_rows(labels, probabilities, classes)[1], decided)


def _name(answer: Any, classes: Sequence[str]) -> str:
    """A class by its index, or a set by 0 and 1 for each class."""
    return set_text(answer, classes) if np.ndim(answer) else str(classes[int(answer)])
