"""The evaluation report: every score with its interval, the errors worth reading, and the floor beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.evaluation.intervals import (
    RESAMPLES,
    PairedDifference,
    bootstrap_interval,
    paired_difference,
    wilson,
)
from bertft_core.evaluation.metrics import ClassScores, Floats, Ints, Scores, check_metric, check_rows, scores

WORST_ERRORS = 10
_SNIPPET = 200  # characters of a text shown in a report
_FEW_ROWS = 100  # at 95 % accuracy the 95 % interval is then 9 points wide

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class WorstError:
    """A wrong prediction: 1-based source row, start of its text, both classes, confidence in [0, 1]."""

    row: int
    text: str
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores on n held-out rows. Shares in [0, 1], intervals (low, high) at `level`, log_loss in nats.

    floor_difference = accuracy of the model minus accuracy of the TF-IDF floor, paired on the same rows; the
    floor_* fields are None when no floor was given. Undefined per-class scores are None.
    """

    n: int
    metric: str
    level: float
    classes: tuple[str, ...]
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    log_loss: float
    log_loss_interval: Interval
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst_errors: tuple[WorstError, ...]
    floor_accuracy: float | None
    floor_macro_f1: float | None
    floor_difference: float | None
    floor_difference_interval: Interval | None
    warnings: tuple[str, ...]

    @property
    def score(self) -> float:
        """The configured metric as a score, higher is better."""
        return -self.log_loss if self.metric == "log_loss" else float(getattr(self, self.metric))

    def __str__(self) -> str:
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.4f} [{low:.4f}, {high:.4f}], macro F1 {self.macro_f1:.4f}, "
            f"log loss {self.log_loss:.4f} on {self.n} rows"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvaluationReport:
        """The report that `to_json` wrote, also after a trip through a JSON file."""
        fields = dict(value)
        for name in (
            "accuracy_interval",
            "macro_f1_interval",
            "log_loss_interval",
            "floor_difference_interval",
        ):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        fields["classes"] = tuple(fields["classes"])
        fields["warnings"] = tuple(fields["warnings"])
        fields["confusion"] = tuple(tuple(row) for row in fields["confusion"])
        fields["per_class"] = tuple(ClassScores(**row) for row in fields["per_class"])
        fields["worst_errors"] = tuple(WorstError(**row) for row in fields["worst_errors"])
        return cls(**fields)

    def to_markdown(self, title: str = "Evaluation", pictures: Sequence[tuple[str, str]] = ()) -> str:
        """The report as Markdown; `pictures` are (caption, path relative to the file) pairs."""
        parts = [
            f"# {_plain(title)}",
            _headline(self),
            *(f"> **Warning:** {_plain(w)}" for w in self.warnings),
        ]
        parts += ["## Classes", _class_table(self), "## Confusion (rows: true, columns: predicted)"]
        parts += [_confusion_table(self), "## Most confident errors", _error_table(self)]
        parts += [f"![{_plain(caption)}]({path})" for caption, path in pictures]
        return "\n\n".join(parts) + "\n"


def evaluate(
    *,
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    texts: Sequence[str],
    rows: Sequence[int] | None = None,
    weights: Any = None,
    floor_probabilities: Any = None,
    metric: str = "macro_f1",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    warnings: Sequence[str] = (),
) -> EvaluationReport:
    """Judge probabilities [n, C] on n held-out rows; `texts` and 1-based source `rows` name the worst errors.

    Accuracy has a Wilson interval, macro F1 and log loss a stratified bootstrap interval, the difference to
    the floor a paired one. Soft labels: `labels` holds each row's largest class, `weights` [n, C] enters log
    loss. `warnings` (the data gate's) come before those found here.

    Raises DataError for no rows or an unknown label, ArtifactError for rows that are no distribution.
    """
    y, p = check_rows(labels, probabilities, classes)
    found = scores(y, p, classes, weights)

    def interval(name: str) -> Interval:
        soft = weights if name == "log_loss" else None
        return bootstrap_interval(y, p, classes, name, level=level, resamples=resamples, seed=seed, weights=soft)

    low, high = interval("log_loss")
    floor, paired = None, None
    if floor_probabilities is not None:
        floor = scores(y, floor_probabilities, classes, weights)
        paired = paired_difference(y, p, floor_probabilities, classes, "accuracy", level, resamples, seed)
    return EvaluationReport(
        **_exact(found, level),
        metric=check_metric(metric),
        classes=tuple(str(c) for c in classes),
        macro_f1_interval=interval("macro_f1"),
        log_loss_interval=(-high, -low),
        worst_errors=_worst(y, p, classes, texts, rows),
        floor_accuracy=floor.accuracy if floor else None,
        floor_macro_f1=floor.macro_f1 if floor else None,
        floor_difference=paired.difference if paired else None,
        floor_difference_interval=(paired.low, paired.high) if paired else None,
        warnings=(*warnings, *_warnings(found, paired)),
    )


def _exact(found: Scores, level: float) -> dict[str, Any]:
    """The report's fields that need no resampling."""
    hits = sum(row[i] for i, row in enumerate(found.confusion))
    return {
        "n": found.n,
        "level": level,
        "accuracy": found.accuracy,
        "accuracy_interval": wilson(hits, found.n, level),
        "macro_f1": found.macro_f1,
        "log_loss": found.log_loss,
        "per_class": found.per_class,
        "confusion": found.confusion,
    }


def _worst(
    y: Ints, p: Floats, classes: Sequence[str], texts: Sequence[str], rows: Sequence[int] | None
) -> tuple[WorstError, ...]:
    predicted, confidence = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(predicted != y)
    picked = wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST_ERRORS]
    return tuple(
        WorstError(
            row=int(rows[i]) if rows is not None else int(i) + 1,
            text=" ".join(str(texts[i])[: 4 * _SNIPPET].split())[:_SNIPPET],
            label=str(classes[y[i]]),
            predicted=str(classes[predicted[i]]),
            confidence=float(confidence[i]),
        )
        for i in picked.tolist()
    )


def _warnings(found: Scores, paired: PairedDifference | None) -> tuple[str, ...]:
    absent = [row.name for row in found.per_class if row.support == 0]
    unused = [row.name for row in found.per_class if row.support and not row.predicted]
    notes = []
    if absent:
        notes.append(
            f"no test row of class {', '.join(absent)}: its recall and F1 are undefined, macro F1 averages "
            f"the other {len(found.per_class) - len(absent)}"
        )
    if unused:
        notes.append(f"class {', '.join(unused)} is never predicted")
    if found.n < _FEW_ROWS:
        notes.append(f"only {found.n} test rows: the intervals are wide")
    if paired and paired.low <= 0:
        notes.append(
            f"not shown to be better than the TF-IDF floor: accuracy differs by {paired.difference:+.4f} "
            f"[{paired.low:+.4f}, {paired.high:+.4f}]"
        )
    return tuple(notes)


def _headline(report: EvaluationReport) -> str:
    lines = [f"| score ({report.n} rows) | value | {report.level * 100:g} % interval |", "|---|---:|---|"]
    for name in ("accuracy", "macro_f1", "log_loss"):
        low, high = getattr(report, f"{name}_interval")
        star = " (the metric that decides)" if name == report.metric else ""
        lines.append(f"| {name}{star} | {getattr(report, name):.4f} | [{low:.4f}, {high:.4f}] |")
    if report.floor_difference is not None and report.floor_difference_interval is not None:
        low, high = report.floor_difference_interval
        lines.append(f"| TF-IDF floor, accuracy | {report.floor_accuracy:.4f} | |")
        lines.append(f"| TF-IDF floor, macro_f1 | {report.floor_macro_f1:.4f} | |")
        lines.append(f"| model - floor, accuracy | {report.floor_difference:+.4f} | [{low:+.4f}, {high:+.4f}] |")
    return "\n".join(lines)


def _class_table(report: EvaluationReport) -> str:
    lines = ["| class | precision | recall | F1 | rows | predicted |", "|---|---:|---:|---:|---:|---:|"]
    for row in report.per_class:
        values = " | ".join("–" if v is None else f"{v:.4f}" for v in (row.precision, row.recall, row.f1))
        lines.append(f"| {_plain(row.name)} | {values} | {row.support} | {row.predicted} |")
    return "\n".join(lines)


def _confusion_table(report: EvaluationReport) -> str:
    header = " | ".join(_plain(name) for name in report.classes)
    lines = [f"| | {header} |", "|---|" + "---:|" * len(report.classes)]
    for name, counts in zip(report.classes, report.confusion, strict=True):
        lines.append(f"| **{_plain(name)}** | " + " | ".join(str(v) for v in counts) + " |")
    return "\n".join(lines)


def _error_table(report: EvaluationReport) -> str:
    if not report.worst_errors:
        return "None: every row is right."
    lines = ["| row | confidence | label | predicted | text |", "|---:|---:|---|---|---|"]
    for e in report.worst_errors:
        cells = f"{_plain(e.label)} | {_plain(e.predicted)} | {_plain(e.text)}"
        lines.append(f"| {e.row} | {e.confidence:.3f} | {cells} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text from the data, safe inside a Markdown table: no new cell, line, tag, link or emphasis."""
    joined = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join("\\" + c if c in "\\`*_[]|$" else c for c in joined)
