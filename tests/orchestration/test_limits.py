"""Machines that have nothing but a real Prefect server and the registry in common: one night at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.orchestration
HOLD = """
import sys
from bertft_core.base.errors import BusyError
from bertft_core.config.store import load_mlflow_config
from flows import limits
home, registry, patience = sys.argv[1:]
limits.PATIENCE_SECONDS = float(patience)
store = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": registry}).store(home)
try:
    with limits.one_at_a_time("night", "tiny", store, 0.0):
        print("held", flush=True)
        sys.stdin.readline()
except BusyError as busy:
    print(busy)
"""


def test_night_on_another_machine_is_waited_for_and_named(
    tmp_path: Path, prefect_server: Any, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    def begin(home: str, registry: str = "http://127.0.0.1:1", patience: float = 60) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", HOLD, str(tmp_path / home), registry, str(patience)],
            env={**clean_environment(tmp_path / home), **prefect_server.clients},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = begin("one")
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    second, own = begin("two", patience=1), begin("three", f"sqlite:///{tmp_path}/three/mlflow.db")
    said, _ = second.communicate("\n", timeout=120)
    assert "a night of tiny is already running on another machine" in said and "bertft-night-tiny" in said
    assert own.communicate("\n", timeout=120)[0] == "held\n"  # a registry of its home needs no server
    first.communicate("\n", timeout=60)
    assert begin("two").communicate("\n", timeout=120)[0] == "held\n"
