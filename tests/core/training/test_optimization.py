from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bertft_core.base.errors import ModelError
from bertft_core.model.classifier import load_classifier
from bertft_core.model.layers import layer_rates, layer_table
from bertft_core.training.optimizer import build_optimizer, parameter_groups, set_rates


def test_parameter_groups_hold_every_parameter_once(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    groups = parameter_groups(model, layer_table(model), layer_rates(3, 1e-3, 0.5), 0.1)
    names = [n for g in groups for n in g["param_names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    assert {n for g in groups if g["weight_decay"] == 0 for n in g["param_names"]} == {
        n for n, p in model.named_parameters() if p.ndim == 1
    }


def test_a_layer_without_a_group_fails(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    table = layer_table(model)
    for layers, wanted in ((table.layers[:2], "in none: .*layer.2"), ((*table.layers[:2], table.layers[1]), "several")):
        rates = layer_rates(len(layers), 1e-3, 0.5)
        with pytest.raises(ModelError, match=wanted):
            parameter_groups(model, replace(table, layers=layers), rates, 0.1)


def test_parameter_groups_rates_fall_with_depth(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    groups = parameter_groups(model, layer_table(model), layer_rates(3, 1.0, 0.5), 0.1)
    rates = {g["name"].split(" / ")[0]: g["initial_lr"] for g in groups}
    assert rates == {"head": 1.0, "layer 2": 1.0, "layer 1": 0.5, "layer 0": 0.25, "embeddings": 0.125}


def test_set_rates_multiplies_the_peak_of_each_level(encoder: Path) -> None:
    model = load_classifier(encoder, ("a", "b"), 0)
    optimizer = build_optimizer(parameter_groups(model, layer_table(model), layer_rates(3, 1.0, 0.5), 0.0))
    set_rates(optimizer, (1.0, 0.5, 0.25, 0.0, 0.0))
    assert {g["level"]: g["lr"] for g in optimizer.param_groups} == {0: 1.0, 1: 0.5, 2: 0.125, 3: 0.0, 4: 0.0}
