"""The champion's scores on the page: from what it answered, against the same labels as the challenger's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertft_core.base.files import write_json
from bertft_core.evaluation.report import RowTexts, evaluate
from bertft_core.evaluation.scores.intervals import Bootstrap
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.recipe.release import champion_scores
from bertft_core.registry.evaluation_folder import EvaluationFolder

CLASSES = ("ham", "spam")


@pytest.mark.parametrize("is_soft", [True, False])
def test_soft_labels_weigh_in_the_champions_log_loss(tmp_path: Path, is_soft: bool) -> None:
    folder, y = EvaluationFolder(tmp_path), np.arange(60) % 2
    weights = np.where(np.eye(2)[y] == 1, 0.7, 0.3).astype(np.float32) if is_soft else None
    p = (np.eye(2)[y] * 0.8 + 0.1).astype(np.float32)
    np.save(folder.labels, y, allow_pickle=False)
    if weights is not None:
        np.save(folder.weights, weights, allow_pickle=False)
    np.savez(folder.answers("1"), probabilities=p, predicted=y)
    write_json(f"{folder.answers('1')}.json", {"classes": CLASSES, "latency_ms": 1.0, "code": ""})
    labels = labels_of(y, CLASSES, weights)
    texts = RowTexts(texts=["t"] * len(y))
    report = evaluate(labels, labels.predictions(p), texts, bootstrap=Bootstrap(resamples=100))
    found = champion_scores(folder, report, "1")
    assert found is not None and found.log_loss == pytest.approx(report.scores.log_loss)
    hand = -(0.7 * np.log(0.9) + 0.3 * np.log(0.1)) if is_soft else -np.log(0.9)
    assert found.log_loss == pytest.approx(hand, abs=1e-6)
    assert champion_scores(folder, report, "2") is None
