"""The evaluation report: every score with its interval, the errors worth reading, and the floor beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bertft_core.base.text import set_text
from bertft_core.config.promotion import RESAMPLES
from bertft_core.evaluation.scores.intervals import PairedDifference, headline_intervals, paired_difference
from bertft_core.evaluation.scores.label_set_intervals import set_intervals
from bertft_core.evaluation.scores.label_sets import any_scores, are_sets, check_sets, decided_sets, set_reliability
from bertft_core.evaluation.scores.metrics import (
    ClassScores,
    Floats,
    ReliabilityBin,
    Scores,
    check_metric,
    check_rows,
    decisions,
    reliability,
)

WORST_ERRORS = 10
_SNIPPET = 200  # characters of a text shown in a report
_FEW_ROWS = 100  # at 95 % accuracy the 95 % interval is then 9 points wide

_SHOWN_OF_SETS = (
    "accuracy",
    "macro_f1",
    "micro_f1",
    "weighted_f1",
    "ranking",
    "average_precision",
    "auroc",
    "log_loss",
    "brier",
    "ece",
)
_SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "mcc", "log_loss", "brier", "ece", "auroc")

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class WorstError:
    """A wrong prediction: place among the rows judged (from 0), where it stands in the source, start of its text."""

    row: int
    source: str
    text: str
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores on held-out rows. Shares in [0, 1], intervals (low, high) at `level`, log loss in nats.

    scores and intervals hold every headline score under its name in `metrics.Scores`; an interval is None where
    no resample differs (no error seen, say). reliability: bins of like confidence. floor_difference = accuracy of
    the model minus accuracy of the TF-IDF floor, paired on the same rows; the floor_* fields are None when no
    floor was given.
    """

    metric: str
    level: float
    classes: tuple[str, ...]
    scores: Scores
    intervals: dict[str, Interval | None]
    reliability: tuple[ReliabilityBin, ...]
    worst_errors: tuple[WorstError, ...]
    floor_accuracy: float | None
    floor_macro_f1: float | None
    floor_difference: float | None
    floor_difference_interval: Interval | None
    warnings: tuple[str, ...]

    @property
    def n(self) -> int:
        """Rows judged."""
        return self.scores.n

    @property
    def per_class(self) -> tuple[ClassScores, ...]:
        """Scores of each class."""
        return self.scores.per_class

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Rows of class i decided as j."""
        return self.scores.confusion

    @property
    def score(self) -> float:
        """The configured metric as a score, higher is better."""
        return self.scores.score(self.metric)

    def __str__(self) -> str:
        found, spread = self.scores, interval_text(self.intervals["accuracy"])
        return (
            f"accuracy {found.accuracy:.4f} {spread}, macro F1 {found.macro_f1:.4f}, "
            f"log loss {found.log_loss:.4f} on {self.n} rows"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvaluationReport:
        """The report that `to_json` wrote, also after a trip through a JSON file."""
        found = value["scores"]
        inner = {
            "per_class": tuple(ClassScores(**row) for row in found["per_class"]),
            "confusion": tuple(tuple(row) for row in found["confusion"]),
        }
        pair = value["floor_difference_interval"]
        fixed = {
            "classes": tuple(value["classes"]),
            "warnings": tuple(value["warnings"]),
            "worst_errors": tuple(WorstError(**row) for row in value["worst_errors"]),
            "reliability": tuple(ReliabilityBin(**row) for row in value["reliability"]),
            "intervals": {k: None if v is None else (v[0], v[1]) for k, v in value["intervals"].items()},
            "floor_difference_interval": None if pair is None else (pair[0], pair[1]),
            "scores": Scores(**{**found, **inner}),
        }
        return cls(**{**value, **fixed})

    def to_markdown(self, title: str = "Evaluation", pictures: Sequence[tuple[str, str]] = ()) -> str:
        """The report as Markdown; `pictures` are (caption, path relative to the file) pairs."""
        parts = [f"# {_plain(title)}", _headline(self), *(f"> **Warning:** {_plain(w)}" for w in self.warnings)]
        parts += ["## Classes", _class_table(self)]
        if not self.scores.is_multi:
            parts += ["## Confusion (rows: true, columns: predicted)", _confusion_table(self)]
        parts += ["## Most confident errors", _error_table(self)]
        parts += [f"![{_plain(caption)}]({path})" for caption, path in pictures]
        return "\n\n".join(parts) + "\n"


def evaluate(
    *,
    labels: Any,
    probabilities: Any,
    classes: Sequence[str],
    texts: Sequence[str],
    sources: Sequence[str] | None = None,
    weights: Any = None,
    floor_probabilities: Any = None,
    metric: str = "macro_f1",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    warnings: Sequence[str] = (),
    predicted: Any = None,
) -> EvaluationReport:
    """Judge probabilities [n, C] on n held-out rows; `texts` and `sources` (file:row) name the worst errors.

    `predicted` [n]: the decisions, where they are not the most probable class. Intervals are those of
    `intervals.headline_intervals`; the difference to the floor has a paired one. Soft labels: `labels` holds each
    row's largest class, `weights` [n, C] enters log loss. Multi-label: `labels` and `predicted` are 0 and 1 [n, C],
    scores as in `sets.set_scores`. `warnings` (the data gate's) come before those found here.

    Raises DataError for no rows or an unknown label, ArtifactError for rows that are no distribution.
    """
    y, p, guess = _checked(labels, probabilities, classes, predicted)
    found = any_scores(y, p, classes, weights, guess)
    settings: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed, "predicted": guess}
    is_multi = are_sets(y)
    spread = (set_intervals if is_multi else headline_intervals)(y, p, classes, weights=weights, **settings)
    floor, paired = None, None
    if floor_probabilities is not None:
        floor = any_scores(y, floor_probabilities, classes, weights)
        paired = paired_difference(
            y, p, floor_probabilities, classes, "accuracy", level, resamples, seed, predicted_a=guess
        )
    return EvaluationReport(
        metric=check_metric(metric),
        level=level,
        classes=tuple(str(c) for c in classes),
        scores=found,
        intervals=spread,
        reliability=set_reliability(y, p) if is_multi else reliability(y, p, guess),
        worst_errors=_worst(*_answers(y, p, guess, classes), texts, sources),
        floor_accuracy=floor.accuracy if floor else None,
        floor_macro_f1=floor.macro_f1 if floor else None,
        floor_difference=paired.difference if paired else None,
        floor_difference_interval=(paired.low, paired.high) if paired else None,
        warnings=(*warnings, *_warnings(found, paired)),
    )


def _checked(labels: Any, probabilities: Any, classes: Sequence[str], predicted: Any) -> tuple[Any, Floats, Any]:
    """Labels, probabilities and decisions of rows with one label, or of multi-label ones."""
    if are_sets(labels):
        y, p = check_sets(labels, probabilities, classes)
        return y, p, decided_sets(p, predicted)
    one, p = check_rows(labels, probabilities, classes)
    return one, p, decisions(p, predicted)


def interval_text(interval: Interval | None, form: str = ".4f") -> str:
    """[low, high], or a dash where there is none."""
    return "–" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _answers(y: Any, p: Floats, guess: Any, classes: Sequence[str]) -> tuple[Any, Any, Any]:
    """(labels, decisions) as text, and how sure each decision was, [n]; of a set its surest wrong class."""
    if not are_sets(y):
        names = np.array([str(c) for c in classes], dtype=object)
        return names[y], names[guess], p[np.arange(len(p)), guess]
    surest = np.where(guess != y, np.maximum(p, 1 - p), 0.0).max(axis=1)
    shown = [[set_text(row, classes) for row in rows] for rows in (y, guess)]
    return np.array(shown[0], dtype=object), np.array(shown[1], dtype=object), surest


def _worst(
    labels: Any, predicted: Any, confidence: Any, texts: Sequence[str], sources: Sequence[str] | None
) -> tuple[WorstError, ...]:
    wrong = np.flatnonzero(predicted != labels)
    picked = wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST_ERRORS]
    return tuple(
        WorstError(
            row=i,
            source=sources[i] if sources is not None else f"row {i + 1}",
            text=" ".join(str(texts[i])[: 4 * _SNIPPET].split())[:_SNIPPET],
            label=labels[i],
            predicted=predicted[i],
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
        verdict = "worse than" if paired.high < 0 else "not shown to be better than"
        notes.append(
            f"{verdict} the TF-IDF floor: accuracy differs by {paired.difference:+.4f} "
            f"[{paired.low:+.4f}, {paired.high:+.4f}]"
        )
    return tuple(notes)


def _headline(report: EvaluationReport) -> str:
    lines = [f"| score ({report.n} rows) | value | {report.level * 100:g} % interval |", "|---|---:|---|"]
    for name in _SHOWN_OF_SETS if report.scores.is_multi else _SHOWN:
        value = getattr(report.scores, name)
        star = " (the metric that decides)" if name == report.metric else ""
        shown = "–" if value is None else f"{value:.4f}"
        lines.append(f"| {name}{star} | {shown} | {interval_text(report.intervals.get(name))} |")
    if report.floor_difference is not None:
        lines.append(f"| TF-IDF floor, accuracy | {report.floor_accuracy:.4f} | |")
        lines.append(f"| TF-IDF floor, macro_f1 | {report.floor_macro_f1:.4f} | |")
        gap = interval_text(report.floor_difference_interval, "+.4f")
        lines.append(f"| model - floor, accuracy | {report.floor_difference:+.4f} | {gap} |")
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
    lines = ["| source | confidence | label | predicted | text |", "|---:|---:|---|---|---|"]
    for e in report.worst_errors:
        cells = f"{_plain(e.label)} | {_plain(e.predicted)} | {_plain(e.text)}"
        lines.append(f"| {_plain(e.source)} | {e.confidence:.3f} | {cells} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text from the data, safe inside a Markdown table: no new cell, line, tag, link or emphasis."""
    joined = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join("\\" + c if c in "\\`*_[]|$" else c for c in joined)
