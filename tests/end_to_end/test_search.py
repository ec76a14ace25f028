"""A search whose trainers and coordinator are killed: the drill of benchmarks/fault_drill.py, in small."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SECTIONS = {
    "training": {"lr": 2e-3, "batch_size": 1, "epochs": 40, "threads": 1, "precision": "float32"},
    "search": {"trials": 4, "rows": 50, "workers": 3, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
}


@pytest.fixture
def fault_drill(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("fault_drill")


@pytest.mark.postgres  # sqlite's kills: test_run.py, test_join.py; the whole drill on each storage is the benchmark
def test_killed_search_loses_and_doubles_nothing(
    fault_drill: ModuleType, project, prefect_server, command_server: Callable[..., Any], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    plan = fault_drill.Plan(kills=2, gap=(0.2, 1.0), fit_seconds=1.0, limit=540.0)
    with fault_drill.place("postgres", tmp_path) as places:
        env = {**places, **prefect_server.settings()}  # an embedded server, killed: test_run.py
        known = {**os.environ, **env, "BERTFT_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
        server = command_server(known, tmp_path / "commands.log")

        def start(arguments: list[str], environment: dict[str, str], cwd: Path, out: Path, errors: Path) -> Any:
            return server.begin(arguments, environment, cwd, out=out, errors=errors)

        drill = fault_drill.Drill(config=project(**SECTIONS), home=home, plan=plan, env=env, start=start)
        assert len(drill.others) == 1  # what forks the commands
        checks = drill.run()
        server.close()
    assert len(checks) == 19
    assert all(c.holds for c in checks), fault_drill.table(drill.strikes, checks)
