from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bertft_core.data.tokens.batching import epoch_batches, pad_batch, sample_rows, scoring_batches


@dataclass
class Arrays:
    """The fields of data.tokenization.TokenArrays."""

    ids: Any
    offsets: Any
    pair_start: Any
    labels: Any
    weights: Any = field(default=None)


def arrays(rows: list[list[int]], pair_start: list[int] | None = None, labels: list[int] | None = None) -> Any:
    return Arrays(
        ids=np.array([i for row in rows for i in row], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        pair_start=np.array(pair_start or [len(r) for r in rows], dtype=np.int32),
        labels=np.array(labels or [0] * len(rows), dtype=np.int32),
    )


def test_epoch_batches_hold_each_row_once_in_full_batches() -> None:
    lengths = np.random.default_rng(0).integers(3, 500, 1003)
    batches = epoch_batches(lengths, 8, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert [len(b) for b in batches] == [8] * 125 + [3]


def test_epoch_batches_differ_by_epoch_and_agree_by_seed() -> None:
    lengths = np.arange(100)
    first, again, other = (np.concatenate(epoch_batches(lengths, 8, 1, e)) for e in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_epoch_batches_group_lengths() -> None:
    lengths = np.random.default_rng(0).integers(3, 500, 4000)
    padded = sum(len(b) * lengths[b].max() for b in epoch_batches(lengths, 16, 0, 0))
    assert padded / lengths.sum() < 1.05


def test_scoring_batches_keep_to_the_budget() -> None:
    lengths = np.array([5, 100, 7, 300, 9])
    batches = scoring_batches(lengths, 256)
    assert sorted(np.concatenate(batches)) == list(range(5))
    assert all(len(b) == 1 or len(b) * -(-lengths[b].max() // 8) * 8 <= 256 for b in batches)


def test_pad_batch_pads_to_a_multiple_of_eight() -> None:
    ids, mask, types, targets = pad_batch(arrays([[2, 5, 3], [2, 3]], labels=[1, 0]), np.array([1, 0]), pad_id=9)
    assert ids.tolist() == [[2, 3, 9, 9, 9, 9, 9, 9], [2, 5, 3, 9, 9, 9, 9, 9]]
    assert mask.sum(1).tolist() == [2, 3] and types.sum() == 0 and targets.tolist() == [0, 1]


def test_pad_batch_second_text_has_type_one() -> None:
    _, _, types, _ = pad_batch(arrays([[2, 5, 3, 6, 3], [2, 3]], pair_start=[3, 2]), np.array([0, 1]), pad_id=0)
    assert types.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0] * 8]


def test_pad_batch_never_exceeds_the_encoders_positions() -> None:
    assert pad_batch(arrays([[1] * 9]), np.array([0]), pad_id=0, max_width=10)[0].shape == (1, 10)


def test_sample_rows_is_stratified_and_stable_under_removal() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 99, 8).tolist() for _ in range(100)]
    labels = [0] * 90 + [1] * 10
    chosen = sample_rows(arrays(rows, labels=labels), 20)
    assert np.bincount(np.array(labels)[chosen]).tolist() == [18, 2]
    dropped = next(i for i in range(90) if i not in chosen)
    fewer = sample_rows(
        arrays(rows[:dropped] + rows[dropped + 1 :], labels=labels[:dropped] + labels[dropped + 1 :]), 20
    )
    assert [i if i < dropped else i + 1 for i in fewer] == chosen.tolist()


@pytest.mark.parametrize("rows", [None, 3, 99])
def test_sample_rows_without_need_keeps_all(rows: int | None) -> None:
    assert sample_rows(arrays([[1], [2], [3]]), rows).tolist() == [0, 1, 2]
