"""An empty prefix cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertft_core.model.prefix.cache import PrefixCache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prefix"


@pytest.fixture
def cache(root: Path) -> PrefixCache:
    return PrefixCache(root, 10**9)
