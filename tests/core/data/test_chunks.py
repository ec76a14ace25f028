"""Texts in chunks: 0, 1, exactly n, n + 1 and 40,000 tokens; on disk; and where they are refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig, parse_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.batching import unit_rows
from bertft_core.data.tokens.encoder_fit import check_max_length
from bertft_core.data.tokens.encoding import Cutting, SpecialLayout, encode_texts, load_tokenizer, pack_chunks, raw_ids
from bertft_core.data.tokens.tokenization import TokenArrays, TokenizedSplits, open_split, tokenize_splits
from bertft_core.testing.encoders import tiny_encoder

LAYOUT = SpecialLayout(single=((1,), (2,)), pair=((1,), (2,), (2,)), has_segments=True, pair_zeros=1)
N = 8  # tokens of text in a chunk of 10


def chunked(tokens: int, overlap: int = 0, most: int | None = None) -> list[list[int]]:
    """The chunks of a text 100, 101, ... as `TokenArrays` parts them."""
    cutting = Cutting(max_length=N + 2, truncation="chunks", chunk_overlap=overlap, max_chunks=most)
    ids = np.array(pack_chunks(range(100, 100 + tokens), LAYOUT, cutting), dtype=np.int32)
    arrays = TokenArrays(
        ids=ids,
        offsets=np.array([0, len(ids)]),
        pair_start=np.array([len(ids)]),
        labels=np.zeros(1, np.int32),
        weights=None,
        chunk=N + 2,
    )
    starts = arrays.units.offsets
    return [ids[a:b].tolist() for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize(
    ("tokens", "overlap", "expected"),
    [
        (0, 0, [[1, 2]]),
        (1, 0, [[1, 100, 2]]),
        (N, 0, [[1, *range(100, 108), 2]]),
        (N + 1, 0, [[1, *range(100, 108), 2], [1, 108, 2]]),
        (0, 3, [[1, 2]]),
        (N, 3, [[1, *range(100, 108), 2]]),
        (N + 1, 3, [[1, *range(100, 108), 2], [1, 105, 106, 107, 108, 2]]),
        (N + 5, 3, [[1, *range(100, 108), 2], [1, *range(105, 113), 2]]),
        (N + 6, 3, [[1, *range(100, 108), 2], [1, *range(105, 113), 2], [1, *range(110, 114), 2]]),
    ],
)
def test_chunks_of_short_texts(tokens: int, overlap: int, expected: list[list[int]]) -> None:
    assert chunked(tokens, overlap) == expected


@pytest.mark.parametrize("overlap", [0, 1, 4])
def test_forty_thousand_tokens_are_all_read(overlap: int) -> None:
    parts = chunked(40_000, overlap)
    assert len(parts) == 1 + -(-(40_000 - N) // (N - overlap))
    assert all(len(part) == N + 2 for part in parts[:-1]) and len(parts[-1]) > overlap + 2
    assert [part[1] for part in parts] == list(range(100, 40_100, N - overlap))[: len(parts)]
    rebuilt = parts[0][1:-1] + [i for part in parts[1:] for i in part[1 + overlap : -1]]
    assert rebuilt == list(range(100, 40_100))


def test_the_first_chunks_are_kept() -> None:
    assert chunked(40_000, 0, most=2) == [[1, *range(100, 108), 2], [1, *range(108, 116), 2]]


@pytest.mark.parametrize(("tokens", "is_cut"), [(15, False), (16, False), (17, True)])
def test_a_row_is_cut_when_the_kept_chunks_do_not_hold_it(tokens: int, is_cut: bool) -> None:
    longest = Cutting(max_length=N + 2, truncation="chunks", max_chunks=2).longest(n_special=2)
    assert (tokens + 2 > (longest or 0)) is is_cut
    assert Cutting(max_length=N + 2, truncation="chunks").longest(n_special=2) is None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=2, hidden=16, max_positions=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetSplits:
    root = tmp_path_factory.mktemp("rows")
    lines = [f"good film {i} {'the match ' * (i % 40)},{'ab'[i % 2]}" for i in range(120)]
    (root / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return prepare_dataset(DataConfig(source="rows.csv"), root / "data", root)


def tokenized(dataset: DatasetSplits, encoder: Path, root: Path, **more: Any) -> TokenizedSplits:
    config = TokenizationConfig(max_length=16, truncation="chunks", **more)
    return tokenize_splits(dataset, encoder, config, root)


def test_rows_on_disk_are_the_chunks_of_their_texts(dataset: DatasetSplits, encoder: Path, tmp_path: Path) -> None:
    found = tokenized(dataset, encoder, tmp_path, chunk_overlap=2, max_chunks=3)
    arrays, texts = open_split(found.path, "train"), dataset.table("train")["text"].to_pylist()
    tokenizer = load_tokenizer(encoder)
    layout = SpecialLayout.of(tokenizer)
    cutting = Cutting(max_length=16, truncation="chunks", chunk_overlap=2, max_chunks=3)
    (first,), (last,) = layout.single
    rows = np.array([5, 0, 7])
    expected = [
        [first, *ids[a:b], last]
        for ids in raw_ids(tokenizer, [texts[i] for i in rows])
        for a, b in cutting.spans(len(ids), 2)
    ]
    units = arrays.units
    at = [units.ids[units.offsets[u] : units.offsets[u + 1]].tolist() for u in unit_rows(arrays, rows)]
    assert at == expected and len(units.labels) == arrays.first_unit[-1] == len(units.pair_start)
    long = sum(len(ids) > 14 + 2 * 12 for ids in raw_ids(tokenizer, texts))
    assert found.rows_cut["train"] == long > 0


def test_the_pooling_of_chunks_is_no_part_of_the_tokens(dataset: DatasetSplits, encoder: Path, tmp_path: Path) -> None:
    first, second = (tokenized(dataset, encoder, tmp_path, chunk_pooling=how) for how in ("mean", "attention"))
    assert first == second
    assert tokenized(dataset, encoder, tmp_path, chunk_overlap=1).fingerprint != first.fingerprint


def test_chunks_of_an_earlier_night_are_found_again(dataset: DatasetSplits, encoder: Path, tmp_path: Path) -> None:
    fresh = tokenized(dataset, encoder, tmp_path / "one")
    tokenized(DatasetSplits(**{**dataset.__dict__, "fingerprint": "other"}), encoder, tmp_path / "two")
    again = tokenized(dataset, encoder, tmp_path / "two")
    for split in ("train", "validation", "test"):
        assert (fresh.path / f"{split}.arrow").read_bytes() == (again.path / f"{split}.arrow").read_bytes()


def test_encode_texts_counts_what_the_chunks_lose(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    texts = ["", "good", "film " * 14, "film " * 15, "film " * 40_000]
    ids, _, n_cut = encode_texts(
        tokenizer, SpecialLayout.of(tokenizer), texts, None, 16, "chunks", chunk_overlap=0, max_chunks=None
    )
    assert [len(row) for row in ids] == [2, 3, 16, 19, 40_000 + 2 * 2858] and n_cut == 0
    assert encode_texts(tokenizer, SpecialLayout.of(tokenizer), texts, None, 16, "chunks", max_chunks=1)[2] == 2


def test_pairs_in_chunks_are_refused(encoder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    with pytest.raises(ModelError, match="for single texts"):
        encode_texts(tokenizer, SpecialLayout.of(tokenizer), ["a"], ["b"], 16, "chunks")
    tree = {"name": "x", "data": {"source": "x.csv", "text_pair": "reply"}, "model": {"pretrained": "m"}}
    with pytest.raises(ConfigError, match=r"tokenization.truncation: chunks are for single texts.*'reply'"):
        parse_config({**tree, "tokenization": {"truncation": "chunks"}}, tmp_path)
    searched = {"trials": 2, "space": {"tokenization.truncation": ["head", "chunks"]}}
    with pytest.raises(ConfigError, match="chunks are for single texts"):
        parse_config({**tree, "search": searched}, tmp_path)


def test_a_long_encoder_goes_to_its_own_limit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "modernbert", "max_position_embeddings": 8192}')
    check_max_length(tmp_path, TokenizationConfig(max_length=8192).max_length)
    (tmp_path / "config.json").write_text('{"model_type": "modernbert", "max_position_embeddings": 4096}')
    with pytest.raises(ConfigError, match="must not exceed 4096"):
        check_max_length(tmp_path, 4097)
