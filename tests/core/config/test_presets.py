"""Presets: values below those that are written, and no part of what a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import TrainingConfig
from bertft_core.config.knobs import SEARCHED_SECTIONS
from bertft_core.config.presets import PRESETS
from bertft_core.config.run import RunConfig, load_config, parse_config
from bertft_core.recipe.runs import run_key
from flows.command.tables import render

GOOD: dict[str, Any] = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": "m"}}


def config(**sections: Any) -> RunConfig:
    return parse_config({**GOOD, **sections}, Path("."))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_sets_each_of_its_values_and_nothing_else(name: str) -> None:
    found, plain, values = config(preset=name), config(), PRESETS[name].values
    assert {key: found.value_of(key) for key in values} == dict(values)
    others = [
        f"{s}.{f}" for s, part in SEARCHED_SECTIONS.items() for f in part.model_fields if f"{s}.{f}" not in values
    ]
    assert {key: found.value_of(key) for key in others} == {key: plain.value_of(key) for key in others}


def test_sun2019_has_the_papers_settings() -> None:
    found = config(preset="sun2019")
    training, cut = found.training, found.tokenization
    assert (training.batch_size, training.lr, training.epochs, training.warmup_fraction) == (24, 2e-5, 4, 0.1)
    assert (training.alpha, training.unfreezing, cut.max_length, cut.truncation) == (0.95, "none", 512, "head+tail")


def test_ulmfit_divides_by_two_point_six_a_layer() -> None:
    assert config(preset="ulmfit").training.alpha * 2.6 == pytest.approx(1)


def test_own_keys_win_over_the_preset_and_overrides_over_both(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "name: x\npreset: sun2019\ndata: {source: a.csv}\nmodel: {pretrained: m}\ntraining: {epochs: 2, lr: 1.0e-4}\n"
    )
    found = load_config(file, ["training.lr=3e-4", "tokenization.max_length=128"])
    assert (found.training.epochs, found.training.lr, found.training.batch_size) == (2, 3e-4, 24)
    assert (found.tokenization.max_length, found.tokenization.truncation) == (128, "head+tail")


def test_preset_may_be_an_override(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\n")
    assert load_config(tmp_path / "c.yaml", ["preset=roberta"]).training.weight_decay == 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_run_key_is_that_of_the_same_values_written_out(name: str) -> None:
    short, long = config(preset=name), config(**PRESETS[name].sections())
    assert short.resolved() == long.resolved() and run_key(short, "rows", "e") == run_key(long, "rows", "e")
    assert run_key(short, "rows", "e") != run_key(config(), "rows", "e")


def test_stored_configuration_is_complete_without_the_name() -> None:
    short = config(preset="sun2019", training={"epochs": 7})
    again = parse_config(short.resolved(), Path("."))
    assert again.preset is None and again.training == short.training and again.tokenization == short.tokenization


def test_values_of_a_trial_win_over_the_preset() -> None:
    found = config(preset="sun2019").with_values({"lr": 9e-5, "epochs": TrainingConfig().epochs})
    assert (found.training.lr, found.training.epochs, found.training.batch_size) == (9e-5, "auto", 24)


@pytest.mark.parametrize("value", ["sun2020", 3, ["plain"]])
def test_unknown_preset_is_named_with_those_there_are(value: Any) -> None:
    with pytest.raises(ConfigError, match="preset: .*'sun2019', 'ulmfit', 'roberta', 'plain' or 'fast', was"):
        config(preset=value)


def test_fault_in_a_section_beside_a_preset_is_reported() -> None:
    with pytest.raises(ConfigError, match="training: "):
        config(preset="plain", training=5)


def test_check_prints_a_preset_in_full_and_what_is_replaced() -> None:
    from bertft_core.recipe.check import _preset

    found = config(preset="sun2019", training={"epochs": 2})
    plan = {
        "name": "x",
        "data": "d",
        "splits": [],
        "rows_by_class": {"train": {"a": 9, "b": 3}, "validation": {"a": 2, "b": 1}, "test": {"a": 2, "b": 1}},
        "preset": _preset(found),
        "encoder": "e",
        "weights": "w",
        "tokenizer": "t",
        "features": None,
        "layers": [],
        "rates": "linear",
        "fit": "2 epochs in batches of 24",
        "auto": "",
        "adaptation": None,
        "steps": 1,
        "search": "none",
        "blend": "off",
        "minutes": "about 3 minutes",
        "disk": "1 MB",
        "register": "r",
        "warnings": [],
    }
    text = render("check", plan)
    assert "preset       sun2019: Sun et al. 2019" in text
    assert all(f"  {key} " in text for key in PRESETS["sun2019"].values)
    assert "replaced by the configuration: training.epochs 2" in text
