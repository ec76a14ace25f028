"""The tiny form of benchmarks/thirty_nights.py: every accident of a month of nights, against a real Prefect server."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def thirty_nights(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("thirty_nights")


@pytest.fixture
def start(command_server: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Begins commands in forks of one process that has the nights' environment: a Prefect server that may be gone."""
    servers: list[Any] = []

    def begin(arguments: list[str], environment: dict[str, str], cwd: Path, out: Path, errors: Path) -> Any:
        if not servers:
            servers.append(command_server(environment, tmp_path / "commands.log"))
        return servers[0].begin(arguments, environment, cwd, out=out, errors=errors)

    yield begin
    for server in servers:
        server.close()


def test_every_accident_of_a_month_ends_in_its_outcome(
    thirty_nights: ModuleType, start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "nights").mkdir()
    found = thirty_nights.through(tmp_path / "nights", is_tiny=True, start=start)
    assert all(found["checks"].values()) and len(found["checks"]) >= 14, found["checks"]
    nights = {night["what"]: night for night in found["nights"]}
    assert [night["outcome"] for night in found["nights"]].count("data rejected") == 2
    assert nights["half a file"]["facts"]["rows_faulty"] == 1
    assert "its files are gone from" in nights["champion's files gone"]["reason"]
    assert "new texts can be told from old ones" in nights["other texts"]["reason"]
    assert "did not begin" in nights["Prefect server down"]["reason"]
    thirty_nights.draw(found["nights"], found["numbers"]["scores"], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
