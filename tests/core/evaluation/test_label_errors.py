from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.evaluation.label_errors import LabelReview, Suspect, suspect_labels

CLASSES = ("business", "sport", "tech")


def clusters(n: int = 300, spread: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points in 8 dimensions, one per class; label errors stand out of them."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = rng.normal(size=(3, 8)) * 2
    return (centres[y] + rng.normal(scale=spread, size=(n, 8))).astype(np.float32), y


def flipped(y: np.ndarray, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(1).choice(len(y), round(share * len(y)), replace=False)
    wrong = y.copy()
    wrong[rows] = (y[rows] + 1) % 3
    return wrong, rows


def test_flipped_labels_are_ranked_first_and_the_true_label_is_suggested() -> None:
    x, y = clusters()
    wrong, rows = flipped(y)
    found = suspect_labels(x, wrong, CLASSES, seed=0)
    first = found.suspects[: len(rows)]
    assert np.isin(rows, [s.row for s in first]).mean() >= 0.85  # cleanlab's own cut is careful: 13 of 15 here
    assert all(s.suggested == CLASSES[y[s.row]] and s.label == CLASSES[wrong[s.row]] for s in first if s.row in rows)


def test_suspects_are_ordered_by_self_confidence_and_never_suggest_their_own_label() -> None:
    x, y = clusters(spread=1.6)
    found = suspect_labels(x, flipped(y)[0], CLASSES, seed=0).suspects
    assert len(found) > 10
    assert [s.self_confidence for s in found] == sorted(s.self_confidence for s in found)
    assert all(s.suggested != s.label and s.probability > s.self_confidence for s in found)


def test_right_labels_raise_hardly_any_suspicion() -> None:
    x, y = clusters()
    found = suspect_labels(x, y, CLASSES, seed=0)
    assert found.rows == 300 and len(found.suspects) <= 3 and not found.notes


def test_equal_seeds_give_equal_reviews() -> None:
    x, y = clusters(spread=1.6)
    assert suspect_labels(x, y, CLASSES, seed=4) == suspect_labels(x, y, CLASSES, seed=4)


def test_small_classes_are_left_out_with_a_note_and_rows_keep_their_numbers() -> None:
    x, y = clusters()
    wrong, rows = flipped(y)
    x, labels = np.concatenate([x[:4], x]), np.concatenate([[0, 0, 0, 0], wrong + 1])
    found = suspect_labels(x, labels, ("rare", *CLASSES), seed=0)
    assert found.rows == 300 and found.notes == ("classes with fewer than 5 rows are left out: rare (4)",)
    assert np.isin(rows + 4, [s.row for s in found.suspects]).mean() >= 0.85
    assert not {"rare"} & {name for s in found.suspects for name in (s.label, s.suggested)}


def test_one_class_is_no_ground_for_suspicion() -> None:
    found = suspect_labels(np.ones((20, 2)), np.zeros(20), ("a", "b"), seed=0)
    assert found.suspects == () and "fewer than two classes" in found.notes[0]


@pytest.mark.parametrize("features", [np.ones((3, 2)), np.ones(4), np.full((4, 2), np.nan)])
def test_features_of_another_shape_or_not_finite_are_refused(features: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=r"\(4, d\)"):
        suspect_labels(features, [0, 1, 0, 1], ("a", "b"), seed=0)


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"0\.\.1"):
        suspect_labels(np.ones((2, 2)), [0, 2], ("a", "b"), seed=0)


def test_csv_names_source_rows_and_quotes_texts() -> None:
    suspect = Suspect(row=1, label="a", suggested="b", self_confidence=0.01, probability=0.98)
    text = LabelReview(suspects=(suspect,), rows=2).to_csv([10, 11], ["x", 'a "b",\nc'])
    assert list(csv.reader(io.StringIO(text)))[1] == ["11", "a", "b", "0.0100", "0.9800", 'a "b",\nc']
