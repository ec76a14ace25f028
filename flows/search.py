"""The search as a flow: one task run per open slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from bertft_core import fitting
from bertft_core.config import RunConfig
from bertft_core.fitting import Prepared
from bertft_core.runs import Run
from bertft_core.search.pictures import history_picture
from bertft_core.search.results import TrialResult
from bertft_core.state import exclusive
from bertft_core.training.client import Trainer
from tasks.training import run_trial
from tasks.tree import Tree


def search(
    config: RunConfig, prepared: Prepared, run: Run, home: Path, trainer: Trainer, tree: Tree, report: Any
) -> TrialResult | None:
    """The best trial, None without a search. Finished trials are never repeated."""
    study = fitting.open_study(config, prepared, home, owner=run.run_id)
    if study is None:
        return None
    settings = fitting.settle(config, prepared, run, home, trainer)
    with exclusive(home / "locks" / f"{study.name}.lock", f"study {study.name}"):
        run.update(study=study.name)
        tree.search_run(study.name)
        for result in study.results():
            tree.trial(result)
        if study.open_slots():

            @flow(name="bertft-search", flow_run_name=f"{config.name} search", validate_parameters=False)
            def search_trials() -> None:
                for slot in study.open_slots():
                    done: TrialResult = run_trial(study, slot, config, prepared, settings, home, trainer, report)
                    tree.trial(done)

            search_trials()
        picture = history_picture(study.results(), config.evaluation.metric, run.path / "search.png")
        trials = [{"trial": r.slot, "state": r.state, "score": r.score, **r.params} for r in study.results()]
        create_table_artifact(key="bertft-trials", table=trials, description=f"{config.name}: {study.name}")
        best = fitting.best_trial(study)
        tree.search_done(best, picture)
    return best
