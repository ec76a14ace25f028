"""Two models on the same rows, worked by hand."""

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.evaluation import comparison
from bertft_core.evaluation.comparison import SHOWN
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import labels_of

CLASSES = ("no", "yes")


def compare(labels, p_first, p_second, classes, **how):
    rows = labels_of(labels, classes)
    return comparison.compare(rows, rows.predictions(p_first), rows.predictions(p_second), Bootstrap(**how))


def answers(labels):
    return np.eye(2)[np.asarray(labels)] * 0.8 + 0.1


def test_disagreements_are_counted_by_who_is_right():
    labels = [0, 0, 0, 1, 1, 1]
    result = compare(labels, answers([0, 0, 0, 0, 0, 0]), answers([0, 0, 1, 1, 1, 1]), CLASSES, resamples=200)
    assert (result.n, result.first_only, result.second_only, result.disagreements) == (6, 1, 3, 4)
    assert result.p_value == pytest.approx(0.625)  # exact binomial: 2 x (1 + 4) / 16
    assert result.first["accuracy"] == pytest.approx(3 / 6) and result.second["accuracy"] == pytest.approx(5 / 6)
    assert result.differences["accuracy"].difference == pytest.approx(2 / 6)
    shown = result.shown[0]
    assert (shown.row, shown.label, shown.first, shown.second) == (2, "no", "no", "yes")


def test_two_wrong_answers_disagree_without_anybody_being_right():
    p_first, p_second = np.eye(3)[[1, 0]], np.eye(3)[[2, 0]]
    result = compare([0, 0], p_first, p_second, ("a", "b", "c"), resamples=200)
    assert (result.first_only, result.second_only, result.disagreements, result.p_value) == (0, 0, 1, 1.0)


def test_difference_is_positive_where_the_second_is_better_in_every_metric():
    labels = np.arange(40) % 2
    result = compare(labels, answers(np.zeros(40, int)), answers(labels), CLASSES, resamples=500)
    assert all(d.difference > 0 and d.low > 0 for d in result.differences.values())


def test_long_disagreement_shows_its_first_rows():
    labels = np.zeros(50, int)
    result = compare(labels, answers(labels), answers(1 - labels), CLASSES, resamples=200)
    assert result.disagreements == 50 and [s.row for s in result.shown] == list(range(SHOWN))


def test_no_rows_and_no_distributions_are_refused():
    with pytest.raises(DataError, match="at least one"):
        compare([], np.zeros((0, 2)), np.zeros((0, 2)), CLASSES)
    with pytest.raises(ArtifactError, match="no distribution"):
        compare([0], [[0.5, 0.5]], [[0.9, 0.9]], CLASSES)
