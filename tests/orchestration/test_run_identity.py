"""One run in two homes over one MLflow store: what it goes on with, and when it counts as finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from bertft_core.config.run import load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.release import standing_release
from bertft_core.recipe.runs import identify
from bertft_core.registry import aliases, ledger, versions
from bertft_core.tracking import store as tracking
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import MachineSettings

pytestmark = pytest.mark.orchestration
SETTINGS = MachineSettings(precision="bfloat16", device="cpu", threads=1)


@pytest.fixture
def mlflow_settings(tmp_path: Path):
    return load_mlflow_config(
        environ={
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/registry.db",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
        }
    )


@pytest.fixture
def context(project: Callable[..., Path], tmp_path: Path):
    """The run of one configuration in a home by its name, nothing trained yet."""
    file = project(search={"trials": 0})

    def go(name: str, *overrides: str) -> RunContext:
        config, home = load_config(file, list(overrides)), tmp_path / name
        prepared = prepare(config, home)
        run = identify(config, prepared, home)
        return RunContext(config=config, prepared=prepared, run=run, home=home, trainer=Trainer())

    return go


def test_run_goes_on_elsewhere_in_the_precision_that_it_was_begun_in(context, mlflow_settings) -> None:
    one = context("one")
    one.run.update(settings=asdict(SETTINGS))
    begun = Tree(mlflow_settings, one)
    assert begun.settle(one) == ""
    two = context("two", "nightly.new_rows=5")  # no part of what a run is, and no conflict of MLflow's parameters
    found = Tree(mlflow_settings, two)
    assert found.root == begun.root and two.run.settings is None
    assert "goes on in bfloat16 on cpu, 1 threads, as it was begun" in found.settle(two)
    assert two.run.settings == SETTINGS and not (two.home / "machine.json").exists()  # nothing was measured


def test_run_whose_version_is_registered_is_not_trained_again_in_another_home(context, mlflow_settings, served) -> None:
    here = context("one")
    store = tracking.open_store(mlflow_settings, here.home)
    tags = {"bertft.run_id": here.run.run_id, "bertft.weights": "theirs"}
    run = tracking.find_or_create_run(store, here.run.run_id, "final")
    version = versions.register(store, run, served[0], "tiny", tags)
    found = standing_release(mlflow_settings, here, again=False)
    assert found is not None and not found.is_decided  # killed before the gate: that is asked now
    assert "is_decided" not in found.document() and found.reason.endswith("this home has no fit of it")
    draft = ledger.Draft(action="kept", version=version.version, champion=None, to_version=None, reason="a test")
    ledger.write(store, "tiny", draft)
    found = standing_release(mlflow_settings, here, again=False)
    assert found is not None and found.is_decided and found.version == "1"
    assert standing_release(mlflow_settings, here, again=True) is None
    folder = str(here.run.folder.fit / "model")
    fit = TrainingResult(state="complete", score=0.5, log_loss=0.5, seconds=1, weights_digest="ours", model_dir=folder)
    here.run.update(fit=asdict(fit))
    found = standing_release(mlflow_settings, here, again=False)
    assert found is not None and found.reason.endswith("this home has other weights of it")
    aliases.tag_version(store, "tiny", "1", {"bertft.weights": "ours"})
    assert standing_release(mlflow_settings, here, again=False) is None  # its own release was killed: it goes on
