"""The home of an earlier release that tests/homes has, for scripts that attack one: nothing is trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bertft_core.config.store import load_mlflow_config
from bertft_core.tracking.store import Store, open_store

HOMES = Path(__file__).parents[1] / "tests" / "homes"
MODEL = "letters"


def restored(folder: Path) -> Path:
    """The home in `folder`: versions 1 (champion) and 2 of the model `letters`, one night. Mode 0700."""
    spec = importlib.util.spec_from_file_location("restore", HOMES / "restore.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home: Path = module.restore(folder) / "home"
    home.chmod(0o700)
    return home


def opened(home: Path) -> Store:
    """The store of a home, as every command opens it."""
    return open_store(load_mlflow_config(environ={}), home)
