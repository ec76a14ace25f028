"""Two models on the same labelled rows: each one's scores, the paired difference, where they disagree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.config.metrics import metrics_of
from bertft_core.evaluation.scores.intervals import Bootstrap, PairedDifference, accuracy_p, paired_difference
from bertft_core.evaluation.scores.labels import Labels, Predictions

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

    groups: of the rows, None where each stands for itself. first_only, second_only: rows that only one of them gets
    right. p_value: exact McNemar, with groups by exchanging whole groups. shown: the first ten of `disagreements` rows
    with different answers.
    """

    n: int
    groups: int | None
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
        """Plain JSON values. A difference that is the same on every row has None for both ends of its interval."""
        document = asdict(self)
        for metric, paired in self.differences.items():
            if paired.interval is None:
                document["differences"][metric] |= {"low": None, "high": None}
        return document


def compare(labels: Labels, first: Predictions, second: Predictions, bootstrap: Bootstrap | None = None) -> Comparison:
    """Compare two models on the same rows. Of multi-label rows one is right where its whole set is."""
    how, metrics = bootstrap or Bootstrap(), metrics_of(multi_label=labels.multi_label)
    one, two = (labels.scores(model, ranking=False) for model in (first, second))
    differences = {metric: paired_difference(labels, second, first, metric, how) for metric in metrics}
    paired = differences["accuracy"]
    rows = np.unique(np.nonzero(first.decided != second.decided)[0])
    shown = rows[:SHOWN]
    texts = (labels.texts(answers[shown]) for answers in (labels.values, first.decided, second.decided))
    return Comparison(
        n=one.n,
        groups=labels.n_groups,
        level=how.level,
        first={m: one.score(m) for m in metrics},
        second={m: two.score(m) for m in metrics},
        differences=differences,
        first_only=paired.b_only,
        second_only=paired.a_only,
        p_value=accuracy_p(labels, second, first),
        disagreements=len(rows),
        shown=tuple(
            Disagreement(row=int(row), label=label, first=a, second=b)
            for row, label, a, b in zip(shown, *texts, strict=True)
        ),
    )
