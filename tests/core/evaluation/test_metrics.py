from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import BINS, ReliabilityBin, Scores


def scores(labels, probabilities, classes, weights=None, predicted=None, *, ranking=True) -> Scores:
    rows = labels_of(labels, classes, weights)
    return rows.scores(rows.predictions(probabilities, predicted), ranking=ranking)


def reliability(labels, probabilities, predicted=None, bins=BINS) -> tuple[ReliabilityBin, ...]:
    rows = labels_of(labels, range(np.shape(probabilities)[-1]))
    return rows.reliability(rows.predictions(probabilities, predicted), bins)


def random_rows(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n)
    p[np.arange(n), labels] += 0.7
    return labels, p / p.sum(axis=1, keepdims=True)


def test_scores_agree_with_scikit_learn() -> None:
    y, p = random_rows(400, 4, 1)
    found = scores(y, p, list("abcd"))
    guess = p.argmax(axis=1)
    assert found.accuracy == pytest.approx(accuracy_score(y, guess))
    assert found.macro_f1 == pytest.approx(f1_score(y, guess, average="macro"))
    assert found.log_loss == pytest.approx(log_loss(y, p))
    assert np.array_equal(found.confusion, confusion_matrix(y, guess))


def test_scores_by_hand() -> None:
    found = scores([0, 0, 1, 1], [[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]], ["no", "yes"])
    assert found.accuracy == 0.75
    assert found.per_class[0].precision == 1.0 and found.per_class[0].recall == 0.5
    assert found.per_class[1].precision == pytest.approx(2 / 3)
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.score("log_loss") == -found.log_loss


def test_macro_f1_averages_classes_with_rows_when_one_is_absent() -> None:
    found = scores([0, 1], [[0.9, 0.1, 0.0], [0.0, 0.4, 0.6]], list("abc"))
    assert found.per_class[2].f1 is None and found.per_class[2].recall is None
    assert found.per_class[1].precision is None  # never predicted
    assert found.macro_f1 == 0.5


def test_log_loss_uses_soft_weights() -> None:
    p = np.array([[0.5, 0.5], [0.25, 0.75]])
    found = scores([0, 1], p, ["a", "b"], weights=[[3, 1], [0, 2]])
    assert found.log_loss == pytest.approx((-np.log(0.5) - np.log(0.75)) / 2)


def test_log_loss_is_finite_when_the_label_has_probability_zero() -> None:
    assert scores([0], np.array([[0.0, 1.0]], dtype=np.float32), ["a", "b"]).log_loss == pytest.approx(15.94, abs=0.01)


@pytest.mark.parametrize("row", [[float("nan"), 0.5], [-0.1, 1.1], [0.2, 0.2], [float("inf"), 0.0]])
def test_scores_refuses_rows_that_are_no_distribution(row: list[float]) -> None:
    with pytest.raises(ArtifactError, match="1 of 2 rows"):
        scores([0, 1], [[0.5, 0.5], row], ["a", "b"])


def test_scores_refuses_no_rows_and_unknown_labels() -> None:
    with pytest.raises(DataError, match="at least one"):
        scores([], np.zeros((0, 2)), ["a", "b"])
    with pytest.raises(DataError, match=r"0\.\.1"):
        scores([2], [[0.5, 0.5]], ["a", "b"])
    with pytest.raises(ArtifactError, match="shape"):
        scores([1], [[0.5, 0.3, 0.2]], ["a", "b"])


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_decisions_agree_with_scikit_learn(classes: int) -> None:
    y, p = random_rows(300, classes, 2)
    guess = (p.argmax(axis=1) + (np.arange(300) % 5 == 0)) % classes  # decisions that are not the argmax
    found = scores(y, p, list("abcd")[:classes], predicted=guess)
    assert found.accuracy == pytest.approx(accuracy_score(y, guess))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, guess))
    assert found.balanced_accuracy == pytest.approx(recall_score(y, guess, average="macro"))
    for average in ("macro", "weighted"):
        assert getattr(found, f"{average}_f1") == pytest.approx(f1_score(y, guess, average=average))
        assert getattr(found, f"{average}_precision") == pytest.approx(precision_score(y, guess, average=average))
    assert found.mcc == pytest.approx(matthews_corrcoef(y, guess))
    assert np.array_equal(found.confusion, confusion_matrix(y, guess))


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_probabilities_agree_with_scikit_learn(classes: int) -> None:
    y, p = random_rows(300, classes, 3)
    found = scores(y, p, list("abcd")[:classes])
    hot = np.eye(classes)[y]
    assert found.brier == pytest.approx(brier_score_loss(hot, p, scale_by_half=False))
    assert found.auroc == pytest.approx(roc_auc_score(hot, p, average="macro"))
    assert found.average_precision == pytest.approx(average_precision_score(hot, p, average="macro"))
    assert found.per_class[1].auroc == pytest.approx(roc_auc_score(hot[:, 1], p[:, 1]))
    assert found.per_class[1].average_precision == pytest.approx(average_precision_score(hot[:, 1], p[:, 1]))


def test_brier_by_hand() -> None:
    assert scores([0, 1], [[0.8, 0.2], [0.4, 0.6]], ["a", "b"]).brier == pytest.approx((0.08 + 0.32) / 2)


def test_brier_of_soft_weights_is_the_mean_over_labels_drawn_from_them() -> None:
    p = np.array([[0.7, 0.3]])
    hard = [scores([k], p, ["a", "b"]).brier for k in (0, 1)]
    soft = scores([0], p, ["a", "b"], weights=[[3, 1]]).brier
    assert soft == pytest.approx(0.75 * hard[0] + 0.25 * hard[1])


def test_one_class_in_test_leaves_rankings_and_mcc_undefined() -> None:
    found = scores([0, 0, 0], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], ["a", "b"])
    assert found.auroc is None and found.average_precision is None and found.mcc is None
    assert [c.auroc for c in found.per_class] == [None, None]
    assert found.balanced_accuracy == pytest.approx(2 / 3) and found.macro_precision == 1.0


def test_mcc_is_undefined_when_one_class_is_all_that_is_predicted() -> None:
    found = scores([0, 1, 1], [[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]], ["a", "b"])
    assert found.mcc is None and found.auroc == 1.0


def test_auroc_of_an_absent_class_is_undefined_and_left_out_of_the_mean() -> None:
    y, p = random_rows(60, 3, 4)
    y[y == 2] = 0
    found = scores(y, p, list("abc"))
    assert found.per_class[2].auroc is None
    assert found.auroc == pytest.approx(np.mean([roc_auc_score(y == c, p[:, c]) for c in (0, 1)]))


def test_auroc_of_equal_probabilities_is_one_half() -> None:
    assert scores([0, 1, 1], np.full((3, 2), 0.5), ["a", "b"]).auroc == 0.5


def test_ranking_scores_are_left_out_when_not_wanted() -> None:
    y, p = random_rows(50, 2, 5)
    found = scores(y, p, ["a", "b"], ranking=False)
    assert found.auroc is None and found.average_precision is None
    assert found.macro_f1 == scores(y, p, ["a", "b"]).macro_f1


def test_all_right_and_all_wrong() -> None:
    eye = np.eye(2)
    right, wrong = scores([0, 1, 1], eye[[0, 1, 1]], ["a", "b"]), scores([0, 1, 1], eye[[1, 0, 0]], ["a", "b"])
    assert (right.accuracy, right.mcc, right.brier, right.ece, right.auroc) == (1, 1, 0, 0, 1)
    assert (wrong.accuracy, wrong.mcc, wrong.brier, wrong.ece, wrong.auroc) == (0, -1, 2, 1, 0)


def test_ece_by_hand() -> None:
    # 30 rows, 15 bins of two; each pair shares its confidence, one of the two is right
    confidence = np.repeat(np.linspace(0.6, 0.95, 15), 2)
    p = np.column_stack([1 - confidence, confidence])
    found = scores(np.tile([0, 1], 15), p, ["a", "b"])
    assert found.ece == pytest.approx(np.mean(confidence - 0.5))


def test_reliability_bins_hold_equally_many_rows() -> None:
    y, p = random_rows(103, 3, 6)
    found = reliability(y, p, bins=10)
    assert len(found) == 10 and {b.rows for b in found} == {10, 11} and sum(b.rows for b in found) == 103
    assert [b.confidence for b in found] == sorted(b.confidence for b in found)
    assert sum(b.accuracy * b.rows for b in found) == pytest.approx((p.argmax(axis=1) == y).sum())


def test_reliability_keeps_ties_together_whatever_the_order_of_rows() -> None:
    p = np.tile([0.9, 0.1], (60, 1))
    y = (np.arange(60) < 6).astype(int)
    (only,) = reliability(y, p)
    assert (only.rows, only.accuracy) == (60, 0.9) and only.confidence == pytest.approx(0.9)
    assert reliability(y[::-1], p) == (only,)


def test_reliability_follows_the_decisions() -> None:
    (only,) = reliability([1, 1, 0], np.tile([0.7, 0.3], (3, 1)), predicted=[1, 1, 1])
    assert only.confidence == pytest.approx(0.3) and only.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("predicted", [[0], [0, 2], [0, -1]])
def test_scores_refuses_decisions_that_are_no_classes(predicted: list[int]) -> None:
    with pytest.raises(ArtifactError, match="decisions"):
        scores([0, 1], np.eye(2), ["a", "b"], predicted=predicted)
