"""Random resamples and permutations of test rows, drawn as weights and counts, never as copies of rows.

What is drawn are units: rows, or whole groups of rows where rows of one group (one customer's, say) resemble each
other. A resample gives each unit a weight by the exponential distribution, which together are a uniform Dirichlet
distribution (the Bayesian bootstrap, Rubin 1981, Annals of Statistics 9:130): as the bootstrap, but no class ever
vanishes. A permutation exchanges the two models' answers to a unit with probability one half.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

from bertft_core.evaluation.scores.counts import Counts, Floats, Ints, counts

FOLDS = 5  # of a cross-fit
BLOCK = 2_000_000  # drawn numbers held at once: 16 MB per array


def parts(draws: int, width: int) -> Iterator[int]:
    """`draws` in parts of which each holds at most BLOCK numbers of so many for a draw: one where that is few."""
    most = max(1, BLOCK // width)
    for start in range(0, draws, most):
        yield min(most, draws - start)


def kind_weights(kinds: Ints, groups: Any, resamples: int, rng: np.random.Generator) -> Floats:
    """Weight [resamples, K] of each kind of row; kinds [n]: the kind of each row in 0..K-1; groups [n] or None."""
    width = int(kinds.max()) + 1
    if groups is None:  # rows of a kind are interchangeable: the sum of k exponential weights is gamma(k)
        return rng.standard_gamma(np.bincount(kinds).astype(np.float64), size=(resamples, width))
    rows = np.bincount(groups * width + kinds, minlength=(int(groups.max()) + 1) * width).astype(np.float64)
    return resampled_sums(rows.reshape(-1, width), resamples, rng)


def resampled_sums(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums [resamples, K] of the units' values [U, K] under exponential weights of mean 1."""
    total = np.empty((resamples, values.shape[1]))
    size = max(1, BLOCK // len(values))
    for start in range(0, resamples, size):
        part = total[start : start + size]
        part[:] = rng.standard_exponential((len(part), len(values))) @ values
    return total


def group_sums(values: Floats, groups: Any) -> Floats:
    """Sums [G, K] of the rows' values [n, K] over each group; the values themselves where groups is None."""
    if groups is None:
        return values
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[order], starts, axis=0))


def running(groups: Ints, values: Floats) -> Floats:
    """The sum of values [n] so far within each row's group, the row included."""
    order = np.argsort(groups, kind="stable")
    grouped, total = groups[order], np.cumsum(values[order])
    first = np.searchsorted(grouped, grouped)
    result = np.empty(len(values))
    result[order] = total - total[first] + values[order][first]
    return result


def exchanged_counts(
    y: Ints, guesses: tuple[Ints, Ints], n_classes: int, groups: Any, permutations: int, rng: np.random.Generator
) -> tuple[Counts, Counts]:
    """Counts of two models after their answers to each row, or group, were exchanged with probability one half.

    guesses: of each model, [n]; groups [n] in 0..G-1, or None.
    """
    if groups is None:
        return _swapped_counts(y, *guesses, n_classes, permutations, rng)
    is_class = np.eye(n_classes)
    ours, theirs = (np.hstack([is_class[g] * (g == y)[:, None], is_class[g]]) for g in guesses)
    middle = (ours + theirs).sum(axis=0) / 2
    half = flipped_sums(group_sums(ours - theirs, groups) / 2, permutations, rng)
    one, two = (np.split(sums, 2, axis=1) for sums in (middle + half, middle - half))
    return (one[0], one[1]), (two[0], two[1])


def _swapped_counts(
    y: Ints, guess_a: Ints, guess_b: Ints, n_classes: int, permutations: int, rng: np.random.Generator
) -> tuple[Counts, Counts]:
    """`exchanged_counts` of rows that each stand for themselves: like rows together, by how many are exchanged."""
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
    """Sums [permutations, ...] of values [n, ...] whose signs were flipped with probability one half, unit by unit."""
    total = np.empty((permutations, *values.shape[1:]))
    n = len(values)
    block = max(1, BLOCK // n)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        octets = rng.integers(0, 256, size=(size, n // 8 + 1), dtype=np.uint8)
        kept = np.unpackbits(octets, axis=1, count=n).astype(np.float64)
        total[start : start + size] = 2 * (kept @ values) - values.sum(axis=0)
    return total


def widening(units: Any, tail: float) -> Any:
    """By how much the spread of resamples of so few units is too small at a quantile `tail` above 1/2.

    Student's quantile over the normal one, for a variance that was estimated from the units, times sqrt((u + 1) /
    (u - 1)), for weights whose variance is that much below the unbiased one. 1.02 for 100 units at 97.5 %, 1.28 for 10;
    a single unit counts as two. units: a number, or an array of them.
    """
    from scipy.special import stdtrit

    units = np.maximum(2, units)
    return stdtrit(units - 1, tail) / NormalDist().inv_cdf(tail) * np.sqrt((units + 1) / (units - 1))


def folds_of(labels: Any, groups: Any = None) -> Ints:
    """The fold 0..FOLDS-1 of each row, by the order of the rows; stratified where a row has one class, labels [n].

    groups [n] in 0..G-1, or None: a group lies in one fold.
    """
    if groups is not None:
        return np.asarray(groups, dtype=np.int64) % FOLDS
    places = np.arange(len(labels)) % FOLDS
    if np.ndim(labels) != 1:
        return places
    fold = np.empty(len(labels), dtype=np.int64)
    fold[np.argsort(labels, kind="stable")] = places
    return fold
