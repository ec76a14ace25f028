from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss

from bertft_core.training.losses import classification_loss, validation_scores


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
    assert scores.macro_f1 == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert scores.log_loss == pytest.approx(log_loss(labels, p))
    assert scores.accuracy == pytest.approx((logits.argmax(1) == labels).mean())


def test_validation_scores_absent_class_leaves_macro_f1_defined() -> None:
    logits = np.array([[5.0, 0, 0], [0, 5.0, 0]], dtype=np.float32)
    assert validation_scores(logits, np.array([0, 1])).macro_f1 == 1.0


def test_validation_scores_soft_labels_use_the_weights() -> None:
    logits = np.zeros((1, 2), dtype=np.float32)
    scores = validation_scores(logits, np.array([0]), np.array([[0.5, 0.5]], dtype=np.float32))
    assert scores.log_loss == pytest.approx(math.log(2))
