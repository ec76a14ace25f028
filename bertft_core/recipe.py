"""The chain as plain functions, without an orchestrator: what tasks call, and what a notebook can call.

from bertft_core import recipe
from bertft_core.config import load_config
result = recipe.run(load_config("examples/quick_test.yaml"), home=".bertft")
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.config import RunConfig, resolve_pretrained
from bertft_core.data.prepare import DatasetSplits, prepare_dataset
from bertft_core.data.tokenization import TokenizedSplits, tokenize_splits
from bertft_core.errors import InputError, ModelError
from bertft_core.runs import Run, open_run, run_key
from bertft_core.search.study import SearchStudy, Slot, TrialResult, run_slot, study_name
from bertft_core.state import (
    encoder_fingerprint,
    hash_json,
    is_complete,
    open_home,
    read_json,
    staged_folder,
    write_json,
)

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.training.client import Trainer
    from bertft_core.training.spec import FitSpec, TrainingResult

Progress = Callable[[str, int], None]
FLOOR_VERSION = 1


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


def ingest(config: RunConfig, home: Path, on_progress: Progress | None = None) -> DatasetSplits:
    """Read, gate and split the rows; content-addressed under home/data."""
    return prepare_dataset(config.data, home / "data", config.base_dir, on_progress)


def tokenize(
    config: RunConfig, dataset: DatasetSplits, pretrained: Path, home: Path, on_progress: Progress | None = None
) -> TokenizedSplits:
    """Cut and tokenize each split once; content-addressed under home/tokens."""
    return tokenize_splits(dataset, pretrained, config.tokenization, home / "tokens", on_progress)


def prepare(config: RunConfig, home: Path, on_progress: Progress | None = None) -> Prepared:
    """Ingest and tokenize; checks the encoder first, so that a wrong one costs no reading."""
    pretrained = resolve_pretrained(config)
    dataset = ingest(config, home, on_progress)
    tokens = tokenize(config, dataset, pretrained, home, on_progress)
    return Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=encoder_fingerprint(pretrained))


def identify(config: RunConfig, prepared: Prepared, home: Path, *, again: bool = False) -> Run:
    """The run that this configuration on these rows is."""
    return open_run(home / "runs", run_key(config, prepared.dataset.fingerprint, prepared.encoder), again=again)


def settle(config: RunConfig, prepared: Prepared, run: Run, home: Path, trainer: Trainer) -> dict[str, Any]:
    """Threads, precision and device: resolved once, stored with the run and reused on resume.

    What was measured for an encoder on this machine is kept in home/machine.json, so that one busy minute
    does not change the numbers from one night to the next; delete the file to measure again.
    """
    stored = run.state().get("settings")
    if stored:
        return dict(stored)
    file, asked = home / "machine.json", config.training
    known = read_json(file) if file.exists() else {}
    parts = [platform.node(), version("torch"), os.cpu_count(), prepared.encoder]
    key = hash_json([*parts, asked.precision, asked.device, asked.threads])[:16]
    if key not in known:
        known[key] = trainer.resolve(prepared.pretrained, asked.precision, asked.device, asked.threads)
        write_json(file, known)
    run.update(settings=known[key])
    return dict(known[key])


def fit_spec(
    config: RunConfig,
    prepared: Prepared,
    settings: dict[str, Any],
    output: Path,
    params: dict[str, float],
    *,
    seed: int,
    rows: int | None,
    keep_model: bool,
) -> FitSpec:
    """One fit as the trainer process reads it: the configuration with `params` in place."""
    from bertft_core.training.spec import FitSpec

    values = {**config.training.model_dump(), **params, "seed": seed}
    for key in ("precision", "threads", "device"):
        values[key] = settings[key]
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
    settings: dict[str, Any],
    home: Path,
    trainer: Trainer,
    on_progress: Callable[[float, dict[str, Any]], None] | None = None,
) -> TrialResult:
    """Run one slot of the study to its end, renewing its lease; its checkpoints are deleted afterwards."""
    import shutil

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


def best_params(study: SearchStudy | None) -> dict[str, float]:
    """Parameters of the best finished trial; empty without a search. Raises InputError when none completed."""
    if study is None:
        return {}
    best = study.best()
    if best is None:
        reasons = "; ".join(sorted({r.reason for r in study.results() if r.reason})) or "none given"
        raise InputError(f"no trial of study {study.name} completed (reasons: {reasons}): widen or lower search.space")
    return best.params


def finetune(
    config: RunConfig,
    prepared: Prepared,
    run: Run,
    params: dict[str, float],
    home: Path,
    trainer: Trainer,
    on_progress: Callable[[float, dict[str, Any]], None] | None = None,
) -> TrainingResult:
    """The final fit on all training rows, under run/fit; a finished one is read back, not repeated."""
    from bertft_core.training.spec import TrainingResult

    stored = run.state().get("fit")
    if stored and (Path(stored["model_dir"]) / "model.safetensors").exists():
        return TrainingResult.from_json(stored)
    settings = settle(config, prepared, run, home, trainer)
    spec = fit_spec(
        config, prepared, settings, run.path / "fit", params, seed=config.training.seed, rows=None, keep_model=True
    )
    result = trainer.fit(spec, on_progress, None)
    if result.state != "complete":
        raise InputError(f"the final fit ended early ({result.reason}): lower training.lr or training.batch_size")
    run.update(fit=asdict(result), params=params)
    return result


def test_fingerprint(dataset: DatasetSplits) -> str:
    """Hash of the test rows (content and label): the gate refuses to compare on other rows."""
    table = dataset.table("test")
    fingerprints = [f.as_py().hex() for f in table["fingerprint"]]
    return hash_json(sorted(zip(fingerprints, table["label"].to_pylist(), strict=True)))


def floor_probabilities(config: RunConfig, dataset: DatasetSplits, home: Path) -> Path:
    """TF-IDF floor's test probabilities [n_test, classes] as .npy, fitted once per rows and metric."""
    import numpy as np

    from bertft_core.evaluation.floor import tfidf_floor

    key = hash_json([dataset.fingerprint, config.data.split.model_dump(), config.evaluation.metric, FLOOR_VERSION])[:24]
    folder = home / "floors" / key
    if not is_complete(folder):
        texts = {s: _joined_texts(dataset, s) for s in ("train", "validation", "test")}
        labels = {s: dataset.table(s)["label"].to_numpy() for s in ("train", "validation")}
        with staged_folder(folder) as staging:
            floor = tfidf_floor(
                texts["train"], labels["train"], texts["validation"], labels["validation"], texts["test"],
                metric=config.evaluation.metric, seed=config.training.seed, n_classes=len(dataset.classes),
            )  # fmt: skip
            np.save(staging / "probabilities.npy", floor.probabilities, allow_pickle=False)
            write_json(staging / "floor.json", {"params": floor.params, "validation_score": floor.validation_score})
    return folder / "probabilities.npy"


def _joined_texts(dataset: DatasetSplits, split: str) -> list[str]:
    table = dataset.table(split)
    texts = table["text"].to_pylist()
    if not dataset.has_pair:
        return list(texts)
    return [f"{a} {b or ''}" for a, b in zip(texts, table["text_pair"].to_pylist(), strict=True)]


def layer_count(pretrained: Path) -> int:
    """Layers of an encoder, from its config.json. Raises ModelError when it does not say."""
    config = read_json(pretrained / "config.json")
    for key in ("num_hidden_layers", "n_layers"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelError(f"{pretrained / 'config.json'}: no num_hidden_layers; wanted a BERT-like encoder")


def evaluate(
    config: RunConfig, prepared: Prepared, run: Run, fit: TrainingResult, trainer: Trainer, home: Path
) -> EvaluationReport:
    """Score the untouched test split, set it beside the TF-IDF floor, write report and pictures to run/evaluation."""
    import numpy as np

    from bertft_core.evaluation.report import evaluate as evaluate_rows

    folder = run.path / "evaluation"
    folder.mkdir(exist_ok=True)
    settings = settle(config, prepared, run, home, trainer)
    dataset = prepared.dataset
    scored = trainer.score(
        fit.model_dir, prepared.tokens.directory, "test", folder / "probabilities.npy", settings["device"],
        settings["threads"],
    )  # fmt: skip
    floor = np.load(floor_probabilities(config, dataset, home), allow_pickle=False)
    table = dataset.table("test")
    report = evaluate_rows(
        labels=table["label"].to_numpy(),
        probabilities=np.load(scored, allow_pickle=False),
        classes=dataset.classes,
        texts=table["text"].to_pylist(),
        rows=table["row"].to_pylist(),
        floor_probabilities=floor,
        weights=np.array(table["weights"].to_pylist(), dtype=np.float32) if dataset.is_soft else None,
        metric=config.evaluation.metric,
        level=config.evaluation.level,
        resamples=config.evaluation.resamples,
        seed=config.training.seed,
    )
    report = replace(report, warnings=(*report.warnings, *dataset.report.warnings))
    write_json(folder / "evaluation.json", report.to_json())
    _draw(config, report, fit, prepared, folder)
    run.update(evaluated=True)
    return report


def _draw(config: RunConfig, report: EvaluationReport, fit: TrainingResult, prepared: Prepared, folder: Path) -> None:
    from bertft_core.evaluation.pictures import confusion_picture, learning_curve_picture
    from bertft_core.training.unfreezing import UnfreezeSchedule

    starts = UnfreezeSchedule.named(config.training.unfreezing, layer_count(Path(prepared.pretrained))).starts
    ends = [start for start, _ in starts[1:]] + [1.0]
    phases = [(start, end, depth) for (start, depth), end in zip(starts, ends, strict=True)]
    confusion_picture(report, folder / "confusion.png")
    learning_curve_picture([asdict(h) for h in fit.history], folder / "learning.png", phases)
    (folder / "report.md").write_text(
        report.to_markdown(config.name, [("Confusion", "confusion.png"), ("Learning", "learning.png")]),
        encoding="utf-8",
    )


def run(config: RunConfig, home: Path | str = ".bertft", *, again: bool = False) -> EvaluationReport:
    """The whole chain up to the evaluation, without Prefect and MLflow."""
    from bertft_core.training.client import Trainer

    root = open_home(home)
    prepared = prepare(config, root)
    current = identify(config, prepared, root, again=again)
    with Trainer() as trainer:
        study = open_study(config, prepared, root)
        settings = settle(config, prepared, current, root, trainer)
        if study is not None:
            for slot in study.open_slots():
                run_trial(study, slot, config, prepared, settings, root, trainer)
        fit = finetune(config, prepared, current, best_params(study), root, trainer)
        return evaluate(config, prepared, current, fit, trainer, root)
