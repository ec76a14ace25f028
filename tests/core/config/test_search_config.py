"""The search section: what it accepts, and what it says about knobs that cannot be searched or change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bertft_core.base.errors import ConfigError
from bertft_core.config.knobs import searchable
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.config.search import SearchConfig

TREE = "unfreezing: [gradual, none], batch_size: {values: [8, 16], when: {unfreezing: none}}"


def config(search: str, **sections: Any) -> RunConfig:
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "m"}, **sections}
    return parse_config({**tree, "search": yaml.safe_load("{" + search.replace("TREE", TREE) + "}")}, Path("."))


def section(search: str) -> SearchConfig:
    found = config(search).search
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("search", "wanted"),
    [
        ("space: {lr: 5}", r"search\.space\.lr: wanted a list of values, \{low"),
        ("space: {lr: [1e-5]}", r"search\.space\.lr: has one value only, 1e-05: set training\.lr instead"),
        ("space: {epochs: {low: 2, high: 2}}", r"epochs: has one value only, 2: set training\.epochs instead"),
        ("space: {epochs: [2, 2, 3]}", "2 occurs twice"),
        ("space: {lr: {lov: 1.0e-5, high: 2.0e-5}}", r"lr\.lov: unknown key .* did you mean low\?"),
        ("space: {lr: [1e-5, 2e-5], training.lr: [1e-5, 2e-5]}", "given twice, as lr and training.lr"),
        ("space: {truncation: [head, tail]}", r"did you mean tokenization\.truncation\?"),
        ("space: {training.seed: [1, 2]}", r"luckiest seed: search\.confirm"),
        ("space: {precision: [float32, bfloat16]}", "settled once per machine"),
        ("space: {unfreezing: {low: 1, high: 2}}", "is no number: wanted a list of values"),
        ("space: {tokenization.truncation: [head, middle]}", r"tokenization\.truncation: input should be 'head'"),
        ("space: {batch_size: {low: 1.5, high: 9}}", "valid integer"),
        ("space: {lr: [[1], 2]}", "wanted a plain value"),
        ("space: {}", "space is empty"),
        ("space: {alpha: {low: 0.7, high: 1, when: {unfreezing: none}}}", "unfreezing: is not searched"),
        ("space: {alpha: {low: 0.7, high: 1, when: {unfreezin: none}}}", "did you mean unfreezing"),
        ("space: {TREE, alpha: {low: 0.7, high: 1, when: {unfreezing: [gradual, none]}}}", "always holds"),
        ("space: {TREE, alpha: {low: 0.7, high: 1, when: {unfreezing: slow}}}", "never 'slow', its values are"),
        (
            "space: {TREE, alpha: {low: 0.7, high: 1, when: {batch_size: 8, unfreezing: gradual}}}",
            "can never hold, the conditions above it want different values of unfreezing",
        ),
        (
            "space: {unfreezing: {values: [gradual, none], when: {epochs: 2}}, "
            "epochs: {values: [2, 3], when: {unfreezing: none}}}",
            "circle: unfreezing -> epochs -> unfreezing",
        ),
        ("space: {lr: [1e-5, 2e-5], epochs: {values: [1, 2], when: {lr: 3e-5}}}", "never 3e-05"),
        ("confirm: true", r"search\.confirm: wanted \{top, seeds\}, or false"),
        ("storage: 'mysql://x'", r"search\.storage: wanted sqlite:///FILE, .* was 'mysql://x'"),
        ("space: {tokenization: {cut: [a, b]}}", r"search\.space\.tokenization\.cut: unknown key"),
        ("confirm: {top: 1}", r"search\.confirm\.top: .*greater than or equal to 2"),
        ("space: {model.pretrained: [a, b]}, second: {measure: size}, confirm: {top: 2}", "confirm has no effect"),
        ("confirm: {seed: 3}", r"did you mean search\.confirm\.seeds\?"),
        ("second: {measure: size}", r"the same in every trial: search model\.pretrained or model\.layers"),
        ("workers: 0", r"search\.workers"),
        ("timeout: 0", r"search\.timeout"),
    ],
)
def test_impossible_search_is_named(search: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config(search)


def test_all_faults_of_a_space_are_reported_together() -> None:
    with pytest.raises(ConfigError, match="3 faults"):
        config("space: {lr: [5.0, 6.0], alpha: [], unfreezing: [gradual, never]}")


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:hidden@host/db", "postgresql://u@host/db?password=hidden"])
def test_storage_with_a_password_is_refused_without_printing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.storage: must not hold a password.*BERTFT_STORAGE") as fault:
        config(f"storage: '{url}'")
    assert "hidden" not in str(fault.value)


def test_storage_is_no_part_of_what_a_run_is() -> None:
    kept = config("storage: 'postgresql+psycopg://me@host/db'")
    assert kept.search is not None and kept.search.storage == "postgresql+psycopg://me@host/db"
    assert kept.resolved() == config("").resolved()


def test_names_and_values_of_a_space_are_brought_to_one_form() -> None:
    space = section("space: {training.batch_size: [8.0, 16], dropout: [null, 0.1], lr: ['1e-5', 2e-5]}").space
    assert space == {"batch_size": [8, 16], "dropout": [None, 0.1], "lr": [1e-5, 2e-5]}
    assert isinstance(space["batch_size"], list) and type(space["batch_size"][0]) is int


def test_knobs_below_their_section_are_read_by_dotted_name() -> None:
    nested = section("space: {tokenization: {truncation: [head, tail]}, training: {lr: [0.001, 0.002]}}")
    assert nested == section("space: {tokenization.truncation: [head, tail], lr: [0.001, 0.002]}")


def test_knobs_are_ordered_behind_those_they_depend_on() -> None:
    search = section("space: {alpha: {low: 0.7, high: 1, when: {batch_size: 8}}, TREE}")
    assert search.order == ("unfreezing", "batch_size", "alpha")


def test_search_section_survives_its_own_dump() -> None:
    first = section("space: {TREE, training.alpha: {low: 0.7, high: 1, when: {training.batch_size: [8]}}}")
    assert SearchConfig.model_validate(first.model_dump(mode="json")) == first


@pytest.mark.parametrize(
    ("search", "plan"),
    [
        ("trials: 14", None),
        ("trials: 15", (3, 2)),
        ("trials: 15, confirm: false", None),
        ("trials: 4, confirm: {top: 2, seeds: 5}", (2, 5)),
    ],
)
def test_confirm_plan(search: str, plan: tuple[int, int] | None) -> None:
    found = section(search).confirm_plan
    assert (found and (found.top, found.seeds)) == plan


def test_with_values_puts_a_trial_in_place() -> None:
    before = config("storage: 'sqlite:///kept.db'")
    after = before.with_values({"lr": 1e-4, "model.pretrained": "b", "tokenization.truncation": "tail"})
    assert (after.training.lr, after.model.pretrained, after.tokenization.truncation) == (1e-4, "b", "tail")
    assert after.search == before.search and after.base_dir == before.base_dir and before.training.lr == "auto"
    assert after.training.epochs == before.training.epochs


@pytest.mark.parametrize(
    ("values", "wanted"),
    [({"lr": 1}, r"training\.lr: .*0\.01"), ({"lrr": 1e-5}, "unknown key"), ({"data.source": "b"}, r"data\.source")],
)
def test_with_values_refuses_what_the_configuration_refuses(values: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config("").with_values(values)


def test_value_of_reads_every_knob_of_the_configuration() -> None:
    plain = config("", training={"alpha": 0.5}, tokenization={"max_length": 64})
    values = {key: plain.value_of(key) for key in searchable()}
    assert (values["alpha"], values["tokenization.max_length"], values["model.pretrained"]) == (0.5, 64, "m")
