"""Asking a trial for its values, in memory, and telling values inside a space from those outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from bertft_core.config.auto import searched
from bertft_core.config.run import parse_config
from bertft_core.config.search import SearchConfig
from bertft_core.search.space import first_values, space_hash, suggest, values_inside

TREE = """
unfreezing: [gradual, none]
alpha: {low: 0.7, high: 1.0, when: {unfreezing: gradual}}
epochs: {values: [2, 3, 4], when: {unfreezing: [none]}}
warmup_fraction: {low: 0.0, high: 0.2, when: {epochs: 4}}
batch_size: {low: 8, high: 32, log: true}
dropout: [null, 0.1]
model.pretrained: [a, b]
"""


def search(space: str = TREE) -> SearchConfig:
    return SearchConfig(space=yaml.safe_load(space))


def asked(count: int, space: str = TREE) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [suggest(study.ask(), search(space)) for _ in range(count)]


def test_suggest_leaves_out_knobs_whose_condition_does_not_hold() -> None:
    found = asked(60)
    assert all(("alpha" in v) == (v["unfreezing"] == "gradual") for v in found)
    assert all(("epochs" in v) == (v["unfreezing"] == "none") for v in found)
    assert all(("warmup_fraction" in v) == (v.get("epochs") == 4) for v in found)
    assert {v.get("epochs") for v in found} == {None, 2, 3, 4}


def test_suggest_gives_whole_numbers_for_whole_fields() -> None:
    sizes = {v["batch_size"] for v in asked(60)}
    assert all(type(size) is int and 8 <= size <= 32 for size in sizes) and len(sizes) > 5


def test_suggest_and_values_inside_agree() -> None:
    assert all(values_inside(search(), values) == values for values in asked(60))


def test_suggest_takes_enqueued_values() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    wanted = {"unfreezing": "gradual", "alpha": 0.8, "batch_size": 9, "dropout": None, "model.pretrained": "b"}
    study.enqueue_trial(wanted)
    assert suggest(study.ask(), search()) == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.6},
        {"alpha": None},
        {"batch_size": 33},
        {"batch_size": 9.5},
        {"batch_size": True},
        {"dropout": 0.2},
        {"unfreezing": "none"},  # then epochs counts, and is missing
    ],
)
def test_values_outside_the_space_are_told(change: dict[str, Any]) -> None:
    inside = {"unfreezing": "gradual", "alpha": 0.8, "batch_size": 9, "dropout": None, "model.pretrained": "b"}
    assert values_inside(search(), inside) == inside
    assert values_inside(search(), {**inside, **change}) is None


def test_values_that_do_not_count_are_left_out() -> None:
    given = {"unfreezing": "none", "epochs": 2, "alpha": 7, "batch_size": 9, "dropout": 0.1, "model.pretrained": "a"}
    assert values_inside(search(), given) == {k: v for k, v in given.items() if k != "alpha"}


def test_first_values_reads_every_section() -> None:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "b"}, "training": {"alpha": 0.8}}
    found = first_values(search(), parse_config(tree, Path(".")))
    assert found == {"unfreezing": "gradual", "alpha": 0.8, "batch_size": 16, "dropout": None, "model.pretrained": "b"}


@pytest.mark.parametrize(
    ("section", "values", "key", "tried"),
    [
        ("model", {"pretrained": "c"}, "model.pretrained", "a"),
        ("training", {"alpha": 0.5}, "alpha", 0.7),
        ("training", {"batch_size": 64}, "batch_size", 32),
        ("training", {"batch_size": 2}, "batch_size", 8),
        ("training", {"dropout": 0.4}, "dropout", 0.1),
        ("training", {"unfreezing": "fast"}, "unfreezing", "gradual"),
        ("training", {"unfreezing": "none", "epochs": 9}, "epochs", 4),
    ],
)
def test_a_configured_value_outside_the_space_takes_no_other_with_it(
    section: str, values: dict[str, Any], key: str, tried: object
) -> None:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "b"}, "training": {"dropout": 0.1}}
    config = parse_config({**tree, section: {**tree.get(section, {}), **values}}, Path("."))  # type: ignore[dict-item]
    found = first_values(search(), config)
    assert found[key] == tried and type(found[key]) is type(tried)
    assert values_inside(search(), found) == found
    assert all(found[k] == config.value_of(k) for k in found if k != key)


def test_what_the_default_space_does_not_hold_leaves_the_other_configured_values() -> None:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "b"}, "search": {"trials": 3}}
    training = {"lr": 1e-3, "batch_size": 64, "alpha": 0.9, "epochs": 4}
    config = searched(parse_config({**tree, "training": training}, Path(".")), 600, 2)
    assert config.search is not None
    assert first_values(config.search, config) == {"lr": 1e-3, "batch_size": 32, "alpha": 0.9}


def test_a_knob_of_whole_numbers_that_is_auto_begins_at_a_whole_number() -> None:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "b"}, "training": {"epochs": "auto"}}
    found = first_values(search("epochs: {low: 2, high: 4}"), parse_config(tree, Path(".")))
    assert found == {"epochs": 2} and isinstance(found["epochs"], int)


def test_space_hash_knows_a_knob_by_both_of_its_names() -> None:
    one, two = (search(f"{name}: {{low: 1.0e-5, high: 2.0e-5}}") for name in ("lr", "training.lr"))
    assert space_hash(one) == space_hash(two)


@pytest.mark.parametrize(
    "other",
    [
        "{unfreezing: [gradual, none], alpha: {low: 0.7, high: 1}}",
        "{unfreezing: [gradual, none], alpha: {low: 0.7, high: 1, when: {unfreezing: none}}}",
        "{unfreezing: [gradual, none], alpha: {low: 0.8, high: 1, when: {unfreezing: gradual}}}",
    ],
)
def test_space_hash_tells_other_spaces_apart(other: str) -> None:
    assert space_hash(search(other)) != space_hash(
        search("{unfreezing: [gradual, none], alpha: {low: 0.7, high: 1, when: {unfreezing: gradual}}}")
    )
