"""Word weights: exact drops of probability, on a tiny model that has learnt which word decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertft_core.base.errors import InputError
from bertft_core.data.tokens.encoding import SpecialLayout, encode_texts, load_tokenizer
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.attribution import PIECES, attribute, explain_rows
from bertft_core.serving.predictor import Predictor
from bertft_core.testing.encoders import tiny_encoder

CLASSES = ("sport", "money", "other")
FILLER = ("the", "was", "on", "very", "film", "story", "court", "music")


def taught(root: Path) -> Path:
    """A classifier of texts in which goal, bank or neither is the class: without its word a text is other."""
    encoder = tiny_encoder(root / "encoder", layers=1, seed=3)
    model = load_classifier(encoder, CLASSES, seed=5, dropout=0.0)
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    texts = [" ".join(rng.permutation([*rng.choice(FILLER, 7), ("goal", "bank", "film")[y]])) for y in labels]
    tokenizer = load_tokenizer(encoder)
    ids = torch.tensor([tokenizer.encode(t).ids for t in texts])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return save_classifier(model, encoder, root / "fit", CLASSES)


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    root = tmp_path_factory.mktemp("attribution")
    fit, made = taught(root), {}
    for name, pair, length in (("single", None, 200), ("short", None, 20), ("pair", "reply", 40)):
        card = ArtifactCard(max_length=length, truncation="head+tail", classes=CLASSES, text_pair=pair)
        made[name] = Predictor.load(build_artifact(fit, root / name, card))
    return made


TEXT = "the story was very goal on the film"


def test_the_decisive_word_has_the_largest_weight(predictors: dict[str, Predictor]) -> None:
    (words,) = attribute(predictors["single"], [TEXT], ["sport"])
    word, weight = max(words, key=lambda pair: abs(pair[1]))
    assert word == "goal" and weight > 0.3


def test_a_word_that_speaks_against_the_class_is_negative(predictors: dict[str, Predictor]) -> None:
    (words,) = attribute(predictors["single"], ["the bank was very goal on"], ["sport"])
    assert dict(words)["bank"] < 0 < dict(words)["goal"]


def test_a_weight_is_the_drop_in_probability_without_the_word(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["single"]
    (words,) = attribute(predictor, [TEXT], ["sport"])
    p = predictor.probabilities([TEXT, "the story was very on the film"])[:, 0].astype(np.float64)
    assert dict(words)["goal"] == pytest.approx(p[0] - p[1], abs=1e-6)


def test_words_come_in_order_and_keep_the_text(predictors: dict[str, Predictor]) -> None:
    text = "The  story,\n was 'very' goal!"
    (words,) = attribute(predictors["single"], [text], ["sport"])
    assert [word for word, _ in words] == ["The", "story,", "was", "'very'", "goal!"]


def test_a_long_text_is_left_out_in_spans(predictors: dict[str, Predictor]) -> None:
    text = " ".join(["film"] * 150)
    (words,) = attribute(predictors["single"], [text], ["sport"])
    assert len(words) == 50 <= PIECES and {word for word, _ in words} == {"film film film"}


def test_words_that_truncation_cuts_away_have_weight_0(predictors: dict[str, Predictor]) -> None:
    text = " ".join([f"{FILLER[i % 8]}" for i in range(60)])
    (words,) = attribute(predictors["short"], [text], ["sport"])
    assert " ".join(word for word, _ in words) == text
    unread = [(word, weight) for word, weight in words if len(word.split()) > 1]
    assert len(unread) == 1 and len(unread[0][0].split()) == 60 - 18 and unread[0][1] == 0.0
    assert sum(weight != 0 for _, weight in words) == 18


def test_the_second_text_of_a_pair_stays(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["pair"]
    (words,) = attribute(predictor, ["the goal was"], ["sport"], ["very bank"])
    p = predictor.probabilities(["the goal was", "the was"], ["very bank"] * 2)[:, 0].astype(np.float64)
    assert dict(words)["goal"] == pytest.approx(p[0] - p[1], abs=1e-6)


def test_a_text_of_one_word_has_weight_0(predictors: dict[str, Predictor]) -> None:
    assert attribute(predictors["single"], [" goal "], ["sport"]) == [(("goal", 0.0),)]


def test_text_without_spaces_is_taken_by_characters(predictors: dict[str, Predictor]) -> None:
    (words,) = attribute(predictors["single"], ["東京市場 goal"], ["sport"])
    assert [word for word, _ in words] == ["東", "京", "市", "場", "goal"]


def test_an_unknown_class_is_refused_by_name(predictors: dict[str, Predictor]) -> None:
    with pytest.raises(InputError, match="no class chess"):
        attribute(predictors["single"], [TEXT], ["chess"])


@pytest.mark.parametrize("pair", [None, "a second text that is quite a bit longer " * 3])
def test_characters_read_are_those_of_the_ids_that_are_scored(
    predictors: dict[str, Predictor], pair: str | None
) -> None:
    text = "one two three four five six seven eight nine ten eleven " * 3
    predictor = predictors["short"] if pair is None else predictors["pair"]
    tokenizer = load_tokenizer(predictor_folder(predictor))
    pairs = None if pair is None else [pair]
    card = predictor.card
    layout = SpecialLayout.of(tokenizer)
    (ids,), (start,), _ = encode_texts(tokenizer, layout, [text], pairs, card.max_length, card.truncation)
    first = ids[1 : start - 1]  # [CLS] A [SEP], or the whole row
    assert [text[a:b] for a, b in predictor.characters_read(text, pair)] == [
        tokenizer.id_to_token(i).removeprefix("##") for i in first
    ]


def predictor_folder(predictor: Predictor) -> str:
    return str(predictor._runtime.model.config._name_or_path)


def test_rows_are_explained_as_json_values(predictors: dict[str, Predictor]) -> None:
    folder = predictor_folder(predictors["single"])
    beats: list[float] = []
    found = explain_rows(folder, [{"text": TEXT, "class": "sport"}] * 2, on_beat=beats.append)
    assert found[0] == [list(pair) for pair in attribute(predictors["single"], [TEXT], ["sport"])[0]]
    assert beats == [0.5, 1.0]


def test_a_row_without_class_is_refused_by_number(predictors: dict[str, Predictor]) -> None:
    with pytest.raises(InputError, match="row 0 wants"):
        explain_rows(predictor_folder(predictors["single"]), [{"text": TEXT}])
