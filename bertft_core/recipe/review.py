"""What a person reads of a run: doubtful labels, the words behind the worst errors, and the HTML page over it all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.display import cleaned
from bertft_core.base.files import is_reusable, load_array, read_json, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.text import counted
from bertft_core.data.dataset import take_rows
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import baseline_folder, labels_of_split, phases, slices_of
from bertft_core.recipe.fit import machine_settings
from bertft_core.recipe.runs import Run

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.reporting.run.page import Calibration, Coverage, ReleaseFacts
    from bertft_core.training.results import TrainingResult
    from bertft_core.training.spec import MachineSettings


_FEATURES_VERSION = 1
_EXPLAINED = 5  # worst errors whose words are weighed: each costs 64 passes through the model
OnProgress = Callable[[float, dict[str, Any]], None]


def review(context: RunContext, report: EvaluationReport, served: Path, on_progress: OnProgress | None = None) -> None:
    """Look for doubtful labels and for the words behind the worst errors; written to run/evaluation.

    doubtful_labels.csv is a list to read: nothing is changed, nothing deleted. words.json holds (word, weight)
    pairs of the first of report.worst_errors. `served`: the artefact folder.
    """
    folder, settings, dataset = context.run.folder.evaluation, machine_settings(context), context.prepared.dataset
    if dataset.multi_label:  # both explain and doubt one class per row
        note = "Doubtful labels are looked for, and words weighed, where a row has one label only."
        write_json(folder.suspects_note, note)
        return
    table = dataset.table("test").select(["text", "text_pair"])
    explained = report.worst_errors[:_EXPLAINED]
    worst = take_rows(table, [e.row for e in explained]).to_pylist()
    decided = [{**row, "class": e.predicted} for row, e in zip(worst, explained, strict=True)]
    write_json(folder.worst_errors, decided)
    context.trainer.explain(served, folder.worst_errors, folder.words, settings.device, settings.threads, on_progress)
    if context.config.evaluation.review_rows:
        _write_doubtful_labels(context, settings, on_progress)


def _write_doubtful_labels(context: RunContext, settings: MachineSettings, on_progress: OnProgress | None) -> None:
    """Rows for the page, the CSV list, and one sentence on how they were found."""

    from bertft_core.data.tokens.batching import sample_rows
    from bertft_core.data.tokens.tokenization import open_split
    from bertft_core.evaluation.label_errors import suspect_labels
    from bertft_core.reporting.run.page import SuspectRow

    config, dataset, folder = context.config, context.prepared.dataset, context.run.folder.evaluation
    chosen = sample_rows(open_split(context.tokens, "train"), config.evaluation.review_rows)
    features = load_array(_features(context, settings, on_progress))
    table, places = dataset.rows("train", chosen, "text", "label"), dataset.sources("train").at(chosen)
    texts = table["text"].to_pylist()
    doubtful = suspect_labels(features, table["label"].to_numpy(), dataset.classes, config.training.seed)
    on_the_page = [
        SuspectRow(
            row=places[s.row],
            text=texts[s.row],
            label=s.label,
            suggested=s.suggested,
            label_probability=s.self_confidence,
            suggested_probability=s.probability,
        )
        for s in doubtful.suspects[:40]
    ]
    write_json(folder.suspects, [asdict(row) for row in on_the_page])
    folder.doubtful_labels.write_text(doubtful.to_csv(places, texts), encoding="utf-8")
    rows, all_rows = doubtful.rows, dataset.n_train
    among = f"all {rows:,}" if rows == all_rows else f"{rows:,} of {all_rows:,}"
    found = f"{counted(len(doubtful.suspects), 'doubtful label')} among {among} training rows"
    notes = "".join(f" {note}." for note in doubtful.notes)
    whole_list = f"the whole list: {folder.doubtful_labels.name}"
    write_json(folder.suspects_note, f"{found}; {whole_list}.{notes}")


def _features(context: RunContext, settings: MachineSettings, on_progress: OnProgress | None) -> Path:
    """Frozen features of sampled training rows, computed once per tokens and encoder."""
    prepared, rows = context.prepared, context.config.evaluation.review_rows
    key = hash_json([prepared.tokens.fingerprint, prepared.encoder, rows, settings.precision, _FEATURES_VERSION])[:24]
    folder = context.home / "features" / key
    if not is_reusable(folder):
        with staged_folder(folder) as staging:
            context.trainer.features(
                prepared.pretrained, context.tokens, "train", staging / "features.npy", settings, on_progress, rows=rows
            )
    return folder / "features.npy"


def write_page(
    context: RunContext,
    fit: TrainingResult,
    report: EvaluationReport,
    release: ReleaseFacts | None = None,
    lineage: Mapping[str, str] | None = None,
) -> Path:
    """Write run/evaluation/report.html from what lies there; release: what became of the model, once it is known."""
    import yaml

    from bertft_core.evaluation.scores.slices import score_slices
    from bertft_core.reporting.run.document import report_html
    from bertft_core.reporting.run.filling import data_facts, page_of
    from bertft_core.reporting.run.page import SuspectRow

    config, prepared, folder = context.config, context.prepared, context.run.folder.evaluation
    dataset = prepared.dataset
    labels = labels_of_split(dataset, "test")
    p, raw, predicted = map(load_array, (folder.probabilities, folder.raw_test, folder.predicted))
    predictions = labels.predictions(p, predicted)
    baseline = labels.predictions(baseline_folder(config, dataset, context.home).probabilities("test"))
    encoder = labels.scores(labels.predictions(raw)) if report.blend else None
    slices = score_slices(labels, predictions, slices_of(config, dataset), config.evaluation.level)
    words = _read(folder.words, [])
    page = replace(
        page_of(report, title=config.name, release=release, baseline=labels.scores(baseline), encoder=encoder),
        facts=_facts(context),
        slices=slices,
        words=tuple(tuple((word, float(weight)) for word, weight in row) for row in words),
        suspects=tuple(SuspectRow(**row) for row in _read(folder.suspects, [])),
        suspects_note=_read(folder.suspects_note, ""),
        calibration=None if dataset.multi_label else _calibration(context.run, report, labels, raw),
        coverage=None if dataset.multi_label else _coverage(context.run, labels.values, p, predicted),
        fit=fit,
        phases=phases(config, prepared),
        data=data_facts(dataset, prepared.tokens),
        config_yaml=yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True),
        lineage=tuple((lineage or {}).items()),
    )
    folder.page.write_text(report_html(page), encoding="utf-8")
    return folder.page


def _facts(context: RunContext) -> tuple[tuple[str, str], ...]:
    """What stands under the title: from what, out of which rows, when."""
    config, dataset = context.config, context.prepared.dataset
    source = config.data.source or str(config.data.train)
    source = source if "://" in source else Path(source).name or source
    rows = f"{dataset.report.rows_used:,} rows in {counted(len(dataset.classes), 'class', 'classes')}"
    return (
        ("encoder", config.model.pretrained),
        ("data", f"{cleaned(source)}, {rows}"),
        ("judged", dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("run", context.run.run_id),
    )


def _calibration(run: Run, report: EvaluationReport, labels: Any, raw: Any) -> Calibration:
    from bertft_core.reporting.run.page import Calibration

    policy, plain = run.policy, labels.predictions(raw)
    before = labels.scores(plain, ranking=False)
    is_changed = policy.temperature != 1.0 or policy.blend is not None
    names = {"ece": "calibration error (ECE)", "log_loss": "log loss, nats", "brier": "Brier score"}
    return Calibration(
        before=labels.reliability(plain),
        after=report.reliability if is_changed else (),
        scores=tuple(
            (name, getattr(before, field), getattr(report.scores, field) if is_changed else None)
            for field, name in names.items()
        ),
        notes=(str(policy), *policy.notes),
    )


def _coverage(run: Run, labels: Any, p: Any, predicted: Any) -> Coverage:
    import numpy as np

    from bertft_core.evaluation.policy.calibration import coverage_curve
    from bertft_core.reporting.run.page import Coverage

    coverage, accuracy = coverage_curve(labels, p, predicted)
    drawn = np.unique(np.linspace(0, len(coverage) - 1, min(200, len(coverage))).astype(int))
    sentence, chosen, below = "", None, run.policy.abstain_below
    if below is not None:
        answered = p[np.arange(len(p)), predicted] >= below
        if answered.any():
            chosen = (float(answered.mean()), float((predicted == labels)[answered].mean()))
            sentence = f"automate {chosen[0]:.0%} at {chosen[1]:.1%} accuracy"
    return Coverage(
        coverage=tuple(map(float, coverage[drawn])),
        accuracy=tuple(map(float, accuracy[drawn])),
        sentence=sentence,
        chosen=chosen,
    )


def _read(file: Path, otherwise: Any) -> Any:
    try:  # what review wrote before, for the page alone
        stored = read_json(file)
    except (OSError, ValueError, RecursionError):
        return otherwise
    return stored if isinstance(stored, type(otherwise)) else otherwise
