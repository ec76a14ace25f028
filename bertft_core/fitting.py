"""Fits of a run: machine settings, the trials of a search, the final fit. Plain functions over the trainer process."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.config import RunConfig
from bertft_core.data.prepare import DatasetSplits
from bertft_core.data.tokenization import TokenizedSplits
from bertft_core.errors import InputError
from bertft_core.runs import Run
from bertft_core.search.results import TrialResult
from bertft_core.search.study import SearchStudy, Slot, run_slot, study_name
from bertft_core.state import hash_json, read_json, write_json
from bertft_core.training.spec import FitSpec, MachineSettings, TrainingResult

if TYPE_CHECKING:
    from bertft_core.training.client import Trainer


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a fit needs to know of its data and encoder; small enough to pass between tasks."""

    dataset: DatasetSplits
    tokens: TokenizedSplits
    pretrained: str
    encoder: str

    def __str__(self) -> str:
        d = self.dataset
        return f"{d.n_train} train, {d.n_validation} validation, {d.n_test} test rows in {len(d.classes)} classes"


def settle(config: RunConfig, prepared: Prepared, run: Run, home: Path, trainer: Trainer) -> MachineSettings:
    """Threads, precision and device: resolved once, stored with the run and reused on resume.

    What was measured for an encoder on this machine is kept in home/machine.json, so that one busy minute
    does not change the numbers from one night to the next; delete the file to measure again.
    """
    stored = run.state().get("settings")
    if stored:
        return MachineSettings.from_json(stored)
    file, asked = home / "machine.json", config.training
    known = read_json(file) if file.exists() else {}
    parts = [platform.node(), version("torch"), os.cpu_count(), prepared.encoder]
    key = hash_json([*parts, asked.precision, asked.device, asked.threads])[:16]
    if key not in known:
        known[key] = asdict(trainer.resolve(prepared.pretrained, asked.precision, asked.device, asked.threads))
        write_json(file, known)
    run.update(settings=known[key])
    return MachineSettings.from_json(known[key])


def fit_spec(
    config: RunConfig,
    prepared: Prepared,
    settings: MachineSettings,
    output: Path,
    params: dict[str, float],
    *,
    seed: int,
    rows: int | None,
    keep_model: bool,
) -> FitSpec:
    """One fit as the trainer process reads it: the configuration with `params` in place."""
    values = {**config.training.model_dump(), **params, "seed": seed}
    values |= {"precision": settings.precision, "threads": settings.threads, "device": settings.device}
    values["batch_size"], values["epochs"] = int(values["batch_size"]), int(values["epochs"])
    return FitSpec(
        pretrained=prepared.pretrained,
        tokens=prepared.tokens.directory,
        output=str(output),
        classes=prepared.dataset.classes,
        metric=config.evaluation.metric,
        rows=rows,
        keep_model=keep_model,
        **values,
    )


def open_study(config: RunConfig, prepared: Prepared, home: Path, owner: str = "") -> SearchStudy | None:
    """The study of this configuration, or None where nothing is to be searched."""
    if config.search is None or config.search.trials == 0:
        return None
    folder = home / "search"
    folder.mkdir(exist_ok=True)
    name = study_name(config, prepared.dataset.fingerprint, prepared.encoder)
    return SearchStudy(folder / "studies.db", name, config.search, config.training, owner)


def run_trial(
    study: SearchStudy,
    slot: int,
    config: RunConfig,
    prepared: Prepared,
    settings: MachineSettings,
    home: Path,
    trainer: Trainer,
    on_progress: Callable[[float, dict[str, Any]], None] | None = None,
) -> TrialResult:
    """Run one slot of the study to its end, renewing its lease; its checkpoints are deleted afterwards."""
    folder = home / "search" / study.name / f"trial-{slot}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = config.search.rows if config.search else None

    def progressed(fraction: float, facts: dict[str, Any]) -> None:
        study.renew(slot)
        if on_progress:
            on_progress(fraction, facts)

    def fit(asked: Slot, on_rung: Callable[[float, float], bool]) -> TrainingResult:
        spec = fit_spec(config, prepared, settings, folder, asked.params, seed=asked.seed, rows=rows, keep_model=False)
        return trainer.fit(spec, progressed, on_rung)

    result = run_slot(study, slot, fit)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def best_trial(study: SearchStudy | None) -> TrialResult | None:
    """The best finished trial; None without a search. Raises InputError when none completed."""
    if study is None:
        return None
    best = study.best()
    if best is None:
        reasons = "; ".join(sorted({r.reason for r in study.results() if r.reason})) or "none given"
        raise InputError(f"no trial of study {study.name} completed (reasons: {reasons}): widen or lower search.space")
    return best


def chosen_values(config: RunConfig, best: TrialResult | None) -> dict[str, float]:
    """The searchable training values that the final fit uses: the best trial's, else the configuration's."""
    values = {name: getattr(config.training, name) for name in ("lr", "batch_size", "epochs", "alpha")}
    return {**values, **(best.params if best else {})}


def finetune(
    config: RunConfig,
    prepared: Prepared,
    run: Run,
    best: TrialResult | None,
    home: Path,
    trainer: Trainer,
    on_progress: Callable[[float, dict[str, Any]], None] | None = None,
) -> TrainingResult:
    """The final fit on all training rows with the best trial's values, under run/fit; a finished one is read back."""
    stored = run.state().get("fit")
    if stored and (Path(stored["model_dir"]) / "model.safetensors").exists():
        return TrainingResult.from_json(stored)
    settings = settle(config, prepared, run, home, trainer)
    params = chosen_values(config, best)
    spec = fit_spec(
        config, prepared, settings, run.path / "fit", params, seed=config.training.seed, rows=None, keep_model=True
    )
    result = trainer.fit(spec, on_progress, None)
    if result.state != "complete":
        raise InputError(f"the final fit ended early ({result.reason}): lower training.lr or training.batch_size")
    run.update(fit=asdict(result), params=params)
    return result
