"""A clock for tests of time that is spent and of leases that run out."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest


@pytest.fixture
def pass_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The clock of leases and of the time spent stands still, but for the seconds that the test lets pass."""
    now = [1000.0]
    clock = SimpleNamespace(time=lambda: 1.8e9 + now[0], monotonic=lambda: now[0])
    for module in ("lease", "stopping"):
        monkeypatch.setattr(f"bertft_core.search.{module}.time", clock)

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on
