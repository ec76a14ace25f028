"""Every input of benchmarks/silent_damage.py is met as docs/silent_damage.md says."""

from __future__ import annotations

import importlib

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks_on_the_path")]
KINDS = range(1, 13)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_a_kind_are_met_as_expected(kind: int) -> None:
    damage = importlib.import_module("silent_damage")
    found = {item.name: damage.happened(item) for item in damage.INPUTS if item.kind == kind}
    items = [item for item in damage.INPUTS if item.kind == kind]
    assert len(items) >= 3
    assert [f"{item.name}: {found[item.name]}" for item in items if not damage.is_met(item, found[item.name])] == []
