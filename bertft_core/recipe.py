"""The chain as plain functions, without an orchestrator: what tasks call, and what a notebook can call.

from bertft_core import recipe
from bertft_core.config import load_config
result = recipe.run(load_config("examples/quick_test.yaml"), home=".bertft")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bertft_core.config import RunConfig
from bertft_core.data.prepare import DatasetSplits, prepare_dataset
from bertft_core.data.tokenization import TokenizedSplits, tokenize_splits
from bertft_core.errors import ModelError
from bertft_core.fitting import Prepared, best_trial, finetune, open_study, run_trial, settle
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.runs import Run, open_run, run_key
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
    from bertft_core.training.spec import TrainingResult

Progress = Callable[[str, int], None]
FLOOR_VERSION = 1


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
        fit.model_dir, prepared.tokens.directory, "test", folder / "probabilities.npy", settings.device,
        settings.threads,
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
        if study is not None:
            settings = settle(config, prepared, current, root, trainer)
            for slot in study.open_slots():
                run_trial(study, slot, config, prepared, settings, root, trainer)
        fit = finetune(config, prepared, current, best_trial(study), root, trainer)
        return evaluate(config, prepared, current, fit, trainer, root)
