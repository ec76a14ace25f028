from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bertft_core
from bertft_core.base.errors import ArtifactError
from bertft_core.evaluation.policy.decisions import (
    DecisionPolicy,
    apply_temperature,
    decide_by_cost,
    decide_by_thresholds,
)

P = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0]])


def softmax(z: np.ndarray) -> np.ndarray:
    raised = np.exp(z - z.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0, 20.0])
def test_temperature_of_probabilities_is_the_temperature_of_logits(temperature: float) -> None:
    z = np.random.default_rng(0).normal(0, 2, (50, 4)) + 100
    assert apply_temperature(softmax(z), temperature) == pytest.approx(softmax(z / temperature), abs=1e-12)


def test_temperature_one_changes_no_bit_and_an_exact_zero_stays_zero() -> None:
    assert np.array_equal(apply_temperature(P, 1.0), P)
    cooled = apply_temperature(P, 2.0)
    assert cooled[2, 2] == 0.0 and cooled[2, 0] == 0.5


def test_default_policy_is_the_most_probable_class_and_never_abstains() -> None:
    found = DecisionPolicy().apply(P.astype(np.float32))
    assert found.predicted.tolist() == [0, 2, 0] and found.predicted.dtype == np.int64
    assert found.probabilities.dtype == np.float64
    assert np.array_equal(found.probabilities, P.astype(np.float32).astype(np.float64))
    assert not found.abstain.any()


def test_binary_thresholds_are_the_usual_single_one() -> None:
    p1 = np.array([0.1, 0.29, 0.31, 0.9])
    assert decide_by_thresholds(np.column_stack([1 - p1, p1]), (0.7, 0.3)).tolist() == [0, 0, 1, 1]


def test_equal_thresholds_are_the_plain_argmax_ties_included() -> None:
    assert decide_by_thresholds(P, (0.2, 0.2, 0.2)).tolist() == P.argmax(axis=1).tolist()


def test_decide_by_cost_by_hand() -> None:
    # calling a true 1 a 0 costs nine times the other error: decide 1 from p1 = 0.1 upwards
    costs = ((0, 1), (9, 0))
    p1 = np.array([0.05, 0.09, 0.11, 0.6])
    assert decide_by_cost(np.column_stack([1 - p1, p1]), costs).tolist() == [0, 0, 1, 1]


def test_decide_by_equal_costs_is_the_plain_argmax_ties_included() -> None:
    costs = 1 - np.eye(3)
    assert decide_by_cost(P, costs).tolist() == P.argmax(axis=1).tolist()


@pytest.mark.parametrize("unit", [1e-13, 1.0, 1e13])
def test_decide_by_cost_does_not_depend_on_the_unit_of_the_costs(unit: float) -> None:
    p1 = np.array([0.05, 0.09, 0.11, 0.6])
    costs = unit * np.array([[0, 1], [9, 0]])
    assert decide_by_cost(np.column_stack([1 - p1, p1]), costs).tolist() == [0, 0, 1, 1]


def test_decide_by_cost_of_three_classes_by_hand() -> None:
    # expected costs of deciding 0, 1, 2: 0.3 * 4 + 0.2 * 2 = 1.6, 0.5 + 0.2 * 2 = 0.9, 0.5 + 0.3 = 0.8
    costs = ((0, 1, 1), (4, 0, 1), (2, 2, 0))
    assert decide_by_cost([[0.5, 0.3, 0.2]], costs).tolist() == [2]


def test_classes_of_equal_cost_leave_it_to_the_more_probable() -> None:
    assert decide_by_cost([[0.3, 0.7]], [[1, 1], [1, 1]]).tolist() == [1]


def test_policy_abstains_below_the_probability_of_the_decided_class() -> None:
    found = DecisionPolicy(abstain_below=0.5).apply(P)
    assert found.abstain.tolist() == [False, True, False]
    tilted = DecisionPolicy(thresholds=(0.9, 0.05, 0.05), abstain_below=0.25).apply(P)
    assert tilted.predicted.tolist() == [1, 2, 1] and tilted.abstain.tolist() == [True, False, False]


def test_policy_scales_before_it_decides_by_cost() -> None:
    p, costs = np.array([[0.95, 0.05]]), ((0.0, 1.0), (9.0, 0.0))
    assert DecisionPolicy(costs=costs).apply(p).predicted.tolist() == [0]
    assert DecisionPolicy(costs=costs, temperature=2.0).apply(p).predicted.tolist() == [1]


@pytest.mark.parametrize("policy", [DecisionPolicy(), DecisionPolicy(temperature=2.0, costs=((0, 1), (1, 0)))])
def test_policy_leaves_a_row_that_is_no_number_to_a_person(policy: DecisionPolicy) -> None:
    assert policy.apply([[0.9, 0.1], [np.nan, np.nan]]).abstain.tolist() == [False, True]


def test_policy_decides_no_rows() -> None:
    found = DecisionPolicy(temperature=2.0, costs=((0, 1), (1, 0)), abstain_below=0.5).apply(np.zeros((0, 2)))
    assert found.predicted.shape == (0,) and found.abstain.shape == (0,)


@pytest.mark.parametrize(
    "policy",
    [
        DecisionPolicy(),
        DecisionPolicy(temperature=1.3, thresholds=(0.25, 0.75), abstain_below=0.9, fitted_on=400, notes=("a", "b")),
        DecisionPolicy(costs=((0.0, 1.0), (5.0, 0.0))),
    ],
)
def test_policy_survives_a_trip_through_json(policy: DecisionPolicy) -> None:
    assert DecisionPolicy.from_json(json.loads(json.dumps(policy.to_json(), allow_nan=False))) == policy


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 0.01}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"thresholds": (0.5, 0.0)}, "positive"),
        ({"thresholds": (1.0,)}, "two or more"),
        ({"costs": ((0, 1), (1,))}, "square"),
        ({"costs": ((0, -1), (1, 0))}, "0 or more"),
        ({"costs": ((0, 1), (1, 0)), "thresholds": (0.5, 0.5)}, "exclude"),
        ({"abstain_below": 1.5}, "abstain_below"),
        ({"fitted_on": -1}, "fitted_on"),
    ],
)
def test_policy_refuses_values_out_of_range(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        DecisionPolicy(**fields)  # type: ignore[arg-type]


def test_policy_names_all_its_faults_at_once() -> None:
    with pytest.raises(ArtifactError, match=r"temperature .* was 30; thresholds .*; abstain_below .* was -1"):
        DecisionPolicy(temperature=30.0, thresholds=(-1.0, 1.0), abstain_below=-1.0)


@pytest.mark.parametrize("change", [{"later": 1}, {"temperature": "hot"}, {"costs": 3}])
def test_policy_refuses_json_it_did_not_write(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="policy"):
        DecisionPolicy.from_json({**DecisionPolicy().to_json(), **change})


def test_policy_refuses_another_number_of_classes() -> None:
    with pytest.raises(ArtifactError, match="between 2 classes"):
        DecisionPolicy(thresholds=(0.5, 0.5)).apply(P)


def test_policy_needs_numpy_only() -> None:
    code = (
        "import sys\nfrom bertft_core.evaluation.policy.decisions import DecisionPolicy\n"
        "DecisionPolicy(temperature=2.0).apply([[0.5, 0.5]])\n"
        "assert not {'scipy', 'sklearn', 'torch', 'pandas'} & set(sys.modules)"
    )
    root = str(Path(bertft_core.__file__).parents[1])
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"], check=True)
