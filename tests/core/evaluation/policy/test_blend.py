from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from bertft_core.base.errors import ArtifactError
from bertft_core.evaluation.policy.blend import LEAST, Blend
from bertft_core.evaluation.policy.blending import blend_gain, fit_blend
from bertft_core.evaluation.policy.calibration import BLEND_ROWS, MIN_ROWS, PolicySettings, fit_policy
from bertft_core.evaluation.policy.decisions import DecisionPolicy, apply_temperature
from bertft_core.evaluation.scores.labels import labels_of

Floats = np.ndarray


def softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def two_models(n: int, n_classes: int, seed: int, signals: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Labels and two models' probabilities with independent noise; signals: how much each model sees of the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    seen = [rng.normal(0, 1, (n, n_classes)) + s * np.eye(n_classes)[y] for s in signals]
    return y, *(softmax(s * z) for s, z in zip(signals, seen, strict=True))


def test_mix_by_hand() -> None:
    # odds 3 : 2 and 4 : 1, weighted 1 and 1/2: 3/2 · 2 = 3
    mixed = Blend(encoder=1.0, tfidf=0.5).mix([[0.6, 0.4]], [[0.8, 0.2]])
    assert mixed[0] == pytest.approx([0.75, 0.25])
    several = Blend(encoder=1.0, tfidf=0.5).mix([[0.6, 0.4]], [[0.8, 0.2]], multi_label=True)
    assert several[0] == pytest.approx([0.75, 1 - 0.75])  # 2/3 · 1/2 = 1/3


def test_a_weight_alone_is_a_temperature() -> None:
    _, p, q = two_models(50, 4, 0, (1.0, 1.0))
    np.testing.assert_allclose(Blend(encoder=0.5, tfidf=0.0).mix(p, q), apply_temperature(p, 2.0), atol=1e-12)


def test_a_class_that_one_model_rules_out_is_not_lost() -> None:
    mixed = Blend(encoder=1.0, tfidf=1.0).mix([[1.0, 0.0]], [[0.0, 1.0]])
    assert mixed[0] == pytest.approx([0.5, 0.5])
    assert Blend(encoder=1.0, tfidf=0.0).mix([[1.0, 0.0]], [[0.5, 0.5]])[0, 1] == pytest.approx(LEAST, rel=1e-3)


def test_no_number_stays_no_number() -> None:
    mixed = Blend(encoder=1.0, tfidf=1.0).mix([[np.nan, np.nan], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])
    assert np.isnan(mixed[0]).all() and mixed[1] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("weights", [(-0.1, 1.0), (0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_impossible_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ArtifactError, match="two finite weights"):
        Blend(encoder=weights[0], tfidf=weights[1])


def test_the_fit_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(5)
    p, q = (softmax(rng.normal(0, 2, (20_000, 3))) for _ in range(2))
    true = Blend(encoder=0.8, tfidf=0.3).mix(p, q)
    found = fit_blend(labels_of(true.argmax(axis=1), range(3), weights=true), p, q)  # soft: no luck of the draw
    assert (found.encoder, found.tfidf) == pytest.approx((0.8, 0.3), abs=0.002)


def test_the_fit_of_multi_label_rows_finds_the_weights() -> None:
    rng = np.random.default_rng(6)
    p, q = (1 / (1 + np.exp(-rng.normal(0, 2, (40_000, 3)))) for _ in range(2))
    true = Blend(encoder=0.8, tfidf=0.3).mix(p, q, multi_label=True)
    found = fit_blend(labels_of(rng.random(p.shape) < true, range(3)), p, q)
    assert (found.encoder, found.tfidf) == pytest.approx((0.8, 0.3), abs=0.03)


def test_the_fit_is_the_least_penalised_loss() -> None:
    y, p, q = two_models(60, 3, 1, (1.5, 1.0))

    def loss(found: Floats) -> float:
        mixed = softmax(found[0] * np.log(p) + found[1] * np.log(q) + found[2:])
        prior = ((found[:2] - 0.5) ** 2).sum() / (2 * 0.5**2) + (found[2:] ** 2).sum() / 2
        return float(-np.log(mixed[np.arange(60), y]).sum() + prior)

    start = np.array([0.5, 0.5, 0, 0, 0])
    wanted = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000}).x
    found = fit_blend(labels_of(y, range(3)), p, q)
    assert (found.encoder, found.tfidf, *found.bias) == pytest.approx(wanted, abs=1e-3)


def test_biases_undo_what_a_balanced_fit_does_to_rare_classes() -> None:
    rng = np.random.default_rng(8)
    y = rng.choice(3, 800, p=[0.9, 0.07, 0.03])
    p, q = (softmax(rng.normal(0, 1, (800, 3)) + np.eye(3)[y]) for _ in range(2))  # as if all classes were as frequent
    fitted = fit_blend(labels_of(y[:400], range(3)), p[:400], q[:400])
    labels = labels_of(y[400:], range(3))
    biased, even = (labels.predictions(blend.mix(p[400:], q[400:])) for blend in (fitted, replace(fitted, bias=())))
    assert fitted.bias[0] > fitted.bias[1] > fitted.bias[2]
    assert labels.difference("accuracy", biased, even) > 0.1 and labels.difference("log_loss", biased, even) > 0.2


def test_a_class_without_a_validation_row_keeps_a_finite_bias() -> None:
    y, p, q = two_models(200, 3, 9, (1.5, 1.0))
    found = fit_blend(labels_of(y[y < 2], range(3)), p[y < 2], q[y < 2])
    assert -3 < found.bias[2] < 0


def test_rows_that_are_all_right_give_finite_weights() -> None:
    y = np.arange(300) % 3
    p = 0.97 * np.eye(3)[y] + 0.01
    found = fit_blend(labels_of(y, range(3)), p, p)
    assert found.encoder == pytest.approx(found.tfidf, abs=1e-4) and 0.5 < found.encoder < 5


def test_a_model_that_sees_nothing_gets_no_weight() -> None:
    y, p, q = two_models(5_000, 3, 2, (2.0, 1.0))
    found = fit_blend(labels_of(y, range(3)), p, q[::-1])
    assert found.tfidf < 0.05 < 0.9 < found.encoder


def test_two_models_that_see_different_things_are_shown_to_help() -> None:
    y, p, q = two_models(400, 3, 3, (1.2, 1.2))
    gain = blend_gain(labels_of(y, range(3)), p, q, "accuracy")
    assert gain.is_shown and gain.log_loss > 0.05 and gain.score > 0


def test_calibration_alone_is_no_gain() -> None:
    y, p, q = two_models(2_000, 3, 4, (1.5, 1.5))
    hot = softmax(3 * np.log(p))
    noise = q[np.random.default_rng(0).permutation(len(q))]
    assert not blend_gain(labels_of(y, range(3)), hot, noise, "accuracy").is_shown


def test_noise_is_blended_in_no_more_often_than_by_chance() -> None:
    shown = 0
    for seed in range(60):
        y, p, q = two_models(MIN_ROWS, 4, seed, (1.5, 1.5))
        shown += blend_gain(
            labels_of(y, range(4)), p, q[np.random.default_rng(seed).permutation(len(q))], "accuracy"
        ).is_shown
    assert shown <= 7  # 5 % of 60 is 3; P(8 or more) is 0.9 %


def test_policy_blends_and_leaves_the_temperature_alone() -> None:
    y, p, q = two_models(600, 3, 3, (1.2, 1.2))
    policy = fit_policy(y, p, PolicySettings(metric="accuracy"), tfidf=q)
    assert policy.blend == fit_blend(labels_of(y, range(3)), p, q) and policy.temperature == 1.0
    mixed = policy.blend.mix(p, q)
    assert np.array_equal(policy.apply(policy.blended(p, q)).predicted, mixed.argmax(axis=1))
    assert any("blend of encoder" in note and "cross-fitted" in note for note in policy.notes)


def test_policy_fits_thresholds_and_abstention_on_the_blend() -> None:
    y, p, q = two_models(900, 3, 3, (1.2, 1.2))
    settings = PolicySettings(metric="accuracy", abstain_accuracy=0.9, costs=((0, 1, 1), (5, 0, 5), (1, 1, 0)))
    policy = fit_policy(y, p, settings, tfidf=q)
    assert policy.blend is not None and policy.abstain_below is not None
    decided = policy.apply(policy.blended(p, q))
    assert (decided.predicted == y)[~decided.abstain].mean() >= 0.9
    assert np.array_equal(
        decided.predicted == 1,
        policy.blended(p, q) @ np.array(settings.costs) @ np.eye(3)[1]
        <= (policy.blended(p, q) @ np.array(settings.costs)).min(axis=1) + 1e-12,
    )


def test_policy_without_gain_is_that_without_a_blend() -> None:
    y, p, q = two_models(600, 3, 7, (1.5, 1.5))
    noise = q[np.random.default_rng(0).permutation(len(q))]
    with_noise, without = (fit_policy(y, p, PolicySettings(), tfidf=other) for other in (noise, None))
    assert with_noise.blend is None and with_noise.temperature == without.temperature
    assert with_noise.notes[0].startswith("the blend stays off: not shown to help")


def test_off_and_few_rows_leave_the_encoder_alone() -> None:
    y, p, q = two_models(600, 3, 3, (1.2, 1.2))
    assert fit_policy(y, p, PolicySettings(blend="off"), tfidf=q) == fit_policy(y, p, PolicySettings())
    n = BLEND_ROWS - 1
    few = fit_policy(y[:n], p[:n], PolicySettings(), tfidf=q[:n])
    assert few.blend is None and f"{BLEND_ROWS} are wanted: the blend stays off" in few.notes[0]


def test_few_rows_that_show_a_gain_are_enough_for_the_blend_alone() -> None:
    y, p, q = two_models(MIN_ROWS - 1, 3, 3, (1.2, 1.2))
    policy = fit_policy(y, p, PolicySettings(abstain_accuracy=0.5), tfidf=q)
    assert policy.blend is not None and policy.abstain_below is None
    assert "abstention stay off" in policy.notes[-1]


def test_a_gain_on_rows_of_one_group_is_that_of_one_row() -> None:
    y, p, q = two_models(60, 3, 3, (1.2, 1.2))
    rows = np.repeat(np.arange(60), 10)
    alike = y[rows], p[rows], q[rows]
    settings = PolicySettings(metric="accuracy")
    some = tuple(part[:120] for part in alike)
    assert fit_policy(*some[:2], settings, tfidf=some[2]).blend is not None  # 120 rows, it seems
    twelve = fit_policy(*some[:2], settings, tfidf=some[2], groups=rows[:120])
    assert twelve.blend is None and "not shown to help" in twelve.notes[0]
    everyone = fit_policy(*alike[:2], settings, tfidf=alike[2], groups=rows)
    assert everyone.blend is not None


@pytest.mark.parametrize("n_groups", [1, 3, 9])
def test_too_few_groups_leave_the_blend_off(n_groups: int) -> None:
    y, p, q = two_models(300, 3, 3, (1.2, 1.2))
    policy = fit_policy(y, p, PolicySettings(metric="accuracy"), tfidf=q, groups=np.arange(300) % n_groups)
    assert policy.blend is None and f"only {n_groups} groups of validation rows, 10 are wanted" in policy.notes[0]


def test_only_lets_the_tfidf_model_answer() -> None:
    y, p, q = two_models(600, 3, 3, (1.2, 1.2))
    hot = softmax(2.0 * np.log(q))
    policy = fit_policy(y, p, PolicySettings(blend="only"), tfidf=hot)
    assert policy.blend == Blend(encoder=0.0, tfidf=1.0) and policy.temperature > 1.5
    np.testing.assert_allclose(policy.blended(p, hot), hot, atol=1e-6)


def test_policy_of_multi_label_rows_is_blended_too() -> None:
    rng = np.random.default_rng(8)
    y = rng.random((500, 4)) < 0.3
    p, q = (1 / (1 + np.exp(-(1.5 * y - 1.2 + rng.normal(0, 1, y.shape)) * 2)) for _ in range(2))
    policy = fit_policy(y.astype(int), p, PolicySettings(), tfidf=q)
    assert policy.blend is not None and policy.temperature == 1.0
    mixed = policy.blended(p, q, multi_label=True)
    assert np.array_equal(policy.apply(mixed, multi_label=True).predicted, mixed >= 0.5)
    labels = labels_of(y, range(4))
    losses = [labels.losses(labels.predictions(x)).mean() for x in (mixed, p, q)]
    assert losses[0] < min(losses[1:])


def test_a_policy_with_a_blend_survives_json_and_one_without_is_as_before() -> None:
    policy = DecisionPolicy(
        blend=Blend(encoder=0.7, tfidf=0.9, bias=(0.25, -0.25)), thresholds=(0.4, 0.6), fitted_on=300
    )
    assert DecisionPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    plain = DecisionPolicy(temperature=1.5)
    assert "blend" not in plain.to_json()
    assert DecisionPolicy.from_json(plain.to_json()) == plain


@pytest.mark.parametrize(
    "blend",
    [
        {"encoder": 1.0},
        {"encoder": -1, "tfidf": 1},
        {"encoder": "x", "tfidf": 1},
        {"encoder": 1, "tfidf": 1, "bias": ["x"]},
        {"encoder": 1, "tfidf": 1, "bias": [float("nan")]},
        {"encoder": 1, "tfidf": 1, "bias": 2},
        3,
    ],
)
def test_a_policy_with_a_faulty_blend_is_refused(blend: object) -> None:
    with pytest.raises(ArtifactError):
        DecisionPolicy.from_json({**DecisionPolicy().to_json(), "blend": blend})
