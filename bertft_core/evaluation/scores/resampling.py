"""Random resamples and permutations of test rows, drawn as counts or weights, never as copies of rows.

Scores of decisions depend on the rows only through counts, so a resample is one multinomial per true class and
a permutation one binomial per kind of row. Scores that are means over rows need each row's multiplicity: a
resample is a row of weights, and all such scores together are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertft_core.evaluation.scores.counts import Counts, Floats, Ints, counts

FOLDS = 5  # of a cross-fit
_BLOCK = 2_000_000  # resampled cells held at once: 16 MB per array


def resampled_counts(
    y: Ints, guesses: Sequence[Ints], n_classes: int, resamples: int, rng: np.random.Generator
) -> list[Counts]:
    """Counts of each model over bootstrap resamples stratified by true class, all on the same resampled rows.

    Within a true class, rows with equal guesses are interchangeable: resampling them is one multinomial.
    """
    hits = [np.zeros((n_classes, resamples)) for _ in guesses]
    decided = [np.zeros((n_classes, resamples)) for _ in guesses]
    cells, rows = np.unique(np.stack([y, *guesses], axis=1), axis=0, return_counts=True)
    for label in np.unique(y):
        own = cells[:, 0] == label
        n = rows[own].sum()
        drawn = rng.multinomial(n, rows[own] / n, size=resamples).T
        for model in range(len(guesses)):
            for guess, times in zip(cells[own, model + 1], drawn, strict=True):
                decided[model][guess] += times
                if guess == label:
                    hits[model][label] += times
    return [(h.T, d.T) for h, d in zip(hits, decided, strict=True)]


def resampled_sums(y: Ints, values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums [resamples, K] of the rows' values [n, K] over bootstrap resamples stratified by true class."""
    total = np.zeros((resamples, values.shape[1]))
    for label in np.unique(y):
        stratum = values[y == label]
        n = len(stratum)
        block = max(1, _BLOCK // n)
        for start in range(0, resamples, block):
            size = min(block, resamples - start)
            picks = rng.integers(0, n, size=(size, n), dtype=np.int32) + np.arange(size)[:, None] * n
            times = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
            total[start : start + size] += times.astype(np.float64) @ stratum
    return total


def swapped_counts(
    y: Ints, guess_a: Ints, guess_b: Ints, n_classes: int, permutations: int, rng: np.random.Generator
) -> tuple[Counts, Counts]:
    """Counts of two models after each row's answers were exchanged with probability one half, row by row."""
    hits_a, decided_a = (np.tile(v[:, None], permutations) for v in counts(y, guess_a, n_classes))
    hits_b, decided_b = (v[:, None] for v in counts(y, guess_b, n_classes))
    hits, decided = hits_a + hits_b, decided_a + decided_b  # an exchange leaves the two models' sum alone
    differ = guess_a != guess_b
    cells, rows = np.unique(np.stack([y, guess_a, guess_b], axis=1)[differ], axis=0, return_counts=True)
    for (label, a, b), n in zip(cells, rows, strict=True):
        times = rng.binomial(n, 0.5, size=permutations)
        decided_a[a] -= times
        decided_a[b] += times
        if label in (a, b):
            hits_a[label] += -times if label == a else times
    return (hits_a.T, decided_a.T), ((hits - hits_a).T, (decided - decided_a).T)


def flipped_sums(values: Floats, permutations: int, rng: np.random.Generator) -> Floats:
    """Sums [permutations, ...] of values [n, ...] whose signs were flipped with probability one half, row by row."""
    total = np.empty((permutations, *values.shape[1:]))
    n = len(values)
    block = max(1, _BLOCK // n)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        octets = rng.integers(0, 256, size=(size, n // 8 + 1), dtype=np.uint8)
        kept = np.unpackbits(octets, axis=1, count=n).astype(np.float64)
        total[start : start + size] = 2 * (kept @ values) - values.sum(axis=0)
    return total


def folds_of(labels: Any) -> Ints:
    """The fold 0..FOLDS-1 of each row, by the order of the rows; stratified where a row has one class, labels [n]."""
    places = np.arange(len(labels)) % FOLDS
    if np.ndim(labels) != 1:
        return places
    fold = np.empty(len(labels), dtype=np.int64)
    fold[np.argsort(labels, kind="stable")] = places
    return fold
