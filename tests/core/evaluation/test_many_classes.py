"""Hundreds and thousands of classes: memory is bounded, nothing is listed that nobody can read, scores are right."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from bertft_core.evaluation import baseline
from bertft_core.evaluation.report import EvaluationReport, RowTexts, evaluate
from bertft_core.evaluation.scores import labels as scoring
from bertft_core.evaluation.scores import resampling
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import Predictions, SingleLabels
from bertft_core.evaluation.scores.metrics import LARGEST_CONFUSION


def rows(n: int, classes: int) -> tuple[SingleLabels, Predictions, Predictions]:
    """Rows, and two models that are right on seven of ten."""
    rng = np.random.default_rng(0)
    labels = SingleLabels(values=rng.integers(0, classes, n), classes=tuple(f"class{i}" for i in range(classes)))

    def model() -> Predictions:
        p = rng.random((n, classes)) / 10
        p[np.arange(n), np.where(rng.random(n) < 0.7, labels.values, rng.integers(0, classes, n))] += 3
        return labels.predictions(p / p.sum(axis=1, keepdims=True))

    return labels, model(), model()


def report(n: int, classes: int) -> EvaluationReport:
    labels, model, other = rows(n, classes)
    return evaluate(labels, model, RowTexts(texts=["x"] * n), baseline=other, bootstrap=Bootstrap(resamples=50))


def test_ranking_of_ties_is_scikit_learns() -> None:
    labels, model, _ = rows(200, 4)
    p = np.round(model.probabilities * 4) / 4 + 0.01
    found = labels.scores(labels.predictions(p / p.sum(axis=1, keepdims=True)))
    p = p / p.sum(axis=1, keepdims=True)
    for c, one in enumerate(found.per_class):
        assert one.auroc == pytest.approx(roc_auc_score(labels.values == c, p[:, c]))
        assert one.average_precision == pytest.approx(average_precision_score(labels.values == c, p[:, c]))


def test_draws_in_parts_are_distributed_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, a, b = rows(300, 10)

    def drawn() -> list[np.ndarray]:
        (one,) = labels.resampled_scores([a], 4000, 0)
        return [one["macro_f1"], one["accuracy"], labels.exchanged_differences("macro_f1", a, b, 4000, 0)]

    whole = drawn()
    monkeypatch.setattr(resampling, "BLOCK", 3000)
    monkeypatch.setattr(scoring, "BLOCK", 3000)
    for known, parted in zip(whole, drawn(), strict=True):
        assert known.shape == parted.shape == (4000,) and not np.array_equal(known, parted)
        assert parted.mean() == pytest.approx(known.mean(), abs=known.std() / 10)
        assert parted.std() == pytest.approx(known.std(), rel=0.1)


def test_a_wrong_pseudo_row_is_decided_as_the_other_classes_in_their_shares() -> None:
    """All rows of class 0 and decided as 1 or 2, twice as often as 2: its wrong pseudo rows are shared alike."""
    y = np.zeros(3000, dtype=np.int64)
    guess = np.where(np.arange(3000) % 3 == 0, 1, 2)
    labels = SingleLabels(values=y, classes=("a", "b", "c"))
    (drawn,) = labels.resampled_scores([labels.predictions(np.eye(3)[guess])], 200, 0)
    assert drawn["accuracy"].max() < 0.01 and np.isfinite(drawn["macro_f1"]).all()


def test_memory_of_a_comparison_does_not_grow_with_classes_times_draws() -> None:
    labels, a, b = rows(2000, 2000)
    tracemalloc.start()
    labels.resampled_differences("macro_f1", a, b, 4000, 0)
    labels.exchanged_differences("macro_f1", a, b, 4000, 0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 400e6  # 4000 draws of 2000 classes are 64 MB an array: at once they took 1.2 GB


def test_many_classes_have_a_list_of_confusions_and_more_have_none() -> None:
    found = report(600, 40)
    page = found.to_markdown()
    assert "## Confusion (rows" not in page and "## Most frequent confusions (30 of " in page
    (first, *_) = [line for line in page[page.index("## Most frequent") :].splitlines() if line.startswith("| class")][
        1:
    ]
    true, decided, count = (cell.strip() for cell in first.strip("|").split("|"))
    counts = np.array(found.confusion) * ~np.eye(40, dtype=bool)
    assert int(count) == counts.max() == counts[found.classes.index(true), found.classes.index(decided)]
    larger = report(600, LARGEST_CONFUSION + 1)
    assert larger.confusion == () and "onfusion" not in larger.to_markdown()
    assert EvaluationReport.from_json(json.loads(json.dumps(larger.to_json()))) == larger


def test_warnings_name_ten_classes_and_count_the_others() -> None:
    (absent, *_) = [w for w in report(300, 400).warnings if w.startswith("no test row")]
    assert " more: its recall" in absent and absent.count("class") < 20


def test_words_of_many_classes_are_as_many_as_memory_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{i % 5} other{i} thing{i % 7}" for i in range(60)]
    y = [i % 5 for i in range(60)]
    told = {"train": texts, "validation": texts[:20], "test": texts[20:]}
    labels = {"train": y, "validation": y[:20]}
    assert baseline.tfidf_baseline(told, labels, 5, "accuracy", 0).model.coefficients.shape[1] > 40
    monkeypatch.setattr(baseline, "_BYTES", 5 * 200 * 12)
    found = baseline.tfidf_baseline(told, labels, 5, "accuracy", 0)
    assert found.model.coefficients.shape == (5, 12) and {"word0", "word4"} <= set(found.model.terms)
