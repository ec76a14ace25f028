from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss

from bertft_core.training.losses import (
    TrainingLoss,
    chance_loss,
    class_weights,
    log_priors,
    multi_label_weights,
    validation_scores,
)


def classification_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    return TrainingLoss(weights=weights, smoothing=smoothing)(logits, targets)


def test_classification_loss_one_hot_weights_equal_labels() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    soft = torch.nn.functional.one_hot(labels, 3).float()
    assert classification_loss(logits, labels).item() == pytest.approx(classification_loss(logits, soft).item(), 1e-6)


def test_validation_scores_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 4, 200)
    scores = validation_scores(logits, labels)
    p = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert scores["log_loss"] == pytest.approx(log_loss(labels, p))
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_validation_scores_absent_class_leaves_macro_f1_defined() -> None:
    logits = np.array([[5.0, 0, 0], [0, 5.0, 0]], dtype=np.float32)
    assert validation_scores(logits, np.array([0, 1]))["macro_f1"] == 1.0


def test_validation_scores_soft_labels_use_the_weights() -> None:
    logits = np.zeros((1, 2), dtype=np.float32)
    scores = validation_scores(logits, np.array([0]), np.array([[0.5, 0.5]], dtype=np.float32))
    assert scores["log_loss"] == pytest.approx(math.log(2))


LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [math.log(3.0), 0.0]])  # p: 3/4 1/4, 1/2 1/2, 3/4 1/4


def test_class_weights_balanced_by_hand() -> None:
    weights = class_weights("balanced", np.array([0, 0, 0, 1]), 2)
    assert weights == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


def test_class_weights_sqrt_by_hand() -> None:
    weights = class_weights("sqrt", np.array([0, 0, 0, 0, 1]), 2)
    assert weights == pytest.approx([5 / 6, 10 / 6])  # 1/2 and 1, times 5 / (4 * 1/2 + 1)


@pytest.mark.parametrize("mode", ["balanced", "sqrt"])
@pytest.mark.parametrize("is_soft", [False, True])
def test_class_weights_mean_over_the_rows_is_one(mode: str, is_soft: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 500, p=[0.8, 0.15, 0.05])
    shares = rng.dirichlet([5, 1, 0.3], 500)
    weights = class_weights(mode, shares if is_soft else labels, 3)
    assert weights is not None
    assert (shares @ weights if is_soft else weights[labels]).mean() == pytest.approx(1, abs=1e-6)


def test_class_weights_of_soft_labels_count_shares() -> None:
    weights = class_weights("balanced", np.array([[0.5, 0.5], [1.0, 0.0]]), 2)
    assert weights == pytest.approx([2 / (2 * 1.5), 2 / (2 * 0.5)])


def test_class_weights_class_that_never_occurs_weighs_nothing() -> None:
    assert class_weights("balanced", np.array([0, 0, 2, 2]), 3) == pytest.approx([1, 0, 1])


def test_class_weights_none_leaves_the_loss_alone() -> None:
    assert class_weights("none", np.array([0, 1]), 2) is None


def test_classification_loss_weighted_by_hand() -> None:
    loss = classification_loss(LOGITS, torch.tensor([0, 0, 1]), torch.tensor([0.5, 2.0]))
    by_hand = (0.5 * math.log(4 / 3) + 0.5 * math.log(2) + 2 * math.log(4)) / 3
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_classification_loss_weights_a_row_the_same_in_every_batch() -> None:
    labels, weights = torch.tensor([0, 0, 1]), torch.tensor([0.5, 2.0])
    alone = [classification_loss(LOGITS[i : i + 1], labels[i : i + 1], weights).item() for i in range(3)]
    assert classification_loss(LOGITS, labels, weights).item() == pytest.approx(sum(alone) / 3, rel=1e-6)


def test_classification_loss_weights_soft_rows_by_hand() -> None:
    loss = classification_loss(LOGITS[:1], torch.tensor([[0.25, 0.75]]), torch.tensor([0.5, 2.0]))
    by_hand = 0.25 * 0.5 * math.log(4 / 3) + 0.75 * 2 * math.log(4)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("gamma", [None, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_of_soft_rows_is_the_expected_one_over_a_drawn_label(gamma: float | None, smoothing: float) -> None:
    loss = TrainingLoss(weights=torch.tensor([0.5, 2.0]), smoothing=smoothing, gamma=gamma)
    first, second = (loss(LOGITS[:1], torch.tensor([label])).item() for label in (0, 1))
    assert loss(LOGITS[:1], torch.tensor([[0.25, 0.75]])).item() == pytest.approx(0.25 * first + 0.75 * second)


@pytest.mark.parametrize("weight", [None, 2.0])
def test_classification_loss_smoothed_by_hand(weight: float | None) -> None:
    weights = None if weight is None else torch.tensor([weight, 1.0])
    loss = classification_loss(LOGITS[:1], torch.tensor([0]), weights, smoothing=0.2)
    by_hand = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)  # 0.8 + 0.2/2 and 0.2/2
    assert loss.item() == pytest.approx((weight or 1) * by_hand, rel=1e-6)


def test_class_weights_by_class_are_scaled_to_a_mean_of_one() -> None:
    weights = class_weights([1.0, 3.0], np.array([0, 0, 0, 1]), 2)
    assert weights == pytest.approx([4 / 6, 3 * 4 / 6])


def test_log_priors_by_hand() -> None:
    assert np.exp(log_priors(np.array([0, 0, 0, 1]), 2)) == pytest.approx([3 / 4, 1 / 4])
    assert np.exp(log_priors(np.array([[0.5, 0.5], [1.0, 0.0]]), 2)) == pytest.approx([3 / 4, 1 / 4])
    assert np.exp(log_priors(np.array([0, 0, 2, 2]), 3)) == pytest.approx([2 / 4.5, 0.5 / 4.5, 2 / 4.5])


def test_default_loss_is_torchs_cross_entropy_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert torch.equal(TrainingLoss()(logits, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_focal_loss_by_hand() -> None:
    loss = TrainingLoss(gamma=2.0)(LOGITS, torch.tensor([0, 0, 1]))
    by_hand = ((1 / 4) ** 2 * math.log(4 / 3) + (1 / 2) ** 2 * math.log(2) + (3 / 4) ** 2 * math.log(4)) / 3
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_focal_loss_of_a_soft_row_is_the_expected_one() -> None:
    loss = TrainingLoss(gamma=2.0)(LOGITS[:1], torch.tensor([[0.25, 0.75]]))
    by_hand = 0.25 * (1 / 4) ** 2 * math.log(4 / 3) + 0.75 * (3 / 4) ** 2 * math.log(4)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_focal_loss_weighted_and_smoothed_by_hand() -> None:
    loss = TrainingLoss(gamma=1.0, weights=torch.tensor([3.0, 1.0]), smoothing=0.2)(LOGITS[:1], torch.tensor([0]))
    by_hand = 3 * (0.9 * (1 / 4) * math.log(4 / 3) + 0.1 * (3 / 4) * math.log(4))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("is_soft", [False, True])
def test_focal_loss_with_gamma_near_zero_is_cross_entropy(is_soft: bool) -> None:
    targets = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]) if is_soft else torch.tensor([0, 0, 1])
    focal, plain = (TrainingLoss(gamma=gamma, smoothing=0.1)(LOGITS, targets) for gamma in (1e-7, None))
    assert focal.item() == pytest.approx(plain.item(), rel=1e-5)


def test_focal_gradient_is_finite_where_the_model_is_certain() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    TrainingLoss(gamma=0.5)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def test_logit_adjusted_loss_by_hand() -> None:
    adjustment = 2 * torch.log(torch.tensor([0.75, 0.25]))  # tau 2: odds of LOGITS[0] times 9
    loss = TrainingLoss(adjustment=adjustment)(LOGITS[:1], torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(1 + 27), rel=1e-6)  # p of class 1 is 1 / (1 + 3 * 9)
    soft = TrainingLoss(adjustment=adjustment)(LOGITS[:1], torch.tensor([[0.5, 0.5]]))
    assert soft.item() == pytest.approx((math.log(28 / 27) + math.log(28)) / 2, rel=1e-5)


SETS = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
CHANCES = torch.tensor([[math.log(3.0), 0.0], [-math.log(3.0), math.log(3.0)]])  # p: 3/4 1/2, 1/4 3/4


def test_multi_label_loss_by_hand() -> None:
    loss = TrainingLoss(multi_label=True)(CHANCES, SETS)
    by_hand = (math.log(4 / 3) + math.log(2) + math.log(4) + math.log(4 / 3)) / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_multi_label_focal_loss_by_hand() -> None:
    loss = TrainingLoss(multi_label=True, gamma=2.0)(CHANCES, SETS)
    by_hand = (2 * (1 / 4) ** 2 * math.log(4 / 3) + (1 / 2) ** 2 * math.log(2) + (3 / 4) ** 2 * math.log(4)) / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("gamma", [None, 1e-7])
def test_multi_label_loss_weighted_by_hand(gamma: float | None) -> None:
    weights = torch.tensor([[0.5, 0.8], [2.0, 4.0]])  # "no" and "yes" of the two classes
    loss = TrainingLoss(multi_label=True, weights=weights, gamma=gamma)(CHANCES, SETS)
    by_hand = (2 * math.log(4 / 3) + 0.8 * math.log(2) + 2 * math.log(4) + 4 * math.log(4 / 3)) / 4
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_label_weights_of_one_change_nothing(smoothing: float) -> None:
    plain, ones = (TrainingLoss(multi_label=True, smoothing=smoothing, weights=w) for w in (None, torch.ones(2, 2)))
    assert ones(CHANCES, SETS).item() == pytest.approx(plain(CHANCES, SETS).item(), rel=1e-6)


def test_multi_label_weights_by_hand() -> None:
    targets = np.array([[1, 0], [0, 0], [0, 0], [0, 1], [0, 1]])  # yes 1 and 2 of 5
    for mode, ratio in (("balanced", (4, 1.5)), ("sqrt", (2, math.sqrt(1.5))), ((3.0, 1.0), (3, 1))):
        mean = (4 + ratio[0] + 3 + 2 * ratio[1]) / 10
        found = multi_label_weights(mode, targets)
        assert found == pytest.approx(np.array([[1, 1], ratio]) / mean)
        cells = np.where(targets == 1, found[1], found[0])
        assert cells.mean() == pytest.approx(1)
    assert multi_label_weights("none", targets) is None
    assert np.isfinite(multi_label_weights("balanced", np.array([[1, 0], [1, 0]]))).all(), (
        "a class of all rows, one of none"
    )


@pytest.mark.parametrize("gamma", [None, 1e-7])
def test_multi_label_smoothing_moves_targets_towards_one_half(gamma: float | None) -> None:
    loss = TrainingLoss(multi_label=True, smoothing=0.2, gamma=gamma)(CHANCES[:1, :1], SETS[:1, :1])
    assert loss.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), rel=1e-5)


def test_multi_label_validation_scores_agree_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 4)).astype(np.float32), (rng.random((200, 4)) < 0.3).astype(np.float32)
    found, guess = validation_scores(logits, targets.argmax(1), targets, multi_label=True), logits >= 0
    assert found["macro_f1"] == pytest.approx(f1_score(targets, guess, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(targets, guess, average="micro"))
    assert found["accuracy"] == pytest.approx((guess == targets).all(axis=1).mean())
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert found["log_loss"] == pytest.approx(-np.log(np.where(targets > 0, p, 1 - p)).mean())


SKEWED = np.array([0] * 90 + [1] * 9 + [2])


def test_chance_loss_of_cross_entropy_is_the_entropy_of_the_class_shares() -> None:
    p = np.array([0.9, 0.09, 0.01])
    chance, least = chance_loss(TrainingLoss(), SKEWED, 3)
    assert chance == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4) and least == 0


@pytest.mark.parametrize("loss", [{}, {"gamma": 2.0}, {"smoothing": 0.2}, {"balanced": True}, {"adjusted": True}])
def test_no_constant_answer_is_below_the_chance_loss(loss: dict[str, Any]) -> None:
    made = dict(loss)
    weights = torch.from_numpy(class_weights("balanced", SKEWED, 3)) if made.pop("balanced", False) else None
    shift = torch.from_numpy(log_priors(SKEWED, 3)) if made.pop("adjusted", False) else None
    told = TrainingLoss(weights=weights, adjustment=shift, **made)
    chance, _ = chance_loss(told, SKEWED, 3)
    labels = torch.from_numpy(SKEWED)
    answers = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)) * 3
    losses = [float(told(answer.expand(len(labels), -1), labels)) for answer in answers]
    assert chance - 1e-5 <= min(losses) <= chance + 0.05


def test_chance_loss_of_sets_is_the_mean_entropy_of_each_class() -> None:
    flags = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=np.float32)
    wanted = (-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) + math.log(2)) / 2
    assert chance_loss(TrainingLoss(multi_label=True), flags, 2) == pytest.approx((wanted, 0), abs=1e-4)


def test_right_answers_to_soft_labels_have_their_entropy() -> None:
    soft = np.array([[0.9, 0.1], [0.1, 0.9]], dtype=np.float32)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert chance_loss(TrainingLoss(), soft, 2) == pytest.approx((math.log(2), entropy), abs=1e-4)
