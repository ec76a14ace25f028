"""Parts of the test rows as masks, and what a model is worth on each: by class, by length, by a column's value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.evaluation.scores.intervals import Interval, share_interval
from bertft_core.evaluation.scores.labels import Labels, Predictions

SMALL = 100  # rows; at 95 % accuracy the interval of a smaller slice is over 9 points wide
_MOST_VALUES = 20  # of a column; the rest together is one more slice
_BINS = 4

Masks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class SliceScore:
    """Accuracy in [0, 1] on a slice with its Wilson interval. group: what the slices divide, such as length."""

    group: str
    name: str
    n: int
    accuracy: float
    interval: Interval

    @property
    def is_small(self) -> bool:
        """Under 100 rows: the interval says more than the accuracy."""
        return self.n < SMALL


def length_masks(lengths: Any) -> Masks:
    """Quarters of the rows by length [n] in words, named by their range; equal lengths stay together.

    >>> list(length_masks([1, 2, 3, 4]))
    ['1 words', '2 words', '3 words', '4 words']
    """
    values = np.asarray(lengths, dtype=np.int64)
    if not len(values):
        return {}
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS, method="lower"))
    place = np.searchsorted(edges, values)
    masks = [place == b for b in np.unique(place)]
    ranges = [(int(values[m].min()), int(values[m].max())) for m in masks]
    return {f"{a}–{b} words" if a < b else f"{a} words": m for (a, b), m in zip(ranges, masks, strict=True)}


def value_masks(values: Sequence[str]) -> Masks:
    """Rows by value [n]: the 20 commonest, the others together as "other", missing ones as "(empty)"."""
    cells = np.array([value or "(empty)" for value in values], dtype=object)
    common = [value for value, _ in Counter(cells.tolist()).most_common(_MOST_VALUES)]
    masks: Masks = {value: cells == value for value in common}
    rest = ~np.isin(cells, common)
    return {**masks, "other": rest} if rest.any() else masks


def slice_groups(
    texts: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]], patterns: Mapping[str, str]
) -> dict[str, Masks]:
    """The slices that reports and the gate watch: text length in words, values of the kept columns, patterns.

    cells [n][columns]: the values of the data.slices columns. patterns {name: regular expression}: rows whose text
    it finds; a pattern that finds none is no slice.
    """
    groups = {"length": length_masks([len(text.split()) for text in texts])}
    groups |= {name: value_masks([row[i] for row in cells]) for i, name in enumerate(columns)}
    found = {name: np.array([bool(re.search(rule, text)) for text in texts]) for name, rule in patterns.items()}
    found = {name: mask for name, mask in found.items() if mask.any()}
    return {**groups, "pattern": found} if found else groups


def score_slices(
    labels: Labels, predictions: Predictions, divisions: Mapping[str, Masks], level: float
) -> tuple[SliceScore, ...]:
    """Scores of every slice of every division of the rows."""
    right, groups = labels.is_right(predictions), labels.groups
    return tuple(
        SliceScore(
            group=group,
            name=name,
            n=int(mask.sum()),
            accuracy=float(right[mask].mean()),
            interval=share_interval(right[mask], None if groups is None else groups[mask], level),
        )
        for group, masks in divisions.items()
        for name, mask in masks.items()
    )
