"""The loop: it learns or says that it did not, resumes bit for bit, and leaves an ordinary encoder folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bertft_core.adaptation.corpus import Corpus, blocks_of, choose_documents
from bertft_core.adaptation.loop import ENCODER, adapt
from bertft_core.adaptation.masking import IGNORED, Masking
from bertft_core.adaptation.model import MaskedModel
from bertft_core.adaptation.results import AdaptationSpec
from bertft_core.base.errors import ConfigError, TrialPruned
from bertft_core.base.hashes import encoder_fingerprint
from bertft_core.model.classifier import load_classifier
from bertft_core.model.weights import survey

from ..training.families import CONFIGS, write_family
from ..training.kills import Killed, killer
from .conftest import topic_texts, write_corpus

Build = Callable[..., AdaptationSpec]


def test_it_starts_below_the_frequencies_and_ends_well_below(spec: Build, encoder: Path) -> None:
    built = spec(steps=60)
    result = adapt(built)
    assert result.is_adapted and not result.had_head
    assert result.first_loss < result.unigram_loss
    assert result.best_loss < 0.9 * result.unigram_loss and result.best_loss < result.head_loss
    assert result.steps == 60 and [step for step, _ in result.curve] == sorted(
        {0, 6, *range(8, 61), 60} & {*dict(result.curve)}
    )
    adapted = Path(built.output) / ENCODER
    assert encoder_fingerprint(adapted) != encoder_fingerprint(encoder)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        assert (adapted / name).read_bytes() == (encoder / name).read_bytes()


def test_the_adapted_folder_is_an_ordinary_encoder_and_keeps_the_pooler(spec: Build, encoder: Path) -> None:
    built = spec()
    assert adapt(built).is_adapted
    before, after = survey(encoder), survey(Path(built.output) / ENCODER)
    assert (after.wanted, after.loaded, after.drawn) == (before.wanted, before.loaded, before.drawn)
    old, new = (
        load_classifier(folder, ("a", "b"), seed=1).state_dict() for folder in (encoder, f"{built.output}/{ENCODER}")
    )
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {name for name in old if "pooler" in name or "classifier" in name} <= same
    assert not {name for name in same if "attention" in name and name.endswith("weight")}


def test_the_loss_is_that_of_the_stock_model_at_every_position(spec: Build, encoder: Path, topics: Corpus) -> None:
    masking = Masking.of(encoder, 0.15, seed=1)
    masked = MaskedModel.load(encoder, torch.device("cpu"), seed=1)
    assert masked.passes is not None
    blocks = blocks_of(topics.path, choose_documents(topics.path).train, masking.marks, 32)
    batch = masking.batch(blocks, np.arange(6), epoch=0)
    labels = np.full(batch.ids.shape, IGNORED)
    for row in range(6):
        used = batch.targets[row] != IGNORED
        labels[row, batch.at[row, used]] = batch.targets[row, used]
    model = masked.model.eval()
    stock = model(input_ids=torch.from_numpy(batch.ids), labels=torch.from_numpy(labels))
    stock.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    loss = masked.loss(batch) / (labels != IGNORED).sum()
    loss.backward()
    assert abs(loss.item() - stock.loss.item()) < 1e-5
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(p.grad, wanted[name], atol=1e-5), name


@pytest.mark.parametrize("step", [2, 17, 39])
def test_killed_and_started_again_it_ends_in_the_same_bits(spec: Build, tmp_path: Path, step: int) -> None:
    whole = adapt(spec(output=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        adapt(spec(checkpoint_seconds=0.0), killer(step))
    seen: list[int] = []
    resumed = adapt(spec(checkpoint_seconds=0.0), lambda fraction, facts: seen.append(facts["step"]))
    assert min(seen) >= step - 1
    assert resumed.curve == whole.curve and resumed.best_step == whole.best_step
    files = [tmp_path / name / ENCODER / "model.safetensors" for name in ("whole", "adapted")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [p.name for p in sorted((tmp_path / "adapted").iterdir())] == [ENCODER, "result.json"]


def test_a_finished_one_is_read_back(spec: Build) -> None:
    first = adapt(spec())
    assert adapt(spec(), killer(0)) == first


def test_minutes_are_measured_once(spec: Build) -> None:
    with pytest.raises(Killed):
        adapt(spec(minutes=0.01, checkpoint_seconds=0.0), killer(3))
    totals: set[int] = set()
    result = adapt(spec(minutes=0.01), lambda fraction, facts: totals.add(facts["total_steps"]))
    assert totals == {result.steps} and result.steps >= 2


def test_epochs_read_every_block(spec: Build, topics: Corpus, encoder: Path) -> None:
    blocks = blocks_of(topics.path, choose_documents(topics.path).train, Masking.of(encoder, 0.15, 1).marks, 32)
    result = adapt(spec(epochs=1, lr=1e-3))
    assert result.steps == math.ceil(len(blocks) / 16) and result.tokens == blocks.size


def test_what_did_not_learn_gives_nothing(spec: Build) -> None:
    built = spec(lr=1e-9)
    result = adapt(built)
    assert not result.is_adapted and "stays as it was" in str(result)
    assert not (Path(built.output) / ENCODER).exists()
    assert adapt(built, killer(0)) == result  # and is not tried again


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (topic_texts(1), "too few documents"),
        (
            ["\u6f22\u5b57 \u4eee\u540d", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442"],
            "knows",
        ),
    ],
    ids=["one row", "another script"],
)
def test_a_corpus_of_which_nothing_can_be_learnt(
    texts: list[str], why: str, spec: Build, encoder: Path, tmp_path: Path
) -> None:
    result = adapt(spec(corpus=write_corpus(texts, encoder, tmp_path / "c")))
    assert why in result.reason and result.steps == 0


@pytest.mark.parametrize(("count", "words"), [(60, 5), (3, 40_000)], ids=["5 tokens", "40,000 tokens"])
def test_very_short_and_very_long_rows(count: int, words: int, spec: Build, encoder: Path, tmp_path: Path) -> None:
    corpus = write_corpus(topic_texts(count, words=words), encoder, tmp_path / "c")
    result = adapt(spec(corpus=corpus, steps=12))
    assert result.steps == 12 and math.isfinite(result.best_loss)


def test_going_on_reads_the_new_documents_and_as_many_old_ones(
    spec: Build, encoder: Path, topics: Corpus, tmp_path: Path
) -> None:
    first = spec()
    assert adapt(first).is_adapted
    more = write_corpus(topic_texts(240) + topic_texts(8, seed=9), encoder, tmp_path / "more")
    chosen = choose_documents(more.path, topics.keys)
    is_new = ~np.isin(more.keys[chosen.train], topics.keys)
    assert is_new.sum() == (~is_new).sum() and 6 <= is_new.sum() <= 8
    known = str(topics.path / "keys.npy")
    begun = Path(first.output) / ENCODER
    result = adapt(spec(more, begun, key="2", steps=100, known=known, output=str(tmp_path / "second"), lr=1e-3))
    assert result.had_head and result.steps == round(100 * chosen.share) < 10
    held = [set(c.keys[choose_documents(c.path).held_out].tolist()) for c in (topics, more)]
    assert held[0] <= held[1]  # what was held out is never trained on later


def test_too_long_a_block_and_too_high_a_rate_are_told_by_their_keys(spec: Build) -> None:
    with pytest.raises(ConfigError, match=r"adaptation\.max_length must not exceed 512"):
        adapt(spec(max_length=600))
    with pytest.raises(TrialPruned, match=r"nonfinite.*lower adaptation\.lr"):
        adapt(replace(spec(), config=spec().config.model_copy(update={"lr": 1e30})))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_learns(family: str, spec: Build, tmp_path: Path) -> None:
    texts = topic_texts(160)
    encoder = write_family(tmp_path / family, CONFIGS[family], texts)
    built = spec(write_corpus(texts, encoder, tmp_path / "c"), encoder, steps=60, lr=5e-3)
    result = adapt(built)
    assert result.steps == 60 and result.best_loss < result.first_loss
    if result.is_adapted:
        before, after = survey(encoder), survey(Path(built.output) / ENCODER)
        assert (after.wanted, after.loaded) == (before.wanted, before.loaded)
