"""A head by logistic regression: the minimum that scikit-learn finds, C by cross-validation, a model like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from bertft_core.data.tokens.tokenization import open_split
from bertft_core.model.classifier import load_classifier, load_saved
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.training.linear_probe import STRENGTHS, fit_head, folds
from bertft_core.training.loop import fit
from bertft_core.training.losses import TrainingLoss
from bertft_core.training.scoring import score
from bertft_core.training.spec import FitSpec

PROBE = {"unfreezing": "linear_probe", "epochs": 1}


def _blobs(classes: int, n: int = 90, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    y = rng.integers(0, classes, n)
    return (rng.normal(size=(n, width)) + 1.2 * rng.normal(size=(classes, width))[y]).astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 4])
def test_head_is_the_minimum_that_scikit_learn_finds(classes: int) -> None:
    x, y = _blobs(classes)
    head = fit_head(torch.from_numpy(x), torch.from_numpy(y), classes, folds(y, 0), TrainingLoss())
    scale = np.sqrt(np.square(x - x.mean(0)).mean())
    # of two classes it fits the difference of two rows of weights alone: the two rows cost half as much together
    strength = head.strength * (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit((x - x.mean(0)) / scale, y)
    with torch.no_grad():
        ours = torch.softmax(torch.from_numpy(x) @ head.weight.T + head.bias, dim=1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba((x - x.mean(0)) / scale), atol=2e-3)


def test_strength_has_the_least_loss_on_rows_left_out() -> None:
    x, y = _blobs(3)
    parts = folds(y, 0)
    head = fit_head(torch.from_numpy(x), torch.from_numpy(y), 3, parts, TrainingLoss())
    scaled = (x - x.mean(0)) / np.sqrt(np.square(x - x.mean(0)).mean())
    cuts = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(5)]
    losses = [
        -cross_val_score(LogisticRegression(C=c, max_iter=2000), scaled, y, cv=cuts, scoring="neg_log_loss").mean()
        for c in STRENGTHS
    ]
    assert head.strength == STRENGTHS[int(np.argmin(losses))]


def test_folds_spread_each_class_evenly() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [2])
    parts = folds(labels, 0)
    assert np.bincount(parts[labels == 0]).tolist() == [2] * 5
    assert sorted(parts[labels == 1]) == [0, 1, 2, 3, 4]


def test_fit_changes_the_output_layer_alone_and_is_the_same_again(spec: Callable[..., FitSpec]) -> None:
    first = fit(spec(**PROBE))
    again = fit(replace(spec(**PROBE), output=f"{spec(**PROBE).output}-again"))
    assert (first.state, first.steps, first.best_epoch, first.weights_digest) == (
        "complete",
        1,
        1,
        again.weights_digest,
    )
    assert first.strength in STRENGTHS
    before = load_classifier(spec().pretrained, ("a", "b"), spec().training.seed).state_dict()
    after = load_saved(first.model_dir).state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    "plan",
    [None, FeaturePlan(pooling="mean"), FeaturePlan(pooling="layers", layers=(0, 2)), FeaturePlan(pooling="cls")],
    ids=str,
)
def test_saved_model_answers_with_the_validation_score(spec: Callable[..., FitSpec], plan: FeaturePlan | None) -> None:
    result = fit(replace(spec(**PROBE), features=plan))
    p = score(result.model_dir, spec().tokens, "validation")
    labels = open_split(Path(spec().tokens), "validation").labels
    assert result.history[0].accuracy == pytest.approx((p.argmax(axis=1) == labels).mean())
    assert result.log_loss == pytest.approx(-np.log(p[np.arange(len(p)), labels]).mean(), rel=1e-4)


def test_it_learns_from_the_mean_over_tokens(spec: Callable[..., FitSpec]) -> None:
    """The labels are a matter of which tokens occur, which the mean tells."""
    result = fit(replace(spec(**PROBE), features=FeaturePlan(pooling="mean")))
    assert result.history[0].accuracy >= 0.9


def test_rows_of_several_labels_and_soft_ones_are_learnt(
    spec: Callable[..., FitSpec], set_tokens: Path, soft_tokens: Path
) -> None:
    mean = FeaturePlan(pooling="mean")
    sets = fit(
        replace(spec(**PROBE, tokens=str(set_tokens)), features=mean, multi_label=True, output=f"{set_tokens}-1")
    )
    soft = fit(replace(spec(**PROBE, tokens=str(soft_tokens)), features=mean, output=f"{soft_tokens}-1"))
    assert sets.history[0].micro_f1 is not None and sets.history[0].micro_f1 >= 0.8
    assert soft.history[0].accuracy >= 0.9
    assert "did not train" not in sets.fault + soft.fault


def test_cached_states_change_nothing(spec: Callable[..., FitSpec], tmp_path: Path) -> None:
    plan = FeaturePlan(pooling="mean")
    plain = fit(replace(spec(**PROBE), features=plan))
    cached = replace(spec(**PROBE, prefix_cache="float32"), features=plan, output=str(tmp_path / "cached"))
    assert fit(replace(cached, prefix_root=str(tmp_path / "prefix"))).score == plain.score
