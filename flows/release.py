"""Release: register, prove parity, score the champion on the same rows, decide, move the alias."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from bertft_core.config import RunConfig
from bertft_core.fitting import Prepared
from bertft_core.mlflow_config import load_mlflow_config
from bertft_core.runs import Run
from bertft_core.state import exclusive
from bertft_core.training.spec import TrainingResult
from tasks.release import candidate_of_version, check_parity, decide_promotion, register_model
from tasks.tracking import open_store
from tasks.tree import Tree


def release(
    config: RunConfig, prepared: Prepared, run: Run, fit: TrainingResult, tree: Tree, home: Path
) -> dict[str, Any]:
    """Register the fit and let the gate decide; one release per registered model at a time."""
    name = tree.store.config.model_name(config.name)
    with exclusive(home / "locks" / f"release-{name}.lock", f"a release of {name}"):
        candidate = register_model(config, prepared, run, fit, tree)
        check_parity(candidate, tree.store)
        return asdict(decide_promotion(candidate, tree.store))


@flow(name="bertft-promote")
def promote(
    name: str, version: str | None = None, home: str = ".bertft", mlflow_file: str | None = None, approve: bool = False
) -> dict[str, Any]:
    """Run the gate for a registered version (default: the challenger) on its own test rows."""
    root = Path(home)
    store = open_store(load_mlflow_config(mlflow_file, Path.cwd(), Path.cwd()), root)
    with exclusive(root / "locks" / f"release-{name}.lock", f"a release of {name}"):
        candidate = candidate_of_version(name, version, store, root)
        check_parity(candidate, store)
        return asdict(decide_promotion(candidate, store, approved=approve))
