from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bertft_core.base.errors import ModelError
from bertft_core.model.classifier import load_classifier, load_saved, save_classifier, weights_digest
from bertft_core.testing.encoders import tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=2, hidden=16)


def test_tiny_encoder_equal_seeds_give_equal_bytes(encoder: Path, tmp_path: Path) -> None:
    again = tiny_encoder(tmp_path, layers=2, hidden=16)
    assert all((again / p.name).read_bytes() == p.read_bytes() for p in encoder.iterdir())


def test_tiny_encoder_spells_any_word_without_unk(encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert tokenizer.unk_token_id not in tokenizer("A zyxq-42 good, bad film!", "second")["input_ids"]


def test_load_classifier_head_depends_on_the_seed_alone(encoder: Path) -> None:
    torch.manual_seed(1)
    first = load_classifier(encoder, ("a", "b", "c"), 5)
    torch.manual_seed(2)
    assert weights_digest(first) == weights_digest(load_classifier(encoder, ("a", "b", "c"), 5))
    assert weights_digest(first) != weights_digest(load_classifier(encoder, ("a", "b", "c"), 6))


def test_load_classifier_sets_labels_and_dropout(encoder: Path) -> None:
    config = load_classifier(encoder, ("x", "y"), 0, 0.3).config
    assert config.id2label == {0: "x", 1: "y"}
    assert (config.hidden_dropout_prob, config.classifier_dropout, config.attention_probs_dropout_prob) == (0.3, 0.3, 0)


def test_save_classifier_gives_equal_logits_in_plain_transformers(encoder: Path, tmp_path: Path) -> None:
    model = load_classifier(encoder, ("x", "y"), 0)
    folder = save_classifier(model, encoder, tmp_path / "model", ("x", "y"))
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)("a good film", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(stock(**inputs).logits, model(**inputs).logits)
    assert stock.config.id2label == {0: "x", 1: "y"}


def test_save_classifier_files_are_readable_by_others(encoder: Path, tmp_path: Path) -> None:
    folder = save_classifier(load_classifier(encoder, ("x", "y"), 0), encoder, tmp_path / "model", ("x", "y"))
    assert {oct(p.stat().st_mode & 0o777) for p in folder.iterdir()} == {"0o644"}
    assert (folder / "tokenizer.json").is_file()


def test_load_saved_refuses_an_encoder_without_head(encoder: Path) -> None:
    with pytest.raises(ModelError, match="lacks weights"):
        load_saved(encoder)


def test_load_classifier_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pretrained"):
        load_classifier(tmp_path, ("x", "y"), 0)
