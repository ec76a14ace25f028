"""A study's name: another for whatever changes a trial's value, the same for whatever does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertft_core.config import fit
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.search import slots
from bertft_core.search.slots import study_name

_TREE: dict[str, Any] = {
    "name": "n",
    "data": {"source": "x.csv"},
    "model": {"pretrained": "m"},
    "search": {"trials": 4, "space": {"model.pretrained": ["a", "b"], "lr": {"low": 1e-5, "high": 1e-4}}},
}


def _config(section: str, values: dict[str, Any]) -> RunConfig:
    return parse_config({**_TREE, section: {**_TREE.get(section, {}), **values}}, Path("."))


def _name(section: str = "training", values: dict[str, Any] | None = None, rows: str = "r", encoder: str = "e") -> str:
    return study_name(_config(section, values or {}), rows, encoder)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("search", {"rows": 100}),
        ("search", {"space": {"lr": {"low": 1e-5, "high": 2e-4}, "model.pretrained": ["a", "b"]}}),
        ("search", {"second": {"measure": "size"}}),
        ("training", {"epochs": 4}),
        ("training", {"seed": 14}),
        ("training", {"precision": "bfloat16"}),
        ("tokenization", {"truncation": "tail"}),
        ("evaluation", {"metric": "accuracy"}),
    ],
)
def test_what_changes_a_trial_makes_another_study(section: str, values: dict[str, Any]) -> None:
    assert _name(section, values) != _name()


def test_a_study_of_settings_that_meant_something_else_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _name()
    monkeypatch.setattr(slots, "FITS_VERSION", fit.FITS_VERSION - 1)
    assert _name() != before


@pytest.mark.parametrize("other", [{"rows": "s"}, {"encoder": "f"}])
def test_other_rows_or_encoders_make_another_study(other: dict[str, str]) -> None:
    assert _name(**other) != _name()


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("search", {"trials": 40}),
        ("search", {"workers": 3}),
        ("search", {"storage": "journal:///j.log"}),
        ("search", {"timeout": 60, "trial_timeout": 9, "stop_early": False}),
        ("search", {"confirm": {"top": 2}}),
        ("training", {"threads": 8}),
        ("training", {"device": "cpu"}),
        ("evaluation", {"level": 0.9}),
        ("decision", {"temperature": False}),
    ],
)
def test_what_changes_no_trial_keeps_the_study(section: str, values: dict[str, Any]) -> None:
    assert _name(section, values) == _name()
