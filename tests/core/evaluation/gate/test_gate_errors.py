"""The gate's error rates, simulated by benchmarks/gate_errors.py on a reduced plan."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bertft_core.config.promotion import PromotionRule


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    path = Path(__file__).parents[4] / "benchmarks" / "gate_errors.py"
    spec = importlib.util.spec_from_file_location("gate_errors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rule(per: str, metric: str = "macro_f1") -> PromotionRule:
    return PromotionRule(metric=metric, per=per, resamples={"night": 400, "month": 3000}[per])


def test_simulated_models_have_the_designed_accuracies_and_discordance(gate: ModuleType) -> None:
    design = gate.Design(n=200_000, base=0.95, delta=0.02)
    rng, y = np.random.default_rng(0), design.labels
    champion = gate.draw_champion(rng, design)
    challenger = gate.draw_challenger(rng, design, champion)
    shares = [
        (challenger == y).mean(),
        (champion == y).mean(),
        ((challenger == y) & (champion != y)).mean(),
        ((challenger != y) & (champion == y)).mean(),
    ]
    assert shares == pytest.approx([0.95, 0.93, 0.04, 0.02], abs=0.003)  # 4 standard errors of 0.5 % at most


def test_simulated_probabilities_are_distributions_of_the_answers(gate: ModuleType) -> None:
    answers = np.arange(100) % 5
    p = gate.probabilities(np.random.default_rng(0), answers)
    assert np.allclose(p.sum(axis=1), 1) and (p > 0).all() and (p.argmax(axis=1) == answers).all()


def test_theory_of_accuracy_is_the_textbook_normal_approximation(gate: ModuleType) -> None:
    """4 % + 2 % discordance on 1,000 rows: se = sqrt((0.06 - 0.02 ** 2) / 1000), power = Phi(0.02 / se - 1.645)."""
    true, power = gate.theory(gate.Design(n=1000, base=0.95, delta=0.02), rule("night", "accuracy"))
    assert (true, power) == (pytest.approx(0.02), pytest.approx(0.82787, abs=1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 500])
def test_equal_models_are_promoted_no_more_often_than_the_level_in_one_decision(gate: ModuleType, n: int) -> None:
    (rate,) = gate.measure(gate.parts(gate.Design(n=n, base=0.95, delta=0.0), (rule("night"),), 1500, False), 1)
    assert rate.of == 1500 and rate.low <= rate.expected == pytest.approx(0.05)


@pytest.mark.slow
def test_a_month_of_equal_models_promotes_one_no_more_often_than_the_level(gate: ModuleType) -> None:
    (rate,) = gate.measure(gate.parts(gate.Design(n=200, base=0.95, delta=0.0), (rule("month"),), 200, True), 1)
    assert rate.of == 200 and rate.low <= rate.expected == pytest.approx(0.05)


@pytest.mark.slow
def test_model_worse_by_the_margin_is_promoted_no_more_often_than_the_level(gate: ModuleType) -> None:
    margin = PromotionRule(test="non_inferiority", margin=0.02, per="night", resamples=400)
    (rate,) = gate.measure(gate.parts(gate.Design(n=200, base=0.95, delta=-0.02), (margin,), 1000, False), 1)
    assert rate.low <= rate.expected == pytest.approx(0.05)


@pytest.mark.slow
def test_power_is_as_computed(gate: ModuleType) -> None:
    (rate,) = gate.measure(gate.parts(gate.Design(n=1000, base=0.95, delta=0.02), (rule("night"),), 500, False), 1)
    assert rate.low - 0.03 <= rate.expected <= rate.high + 0.03  # the approximation's own error at 1,000 rows


@pytest.mark.slow
def test_pairs_counted_without_a_call_are_never_promoted(gate: ModuleType) -> None:
    job = gate.Job(
        design=gate.Design(n=200, base=0.95, delta=0.0), rules=(rule("night"),), count=500, seed=(5,), is_month=False
    )
    assert gate.run_job(job)[1] == gate.run_job(replace(job, judges_all=True))[1]
