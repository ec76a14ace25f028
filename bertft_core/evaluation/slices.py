"""Scores of parts of the test rows: by class, text length, a column's values, or any mask of the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.errors import DataError
from bertft_core.evaluation.intervals import wilson
from bertft_core.evaluation.metrics import Ints, count_scores
from bertft_core.evaluation.resampling import counts

FEW_ROWS = 100  # at 95 % accuracy the 95 % interval is then 9 points wide
TOP_VALUES = 20  # of a column; a report longer than that is not read
_MISSING = ("None", "nan", "NaT", "<NA>")  # as text, for pandas' NA answers no comparison

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SliceScore:
    """One part of n rows: accuracy, its Wilson interval (low, high), macro F1 over the classes in it.

    All four are None for a slice without rows. is_small: too few rows to conclude much from.
    """

    name: str
    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    macro_f1: float | None
    is_small: bool

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"{self.name}: no rows"
        return f"{self.name}: accuracy {self.accuracy:.4f} [{self.low:.4f}, {self.high:.4f}], n {self.n}"


def slices(labels: Any, predicted: Any, masks: Mapping[str, Any], level: float = 0.95) -> tuple[SliceScore, ...]:
    """Score each slice: labels and decisions [n] as class indices, masks [n] by name, in the masks' order.

    The intervals are each at `level`: of twenty slices one is expected to mislead at 95 %.

    Raises DataError for a mask that is not one boolean per row.
    """
    y, guess = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    return tuple(_score(name, y, guess, _checked(name, mask, len(y)), level) for name, mask in masks.items())


def class_masks(labels: Any, classes: Sequence[str]) -> dict[str, Mask]:
    """One slice for each class: its accuracy is the class's recall."""
    y = np.asarray(labels, dtype=np.int64)
    return {f"class {name}": y == index for index, name in enumerate(classes)}


def length_masks(lengths: Any, unit: str = "words") -> dict[str, Mask]:
    """Up to four slices of texts of like length [n], cut at the quartiles and named by their ranges.

    Equal lengths share a slice, so there are fewer slices where many texts are equally long.

    >>> list(length_masks([3, 5, 8, 13, 21, 34, 55, 89], "tokens"))
    ['3-5 tokens', '8-13 tokens', '21-34 tokens', '55-89 tokens']
    """
    counted = np.asarray(lengths, dtype=np.int64)
    if len(counted) == 0:
        return {}
    quartiles = np.quantile(counted, [0.25, 0.5, 0.75])
    part_of = np.searchsorted(np.unique(quartiles), counted, side="left")
    masks = (part_of == part for part in np.unique(part_of))
    return {f"{_range(counted[m])} {unit}": m for m in masks}


def column_masks(values: Sequence[Any], column: str) -> dict[str, Mask]:
    """A slice for each of a column's 20 most frequent values [n], the rest together, most frequent first.

    Values are compared as text; None and NaN are the value "missing". Ties in frequency: by name.
    """
    texts = np.array([_as_text(value) for value in values], dtype=object)
    ranked = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    kept = [text for text, _ in ranked[:TOP_VALUES]]
    found = {f"{column} = {text}": np.asarray(texts == text, dtype=np.bool_) for text in kept}
    if len(ranked) > TOP_VALUES:
        rest = np.logical_or.reduce(list(found.values()))
        found[f"{column}: {len(ranked) - TOP_VALUES} other values"] = np.asarray(~rest, dtype=np.bool_)
    return found


def _range(values: Ints) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low}-{high}"


def _as_text(value: Any) -> str:
    text = " ".join(str(value).split())
    return "missing" if text in _MISSING and not isinstance(value, str) else text


def _checked(name: str, mask: Any, n: int) -> Mask:
    rows = np.asarray(mask)
    if rows.shape != (n,) or rows.dtype != np.bool_:
        raise DataError(f"slice {name!r} wants one boolean for each of {n} rows, found {rows.dtype} {rows.shape}")
    return rows


def _score(name: str, y: Ints, guess: Ints, rows: Mask, level: float) -> SliceScore:
    n = int(rows.sum())
    if n == 0:
        return SliceScore(name=name, n=0, accuracy=None, low=None, high=None, macro_f1=None, is_small=True)
    y, guess = y[rows], guess[rows]
    n_classes = int(max(y.max(), guess.max())) + 1
    found = count_scores(*counts(y, guess, n_classes), np.bincount(y, minlength=n_classes))
    low, high = wilson(int((y == guess).sum()), n, level)
    return SliceScore(
        name=name,
        n=n,
        accuracy=float(found["accuracy"]),
        low=low,
        high=high,
        macro_f1=float(found["macro_f1"]),
        is_small=n < FEW_ROWS,
    )
