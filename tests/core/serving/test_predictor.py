"""The predictor answers as plain transformers does, in any batch size and for every input shape."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.data.tokens.encoding import SpecialLayout, encode_texts, load_tokenizer
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving.artifact import ArtifactCard, build_artifact, read_card
from bertft_core.serving.predictor import Predictor, unfolded
from bertft_core.testing.encoders import tiny_encoder

CLASSES = ("ham", "spam", "other")
TEXTS = ["a short one", "b", "the quick brown fox jumps over a lazy dog " * 12, "hello there", "zebra " * 30]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("serving")
    encoder = tiny_encoder(root / "encoder", seed=3)
    made = {}
    for name, pair in (("single", None), ("pair", "reply")):
        model = save_classifier(load_classifier(encoder, CLASSES, seed=5), encoder, root / f"{name}-fit", CLASSES)
        card = ArtifactCard(max_length=48, truncation="head+tail", classes=CLASSES, text="body", text_pair=pair)
        made[name] = build_artifact(model, root / name, card)
    return made


@pytest.fixture(scope="module")
def predictor(folders):
    return Predictor.load(folders["single"])


def plain_probabilities(folder, texts, pairs=None):
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = load_tokenizer(folder)
    ids, starts, _ = encode_texts(tokenizer, SpecialLayout.of(tokenizer), texts, pairs, 48, "head+tail")
    rows = []
    for row, start in zip(ids, starts, strict=True):
        types = torch.tensor([[int(i >= start) for i in range(len(row))]])
        tokens = torch.from_numpy(np.array(row, dtype=np.int64))[None]
        with torch.inference_mode():
            rows.append(torch.softmax(model(input_ids=tokens, token_type_ids=types).logits, -1)[0].numpy())
    return np.stack(rows)


def test_probabilities_equal_plain_transformers(predictor, folders):
    expected = plain_probabilities(folders["single"], TEXTS)
    np.testing.assert_allclose(predictor.probabilities(TEXTS), expected, atol=1e-6)


def test_pairs_equal_plain_transformers_with_segments(folders):
    pairs = TEXTS[::-1]
    expected = plain_probabilities(folders["pair"], TEXTS, pairs)
    np.testing.assert_allclose(Predictor.load(folders["pair"]).probabilities(TEXTS, pairs), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_batch_size_changes_nothing_but_rounding(predictor, batch_size):
    alone = np.concatenate([predictor.probabilities([text]) for text in TEXTS])
    np.testing.assert_allclose(predictor.probabilities(TEXTS, batch_size=batch_size), alone, atol=1e-6)


def test_more_rows_than_a_slab_keep_their_order(predictor, monkeypatch):
    whole = predictor.probabilities(TEXTS * 3)
    monkeypatch.setattr("bertft_core.serving.predictor._SLAB", 4)
    np.testing.assert_allclose(predictor.probabilities(TEXTS * 3), whole, atol=1e-6)


def test_frame_dict_and_list_of_dicts_agree(predictor):
    frame = predictor.predict_frame(pd.DataFrame({"text": TEXTS}))
    pd.testing.assert_frame_equal(predictor.predict_frame({"text": TEXTS}), frame)
    pd.testing.assert_frame_equal(predictor.predict_frame([{"text": t} for t in TEXTS]), frame)
    assert list(frame.columns) == ["label", "confidence", "abstain", *(f"probability_{c}" for c in CLASSES)]


def test_a_row_that_mlflow_folded_is_unfolded(predictor):
    folded = pd.DataFrame([{"text": TEXTS}])
    pd.testing.assert_frame_equal(predictor.predict_frame(unfolded(folded)), predictor.predict_frame({"text": TEXTS}))


def test_frame_columns_fit_each_other(predictor):
    frame = predictor.predict_frame(pd.DataFrame({"body": TEXTS}, index=[9, 8, 7, 6, 5]))
    table = frame[[f"probability_{c}" for c in CLASSES]].to_numpy()
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-6)
    assert frame["label"].tolist() == [CLASSES[i] for i in table.argmax(axis=1)]
    assert frame["confidence"].tolist() == table.max(axis=1).tolist()
    assert frame.index.tolist() == [9, 8, 7, 6, 5]


@pytest.fixture(scope="module")
def policy(predictor):
    """Costs less to a rare class than the argmax does, and leaves the least sure third to a person."""
    scaled = predictor.probabilities(TEXTS).astype(np.float64) ** (1 / 2.5)
    scaled /= scaled.sum(axis=1, keepdims=True)
    rarest = int(scaled.mean(axis=0).argmin())
    thresholds = tuple(0.01 if c == rarest else 0.495 for c in range(len(CLASSES)))
    below = float(np.sort(scaled[:, rarest])[1:3].mean())
    return DecisionPolicy(
        temperature=2.5, thresholds=thresholds, abstain_below=below, fitted_on=300, notes=("tried", "kept")
    )


@pytest.fixture(scope="module")
def with_policy(folders, policy, tmp_path_factory):
    card = replace(read_card(folders["single"]), policy=policy)
    return build_artifact(folders["single"], tmp_path_factory.mktemp("policy") / "served", card)


def test_policy_survives_in_the_artifact(with_policy, policy):
    assert read_card(with_policy).policy == policy


def test_artifact_with_a_policy_is_built_once(folders, with_policy):
    before = (with_policy / "bertft.json").stat().st_mtime_ns
    build_artifact(folders["single"], with_policy, read_card(with_policy))
    assert (with_policy / "bertft.json").stat().st_mtime_ns == before


def test_artifact_without_a_policy_is_refused(with_policy, tmp_path):
    card = json.loads((with_policy / "bertft.json").read_text(encoding="utf-8"))
    del card["policy"]
    (tmp_path / "bertft.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ArtifactError, match="policy"):
        read_card(tmp_path)


def test_frame_shows_probabilities_at_the_policys_temperature(with_policy, predictor):
    raised = predictor.probabilities(TEXTS).astype(np.float64) ** (1 / 2.5)
    frame = Predictor.load(with_policy).predict_frame({"text": TEXTS})
    found = frame[[f"probability_{c}" for c in CLASSES]].to_numpy()
    np.testing.assert_allclose(found, raised / raised.sum(axis=1, keepdims=True), atol=1e-6)


def test_frame_labels_follow_the_policys_thresholds_not_the_argmax(with_policy, policy, predictor):
    favoured = CLASSES[policy.thresholds.index(0.01)]
    assert favoured not in set(predictor.predict_frame({"text": TEXTS})["label"])
    frame = Predictor.load(with_policy).predict_frame({"text": TEXTS})
    assert set(frame["label"]) == {favoured}
    assert frame["confidence"].tolist() == frame[f"probability_{favoured}"].tolist()


def test_frame_abstains_below_the_policys_confidence(with_policy, policy):
    frame = Predictor.load(with_policy).predict_frame({"text": TEXTS})
    assert frame["abstain"].sum() == 2
    assert (frame["abstain"] == (frame["confidence"] < policy.abstain_below)).all()


def test_no_rows_give_an_empty_frame(predictor):
    assert len(predictor.predict_frame(pd.DataFrame({"text": []}))) == 0


def test_text_in_which_the_tokenizer_finds_no_token_is_named(predictor: Predictor) -> None:
    found = predictor.faults({"text": ["good", "\ufffd\ufffd", "!", "\u6f22"]})  # BERT's normaliser takes U+FFFD out
    assert list(found) == [1] and found[1].endswith("in which the tokenizer finds no token")


@pytest.mark.parametrize("bad", [None, float("nan"), "", "  ", "\u200b\ufeff \u200d" * 40, "\x07", 3])
def test_missing_text_is_refused_with_its_row(predictor, bad):
    with pytest.raises(InputError, match="text in row 1"):
        predictor.predict_frame([{"text": "fine"}, {"text": bad}])


def test_missing_column_names_those_found(predictor):
    with pytest.raises(InputError, match=r"column text or body, found: words"):
        predictor.predict_frame(pd.DataFrame({"words": TEXTS}))


def test_a_list_of_strings_is_refused(predictor):
    with pytest.raises(InputError, match="list of"):
        predictor.predict_frame(TEXTS)


def test_pair_given_to_a_single_text_model_is_refused(predictor):
    with pytest.raises(InputError, match="trained on single texts"):
        predictor.predict_frame({"text": ["a"], "text_pair": ["b"]})


def test_pair_missing_for_a_pair_model_is_refused(folders):
    with pytest.raises(InputError, match="text_pair or reply"):
        Predictor.load(folders["pair"]).predict_frame({"text": ["a"]})


def test_artifact_files_are_their_users_alone(folders):
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in folders["single"].iterdir())


def test_building_twice_returns_the_same_folder(folders, tmp_path):
    before = (folders["single"] / "bertft.json").stat().st_mtime_ns
    again = build_artifact(folders["single"], folders["single"], read_card(folders["single"]))
    assert (again / "bertft.json").stat().st_mtime_ns == before


def test_card_with_other_classes_than_the_head_is_refused(folders, tmp_path):
    card = ArtifactCard(max_length=48, truncation="head", classes=("x", "y"))
    with pytest.raises(ArtifactError, match="differ from the card"):
        build_artifact(folders["single"], tmp_path / "out", card)


def test_folder_without_card_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a bertft artefact"):
        Predictor.load(tmp_path)


def test_card_faults_are_reported_together():
    with pytest.raises(ArtifactError, match=r"truncation.*classes.*too small"):
        ArtifactCard(max_length=1, truncation="middle", classes=("a",))


@pytest.fixture(scope="module")
def set_predictor(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    encoder = tiny_encoder(root / "encoder", seed=3)
    model = load_classifier(encoder, CLASSES, seed=5, multi_label=True)
    with torch.no_grad():
        model.classifier.bias += torch.tensor([1.0, -1.0, 0.0])
    fit = save_classifier(model, encoder, root / "fit", CLASSES)
    card = ArtifactCard(
        max_length=48, truncation="head", classes=CLASSES, label=("ham", "spam", "other"), multi_label=True
    )
    folder = build_artifact(fit, root / "served", card)
    assert read_card(folder) == card
    return Predictor.load(folder)


def test_multi_label_answers_are_sets_of_independent_probabilities(set_predictor):
    frame = set_predictor.predict_frame({"text": TEXTS})
    table = frame[[f"probability_{c}" for c in CLASSES]].to_numpy()
    logits = np.log(table / (1 - table))
    assert not np.allclose(table.sum(axis=1), 1) and np.isfinite(logits).all()
    for label, row in zip(frame["label"], table, strict=True):
        assert json.loads(label) == [name for name, p in zip(CLASSES, row, strict=True) if p >= 0.5]
    np.testing.assert_allclose(frame["confidence"], np.maximum(table, 1 - table).prod(axis=1))
    assert not frame["abstain"].any()
