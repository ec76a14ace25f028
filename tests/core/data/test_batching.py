from __future__ import annotations

import numpy as np
import pytest

from bertft_core.data.tokens.batching import epoch_batches, pad_batch, sample_rows, scoring_batches
from bertft_core.data.tokens.tokenization import TokenArrays


def arrays(rows: list[list[int]], pair_start: list[int] | None = None, labels: list[int] | None = None) -> TokenArrays:
    return TokenArrays(
        ids=np.array([i for row in rows for i in row], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        pair_start=np.array(pair_start or [len(r) for r in rows], dtype=np.int32),
        labels=np.array(labels or [0] * len(rows), dtype=np.int32),
        weights=None,
    )


def test_epoch_batches_hold_each_row_once_in_full_batches() -> None:
    lengths = np.random.default_rng(0).integers(3, 500, 1003)
    batches = epoch_batches(lengths, lengths % 3, 8, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert [len(b) for b in batches] == [8] * 125 + [3]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 31, 100])
def test_epoch_batches_of_few_rows_hold_each_once(n: int) -> None:
    batches = epoch_batches(np.arange(n), np.arange(n) % 2, 8, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert [len(b) for b in batches] == [8] * (n // 8) + [n % 8] * (n % 8 > 0)


def test_epoch_batches_are_a_pure_function_of_their_arguments() -> None:
    lengths, labels = np.arange(100), np.arange(100) % 2
    first, again = (epoch_batches(lengths, labels, 8, 1, 0) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 1), (2, 0)])
def test_epoch_batches_of_a_small_table_have_other_company_in_each_epoch_and_seed(seed: int, epoch: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 500, 300)
    first, other = (
        {frozenset(rows.tolist()) for rows in epoch_batches(lengths, lengths % 2, 16, *which)}
        for which in ((1, 0), (seed, epoch))
    )
    assert not first & other


def test_epoch_batches_meet_again_about_as_rarely_as_shuffled_ones() -> None:
    """Two rows of a batch are together in the next epoch in 5 % of 300 shuffled rows, in all of 300 sorted ones."""
    lengths, n, found = np.random.default_rng(0).integers(3, 500, 300), 300, []
    for epoch in range(40):
        one, two = (epoch_batches(lengths, lengths % 2, 16, 0, 2 * epoch + i) for i in (0, 1))
        batch_of = np.empty(n, dtype=int)
        for number, rows in enumerate(two):
            batch_of[rows] = number
        found += [np.mean(batch_of[rows][:, None] == batch_of[rows]) for rows in one if len(rows) == 16]
    again = (np.mean(found) * 16 - 1) / 15  # without each row's meeting with itself
    assert 15 / 299 < again < 4 * 15 / 299


def test_epoch_batches_draw_the_rows_of_the_short_batch_at_random() -> None:
    lengths, epochs = np.arange(100), 400
    short = np.concatenate([epoch_batches(lengths, lengths % 2, 16, 0, epoch)[-1] for epoch in range(epochs)])
    assert len(short) == 4 * epochs
    often = np.bincount(short, minlength=100)
    assert often.min() >= 4 and often.max() <= 32  # 16 expected, deviation 4


def test_epoch_batches_mix_classes_that_length_tells_apart() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 320)
    lengths = np.where(labels, rng.integers(60, 120, 320), rng.integers(10, 40, 320))
    batches = [rows for epoch in range(20) for rows in epoch_batches(lengths, labels, 16, 0, epoch)]
    shares = np.array([labels[rows].mean() for rows in batches])
    assert shares.min() > 0 and shares.max() < 1
    assert shares.std() < np.sqrt(0.25 / 16)  # of 16 rows at random


def test_epoch_batches_mix_uneven_classes_as_well_as_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 400, p=[0.7, 0.2, 0.07, 0.03])
    lengths = 20 * labels + rng.integers(5, 60, 400)
    batches = [rows for epoch in range(20) for rows in epoch_batches(lengths, labels, 16, 0, epoch)]
    counts = np.array([np.bincount(labels[rows], minlength=4) for rows in batches])
    shares = np.bincount(labels) / 400
    assert (counts.var(axis=0) < 16 * shares * (1 - shares)).all()


def test_epoch_batches_group_lengths() -> None:
    lengths = np.random.default_rng(0).integers(3, 500, 4000)
    padded = sum(len(b) * lengths[b].max() for b in epoch_batches(lengths, lengths % 2, 16, 0, 0))
    shuffled = sum(16 * lengths[b].max() for b in np.random.default_rng(0).permutation(4000).reshape(-1, 16))
    assert padded / lengths.sum() < 1.25 < 1.8 < shuffled / lengths.sum()


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
