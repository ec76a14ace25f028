from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from bertft_core.errors import ArtifactError, DataError
from bertft_core.evaluation.metrics import scores


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
