"""BertClassifier keeps the contract of scikit-learn's estimators, with texts where its own checks have numbers."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from bertft_core import BertClassifier, Predictor
from bertft_core.base.errors import ArtifactError

CONFIG = {"training": {"batch_size": 8, "threads": 1, "precision": "float32"}}
# scikit-learn 1.9's checks that need no data of its own; the others fit matrices of numbers.
WITHOUT_DATA = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_requires_y_none",
    "check_fit1d",
]


@pytest.fixture(scope="module")
def data(rows) -> tuple[np.ndarray, np.ndarray]:
    """Texts and classes 1, 3 and 7, whose order is not that of their names."""
    codes = {"sport": 7, "tech": 1, "food": 3}
    table = rows(180)
    return np.array([text for text, _ in table], dtype=object), np.array([codes[label] for _, label in table])


@pytest.fixture(scope="module")
def plain(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> BertClassifier:
    home = tmp_path_factory.mktemp("estimator") / "home"
    return BertClassifier(model=str(encoder), epochs=6, lr=4e-3, max_length=24, config=CONFIG, home=home)


@pytest.fixture(scope="module")
def fitted(plain: BertClassifier, data) -> BertClassifier:
    return clone(plain).fit(*data)


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_check_of_scikit_learn_that_needs_no_data(plain: BertClassifier, name: str) -> None:
    getattr(estimator_checks, name)("BertClassifier", clone(plain))


def test_check_estimator_passes_and_says_that_its_numbers_are_no_texts(plain: BertClassifier) -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator BertClassifier which requires input"):
        done = estimator_checks.check_estimator(plain)
    assert {check["status"] for check in done} == {"passed"}
    tags = plain.__sklearn_tags__().input_tags
    assert tags.string and tags.one_d_array and not tags.two_d_array


def test_fit_leaves_parameters_and_data_as_they_were(fitted, plain, data) -> None:
    assert fitted.get_params() == plain.get_params() and fitted.get_params()["config"] is not None
    assert CONFIG == {"training": {"batch_size": 8, "threads": 1, "precision": "float32"}}
    own = {key for key in vars(fitted) if key not in plain.get_params()}
    assert own == {"classes_", "n_validation_", "folder_"} and all(key.endswith("_") for key in own)
    before = dict(vars(fitted))
    fitted.predict(data[0][:3])
    fitted.predict_proba(data[0][:3])
    assert vars(fitted) == before


def test_answers_have_the_types_and_order_of_the_classes(fitted, data) -> None:
    texts, labels = data
    table = fitted.predict_proba(texts)
    assert fitted.classes_.tolist() == [1, 3, 7] and table.shape == (180, 3)
    assert np.allclose(table.sum(axis=1), 1, atol=1e-12)
    assert fitted.predict(texts).dtype == labels.dtype
    assert np.array_equal(fitted.predict(texts), fitted.classes_[table.argmax(axis=1)])
    assert fitted.score(texts, labels) > 0.6  # a third by chance


def test_answer_of_a_row_depends_on_no_other(fitted, data) -> None:
    texts = data[0][:40]
    whole, order = fitted.predict_proba(texts), np.random.default_rng(0).permutation(40)
    assert np.allclose(fitted.predict_proba(texts[order]), whole[order], atol=1e-5)
    parts = np.vstack([fitted.predict_proba(texts[i : i + 7]) for i in range(0, 40, 7)])
    assert np.allclose(parts, whole, atol=1e-5)


def test_every_kind_of_texts_is_answered_alike(fitted, data) -> None:
    texts = data[0][:4]
    expected = fitted.predict_proba(texts)
    for given in (texts.tolist(), tuple(texts), pd.Series(texts), pd.DataFrame({"t": texts}), texts.astype(str)):
        assert np.array_equal(fitted.predict_proba(given), expected)


def test_refit_is_that_of_a_fresh_estimator_and_equal_fits_are_equal(fitted, plain, data) -> None:
    texts, labels = data
    again = clone(plain).fit(texts, labels)
    assert np.array_equal(again.predict_proba(texts), fitted.predict_proba(texts)) and again.folder_ == fitted.folder_
    half, other = slice(0, 90), np.where(labels == 7, 1, labels)  # other rows, then other labels of the same rows
    refitted = again.fit(texts[half], labels[half])
    assert refitted is again and refitted.folder_ != fitted.folder_
    fresh = clone(plain).fit(texts[half], labels[half])
    assert np.array_equal(refitted.predict_proba(texts), fresh.predict_proba(texts))
    assert again.fit(texts[half], other[half]).classes_.tolist() == [1, 3]
    assert again.set_params(random_state=5).fit(texts[half], other[half]).folder_ != fresh.folder_


def test_fold_knows_only_its_own_rows(plain, data) -> None:
    """Labels that only memory of other folds could tell: noise stays noise."""
    texts, noise = data[0], np.random.default_rng(3).integers(0, 2, 180)
    predicted = cross_val_predict(clone(plain).set_params(epochs=2), texts, noise, cv=3)
    assert abs((predicted == noise).mean() - 0.5) < 0.17


def test_model_selection_and_pipelines_take_it(plain, data) -> None:
    texts, labels = data
    steps = make_pipeline(FunctionTransformer(lambda column: [text.lower() for text in column]), clone(plain))
    found = GridSearchCV(steps, {"bertclassifier__epochs": [1, 6]}, cv=2).fit(texts, labels)
    assert found.best_params_ == {"bertclassifier__epochs": 6}
    assert found.score(texts, labels) > 0.6 and found.classes_.tolist() == [1, 3, 7]
    scores = cross_val_score(clone(plain), texts, labels, cv=2, scoring="neg_log_loss", n_jobs=2)
    assert scores.shape == (2,) and np.isfinite(scores).all() and scores.min() > -1.0


def test_pickle_holds_the_path_and_says_when_it_leads_nowhere(fitted, data, tmp_path: Path) -> None:
    texts = data[0][:5]
    expected = fitted.predict_proba(texts)
    assert len(pickle.dumps(fitted)) < 5_000
    joblib.dump(fitted, tmp_path / "estimator.joblib")
    loaded = joblib.load(tmp_path / "estimator.joblib")
    assert np.array_equal(loaded.predict_proba(texts), expected)
    folder = loaded.save(tmp_path / "kept")
    answers = Predictor.load(folder).predict_frame({"text": texts.tolist()})
    assert np.allclose(answers.filter(like="probability_"), expected, atol=1e-6)
    assert sorted(Predictor.load(folder).classes) == ["1", "3", "7"]
    loaded.folder_ = str(tmp_path / "gone")
    with pytest.raises(ArtifactError, match=r"the model's folder is gone.*\.save\(folder\)"):
        loaded.predict(texts)


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (["a", 3.5, "c"], [0, 1, 0], "found float '3.5' in row 1"),
        (["a", None, "c"], [0, 1, 0], "found NoneType 'None' in row 1"),
        (np.zeros((4, 2)), [0, 1, 0, 1], r"one dimension, found the shape \(4, 2\)"),
        ("a text", [0], r"such as \[text\]"),
        ([], [], "holds no text"),
        (["a", "b"], [0], "inconsistent numbers of samples"),
        (["a", "b"], [1, 1], "y holds 1 class"),
        (["a", "b"], [0.5, 1.5], "Unknown label type"),
        (["a", "b"], None, "requires y"),
        (["a", "b"], [[0, 1], [1, 0]], "1d array"),
        (["one text"] * 30, [0, 1] * 15, "max_faulty_share"),
        (["a", "b"], [0, 1], "data.split: no row falls into validation"),
    ],
)
def test_bad_input_is_a_value_error_that_says_what(plain, texts: Any, labels: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clone(plain).fit(texts, labels)


def test_faults_of_parameters_are_told_at_fit_not_before(plain, data) -> None:
    with pytest.raises(ValueError, match=r"training\.epochs"):
        clone(plain).set_params(epochs=-1).fit(*data)
    with pytest.raises(ValueError, match=r"training\.alhpa.*did you mean training\.alpha"):
        clone(plain).set_params(config={"training": {"alhpa": 0.9}}).fit(*data)
    with pytest.raises(NotFittedError):
        clone(plain).predict(["a"])


def test_rare_class_is_trained_on(plain, data) -> None:
    """Three rows of a class: a draw is taken that trains on it and validates on it."""
    texts, labels = data
    few = labels.copy()
    few[few == 1] = 3
    few[[2, 20, 40]] = 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clone(plain).set_params(epochs=1).fit(texts, few)
    assert 9 in found.classes_ and found.n_validation_ > 5
