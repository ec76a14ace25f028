"""The prefix cache: what is written comes back, and what is damaged does not."""

from __future__ import annotations

import os
import shutil
import stat
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bertft_core.base.errors import InputError
from bertft_core.model.prefix import cache as prefix_cache
from bertft_core.model.prefix.cache import PrefixCache

from .rows import KEY, OTHER, WIDTH, activations, again, files, look, make_rows, store

# What is written comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_zero_padded(cache: PrefixCache, dtype: str) -> None:
    store(cache, 10, dtype=dtype)
    keys, lengths = make_rows(10)
    hidden, bad = look(again(cache), 10, dtype=dtype).read(np.array([6, 2, 6]), 9)
    expected = np.zeros((3, 9, WIDTH), np.float32)
    for place, row in enumerate([6, 2, 6]):
        expected[place, : lengths[row]] = activations(keys[row : row + 1], lengths[row : row + 1])
    assert hidden.dtype == np.float32
    assert np.array_equal(hidden, expected)
    assert len(bad) == 0


def test_float16_is_off_by_at_most_half_a_unit_in_the_last_place(cache: PrefixCache) -> None:
    keys, lengths = make_rows(50)
    values = np.random.default_rng(0).standard_normal((lengths.sum(), WIDTH)).astype(np.float32)
    with cache.writer([KEY], WIDTH, "float16") as writer:
        writer.add(keys, lengths, {KEY: values})
    hidden, _ = look(cache, 50, dtype="float16").read(np.arange(50), 7)
    found = np.concatenate([h[:n] for h, n in zip(hidden, lengths, strict=True)])
    assert np.array_equal(found, values.astype(np.float16).astype(np.float32))
    assert np.all(np.abs(found - values) <= 2.0**-11 * np.abs(values) + 2.0**-25)


def test_row_beyond_float16_is_not_stored(cache: PrefixCache) -> None:
    keys, lengths = make_rows(5)
    values = activations(keys, lengths)
    values[lengths[:3].sum(), 4] = 70000.0
    with cache.writer([KEY], WIDTH, "float16") as writer:
        writer.add(keys, lengths, {KEY: values})
    view = look(cache, 5, dtype="float16")
    assert view.missing.tolist() == [3]
    assert np.array_equal(view.read(np.array([4]), 5)[0][0], values[lengths[:4].sum() :])
    assert cache.figures.unstorable == 1


def test_new_rows_only_add(cache: PrefixCache) -> None:
    store(cache, 10)
    before = {p: p.read_bytes() for p in files(cache.store.root)}
    night = again(cache)
    view = look(night, 12)
    assert view.missing.tolist() == [10, 11]
    store(night, 2, first=10)
    view.refresh()
    assert view.missing.tolist() == []
    assert {p: p.read_bytes() for p in before} == before
    assert (night.figures.hits, night.figures.misses) == (10, 2)


def test_several_cuts_are_written_together(cache: PrefixCache) -> None:
    keys, lengths = make_rows(4)
    values = activations(keys, lengths)
    with cache.writer([KEY, OTHER], WIDTH, "float32") as writer:
        writer.add(keys, lengths, {KEY: values, OTHER: values + 0.5})
    read = [look(cache, 4, key=k).read(np.array([3]), 4)[0][0] for k in (KEY, OTHER)]
    assert np.array_equal(read[0] + 0.5, read[1])


def test_writer_copies_what_it_is_given(cache: PrefixCache) -> None:
    keys, lengths = make_rows(3)
    values = activations(keys, lengths)
    with cache.writer([KEY], WIDTH, "float32") as writer:
        writer.add(keys, lengths, {KEY: values})
        values[:] = -1.0
    assert look(cache, 3).read(np.array([0]), 1)[0].min() == 0.0


def test_two_equal_rows_of_a_data_set_share_what_is_stored(cache: PrefixCache) -> None:
    store(cache, 4)
    keys, lengths = make_rows(4)
    view = cache.view(KEY, keys[[2, 2, 3]], lengths[[2, 2, 3]], WIDTH, "float32")
    hidden, bad = view.read(np.array([0, 1]), 3)
    assert len(bad) == 0
    assert np.array_equal(hidden[0], hidden[1])


def test_rows_added_before_an_exception_are_kept(cache: PrefixCache) -> None:
    keys, lengths = make_rows(3)
    with pytest.raises(KeyboardInterrupt), cache.writer([KEY], WIDTH, "float32") as writer:
        writer.add(keys, lengths, {KEY: activations(keys, lengths)})
        raise KeyboardInterrupt
    assert len(look(cache, 3).missing) == 0


def test_segment_is_written_as_soon_as_it_is_large(cache: PrefixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "SEGMENT_BYTES", 1000)
    with cache.writer([KEY], WIDTH, "float32") as writer:
        for first in range(0, 30, 3):
            keys, lengths = make_rows(3, first)
            writer.add(keys, lengths, {KEY: activations(keys, lengths)})
        assert len(files(cache.store.root)) >= 2
    assert len(look(again(cache), 30).missing) == 0


def test_files_and_folders_are_the_owners_alone(cache: PrefixCache) -> None:
    with cache.building("aa"):
        store(cache, 3)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in [cache.store.root, *cache.store.root.rglob("*")]}
    assert {m for p, m in modes.items() if p.is_dir()} == {0o700}
    assert {m for p, m in modes.items() if p.is_file()} == {0o600}


# What does not fit is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dtype"), [(WIDTH + 1, "float32"), (WIDTH, "float16")])
def test_rows_of_another_width_or_type_are_missing(cache: PrefixCache, width: int, dtype: str) -> None:
    store(cache, 3)
    assert len(cache.view(KEY, *make_rows(3), width, dtype).missing) == 3


def test_row_of_another_length_is_missing(cache: PrefixCache) -> None:
    store(cache, 3)
    keys, lengths = make_rows(3)
    lengths[1] += 1
    assert cache.view(KEY, keys, lengths, WIDTH, "float32").missing.tolist() == [1]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((6, WIDTH + 1), np.float32),
        np.zeros((5, WIDTH), np.float32),
        np.zeros((6, WIDTH), np.float64),
        np.zeros((6, WIDTH), np.float16),
    ],
    ids=["width", "tokens", "float64", "float16 for float32"],
)
def test_writer_refuses_other_shapes_and_types(cache: PrefixCache, values: np.ndarray) -> None:
    with cache.writer([KEY], WIDTH, "float32") as writer, pytest.raises(InputError, match=r"wanted .*, found"):
        writer.add(*make_rows(3), {KEY: values})


def test_writer_refuses_activations_of_another_key(cache: PrefixCache) -> None:
    keys, lengths = make_rows(3)
    with cache.writer([KEY], WIDTH, "float32") as writer, pytest.raises(InputError, match=OTHER):
        writer.add(keys, lengths, {OTHER: activations(keys, lengths)})


@pytest.mark.parametrize("key", ["../../../etc", "0A" * 16, "0a" * 15, "", "0a" * 16 + "\n"])
def test_key_that_is_no_hash_is_refused(cache: PrefixCache, key: str) -> None:
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        cache.writer([key], WIDTH, "float32")
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        look(cache, 1, key=key)


def test_name_of_a_build_that_is_no_hash_is_refused(cache: PrefixCache) -> None:
    with pytest.raises(InputError, match="hexadecimal"), cache.building("../up"):
        pass


def test_unknown_number_type_is_refused(cache: PrefixCache) -> None:
    with pytest.raises(InputError, match="float32 or float16, was asked for 'bfloat16'"):
        look(cache, 1, dtype="bfloat16")


def test_row_longer_than_the_batch_is_refused(cache: PrefixCache) -> None:
    store(cache, 7)
    with pytest.raises(InputError, match="at most 6 tokens, found one of 7"):
        look(cache, 7).read(np.array([0, 6]), 6)


# Damage ---------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize("when", ["before it is opened", "after it is opened"])
def test_flipped_byte_of_a_row_is_reported_and_computed_again(cache: PrefixCache, when: str) -> None:
    store(cache, 5)
    (segment,) = files(cache.store.root)
    fit = again(cache)
    view = look(fit, 5) if when == "after it is opened" else None
    flip(segment, 4 * WIDTH * 3 + 5)  # rows 0, 1, 2 have 1, 2, 3 tokens: this is row 2
    view = view or look(fit, 5)
    hidden, bad = view.read(np.array([1, 2, 3]), 5)
    assert bad.tolist() == [1]
    assert not hidden[1].any()
    assert view.missing.tolist() == [2]
    assert not segment.exists()
    store(fit, 1, first=2)
    view.refresh()
    hidden, bad = view.read(np.array([1, 2, 3]), 5)
    keys, lengths = make_rows(1, 2)
    assert len(bad) == 0
    assert np.array_equal(hidden[1, :3], activations(keys, lengths))
    assert fit.figures.damaged == 1


def test_every_byte_of_a_segment_is_covered(cache: PrefixCache) -> None:
    store(cache, 2)
    (segment,) = files(cache.store.root)
    whole = segment.read_bytes()
    for at in range(len(whole)):
        segment.write_bytes(whole)
        flip(segment, at)
        view = look(again(cache), 2)
        if not len(view.missing):
            assert len(view.read(np.arange(2), 3)[1]) == 1, at


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_file_cut_short_is_no_segment(cache: PrefixCache, kept: int) -> None:
    store(cache, 5)
    (segment,) = files(cache.store.root)
    segment.write_bytes(segment.read_bytes()[:kept])
    fit = again(cache)
    view = look(fit, 5)
    assert len(view.missing) == 5
    assert not segment.exists()
    store(fit, 5)
    view.refresh()
    assert len(view.read(np.arange(5), 5)[1]) == 0


def test_file_cut_short_while_it_is_read_gives_no_data(cache: PrefixCache) -> None:
    store(cache, 5)
    view = look(cache, 5)
    os.truncate(files(cache.store.root)[0], 4 * WIDTH * 3)  # rows 0 and 1 are left
    hidden, bad = view.read(np.array([4, 1, 2]), 5)
    assert bad.tolist() == [0, 2]
    assert hidden[1].any()
    assert view.missing.tolist() == [2, 4]


def test_deleted_file_is_missing_for_the_next_fit_and_readable_for_this_one(cache: PrefixCache) -> None:
    store(cache, 5)
    view = look(cache, 5)
    files(cache.store.root)[0].unlink()
    assert len(look(again(cache), 5).missing) == 5
    assert len(view.read(np.arange(5), 5)[1]) == 0


def test_deleted_file_that_was_not_kept_open_is_reported(cache: PrefixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "_OPEN_FILES", 0)
    store(cache, 5)
    view = look(cache, 5)
    assert len(view.read(np.array([0]), 5)[1]) == 0
    shutil.rmtree(cache.store.root)
    hidden, bad = view.read(np.array([3, 0]), 5)
    assert bad.tolist() == [0, 1]
    assert not hidden.any()
    assert view.missing.tolist() == [0, 3]


def test_segment_of_another_folder_is_not_read(cache: PrefixCache) -> None:
    store(cache, 3)
    (segment,) = files(cache.store.root)
    (cache.store.root / OTHER).mkdir()
    shutil.copy(segment, cache.store.root / OTHER)
    assert len(look(again(cache), 3, key=OTHER).missing) == 3


# Size -----------------------------------------------------------------------------------------------------


def test_a_million_rows_are_looked_up_in_two_seconds_and_200_megabytes(cache: PrefixCache) -> None:
    count = 1_000_000
    keys = np.random.default_rng(0).integers(0, 2**64, (count, 2), dtype=np.uint64)
    lengths = np.ones(count, dtype=np.int64)
    with cache.writer([KEY], 1, "float16") as writer:
        writer.add(keys[: count // 2], lengths[: count // 2], {KEY: np.ones((count // 2, 1), np.float16)})
        writer.add(keys[count // 2 :], lengths[count // 2 :], {KEY: np.ones((count // 2, 1), np.float16)})
    backwards, fit = keys[::-1].copy(), again(cache)
    tracemalloc.start()
    begin = time.process_time()
    view = fit.view(KEY, backwards, lengths, 1, "float16")
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(view.missing) == 0
    assert seconds < 2
    assert peak < 200e6


def test_keys_that_share_a_half_are_told_apart(cache: PrefixCache) -> None:
    keys = np.array([[5, i] for i in range(300)] + [[i, 5] for i in range(6, 300)], dtype=np.uint64)
    lengths = np.ones(len(keys), dtype=np.int64)
    with cache.writer([KEY], 1, "float32") as writer:
        writer.add(keys, lengths, {KEY: np.arange(len(keys), dtype=np.float32)[:, None]})
    hidden, bad = cache.view(KEY, keys, lengths, 1, "float32").read(np.arange(len(keys)), 1)
    assert len(bad) == 0
    assert np.array_equal(hidden.ravel(), np.arange(len(keys)))
