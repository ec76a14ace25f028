"""Release: register, prove parity, score the champion on the same rows, decide, move the alias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from bertft_core.config import RunConfig
from bertft_core.mlflow_config import load_mlflow_config
from bertft_core.recipe import Prepared
from bertft_core.runs import Run
from bertft_core.state import exclusive
from tasks.release import Candidate, candidate_of_version, check_version, decide_promotion, register_model
from tasks.tree import Tree


def release(
    config: RunConfig, prepared: Prepared, run: Run, fit: Any, evaluation: Any, tree: Tree, home: Path
) -> dict[str, Any]:
    """Register the fit and let the gate decide, one release per registered model at a time."""
    name = tree.store.config.model_name(config.name)
    with exclusive(home / "locks" / f"release-{name}.lock", f"a release of {name}"):
        candidate = register_model(config, prepared, run, fit, evaluation, tree)
        check_version(candidate, tree.store)
        return decide_promotion(candidate, tree.store)


@flow(name="bertft-promote")
def promote(name: str, version: str | None, home: str, mlflow_file: str | None = None) -> dict[str, Any]:
    """Run the gate for a registered version (default: the challenger) on its own test rows."""
    root = Path(home)
    store_config = load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd())
    with exclusive(root / "locks" / f"release-{name}.lock", f"a release of {name}"):
        candidate, store = candidate_of_version(name, version, store_config, root)
        check_version(candidate, store)
        return decide_promotion(candidate, store)


__all__ = ["Candidate", "promote", "release"]
