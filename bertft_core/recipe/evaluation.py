"""What a finished fit is worth: policy from validation, scores on the untouched test rows, the baseline beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ConfigError
from bertft_core.base.files import is_reusable, read_json, staged_folder, write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.config.metrics import metrics_of
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.fit import machine_settings, schedule_of
from bertft_core.recipe.prepare import Prepared
from bertft_core.recipe.runs import Run
from bertft_core.registry.evaluation_folder import EvaluationFolder

if TYPE_CHECKING:
    from bertft_core.evaluation.policy.decisions import DecisionPolicy
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.evaluation.scores.labels import Labels
    from bertft_core.training.results import TrainingResult


BASELINE_VERSION = 3
JUDGING_CODE = ("config", "evaluation", "recipe/evaluation.py")  # what a stored report depends on besides its run
TIMED_ROWS = 200  # that the TF-IDF model of a blend is timed on


def labels_of_split(dataset: DatasetSplits, split: str) -> Labels:
    """The labels of a split's rows, against which models are judged."""
    from bertft_core.evaluation.scores.labels import labels_of

    return labels_of(dataset.targets(split), dataset.classes, dataset.soft_labels(split), dataset.groups(split))


@dataclass(frozen=True)
class BaselineFolder:
    """BERTFT_HOME/floors/KEY: the TF-IDF baseline of rows and metric, as a model and by its answers."""

    path: Path  # the model's own files lie here too (evaluation/tfidf)

    def probabilities(self, split: str) -> Any:
        """[n, classes] of the validation or test rows."""
        import numpy as np

        return np.load(self.path / f"{split}.npy", allow_pickle=False)


def baseline_folder(config: RunConfig, dataset: DatasetSplits, home: Path) -> BaselineFolder:
    """The TF-IDF baseline of these rows and this metric, fitted once."""
    import numpy as np

    from bertft_core.evaluation.baseline import tfidf_baseline

    metric, split = config.evaluation.metric, config.data.split.model_dump()
    key = hash_json([dataset.fingerprint, split, metric, BASELINE_VERSION])[:24]
    folder = home / "floors" / key  # the name that homes have had from the start
    if not is_reusable(folder):
        texts = {name: dataset.joined_texts(name) for name in ("train", "validation", "test")}
        labels = {name: dataset.targets(name) for name in ("train", "validation")}
        with staged_folder(folder) as staging:
            found = tfidf_baseline(texts, labels, len(dataset.classes), metric, config.training.seed)
            found.model.save(staging)
            for name, probabilities in found.probabilities.items():
                np.save(staging / f"{name}.npy", probabilities, allow_pickle=False)
            write_json(staging / "floor.json", {"params": found.params, "validation_score": found.validation_score})
    return BaselineFolder(folder)


def settle_policy(
    context: RunContext, fit: TrainingResult, doing: Callable[[str], None] = lambda text: None
) -> DecisionPolicy:
    """Score the validation rows, fit on them how probabilities become an answer, and keep it with the run."""
    config, dataset = context.config, context.prepared.dataset
    doing("scoring validation rows")
    raw = _score(context, fit, "validation")
    doing("fitting the TF-IDF baseline")
    words = baseline_folder(config, dataset, context.home).probabilities("validation")
    doing("settling blend, temperature and thresholds on validation rows")
    policy = _fit_policy(config, dataset, raw, words)
    context.run.update(policy=policy.to_json())
    return policy


def require_test_rows(config: RunConfig) -> None:
    """Raises ConfigError where no row is kept for a test: what is trained so cannot be judged."""
    if config.data.source is not None and not config.data.split.test:
        raise ConfigError("data.split.test is 0: no row is kept to judge the model on; give a share such as 0.2")


def _score(context: RunContext, fit: TrainingResult, split: str) -> Any:
    """Probabilities [n, classes] of the fit's model on a split, also left in run/evaluation."""
    import numpy as np

    folder, settings = context.run.folder.evaluation, machine_settings(context)
    folder.path.mkdir(exist_ok=True)
    file = folder.raw_test if split == "test" else folder.raw_validation
    context.trainer.score(fit.model_dir, context.tokens, split, file, settings.device, settings.threads)
    return np.load(file, allow_pickle=False)


def evaluate(
    context: RunContext, fit: TrainingResult, doing: Callable[[str], None] = lambda text: None
) -> EvaluationReport:
    """Score the untouched test split beside the TF-IDF baseline; report and pictures go to run/evaluation.

    doing: is told of each part as it begins; on a busy machine one may take minutes.
    Raises ConfigError where there are no test rows.
    """
    import numpy as np

    from bertft_core.evaluation.report import BlendParts, RowTexts, with_extra
    from bertft_core.evaluation.report import evaluate as judge
    from bertft_core.evaluation.scores.intervals import Bootstrap

    config, prepared, dataset = context.config, context.prepared, context.prepared.dataset
    require_test_rows(config)
    policy = settle_policy(context, fit, doing)
    doing("scoring test rows")
    raw = _score(context, fit, "test")
    folder, baseline = context.run.folder.evaluation, baseline_folder(config, dataset, context.home)
    words = baseline.probabilities("test")
    blended = policy.blended(raw, words, multi_label=dataset.multi_label)
    decided = policy.apply(blended, multi_label=dataset.multi_label)
    np.save(folder.probabilities, decided.probabilities.astype(np.float32), allow_pickle=False)
    np.save(folder.predicted, decided.predicted, allow_pickle=False)
    labels, wanted = labels_of_split(dataset, "test"), config.evaluation
    blend = None
    if policy.blend is not None:
        cost = _milliseconds(baseline, dataset.joined_texts("test")[:TIMED_ROWS])
        blend = BlendParts(weights=str(policy.blend), milliseconds=cost, encoder=labels.predictions(raw))
    doing("scores and their intervals")
    predictions = labels.predictions(decided.probabilities, decided.predicted)
    report = judge(
        labels,
        predictions,
        RowTexts(texts=dataset.texts("test"), sources=dataset.sources("test")),
        baseline=labels.predictions(words),
        blend=blend,
        metric=wanted.metric,
        bootstrap=Bootstrap(level=wanted.level, resamples=wanted.resamples, seed=config.training.seed),
    )
    report = with_extra(report, wanted.extra_metrics, labels, predictions)
    untrained = [fit.fault] if fit.fault else []  # before anything else: the scores mean nothing then
    noted = [fit.note] if fit.note else []
    report = replace(report, warnings=(*untrained, *noted, *report.warnings, *dataset.warnings))
    write_json(folder.report_json, report.to_json())
    _draw(config, report, fit, prepared, folder)
    write_markdown(config, report, folder)
    context.run.update(evaluated=True, judged_by=code_fingerprint(*JUDGING_CODE))
    return report


def stored_report(run: Run) -> EvaluationReport | None:
    """The report of a run that was evaluated by today's code; else, and where the file is damaged, None."""
    from bertft_core.evaluation.report import EvaluationReport

    if run.state().get("judged_by") != code_fingerprint(*JUDGING_CODE):
        return None
    try:
        return EvaluationReport.from_json(read_json(run.folder.evaluation.report_json))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is made again
        return None


def test_document(evaluation: EvaluationReport) -> dict[str, Any]:
    """The `test` part of the result document."""
    from bertft_core.evaluation.report import with_floor_keys

    scores = metrics_of(multi_label=evaluation.scores.multi_label)
    parts = ("accuracy", "macro_f1", "difference", "difference_interval", "score", "score_difference", "score_interval")
    document: dict[str, Any] = {"n": evaluation.n, "groups": evaluation.groups, "metric": evaluation.metric}
    document["blend"] = asdict(evaluation.blend) if evaluation.blend else None
    document |= {name: getattr(evaluation.scores, name) for name in scores}
    document |= {f"{name}_interval": evaluation.intervals[name] for name in scores}
    document |= {score.name: score.value for score in evaluation.extra if score.name not in document}
    document["no_interval"] = {name: why for name, why in evaluation.no_interval.items() if name in scores}
    return with_floor_keys(document | {f"baseline_{name}": getattr(evaluation, f"baseline_{name}") for name in parts})


def slices_of(config: RunConfig, dataset: DatasetSplits) -> dict[str, dict[str, Any]]:
    """Masks [n] of the test rows by group and slice: values of data.slices, lengths of the texts."""
    from bertft_core.evaluation.scores.slices import slice_groups

    columns = config.data.slices
    values = dataset.table("test")["slices"].to_pylist() if columns else []
    return slice_groups(dataset.texts("test"), columns, values, config.evaluation.slices)


def phases(config: RunConfig, prepared: Prepared) -> tuple[tuple[float, float, int], ...]:
    """(start, end, depth) of each unfreezing phase of the fit, as fractions of it."""
    return schedule_of(config, Path(prepared.pretrained)).phases()


def _draw(
    config: RunConfig, report: EvaluationReport, fit: TrainingResult, prepared: Prepared, folder: EvaluationFolder
) -> None:
    from bertft_core.reporting.run.pictures import confusion_picture, learning_curve_picture

    if report.confusion:
        confusion_picture(report, folder.confusion)
    learning_curve_picture(fit.history, folder.learning, phases(config, prepared))


def write_markdown(
    config: RunConfig, report: EvaluationReport, folder: EvaluationFolder, verdict: tuple[str, str] | None = None
) -> None:
    """Write run/evaluation/report.md; verdict: what became of the model and why, once it is known."""
    pictures = {"Confusion": folder.confusion, "Learning": folder.learning}
    shown = [(caption, file.name) for caption, file in pictures.items() if file.exists()]
    folder.report_markdown.write_text(report.to_markdown(config.name, shown, verdict), encoding="utf-8")


def _milliseconds(baseline: BaselineFolder, texts: list[str]) -> float:
    """What the TF-IDF model takes a row; these rows at once, after a first one."""
    from bertft_core.evaluation.tfidf import TfidfModel

    model = TfidfModel.load(baseline.path)
    model.probabilities(texts[:1])
    begun = time.perf_counter()
    model.probabilities(texts)
    return 1000 * (time.perf_counter() - begun) / len(texts)


def _fit_policy(config: RunConfig, dataset: DatasetSplits, encoder: Any, words: Any) -> DecisionPolicy:
    from bertft_core.evaluation.policy.calibration import PolicySettings, fit_policy

    wanted = config.decision
    settings = PolicySettings(
        temperature=wanted.temperature,
        thresholds=wanted.thresholds,
        beta=wanted.beta,
        costs=wanted.cost_matrix(dataset.classes),
        abstain_accuracy=wanted.abstain_accuracy,
        blend=wanted.blend,
        metric=config.evaluation.metric,
    )
    return fit_policy(
        dataset.targets("validation"),
        encoder,
        settings,
        dataset.soft_labels("validation"),
        words,
        groups=dataset.groups("validation"),
    )
