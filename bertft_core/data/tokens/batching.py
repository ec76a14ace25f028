"""Which rows form a batch, and their padded arrays. Pure numpy; equal seeds give equal batches."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bertft_core.data.tokens.tokenization import TokenArrays


_BLOCK = 16  # batches in a block that is ordered by length: padding against company (benchmarks/batches.py)
_SLAB = 50_000  # rows of a pass over all ids

Ints = NDArray[np.int64]


def epoch_batches(
    lengths: NDArray[np.integer], labels: NDArray[np.integer], batch_size: int, seed: int, epoch: int
) -> list[Ints]:
    """Row numbers of each training batch of one epoch; a pure function of its arguments.

    Rows are shuffled and cut into equal blocks of at most 16 batches and of about a quarter of the rows. Within a block
    the rows of each class are put in order of length and spread evenly over the block, so that a batch holds rows of
    like length within their class, of all classes in their shares. All batches but the last hold exactly
    ``batch_size`` rows; what is left over is drawn at random and comes last.

    ``lengths``, ``labels`` (class numbers): [n].

    >>> [len(b) for b in epoch_batches(np.array([3, 1, 2]), np.array([0, 1, 0]), 2, seed=0, epoch=0)]
    [2, 1]
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    n_full = len(order) // batch_size
    n_blocks = -(-n_full // max(1, min(_BLOCK, n_full // 4)))
    whole, rest = order[: n_full * batch_size].reshape(n_full, batch_size), order[n_full * batch_size :]
    batches: list[Ints] = []
    for rows in np.array_split(whole, max(1, n_blocks)):
        block = rows.ravel()
        ordered = block[np.argsort(_places(lengths[block], labels[block], rng), kind="stable")]
        batches += list(ordered.reshape(rows.shape))
    return [batches[i] for i in rng.permutation(n_full)] + ([rest] if len(rest) else [])


def _places(lengths: NDArray[np.integer], labels: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.float64]:
    """Where in a block each row belongs, 0 to 1 [n]: its rank by length among the rows of its class, as a share."""
    by_class = np.lexsort((lengths, labels))
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks = np.arange(len(lengths)) - np.repeat(first, counts)
    places = np.empty(len(lengths))
    places[by_class] = (ranks + rng.random(len(lengths))) / np.repeat(counts, counts)
    return places


def scoring_batches(lengths: NDArray[np.integer], token_budget: int, multiple: int = 8) -> list[Ints]:
    """Row numbers of inference batches, longest rows first, each of at most ``token_budget`` padded tokens.

    A row longer than the budget is a batch of its own.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        width = max(multiple, -(-int(lengths[order[start]]) // multiple) * multiple)
        stop = start + max(1, token_budget // width)
        batches.append(order[start:stop])
        start = stop
    return batches


def pad_batch(
    arrays: TokenArrays, rows: NDArray[np.integer], pad_id: int, multiple: int = 8, max_width: int | None = None
) -> tuple[Ints, Ints, Ints, NDArray[np.int64] | NDArray[np.float32]]:
    """Padded arrays [n, T] (ids, mask, type ids; int64) and targets: labels [n], or weights [n, C] if soft.

    T is the longest row rounded up to ``multiple``, never above ``max_width`` unless a row is. Type ids are 1
    from a row's pair_start on; a pair_start of 0 or below means that there is no second text.
    """
    starts = arrays.offsets[rows]
    lengths = arrays.offsets[rows + 1] - starts
    longest = max(1, int(lengths.max()))
    width = -(-longest // multiple) * multiple
    if max_width is not None:
        width = max(longest, min(width, max_width))
    positions = np.arange(width, dtype=np.int64)
    is_token = positions < lengths[:, None]
    ids = np.full(is_token.shape, pad_id, dtype=np.int64)
    ids[is_token] = arrays.ids[(starts[:, None] + positions)[is_token]]
    pair_start = arrays.pair_start[rows][:, None]
    type_ids = (is_token & (pair_start > 0) & (positions >= pair_start)).astype(np.int64)
    return ids, is_token.astype(np.int64), type_ids, targets_of(arrays, rows)


def unit_rows(arrays: TokenArrays, rows: NDArray[np.integer]) -> Ints:
    """Row numbers in `arrays.units` of what these rows consist of, row after row: the rows, or their chunks."""
    if arrays.chunk is None:
        return rows.astype(np.int64)
    first = arrays.first_unit
    counts = first[rows + 1] - first[rows]
    place: Ints = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first[rows], counts) + place


def targets_of(arrays: TokenArrays, rows: NDArray[np.integer]) -> NDArray[np.int64] | NDArray[np.float32]:
    """Labels int64 [n], or weights float32 [n, C] if soft."""
    if arrays.weights is not None:
        weights: NDArray[np.float32] = arrays.weights[rows]
        return weights
    labels: Ints = arrays.labels[rows].astype(np.int64)
    return labels


def sample_rows(arrays: TokenArrays, rows: int | None) -> Ints:
    """Row numbers to train on: all, or about ``rows`` stratified by label, smallest content hash first.

    Every class present keeps at least one row. The choice has no seed and does not move when other rows come
    or go.
    """
    total = len(arrays.labels)
    if rows is None or rows >= total:
        return np.arange(total, dtype=np.int64)
    hashes = _content_hashes(arrays)
    chosen: list[Ints] = []
    for label in np.unique(arrays.labels):
        members = np.flatnonzero(arrays.labels == label)
        quota = max(1, round(rows * len(members) / total))
        chosen.append(members[np.argsort(hashes[members], kind="stable")[:quota]])
    return np.sort(np.concatenate(chosen))


def _content_hashes(arrays: TokenArrays) -> NDArray[np.uint64]:
    """A hash of the ids of each row [n]; 8 bytes a row are held, and the ids of one slab."""
    hashes = np.empty(len(arrays.labels), dtype="<u8")
    for start in range(0, len(hashes), _SLAB):
        bounds = arrays.offsets[start : start + _SLAB + 1].tolist()
        digests = bytearray()
        for begin, end in itertools.pairwise(bounds):
            digests += hashlib.blake2b(arrays.ids[begin:end].tobytes(), digest_size=8).digest()
        hashes[start : start + _SLAB] = np.frombuffer(digests, dtype="<u8")
        arrays.release()
    return hashes
