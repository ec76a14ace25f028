"""A search whose trainers and coordinator are killed: the drill of benchmarks/fault_drill.py, in small."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
SECTIONS = {
    "training": {"lr": 2e-3, "batch_size": 1, "epochs": 70, "threads": 1, "precision": "float32"},
    "search": {"trials": 4, "rows": 50, "workers": 3, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
}


@pytest.fixture
def fault_drill(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("fault_drill")


@pytest.mark.postgres  # sqlite's kills: test_run.py, test_join.py; the whole drill on each storage is the benchmark
def test_killed_search_loses_and_doubles_nothing(
    fault_drill: ModuleType, project, prefect_server, tmp_path: Path
) -> None:
    plan = fault_drill.Plan(kills=2, gap=(0.2, 1.0), fit_seconds=1.0, limit=540.0)
    with fault_drill.place("postgres", tmp_path) as places:
        env = {**places, **prefect_server.settings()}  # an embedded server, killed: test_run.py
        drill = fault_drill.Drill(config=project(**SECTIONS), home=tmp_path / "home", plan=plan, env=env)
        checks = drill.run()
    assert len(checks) == 19
    assert all(c.holds for c in checks), fault_drill.table(drill.strikes, checks)
