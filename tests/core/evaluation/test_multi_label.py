"""Scores and tests of multi-label rows, against scikit-learn and against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.baseline import tfidf_baseline
from bertft_core.evaluation.comparison import compare
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.decision import PromotionDecision, decide
from bertft_core.evaluation.report import EvaluationReport, RowTexts, evaluate
from bertft_core.evaluation.scores.intervals import Bootstrap, paired_difference, paired_permutation
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import Scores

CLASSES = ["a", "b", "c", "d"]
Y = (np.random.default_rng(0).random((300, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(int)


def answers(noise: float, seed: int) -> np.ndarray:
    return np.clip(0.2 + 0.6 * Y + np.random.default_rng(seed).normal(0, noise, Y.shape), 0, 1)


def multi_label_scores(labels, probabilities, classes) -> Scores:
    rows = labels_of(labels, classes)
    return rows.scores(rows.predictions(probabilities))


def test_scores_agree_with_scikit_learn() -> None:
    p = answers(0.4, 1)
    found, guess = multi_label_scores(Y, p, CLASSES), p >= 0.5
    assert found.accuracy == pytest.approx(sk.accuracy_score(Y, guess))
    for average in ("macro", "micro", "weighted"):
        assert getattr(found, f"{average}_f1") == pytest.approx(sk.f1_score(Y, guess, average=average))
    assert found.ranking == pytest.approx(sk.label_ranking_average_precision_score(Y[Y.any(1)], p[Y.any(1)]))
    assert found.average_precision == pytest.approx(sk.average_precision_score(Y, p, average="macro"))
    assert found.auroc == pytest.approx(sk.roc_auc_score(Y, p, average="macro"))
    assert found.balanced_accuracy is None and found.mcc is None and found.confusion == ()
    assert [c.recall for c in found.per_class] == pytest.approx(list(sk.recall_score(Y, guess, average=None)))


def test_log_loss_and_brier_by_hand() -> None:
    found = multi_label_scores([[1, 0]], [[0.8, 0.4]], ["a", "b"])
    assert found.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert found.brier == pytest.approx((0.2**2 + 0.4**2) / 2)


def test_class_without_a_row_is_undefined_and_left_out_of_the_macro_score() -> None:
    found = multi_label_scores([[1, 0], [1, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.1]], ["a", "b"])
    assert found.per_class[1].f1 is None and found.per_class[1].recall is None and found.per_class[1].auroc is None
    assert found.macro_f1 == pytest.approx(2 / 3)  # of class a: one of two rows found, none wrongly
    assert found.micro_f1 == pytest.approx(2 * 1 / (2 + 2))


def test_rows_without_labels_alone_are_scored() -> None:
    found = multi_label_scores([[0, 0]], [[0.1, 0.2]], ["a", "b"])
    assert found.accuracy == 1.0 and found.ranking is None and found.macro_f1 == 0.0


@pytest.mark.parametrize(
    ("labels", "p", "error"),
    [([[0, 2]], [[0.1, 0.1]], DataError), ([[0, 1]], [[0.1, 1.1]], ArtifactError), ([[0, 1]], [[0.1]], ArtifactError)],
)
def test_what_is_no_set_or_no_probability_is_refused(labels: object, p: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        multi_label_scores(labels, p, ["a", "b"])


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "accuracy", "log_loss"])
def test_paired_difference_is_that_of_the_scores_and_its_interval_holds_it(metric: str) -> None:
    a, b, labels = answers(0.3, 1), answers(0.5, 2), labels_of(Y, CLASSES)
    one, two = labels.predictions(a), labels.predictions(b)
    found = paired_difference(labels, one, two, metric, Bootstrap(resamples=2000))
    assert found.difference == pytest.approx(
        multi_label_scores(Y, a, CLASSES).score(metric) - multi_label_scores(Y, b, CLASSES).score(metric)
    )
    assert found.low < found.difference < found.high
    assert paired_permutation(labels, one, two, metric, 500) < 0.01
    assert paired_permutation(labels, one, one, metric, 500) == 1.0


def test_resampled_macro_f1_is_that_of_the_resampled_rows() -> None:
    """The spread of our draws against a plain loop that copies rows."""
    a, b = answers(0.3, 1), answers(0.5, 2)
    y, labels = Y.astype(bool), labels_of(Y, CLASSES)
    drawn = labels.resampled_differences("macro_f1", labels.predictions(a), labels.predictions(b), 2000, 0)
    rng, plain = np.random.default_rng(1), []
    for _ in range(400):
        rows = rng.integers(0, len(y), len(y))
        plain.append(
            sk.f1_score(Y[rows], a[rows] >= 0.5, average="macro")
            - sk.f1_score(Y[rows], b[rows] >= 0.5, average="macro")
        )
    assert drawn.mean() == pytest.approx(np.mean(plain), abs=0.005) and drawn.std() == pytest.approx(
        np.std(plain), rel=0.15
    )


def judge(
    rule: PromotionRule, challenger: np.ndarray, champion: np.ndarray, slices: dict[str, np.ndarray] | None = None
) -> PromotionDecision:
    rows = GateRows(labels=Y, classes=CLASSES, slices=slices or {})
    return decide(rule, rows, Model(name="the challenger", p=challenger), Model(name="the champion", p=champion))


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "accuracy", "log_loss"])
def test_gate_promotes_the_better_keeps_the_equal_and_guards_non_inferiority(metric: str) -> None:
    good, poor = answers(0.2, 1), answers(0.5, 2)
    rule = PromotionRule(metric=metric)
    assert judge(rule, good, poor).promote
    assert not judge(rule, poor, good).promote
    twin = judge(rule, answers(0.5, 3), poor)
    assert not twin.promote and "not distinguishable" in twin.reason
    near = PromotionRule(metric=metric, test="non_inferiority", margin=0.9)
    assert judge(near, answers(0.5, 3), poor).promote
    tight = PromotionRule(metric=metric, test="non_inferiority", margin=0.001)
    assert not judge(tight, answers(0.5, 3), poor).promote


def test_gate_watches_the_recall_of_each_class_and_whole_rows_in_slices() -> None:
    champion, challenger = answers(0.1, 1), answers(0.1, 1)
    challenger[:, 0] = 0.1  # class a is never found
    rule = PromotionRule(max_class_loss=0.05, max_slice_loss=0.05)
    found = judge(rule, challenger, champion, {"with a": Y[:, 0] == 1})
    by_name = {check.name: check for check in found.checks}
    assert not by_name["classes"].passed and "'a'" in by_name["classes"].detail
    assert not by_name["slices"].passed and "'with a'" in by_name["slices"].detail


def test_report_holds_what_has_a_meaning_and_survives_json() -> None:
    p = answers(0.4, 1)
    labels = labels_of(Y, CLASSES)
    report = evaluate(
        labels,
        labels.predictions(p),
        RowTexts(texts=["t"] * len(Y)),
        baseline=labels.predictions(answers(0.6, 2)),
        bootstrap=Bootstrap(resamples=200),
    )
    text = report.to_markdown()
    assert "| micro_f1 |" in text and "Confusion" not in text and "mcc" not in text
    assert report.baseline_difference == pytest.approx(report.scores.accuracy - report.baseline_accuracy)
    assert report.worst_errors[0].label.startswith("[") and report.worst_errors[0].predicted.startswith("[")
    assert EvaluationReport.from_json(report.to_json()) == report


def test_comparison_counts_whole_rows() -> None:
    labels = labels_of(Y, CLASSES)
    first, second = labels.predictions(answers(0.5, 2)), labels.predictions(answers(0.2, 1))
    found = compare(labels, first, second, Bootstrap(resamples=200))
    assert (
        set(found.differences) == {"macro_f1", "micro_f1", "accuracy", "log_loss"}
        and found.second_only > found.first_only
    )
    assert all(row.first.startswith("[") for row in found.shown)


def test_baseline_learns_each_class_and_gives_a_constant_class_its_share() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < 0.4).astype(int)
    y[:, 2] = 0
    texts = [" ".join([*["goal"] * a, *["chip"] * b, "the", str(i)]) for i, (a, b, _) in enumerate(y)]
    parts = {"train": texts[:120], "validation": texts[120:160], "test": texts[160:]}
    found = tfidf_baseline(parts, {"train": y[:120], "validation": y[120:160]}, 3, "macro_f1", 0).probabilities["test"]
    assert found.shape == (40, 3) and (found[:, 2] == 0).all()
    assert ((found >= 0.5) == y[160:]).all(axis=1).mean() > 0.9
