from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from bertft_core.errors import DataError
from bertft_core.evaluation.intervals import wilson
from bertft_core.evaluation.slices import class_masks, column_masks, length_masks, slices

Y = np.arange(240) % 3
GUESS = np.where(np.arange(240) % 7 == 0, (Y + 1) % 3, Y)


def test_slices_agree_with_scores_of_their_rows() -> None:
    mask = np.arange(240) < 120
    (found,) = slices(Y, GUESS, {"first half": mask})
    right = int((Y == GUESS)[mask].sum())
    assert (found.name, found.n, found.is_small) == ("first half", 120, False)
    assert found.accuracy == right / 120 and (found.low, found.high) == wilson(right, 120)
    assert found.macro_f1 == pytest.approx(f1_score(Y[mask], GUESS[mask], average="macro"))


def test_slices_keep_the_order_of_the_masks_and_mark_small_ones() -> None:
    found = slices(Y, GUESS, {"b": np.arange(240) < 99, "a": np.arange(240) < 100})
    assert [(s.name, s.is_small) for s in found] == [("b", True), ("a", False)]


def test_slice_without_rows_has_no_scores() -> None:
    (found,) = slices(Y, GUESS, {"none": np.zeros(240, dtype=bool)})
    assert (found.n, found.accuracy, found.low, found.macro_f1, found.is_small) == (0, None, None, None, True)
    assert str(found) == "none: no rows"


def test_slices_refuse_masks_that_are_not_one_boolean_per_row() -> None:
    for mask in (np.ones(239, dtype=bool), np.ones(240, dtype=int)):
        with pytest.raises(DataError, match="'odd'"):
            slices(Y, GUESS, {"odd": mask})


def test_class_slices_have_the_recall_as_accuracy() -> None:
    found = slices(Y, GUESS, class_masks(Y, ["x", "y", "z"]))
    assert [s.name for s in found] == ["class x", "class y", "class z"]
    assert [s.accuracy for s in found] == [np.mean(GUESS[c == Y] == c) for c in range(3)]


def test_length_slices_are_quartiles_named_by_their_ranges() -> None:
    found = length_masks(np.arange(1, 101), "tokens")
    assert list(found) == ["1-25 tokens", "26-50 tokens", "51-75 tokens", "76-100 tokens"]
    assert [int(m.sum()) for m in found.values()] == [25, 25, 25, 25]


def test_length_slices_of_equal_lengths_are_fewer_and_hold_every_row_once() -> None:
    found = length_masks([5, 5, 5, 5, 9])
    assert list(found) == ["5 words", "9 words"]
    assert np.sum(list(found.values()), axis=0).tolist() == [1] * 5
    assert list(length_masks([7])) == ["7 words"] and length_masks([]) == {}


def test_column_slices_are_the_twenty_most_frequent_values_and_the_rest() -> None:
    values = [str(v) for v in range(22) for _ in range(30 - v)]
    found = column_masks(values, "source")
    assert list(found) == [*(f"source = {v}" for v in range(20)), "source: 2 other values"]
    assert found["source: 2 other values"].sum() == 10 + 9
    assert (np.sum(list(found.values()), axis=0) == 1).all()


def test_column_slices_gather_every_kind_of_missing_value() -> None:
    found = column_masks([None, float("nan"), pd.NaT, pd.NA, "nan", 3], "shop")
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "shop = missing": 4, "shop = 3": 1, "shop = nan": 1,
    }  # fmt: skip
