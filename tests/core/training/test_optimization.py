from __future__ import annotations

from pathlib import Path

import pytest

from bertft_core.model.classifier import load_classifier
from bertft_core.model.layers import layer_rates, layer_table
from bertft_core.training.optimization import (
    build_optimizer,
    parameter_groups,
    rate_factor,
    set_rates,
    warm_in,
)


def test_rate_factor_rises_to_one_then_falls_towards_zero() -> None:
    factors = [rate_factor(step, 10, 2) for step in range(10)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] == pytest.approx(1 / 8)


def test_warm_in_late_level_starts_far_below_its_peak() -> None:
    assert warm_in(100, 100, 20) == pytest.approx(1 / 20)
    assert warm_in(130, 100, 20) == 1.0


def test_warm_in_from_the_start_is_one() -> None:
    assert warm_in(0, 0, 20) == 1.0


def test_parameter_groups_hold_every_parameter_once(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    groups = parameter_groups(model, layer_table(model), layer_rates(3, 1e-3, 0.5), 0.1)
    names = [n for g in groups for n in g["param_names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    assert {n for g in groups if g["weight_decay"] == 0 for n in g["param_names"]} == {
        n for n, p in model.named_parameters() if p.ndim == 1
    }


def test_parameter_groups_rates_fall_with_depth(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    groups = parameter_groups(model, layer_table(model), layer_rates(3, 1.0, 0.5), 0.1)
    rates = {g["name"].split(" / ")[0]: g["initial_lr"] for g in groups}
    assert rates == {"head": 1.0, "layer 2": 1.0, "layer 1": 0.5, "layer 0": 0.25, "embeddings": 0.125}


def test_set_rates_frozen_level_has_rate_zero(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    optimizer = build_optimizer(parameter_groups(model, layer_table(model), layer_rates(3, 1.0, 1.0), 0.0))
    set_rates(optimizer, 10, 100, 10, (0, 0, 25, 50, 75))
    assert {g["level"]: g["lr"] for g in optimizer.param_groups} == {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0}
