"""How the classes of new rows differ from those of old ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bertft_core.base.errors import DataError

LABEL_LIMIT = 0.1  # of the rows would have to change their class (docs/drift.md)
LABEL_P = 0.01  # one false alarm in a hundred quiet nights

_EXPECTED = 5  # rows a cell from which the chi-square distribution may be used (Cochran 1954)
_TABLES = 9_999  # random tables: p-values in steps of 0.0001


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """Rows of a class and its share in [0, 1], before (old rows) and after (new rows)."""

    name: str
    n_old: int
    n_new: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class LabelShift:
    """Difference between two distributions of classes.

    total_variation in [0, 1]: the share of rows that would have to change their class. p_value: how often as
    large a chi-square happens with equal distributions. jensen_shannon: bits in [0, 1]. classes: by name.
    """

    n_old: int
    n_new: int
    total_variation: float
    p_value: float
    test: Literal["chi-square", "Monte Carlo"]
    jensen_shannon: float
    classes: tuple[ClassShare, ...]

    def is_shifted(self, limit: float = LABEL_LIMIT, p: float = LABEL_P) -> bool:
        """Whether the difference is both large and no accident."""
        return self.total_variation > limit and self.p_value < p


def label_shift(old_counts: Mapping[str, int], new_counts: Mapping[str, int], *, seed: int = 0) -> LabelShift:
    """Compare rows by class: total variation distance, Jensen-Shannon divergence, chi-square test of homogeneity.

    Where fewer than 5 rows are expected in a class on a side, the chi-square statistic is compared with that of
    9,999 random tables of the same margins, drawn by `seed`. Classes without any row are left out.

    Raises DataError for a side without rows or a negative count.

    >>> round(label_shift({"a": 50, "b": 50}, {"a": 60, "b": 40}).total_variation, 3)
    0.1
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import MonteCarloMethod, chi2_contingency
    from scipy.stats.contingency import expected_freq

    sides = (old_counts, new_counts)
    names = sorted(name for name in {*old_counts, *new_counts} if any(side.get(name) for side in sides))
    table = np.array([[side.get(name, 0) for name in names] for side in sides], dtype=np.int64)
    n_old, n_new = table.sum(axis=1).tolist()
    if (table < 0).any() or not (n_old and n_new):
        raise DataError(f"label shift needs counts >= 0 and rows on both sides, found {n_old} old and {n_new} new rows")
    before, after = table / table.sum(axis=1, keepdims=True)
    is_dense = expected_freq(table).min() >= _EXPECTED
    # batches bound the memory where there are a thousand classes
    method = None if is_dense else MonteCarloMethod(n_resamples=_TABLES, batch=1000, rng=np.random.default_rng(seed))
    columns = zip(names, *table.tolist(), before.tolist(), after.tolist(), strict=True)
    return LabelShift(
        n_old=n_old,
        n_new=n_new,
        total_variation=float(np.abs(before - after).sum() / 2),
        p_value=float(chi2_contingency(table, correction=False, method=method).pvalue),
        test="chi-square" if is_dense else "Monte Carlo",
        jensen_shannon=float(jensenshannon(before, after, base=2) ** 2),
        classes=tuple(ClassShare(name=n, n_old=a, n_new=b, before=p, after=q) for n, a, b, p, q in columns),
    )
