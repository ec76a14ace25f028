"""Caches below a home that are deleted while a run is at work are made again, and change nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.cache import VARIABLE, Cache
from bertft_core.recipe.chain import Finished, complete

CACHES = ("tokens", "prefix", "floors", "features")


@pytest.fixture
def config(project: Callable[..., Path]) -> Path:
    machine = {"threads": 1, "precision": "float32"}
    return project(
        training={**machine, "lr": 2e-3, "batch_size": 8, "epochs": 2, "unfreezing": "late"},
        search={"trials": 2, "rows": 60, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
    )


def lived(config: Path, home: Path, on_stage: Callable[[str, float, dict[str, Any]], None] | None = None) -> Finished:
    return complete(config, home, on_stage=on_stage)


def outcome(found: Finished) -> tuple[Any, ...]:
    assert found.report is not None
    return found.fit.weights_digest, replace(found.report, blend=None), found.context.config.training


def test_caches_deleted_in_every_stage_and_between_two_change_nothing(config: Path, tmp_path: Path) -> None:
    whole = lived(config, tmp_path / "whole")
    told: list[str] = []

    def delete(stage: str, fraction: float, facts: dict[str, Any]) -> None:
        if not {"train", "step", "score", "report"} & facts.keys() and stage != "evaluation":
            return  # what is being written is no cache yet, nor what a fit is about to open
        told.append(stage)
        for name in CACHES:
            shutil.rmtree(tmp_path / "home" / name, ignore_errors=True)

    found = lived(config, tmp_path / "home", delete)
    assert outcome(found) == outcome(whole)
    assert {"rows", "search", "fine-tuning", "evaluation"} <= set(told) and told.count("search") > 2


def test_tokens_of_another_worker_are_fetched_and_are_the_same_bits(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    first = lived(config, tmp_path / "one")
    (entry,) = Cache(str(tmp_path / "shared")).entries()  # the checkpoints of finished fits are gone
    assert (entry.kind, entry.name) == ("tokens", first.context.tokens.name)
    tokens = tmp_path / "shared" / "v1" / "tokens"
    kept = sorted(tokens.rglob("*"))
    second = lived(config, tmp_path / "two")
    assert sorted(tokens.rglob("*")) == kept and len(kept) > 6  # none was pushed: it would have another stamp
    assert outcome(second) == outcome(first)
    one, two = (
        {f.name: f.read_bytes() for f in found.context.tokens.iterdir() if f.is_file()} for found in (first, second)
    )
    assert one == two and "manifest.json" in one
