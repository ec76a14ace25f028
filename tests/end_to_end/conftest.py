"""A home of an earlier release, for the tests that go on with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..homes.restore import restore


@pytest.fixture(scope="session")
def restore_home() -> Callable[[Path], Path]:
    """Puts rows.csv, run.yaml, the encoder and `home`, with versions 1 (champion) and 2, into a folder."""
    return restore
