"""What a finished fit is worth: policy from validation, scores on the untouched test rows, the floor beside them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.files import is_complete, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits, soft_weights, target_labels
from bertft_core.evaluation.policy.decisions import SET_THRESHOLD, DecisionPolicy
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.fit import machine_settings, schedule_of
from bertft_core.recipe.prepare import Prepared

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.training.results import TrainingResult


FLOOR_VERSION = 1


def floor_probabilities(config: RunConfig, dataset: DatasetSplits, home: Path) -> Path:
    """TF-IDF floor's test probabilities [n_test, classes] as .npy, fitted once per rows and metric."""
    import numpy as np

    from bertft_core.evaluation.baseline import set_floor, tfidf_floor

    key = hash_json([dataset.fingerprint, config.data.split.model_dump(), config.evaluation.metric, FLOOR_VERSION])[:24]
    folder = home / "floors" / key
    if not is_complete(folder):
        texts = {s: _joined_texts(dataset, s) for s in ("train", "validation", "test")}
        labels = {s: target_labels(dataset, s) for s in ("train", "validation")}
        given = (texts["train"], labels["train"], texts["validation"], labels["validation"], texts["test"])
        metric, seed = config.evaluation.metric, config.training.seed
        with staged_folder(folder) as staging:
            floor = (
                set_floor(*given, metric=metric, seed=seed)
                if dataset.is_multi
                else tfidf_floor(*given, metric=metric, seed=seed, n_classes=len(dataset.classes))
            )
            np.save(staging / "probabilities.npy", floor.probabilities, allow_pickle=False)
            write_json(staging / "floor.json", {"params": floor.params, "validation_score": floor.validation_score})
    return folder / "probabilities.npy"


def _joined_texts(dataset: DatasetSplits, split: str) -> list[str]:
    table = dataset.table(split)
    texts = table["text"].to_pylist()
    if not dataset.has_pair:
        return list(texts)
    return [f"{a} {b or ''}" for a, b in zip(texts, table["text_pair"].to_pylist(), strict=True)]


def evaluate(context: RunContext, fit: TrainingResult) -> EvaluationReport:
    """Score the untouched test split, set it beside the TF-IDF floor, write report and pictures to run/evaluation."""
    import numpy as np

    from bertft_core.evaluation.report import evaluate as evaluate_rows

    config, prepared, dataset = context.config, context.prepared, context.prepared.dataset
    folder, settings = context.run.folder.evaluation, machine_settings(context)
    folder.mkdir(exist_ok=True)
    raw = {}
    for split in ("validation", "test"):
        file = folder / f"raw_{split}.npy"
        context.trainer.score(fit.model_dir, prepared.tokens.directory, split, file, settings.device, settings.threads)
        raw[split] = np.load(file, allow_pickle=False)
    policy = _fit_policy(config, dataset, raw["validation"])
    probabilities, predicted = _answers(policy, raw["test"], dataset.is_multi)
    np.save(folder / "probabilities.npy", probabilities.astype(np.float32), allow_pickle=False)
    np.save(folder / "predicted.npy", predicted, allow_pickle=False)
    floor = np.load(floor_probabilities(config, dataset, context.home), allow_pickle=False)
    table = dataset.table("test")
    report = evaluate_rows(
        labels=target_labels(dataset, "test"),
        probabilities=probabilities,
        predicted=predicted,
        classes=dataset.classes,
        texts=table["text"].to_pylist(),
        sources=dataset.sources("test"),
        floor_probabilities=floor,
        weights=soft_weights(dataset, "test"),
        metric=config.evaluation.metric,
        level=config.evaluation.level,
        resamples=config.evaluation.resamples,
        seed=config.training.seed,
    )
    report = replace(report, warnings=(*report.warnings, *dataset.report.warnings))
    write_json(folder / "evaluation.json", report.to_json())
    _draw(config, report, fit, prepared, folder)
    context.run.update(evaluated=True, policy=policy.to_json())
    return report


def _answers(policy: DecisionPolicy, raw: Any, is_multi: bool) -> tuple[Any, Any]:
    """Probabilities [n, C], and decisions: class indices [n], or 0 and 1 [n, C]."""
    if is_multi:
        return raw, (raw >= SET_THRESHOLD).astype("int64")
    decided = policy.apply(raw)
    return decided.probabilities, decided.predicted


def phases(config: RunConfig, prepared: Prepared) -> tuple[tuple[float, float, int], ...]:
    """(start, end, depth) of each unfreezing phase of the fit, as fractions of it."""
    return schedule_of(config, Path(prepared.pretrained)).phases()


def _draw(config: RunConfig, report: EvaluationReport, fit: TrainingResult, prepared: Prepared, folder: Path) -> None:
    from bertft_core.reporting.run.pictures import confusion_picture, learning_curve_picture

    pictures = [("Learning", "learning.png")]
    if not report.scores.is_multi:
        confusion_picture(report, folder / "confusion.png")
        pictures.insert(0, ("Confusion", "confusion.png"))
    learning_curve_picture([asdict(h) for h in fit.history], folder / "learning.png", phases(config, prepared))
    (folder / "report.md").write_text(report.to_markdown(config.name, pictures), encoding="utf-8")


def _fit_policy(config: RunConfig, dataset: DatasetSplits, validation: Any) -> DecisionPolicy:
    from bertft_core.evaluation.policy.calibration import PolicySettings, fit_policy

    wanted, n = config.decision, dataset.n_validation
    if dataset.is_multi:
        note = f"multi-label: every class of probability {SET_THRESHOLD:g} or more, nothing is fitted"
        return DecisionPolicy(fitted_on=n, notes=(note,))
    settings = PolicySettings(
        temperature=wanted.temperature,
        thresholds=wanted.thresholds,
        beta=wanted.beta,
        costs=wanted.cost_matrix(dataset.classes),
        abstain_accuracy=wanted.abstain_accuracy,
    )
    labels = dataset.table("validation")["label"].to_numpy()
    policy: DecisionPolicy = fit_policy(labels, validation, settings, soft_weights(dataset, "validation"))
    return policy
