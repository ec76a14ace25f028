"""Which tokens are masked, and by what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertft_core.adaptation.corpus import Corpus, blocks_of, choose_documents
from bertft_core.adaptation.masking import IGNORED, Masking
from bertft_core.base.errors import ModelError
from bertft_core.base.files import read_json, write_json
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.testing.encoders import tiny_encoder

from .conftest import topic_texts, write_corpus

MARKS = {0, 1, 2, 3, 4}  # [PAD] [UNK] [CLS] [SEP] [MASK]


@pytest.fixture(scope="module")
def masking(encoder: Path) -> Masking:
    return Masking.of(encoder, 0.15, seed=1)


@pytest.fixture(scope="module")
def blocks(topics: Corpus, masking: Masking) -> np.ndarray:
    return blocks_of(topics.path, choose_documents(topics.path).train, masking.marks, 32)


def test_special_and_unknown_tokens_are_never_masked_nor_drawn(masking: Masking, blocks: np.ndarray) -> None:
    assert not MARKS & set(masking.words.tolist())
    batch = masking.batch(blocks, np.arange(len(blocks)), epoch=0)
    assert not MARKS & set(batch.targets.reshape(-1).tolist())
    changed = batch.ids != blocks
    assert set(batch.ids[changed].tolist()) & MARKS <= {masking.mask}


def test_80_10_10_of_15_percent(masking: Masking, blocks: np.ndarray) -> None:
    batches = [masking.batch(blocks, np.arange(len(blocks)), epoch) for epoch in range(8)]
    is_used = np.concatenate([b.targets != IGNORED for b in batches])
    stood = np.concatenate([b.targets for b in batches])[is_used]
    stands = np.concatenate([np.take_along_axis(b.ids, b.at, 1) for b in batches])[is_used]
    assert abs(len(stood) / (8 * masking.is_word(blocks).sum()) - 0.15) < 0.01
    assert abs((stands == masking.mask).mean() - 0.8) < 0.02
    assert abs((stands == stood).mean() - 0.1) < 0.02
    assert (stands != masking.mask).any() and ((stands != stood) & (stands != masking.mask)).any()


def test_masks_depend_on_seed_epoch_and_block_alone(masking: Masking, encoder: Path, blocks: np.ndarray) -> None:
    whole = masking.batch(blocks, np.arange(8), epoch=3)
    alone = masking.batch(blocks, np.array([5]), epoch=3)
    assert np.array_equal(whole.ids[5], alone.ids[0]) and np.array_equal(whole.targets[5], alone.targets[0])
    assert not np.array_equal(whole.ids, masking.batch(blocks, np.arange(8), epoch=4).ids)
    assert not np.array_equal(whole.ids, Masking.of(encoder, 0.15, seed=2).batch(blocks, np.arange(8), epoch=3).ids)


def test_a_block_of_unknown_tokens_has_nothing_to_guess(masking: Masking) -> None:
    batch = masking.batch(np.array([[2, 1, 1, 1, 3]], dtype=np.int32), np.array([0]), epoch=0)
    assert (batch.targets == IGNORED).all() and batch.ids.tolist() == [[2, 1, 1, 1, 3]]


def test_one_word_is_masked_in_the_shortest_of_texts(masking: Masking, encoder: Path) -> None:
    word = load_tokenizer(encoder).token_to_id("film")
    batch = masking.batch(np.array([[2, word, 3]], dtype=np.int32), np.array([0]), epoch=0)
    assert batch.targets.tolist() == [[word]] and batch.at.tolist() == [[1]]


def test_frequencies_alone_cost_the_entropy_of_the_words(masking: Masking, blocks: np.ndarray) -> None:
    batch = masking.batch(blocks, np.arange(len(blocks)), epoch=0)
    loss, log_shares = masking.unigram_loss(blocks, batch.targets, 300)
    assert abs(loss - np.log(16)) < 0.05  # four topics of four words
    assert abs(np.exp(log_shares).sum() - 1) < 1e-9


def test_tokenizer_without_a_mask_token_is_refused_by_name(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "e", layers=1, hidden=8)
    text = (encoder / "tokenizer.json").read_text(encoding="utf-8").replace("[MASK]", "[KEEP]")
    (encoder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = read_json(encoder / "tokenizer_config.json")
    del settings["mask_token"]
    write_json(encoder / "tokenizer_config.json", settings)
    with pytest.raises(ModelError, match=r"adaptation: the tokenizer of .* has no mask token"):
        Masking.of(encoder, 0.15, 1)


def test_blocks_hold_every_document_once_and_no_padding(encoder: Path, tmp_path: Path, masking: Masking) -> None:
    corpus = write_corpus(topic_texts(7, words=11), encoder, tmp_path / "c")
    ids, offsets = (np.load(corpus.path / f"{name}.npy") for name in ("ids", "offsets"))
    blocks = blocks_of(corpus.path, np.arange(7), masking.marks, 16)
    assert blocks.shape == ((7 * 11 + 6) // 14, 16)
    assert (blocks[:, 0] == 2).all() and (blocks[:, -1] == 3).all()
    stream = [part for i in range(7) for part in [*ids[offsets[i] : offsets[i + 1]].tolist(), 3]]
    assert blocks[:, 1:-1].reshape(-1).tolist() == stream[: blocks.shape[0] * 14]


@pytest.mark.parametrize(("words", "shape"), [(5, (1, 7)), (40_000, (1290, 33))])
def test_one_short_and_one_very_long_document(
    words: int, shape: tuple[int, int], encoder: Path, tmp_path: Path, masking: Masking
) -> None:
    corpus = write_corpus(topic_texts(1, words=words), encoder, tmp_path / "c")
    assert blocks_of(corpus.path, np.array([0]), masking.marks, 33).shape == shape
