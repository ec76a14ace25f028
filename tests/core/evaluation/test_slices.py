"""Slices divide the rows without loss and carry their own intervals."""

from dataclasses import replace

import numpy as np
import pytest

from bertft_core.evaluation.scores.intervals import wilson
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.slices import length_masks, score_slices, slice_groups, value_masks


def test_length_slices_divide_the_rows_into_quarters() -> None:
    masks = length_masks(np.arange(1, 101))
    assert [int(m.sum()) for m in masks.values()] == [25, 25, 25, 25]
    assert next(iter(masks)) == "1–25 words" and np.sum(list(masks.values()), axis=0).tolist() == [1] * 100


def test_equal_lengths_are_one_slice() -> None:
    assert {name: int(m.sum()) for name, m in length_masks([7] * 9).items()} == {"7 words": 9}


def test_rare_values_are_one_slice_together() -> None:
    values = [f"v{i}" for i in range(20) for _ in range(2)] + ["rare1", "rare2", ""]
    masks = value_masks(values)
    assert len(masks) == 21 and int(masks["other"].sum()) == 3
    assert int(value_masks(["", "a"])["(empty)"].sum()) == 1


def test_slice_score_has_a_wilson_interval_and_says_when_it_is_small() -> None:
    labels, predicted = np.array([0] * 150 + [1] * 10), np.array([0] * 140 + [1] * 20)
    rows = labels_of(labels, ["a", "b"])
    answers, divisions = rows.predictions(np.eye(2)[predicted]), {"class": {"a": labels == 0, "b": labels == 1}}
    found = score_slices(rows, answers, divisions, 0.9)
    assert [(s.name, s.n, s.is_small) for s in found] == [("a", 150, False), ("b", 10, True)]
    assert found[0].accuracy == pytest.approx(140 / 150) and found[0].interval == wilson(140, 150, 0.9)
    grouped = score_slices(replace(rows, groups=np.arange(160) // 10), answers, divisions, 0.9)
    assert grouped[0].interval[0] < found[0].interval[0] and grouped[0].interval[1] > found[0].interval[1]


def test_patterns_are_slices_of_the_rows_they_find() -> None:
    groups = slice_groups(["the bank", "a film", "Bank!"], [], [[], [], []], {"bank": "(?i)bank", "none": "xyz"})
    assert {name: m.tolist() for name, m in groups["pattern"].items()} == {"bank": [True, False, True]}


def test_columns_and_length_are_slices() -> None:
    groups = slice_groups(["one", "two words"], ["shop"], [["a"], ["b"]], {})
    assert list(groups) == ["length", "shop"] and list(groups["shop"]) == ["a", "b"]
