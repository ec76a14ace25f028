"""From a run's values to a `ReportPage`: what is not given stays absent, `dataclasses.replace` adds the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertft_core.config.metrics import LOWER_IS_BETTER
from bertft_core.reporting.html.markup import number, percent
from bertft_core.reporting.run.page import (
    CheckRow,
    ClassRow,
    Confusion,
    DataFacts,
    DifferenceRow,
    EpochRow,
    Learning,
    ReportPage,
    ScoreRow,
    Verdict,
    WrongRow,
)

if TYPE_CHECKING:
    from bertft_core.evaluation.report import EvaluationReport


Values = Mapping[str, Any]
Words = Sequence[tuple[str, float]]

SPLITS = ("train", "validation", "test")
# in the order of the page; the keys are the fields of `evaluation.metrics.Scores`
_NAMES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "weighted_f1": "weighted F1",
    "macro_precision": "macro precision",
    "mcc": "MCC",
    "auroc": "AUROC, one against the rest",
    "average_precision": "average precision",
    "ranking": "label ranking average precision",
    "log_loss": "log loss, nats",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}


def page_of(
    report: EvaluationReport,
    *,
    title: str,
    fit: Values | None = None,
    phases: Sequence[tuple[float, float, int]] = (),
    dataset: Values | None = None,
    tokens: Values | None = None,
    decision: Values | None = None,
    champion: Values | None = None,
    floor: Values | None = None,
    words: Sequence[Words] = (),
    config_yaml: str = "",
    lineage: Mapping[str, str] | None = None,
) -> ReportPage:
    """As much of a page as these values hold.

    fit, dataset, tokens, decision: the JSON of TrainingResult, DatasetSplits, TokenizedSplits, PromotionDecision.
    champion, floor: fields of `metrics.Scores` by name. words: for each of report.worst_errors its (word,
    weight) pairs. phases: of the unfreezing schedule, (start, end, depth).
    """
    return ReportPage(
        title=title,
        level=report.level,
        rows=report.n,
        verdict=_verdict(decision),
        warnings=report.warnings,
        scores=_scores(report, champion or {}, floor or {}),
        differences=_differences(report, decision),
        classes=tuple(
            ClassRow(
                name=c.name, precision=c.precision, recall=c.recall, f1=c.f1, rows=c.support, predicted=c.predicted
            )
            for c in report.per_class
        ),
        confusion=Confusion(classes=report.classes, counts=report.confusion) if report.confusion else None,
        errors=_errors(report, words),
        learning=_learning(fit, phases),
        data=_data(dataset, tokens),
        config_yaml=config_yaml,
        lineage=tuple((str(k), str(v)) for k, v in (lineage or {}).items()),
    )


def _verdict(decision: Values | None) -> Verdict | None:
    if decision is None:
        return None
    checks = tuple(CheckRow(name=c["name"], passed=c["passed"], detail=c["detail"]) for c in decision["checks"])
    return Verdict(outcome="promoted" if decision["promote"] else "kept", text=decision["reason"], checks=checks)


def _scores(report: EvaluationReport, champion: Values, floor: Values) -> tuple[ScoreRow, ...]:
    below = {"accuracy": report.floor_accuracy, "macro_f1": report.floor_macro_f1, **floor}
    return tuple(
        ScoreRow(
            name=shown,
            value=getattr(report.scores, name),
            interval=report.intervals.get(name),
            champion=champion.get(name),
            floor=below.get(name),
            is_lower_better=name in LOWER_IS_BETTER,
            decides=name == report.metric,
        )
        for name, shown in _NAMES.items()
        if name not in _left_out(report)
    )


def _left_out(report: EvaluationReport) -> set[str]:
    """Scores without a meaning for these rows: with one label each, or with sets."""
    return {"balanced_accuracy", "mcc"} if report.scores.is_multi else {"micro_f1", "ranking"}


def _differences(report: EvaluationReport, decision: Values | None) -> tuple[DifferenceRow, ...]:
    found = []
    if decision is not None and decision["difference"] is not None and decision["interval"] is not None:
        low, high = decision["interval"]
        sense = ", negated" if decision["metric"] == "log_loss" else ""
        name = f"{_NAMES.get(decision['metric'], decision['metric'])}{sense}: this model − champion"
        note = f"{decision['n']:,} rows."
        found.append(DifferenceRow(name=name, value=decision["difference"], interval=(low, high), note=note))
    if report.floor_difference is not None and report.floor_difference_interval is not None:
        found.append(
            DifferenceRow(
                name="accuracy: this model − TF-IDF floor",
                value=report.floor_difference,
                interval=report.floor_difference_interval,
                note="The floor is TF-IDF with logistic regression: what is worth having without an encoder.",
            )
        )
    return tuple(found)


def _errors(report: EvaluationReport, words: Sequence[Words]) -> tuple[WrongRow, ...]:
    weights = [tuple((w, float(v)) for w, v in row) for row in words]
    weights += [()] * (len(report.worst_errors) - len(weights))
    return tuple(
        WrongRow(row=e.source, text=e.text, label=e.label, predicted=e.predicted, confidence=e.confidence, words=w)
        for e, w in zip(report.worst_errors, weights, strict=True)
    )


def _learning(fit: Values | None, phases: Sequence[tuple[float, float, int]]) -> Learning | None:
    if fit is None:
        return None
    epochs = tuple(
        EpochRow(
            epoch=h["epoch"],
            step=h["step"],
            train_loss=h["train_loss"],
            validation_loss=h["validation_loss"],
            accuracy=h["accuracy"],
            macro_f1=h["macro_f1"],
            best=h["epoch"] == fit["best_epoch"],
        )
        for h in fit["history"]
    )
    facts = (("steps", f"{fit['steps']:,}"), ("duration", f"{fit['seconds']:,.0f} s"))
    return Learning(epochs=epochs, phases=tuple((float(a), float(b), int(d)) for a, b, d in phases), facts=facts)


def _data(dataset: Values | None, tokens: Values | None) -> DataFacts | None:
    if dataset is None:
        return None
    report = dataset["report"]
    sizes = [int(dataset[f"n_{split}"]) for split in SPLITS]
    names = sorted({name for split in SPLITS for name in report["class_counts"].get(split, {})})
    order = [name for name in dataset["classes"] if name in names] or names
    return DataFacts(
        facts=_data_facts(report),
        splits=SPLITS,
        class_counts=tuple(
            (name, tuple(int(report["class_counts"].get(split, {}).get(name, 0)) for split in SPLITS)) for name in order
        ),
        split_facts=(("rows", tuple(f"{n:,}" for n in sizes)), *_token_facts(tokens, sizes)),
    )


def _data_facts(report: Values) -> tuple[tuple[str, str], ...]:
    reasons = ", ".join(f"{name} {n:,}" for name, n in report["reasons"].items())
    overlaps = ", ".join(f"{split} {n:,}" for split, n in report["overlaps"].items())
    facts = [
        ("rows read", f"{report['rows_read']:,}"),
        ("rows used", f"{report['rows_used']:,}"),
        (
            "duplicates left out",
            f"{report['duplicates_dropped']:,}" + (f" (across splits: {overlaps})" if overlaps else ""),
        ),
        ("quarantined", f"{report['rows_quarantined']:,}" + (f" ({reasons})" if reasons else "")),
        ("filtered by configuration", f"{report['rows_filtered']:,}" if report["rows_filtered"] else ""),
        ("superseded by a later label", f"{report['rows_superseded']:,}" if report["rows_superseded"] else ""),
        ("files by encoding", ", ".join(f"{name} {n:,}" for name, n in report["encodings"].items())),
    ]
    return tuple((name, value) for name, value in facts if value)


def _token_facts(tokens: Values | None, sizes: Sequence[int]) -> list[tuple[str, tuple[str, ...]]]:
    if tokens is None:
        return []
    names = (("p50", "tokens, median"), ("p95", "tokens, 95th percentile"), ("max", "tokens, longest"))
    found = [
        (shown, tuple(number(tokens["percentiles"].get(split, {}).get(key), 0) for split in SPLITS))
        for key, shown in names
    ]
    cut = [int(tokens["rows_cut"].get(split, 0)) for split in SPLITS]
    shares = tuple(f"{c:,} ({percent(c / max(1, n), 0)})" for c, n in zip(cut, sizes, strict=True))
    return [*found, (f"cut to {tokens['max_length']:,} tokens", shares)]
