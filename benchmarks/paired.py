"""Is one side as accurate as the other? Paired differences over seeds and rows, with 95 % intervals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_RESAMPLES = 10_000
_LEVEL = 0.95


def accuracy_difference(ours: Any, theirs: Any, labels: Any) -> dict[str, Any]:
    """Ours minus theirs, from answers [seeds, rows] of both sides and the true labels [rows].

    interval_seeds: Student's t over the seeds' differences on these very rows. interval_rows_and_seeds: percentiles of
    a bootstrap that draws seeds and rows anew, both with replacement; it says what other rows would do too.
    """
    right = [(np.asarray(side) == np.asarray(labels)).astype(float) for side in (ours, theirs)]
    gained = right[0] - right[1]
    return {
        "ours": float(right[0].mean()),
        "theirs": float(right[1].mean()),
        "by_seed": {"ours": right[0].mean(axis=1).tolist(), "theirs": right[1].mean(axis=1).tolist()},
        "difference": float(gained.mean()),
        "interval_seeds": list(_student(gained.mean(axis=1))),
        "interval_rows_and_seeds": list(_bootstrap(gained)),
        "seeds": gained.shape[0],
        "rows": gained.shape[1],
    }


def _student(differences: Any) -> tuple[float, float]:
    from scipy import stats

    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return mean - half, mean + half


@functools.lru_cache(maxsize=1)
def _draws(seeds: int, rows: int) -> tuple[Any, Any]:
    """How often each seed [resamples, seeds] and each row [resamples, rows] is drawn, as shares; always the same."""
    rng = np.random.default_rng(0)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES) / seeds
    return drawn_seeds, rng.multinomial(rows, np.full(rows, 1 / rows), size=_RESAMPLES) / rows


def _bootstrap(gained: Any) -> tuple[float, float]:
    drawn_seeds, drawn_rows = _draws(*gained.shape)
    means = np.einsum("bs,sr,br->b", drawn_seeds, gained, drawn_rows, optimize=True)
    low, high = np.percentile(means, [50 * (1 - _LEVEL), 50 * (1 + _LEVEL)])
    return float(low), float(high)
