"""From the values of a run to its `ReportPage`: what is not given stays absent, `dataclasses.replace` adds the rest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertft_core.base.text import rows_text
from bertft_core.config.metrics import LOWER_IS_BETTER
from bertft_core.reporting.html.values import number, percent
from bertft_core.reporting.run.page import Confusion, DataFacts, DifferenceRow, ReleaseFacts, ReportPage, ScoreRow

if TYPE_CHECKING:
    from bertft_core.data.dataset import DatasetSplits
    from bertft_core.data.tokens.tokenization import TokenizedSplits
    from bertft_core.evaluation.report import EvaluationReport
    from bertft_core.evaluation.scores.metrics import Scores

SPLITS = ("train", "validation", "test")
# in the order of the page; the keys are the fields of `evaluation.scores.metrics.Scores`
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
_LENGTHS = {"p50": "tokens, median", "p95": "tokens, 95th percentile", "max": "tokens, longest"}


def page_of(
    report: EvaluationReport,
    *,
    title: str,
    release: ReleaseFacts | None = None,
    baseline: Scores | None = None,
    encoder: Scores | None = None,
) -> ReportPage:
    """What an evaluation shows by itself, beside the champion of the release, the TF-IDF baseline and, of a blend, the
    encoder alone.
    """
    differences = _differences(report, release)
    return ReportPage(
        title=title,
        summary=_summary(report, release, differences),
        level=report.level,
        rows=report.n,
        groups=report.groups,
        release=release,
        warnings=report.warnings,
        scores=_scores(report, release.champion if release else None, baseline, encoder),
        differences=differences,
        classes=report.per_class,
        confusion=Confusion(classes=report.classes, counts=report.confusion) if report.confusion else None,
        errors=report.worst_errors,
    )


def _scores(
    report: EvaluationReport, champion: Scores | None, baseline: Scores | None, encoder: Scores | None
) -> tuple[ScoreRow, ...]:
    known = {"accuracy": report.baseline_accuracy, "macro_f1": report.baseline_macro_f1}
    # without a meaning for these rows: with one label each, or with sets
    left_out = {"balanced_accuracy", "mcc"} if report.scores.multi_label else {"micro_f1", "ranking"}
    extra = (
        ScoreRow(
            name=score.name,
            value=score.value,
            is_lower_better=not score.higher_is_better,
            no_interval=report.no_interval[score.name],
        )
        for score in report.extra
    )
    own = (
        ScoreRow(
            name=name,
            value=getattr(report.scores, field),
            interval=report.intervals.get(field),
            champion=getattr(champion, field, None),
            baseline=getattr(baseline, field, known.get(field)),
            encoder=getattr(encoder, field, None),
            is_lower_better=field in LOWER_IS_BETTER,
            decides=field == report.metric,
            no_interval="" if report.intervals.get(field) else report.no_interval.get(field, ""),
        )
        for field, name in _NAMES.items()
        if field not in left_out
    )
    return (*own, *extra)


def _differences(report: EvaluationReport, release: ReleaseFacts | None) -> tuple[DifferenceRow, ...]:
    rows = []

    def rival_of(metric: str, name: str) -> str:
        return f"the {name}" if metric == report.metric else ""

    decision = release.decision if release else None
    if decision is not None and decision.difference is not None:
        name = f"{_difference_name(decision.metric)}: this model − champion"
        note = f"{rows_text(decision.n, decision.groups)}."
        given: dict[str, Any] = {"value": decision.difference, "interval": decision.interval, "note": note}
        rows.append(DifferenceRow(name=name, rival=rival_of(decision.metric, "champion"), **given))
    gaps = {"accuracy": (report.baseline_difference, report.baseline_difference_interval)}
    gaps = {report.metric: (report.baseline_score_difference, report.baseline_score_interval)} | gaps
    note = "The baseline is TF-IDF with logistic regression: what can be had without an encoder."
    for metric, (value, interval) in gaps.items():
        if value is not None:
            name = f"{_difference_name(metric)}: this model − TF-IDF baseline"
            rival = rival_of(metric, "TF-IDF baseline")
            rows.append(DifferenceRow(name=name, value=value, interval=interval, note=note, rival=rival))
            note = ""
    if (blend := report.blend) is not None:
        rows.append(
            DifferenceRow(
                name="accuracy: encoder alone − TF-IDF baseline",
                value=blend.encoder_difference,
                interval=blend.encoder_difference_interval,
                note=f"This model blends both ({blend.weights}); TF-IDF costs {blend.tfidf_milliseconds:.2g} ms a row.",
            )
        )
    return tuple(rows)


def _summary(report: EvaluationReport, release: ReleaseFacts | None, differences: Sequence[DifferenceRow]) -> str:
    """How many of a hundred texts come out right, and how that compares, in one sentence."""
    share = report.scores.accuracy
    right = _of_100(share) if 0.995 <= share < 1 else f"about {_of_100(share)}"
    what = f"every label of {right}" if report.scores.multi_label else right
    said = f"Of 100 new texts like the test rows, {what} should come out right"
    if (interval := report.intervals.get("accuracy")) is not None:
        low, high = map(_of_100, interval)
        said += f" ({low} to {high} at {100 * report.level:g} % confidence)"
    found = [(d.said, d.rival) for d in differences if d.rival and d.said]
    against = [
        f"{word} {'from' if word.startswith('not') else 'than'} {' and '.join(rival for _, rival in part)}"
        for word, part in itertools.groupby(found, key=lambda pair: pair[0])
    ]
    if (
        release
        and release.decision
        and not release.decision.promote
        and found
        and found[0] == ("better", "the champion")
    ):
        against[0] = against[0].replace("the champion", "the champion (the gate asks for more)")
    if against:
        said += f"; by {_NAMES[report.metric].partition(',')[0]} it is {' and '.join(against)}"
        said += ", which only counts words" if "baseline" in against[-1] else ""
    return f"{said}."


def _of_100(share: float) -> str:
    """A share as texts of a hundred; all of them only where none is wrong."""
    return "more than 99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def _difference_name(metric: str) -> str:
    return f"{_NAMES.get(metric, metric)}{', negated' if metric in LOWER_IS_BETTER else ''}"


def data_facts(dataset: DatasetSplits, tokens: TokenizedSplits | None = None) -> DataFacts:
    """What the data gate saw of these rows, and what truncation did."""
    report = dataset.report
    sizes = (dataset.n_train, dataset.n_validation, dataset.n_test)
    reasons = ", ".join(f"{name} {n:,}" for name, n in report.reasons.items())
    overlaps = ", ".join(f"{split} {n:,}" for split, n in report.overlaps.items())
    facts = {
        "rows read": f"{report.rows_read:,}",
        "rows used": f"{report.rows_used:,}",
        "duplicates left out": f"{report.duplicates_dropped:,}" + (f" (across splits: {overlaps})" if overlaps else ""),
        "quarantined": f"{report.rows_quarantined:,}" + (f" ({reasons})" if reasons else ""),
        "filtered by configuration": f"{report.rows_filtered:,}" if report.rows_filtered else "",
        "superseded by a later label": f"{report.rows_superseded:,}" if report.rows_superseded else "",
        "files by encoding": ", ".join(f"{name} {n:,}" for name, n in report.encodings.items()),
    }
    counts = [report.class_counts.get(split, {}) for split in SPLITS]
    names = sorted({name for count in counts for name in count})
    order = [name for name in dataset.classes if name in names] or names
    split_facts = {"rows": tuple(f"{n:,}" for n in sizes)}
    if tokens is not None:
        lengths = [tokens.percentiles.get(split, {}) for split in SPLITS]
        split_facts |= {name: tuple(number(of.get(key), 0) for of in lengths) for key, name in _LENGTHS.items()}
        cut = [tokens.rows_cut.get(split, 0) for split in SPLITS]
        split_facts[f"cut to {tokens.max_length:,} tokens"] = tuple(
            f"{c:,} ({percent(c / max(1, n), 0)})" for c, n in zip(cut, sizes, strict=True)
        )
    return DataFacts(
        facts=tuple((name, value) for name, value in facts.items() if value),
        splits=SPLITS,
        class_counts=tuple((name, tuple(count.get(name, 0) for count in counts)) for name in order),
        split_facts=tuple(split_facts.items()),
    )
