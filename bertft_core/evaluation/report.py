"""The evaluation report: every score with its interval, the errors worth reading, and the baseline beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from bertft_core.base.text import NO_SPREAD, listed, plain, rows_text
from bertft_core.config.metrics import score_title
from bertft_core.evaluation.scores.extra import KEY, WHY_NO_INTERVAL, ExtraScore, extra_scores
from bertft_core.evaluation.scores.intervals import (
    Bootstrap,
    Interval,
    PairedDifference,
    headline_intervals,
    paired_difference,
    why_no_interval,
)
from bertft_core.evaluation.scores.labels import Labels, Predictions
from bertft_core.evaluation.scores.metrics import ClassScores, ReliabilityBin, Scores, check_metric

WORST_ERRORS = 10
_SNIPPET = 200  # characters of a text shown in a report
_WIDEST = 30  # classes of a table of confusions, and rows of a list of them
_FEW_ROWS = 100  # at 95 % accuracy the 95 % interval is then 9 points wide

_SHOWN_MULTI_LABEL = (
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
class BlendScores:
    """Of a model that blends: its weights in words, what the TF-IDF model costs in ms a row, the encoder by itself.

    encoder_difference = accuracy of the encoder alone minus that of the TF-IDF baseline, paired on the same rows.
    """

    weights: str
    tfidf_milliseconds: float
    encoder_accuracy: float
    encoder_macro_f1: float
    encoder_log_loss: float
    encoder_difference: float
    encoder_difference_interval: Interval | None
    baseline_log_loss: float


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores on held-out rows. Shares in [0, 1], intervals (low, high) at `level`, log loss in nats.

    scores and intervals hold every headline score under its name in `metrics.Scores`; an interval is None where there
    is none to give, and no_interval says why. groups: of the rows (data.group), whole ones being drawn for every
    interval; None where each row stands for itself. reliability: bins of like confidence. baseline_difference =
    accuracy of the model minus accuracy of the TF-IDF baseline, paired on the same rows; baseline_score,
    baseline_score_difference: the same of `metric` as a score, higher is better. The baseline_* fields are None when no
    baseline was given. blend: None where the encoder answers alone. extra: metrics of plug-ins.
    """

    metric: str
    level: float
    classes: tuple[str, ...]
    scores: Scores
    intervals: dict[str, Interval | None]
    reliability: tuple[ReliabilityBin, ...]
    worst_errors: tuple[WorstError, ...]
    baseline_accuracy: float | None
    baseline_macro_f1: float | None
    baseline_difference: float | None
    baseline_difference_interval: Interval | None
    warnings: tuple[str, ...]
    baseline_score: float | None = None
    baseline_score_difference: float | None = None
    baseline_score_interval: Interval | None = None
    blend: BlendScores | None = None
    groups: int | None = None
    no_interval: dict[str, str] = field(default_factory=dict)
    extra: tuple[ExtraScore, ...] = ()

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
        scores, spread = self.scores, interval_text(self.intervals["accuracy"])
        return (
            f"accuracy {scores.accuracy:.4f} {spread}, macro F1 {scores.macro_f1:.4f}, "
            f"log loss {scores.log_loss:.4f} on {rows_text(self.n, self.groups)}"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping; `from_json` reads it back. Each baseline_* key also has its older name floor_*."""
        return with_floor_keys(asdict(self))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EvaluationReport:
        """The report that `to_json` wrote, now or when it wrote the floor_* keys alone."""
        value = {key.replace("floor_", "baseline_"): part for key, part in value.items()}
        scores = value["scores"]
        inner = {
            "per_class": tuple(ClassScores(**row) for row in scores["per_class"]),
            "confusion": tuple(tuple(row) for row in scores["confusion"]),
        }
        pairs = {name: value.get(name) for name in ("baseline_difference_interval", "baseline_score_interval")}
        blend = value.get("blend")
        if blend is not None:
            ends = blend["encoder_difference_interval"]
            blend = BlendScores(**{**blend, "encoder_difference_interval": ends and (ends[0], ends[1])})
        fixed = {
            "classes": tuple(value["classes"]),
            "warnings": tuple(value["warnings"]),
            "worst_errors": tuple(WorstError(**row) for row in value["worst_errors"]),
            "reliability": tuple(ReliabilityBin(**row) for row in value["reliability"]),
            "intervals": {k: None if v is None else (v[0], v[1]) for k, v in value["intervals"].items()},
            **{name: pair and (pair[0], pair[1]) for name, pair in pairs.items()},
            "scores": Scores(**{**scores, **inner}),
            "extra": tuple(ExtraScore(**row) for row in value.get("extra", ())),
            "blend": blend,
        }
        return cls(**{**value, **fixed})

    def to_markdown(
        self,
        title: str = "Evaluation",
        pictures: Sequence[tuple[str, str]] = (),
        verdict: tuple[str, str] | None = None,
    ) -> str:
        """The report as Markdown; `pictures` are (caption, path relative to the file) pairs.

        verdict: what became of the model, and why; it comes first.
        """
        lines = [f"# {plain(title)}", ""]
        lines += [f"**{plain(verdict[0])}**. {plain(verdict[1][:1].upper() + verdict[1][1:])}", ""] if verdict else []
        lines += [
            f"| score ({rows_text(self.n, self.groups)}) | value | {self.level * 100:g} % interval |",
            "|---|---:|---|",
        ]
        for name in _SHOWN_MULTI_LABEL if self.scores.multi_label else _SHOWN:
            value = getattr(self.scores, name)
            star = " (the metric that decides)" if name == self.metric else ""
            interval = interval_text(self.intervals.get(name), why=self.no_interval.get(name, "–"))
            lines.append(f"| {name}{star} | {'–' if value is None else f'{value:.4f}'} | {interval} |")
        for extra in self.extra:
            shown = "–" if extra.value is None else f"{extra.value:.4f}"
            lines.append(f"| {extra.name} | {shown} | {self.no_interval[extra.name]} |")
        if self.baseline_difference is not None:
            lines.append(f"| TF-IDF baseline, accuracy | {self.baseline_accuracy:.4f} | |")
            lines.append(f"| TF-IDF baseline, macro_f1 | {self.baseline_macro_f1:.4f} | |")
            gaps = {"accuracy": (self.baseline_difference, self.baseline_difference_interval)}
            if self.baseline_score_difference is not None:
                gaps = {score_title(self.metric): (self.baseline_score_difference, self.baseline_score_interval)} | gaps
            for name, (gap, spread) in gaps.items():
                pair = interval_text(spread, "+.4f", NO_SPREAD)
                lines.append(f"| model minus TF-IDF baseline, {name} | {gap:+.4f} | {pair} |")
        if (blend := self.blend) is not None:
            for name in ("accuracy", "macro_f1", "log_loss"):
                lines.append(f"| encoder alone, {name} | {getattr(blend, f'encoder_{name}'):.4f} | |")
            lines.append(f"| TF-IDF baseline, log_loss | {blend.baseline_log_loss:.4f} | |")
            pair = interval_text(blend.encoder_difference_interval, "+.4f", NO_SPREAD)
            lines.append(
                f"| encoder alone minus TF-IDF baseline, accuracy | {blend.encoder_difference:+.4f} | {pair} |"
            )
            lines += [
                "",
                f"The model is a blend ({blend.weights}); TF-IDF costs {blend.tfidf_milliseconds:.2g} ms a row.",
            ]
        for warning in self.warnings:
            lines += ["", f"> **Warning:** {plain(warning)}"]
        lines += ["", "## Classes", "", "| class | precision | recall | F1 | rows | predicted |"]
        lines.append("|---|---:|---:|---:|---:|---:|")
        for row in self.per_class:
            values = " | ".join("–" if v is None else f"{v:.4f}" for v in (row.precision, row.recall, row.f1))
            lines.append(f"| {plain(row.name)} | {values} | {row.support} | {row.predicted} |")
        lines += self._confusion_lines()
        lines += ["", "## Most confident errors", ""]
        if self.worst_errors:
            lines += ["| source | confidence | label | predicted | text |", "|---:|---:|---|---|---|"]
        else:
            lines.append("None: every row is right.")
        for e in self.worst_errors:
            cells = f"{plain(e.label)} | {plain(e.predicted)} | {plain(e.text)}"
            lines.append(f"| {plain(e.source)} | {e.confidence:.3f} | {cells} |")
        for caption, path in pictures:
            lines += ["", f"![{plain(caption)}]({path})"]
        return "\n".join(lines) + "\n"

    def _confusion_lines(self) -> list[str]:
        """The confusion as a table; of many classes, whose table nobody can read, the most frequent confusions."""
        if not self.confusion:
            return []
        names = [plain(name) for name in self.classes]
        if len(names) <= _WIDEST:
            lines = ["", "## Confusion (rows: true, columns: predicted)", "", f"| | {' | '.join(names)} |"]
            lines.append("|---|" + "---:|" * len(names))
            rows = zip(names, self.confusion, strict=True)
            return lines + [f"| **{name}** | " + " | ".join(str(v) for v in counts) + " |" for name, counts in rows]
        found = sorted(
            ((-count, i, j) for i, row in enumerate(self.confusion) for j, count in enumerate(row) if count and i != j)
        )
        lines = ["", f"## Most frequent confusions ({min(_WIDEST, len(found))} of {len(found)})", ""]
        lines += ["| class | predicted | rows |", "|---|---|---:|"]
        return lines + [f"| {names[i]} | {names[j]} | {-count} |" for count, i, j in found[:_WIDEST]]


def with_floor_keys(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each baseline_* key also under the name floor_* that programs outside may read."""
    older = {
        key.replace("baseline_", "floor_"): value for key, value in document.items() if key.startswith("baseline_")
    }
    return document | older


@dataclass(frozen=True, kw_only=True)
class RowTexts:
    """What a person reads of the rows judged. texts [n]; sources [n]: where each row stands, such as file:row."""

    texts: Sequence[str]
    sources: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class BlendParts:
    """Of predictions that are a blend: weights in words, ms a row of the TF-IDF model, what the encoder says alone."""

    weights: str
    milliseconds: float
    encoder: Predictions


def evaluate(
    labels: Labels,
    predictions: Predictions,
    rows: RowTexts,
    *,
    baseline: Predictions | None = None,
    metric: str = "macro_f1",
    bootstrap: Bootstrap | None = None,
    warnings: Sequence[str] = (),
    blend: BlendParts | None = None,
) -> EvaluationReport:
    """Judge predictions of held-out rows beside those of the TF-IDF baseline; `rows` name the worst errors.

    Intervals are those of `intervals.headline_intervals`; the difference to the baseline has a paired one. `warnings`
    (the data gate's) come before those found here. blend: what the predictions are made of, besides the baseline.
    """
    how, scores, paired, decides = bootstrap or Bootstrap(), labels.scores(predictions), None, None
    below = None if baseline is None else labels.scores(baseline)
    if baseline is not None:
        paired = paired_difference(labels, predictions, baseline, "accuracy", how)
        decides = paired if metric == "accuracy" else paired_difference(labels, predictions, baseline, metric, how)
    parts = None if blend is None or baseline is None else _blend_scores(labels, blend, baseline, how)
    confidence, wrong = labels.confidence(predictions), np.flatnonzero(~labels.is_right(predictions))
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST_ERRORS]
    answers = zip(labels.texts(labels.values[surest]), labels.texts(predictions.decided[surest]), strict=True)
    intervals = headline_intervals(labels, predictions, how)
    return EvaluationReport(
        metric=check_metric(metric),
        level=how.level,
        classes=labels.classes,
        scores=scores,
        intervals=intervals,
        reliability=labels.reliability(predictions),
        worst_errors=tuple(
            WorstError(
                row=i,
                source=rows.sources[i] if rows.sources is not None else f"row {i + 1}",
                text=_snippet(str(rows.texts[i])),
                label=label,
                predicted=predicted,
                confidence=float(confidence[i]),
            )
            for i, (label, predicted) in zip(surest.tolist(), answers, strict=True)
        ),
        baseline_accuracy=below.accuracy if below else None,
        baseline_macro_f1=below.macro_f1 if below else None,
        baseline_difference=paired.difference if paired else None,
        baseline_difference_interval=paired.interval if paired else None,
        baseline_score=below.score(metric) if below else None,
        baseline_score_difference=decides.difference if decides else None,
        baseline_score_interval=decides.interval if decides else None,
        groups=labels.n_groups,
        no_interval=why_no_interval(labels, predictions, intervals),
        warnings=(*warnings, *_warnings(scores, metric, labels.n_groups, decides), *_blend_warnings(parts)),
        blend=parts,
    )


def with_extra(
    report: EvaluationReport, names: Sequence[str], labels: Labels, predictions: Predictions
) -> EvaluationReport:
    """The report with metrics of plug-ins of the same rows; one that failed is a warning."""
    extra = extra_scores(names, labels, predictions)
    faults = [f"{KEY}: {score.name} {score.fault}: it is left out" for score in extra if score.fault]
    why = report.no_interval | {score.name: WHY_NO_INTERVAL for score in extra}
    return replace(report, extra=extra, no_interval=why, warnings=(*report.warnings, *faults))


def _snippet(text: str) -> str:
    """The first characters of a text on one line, an ellipsis where more would follow."""
    line = " ".join(text[: 4 * _SNIPPET].split())
    return line if len(line) <= _SNIPPET else f"{line[: _SNIPPET - 1].rstrip()}…"


def _blend_scores(labels: Labels, blend: BlendParts, baseline: Predictions, how: Bootstrap) -> BlendScores:
    alone = labels.scores(blend.encoder, ranking=False)
    paired = paired_difference(labels, blend.encoder, baseline, "accuracy", how)
    return BlendScores(
        weights=blend.weights,
        tfidf_milliseconds=blend.milliseconds,
        encoder_accuracy=alone.accuracy,
        encoder_macro_f1=alone.macro_f1,
        encoder_log_loss=alone.log_loss,
        encoder_difference=paired.difference,
        encoder_difference_interval=paired.interval,
        baseline_log_loss=labels.scores(baseline, ranking=False).log_loss,
    )


def _blend_warnings(blend: BlendScores | None) -> tuple[str, ...]:
    if blend is None or blend.encoder_difference_interval is None or blend.encoder_difference_interval[1] >= 0:
        return ()
    gap = f"{blend.encoder_difference:+.4f} {interval_text(blend.encoder_difference_interval, '+.4f')}"
    return (f"the encoder alone is worse than the TF-IDF baseline it is blended with: accuracy differs by {gap}",)


def interval_text(interval: Interval | None, form: str = ".4f", why: str = "–") -> str:
    """[low, high], or why there is none."""
    return why if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _warnings(scores: Scores, metric: str, groups: int | None, paired: PairedDifference | None) -> tuple[str, ...]:
    absent = [row.name for row in scores.per_class if row.support == 0]
    unused = [row.name for row in scores.per_class if row.support and not row.predicted]
    notes = []
    if absent:
        notes.append(
            f"no test row of class {listed(absent)}: its recall and F1 are undefined, macro F1 averages "
            f"the other {len(scores.per_class) - len(absent)}"
        )
    if unused:
        notes.append(f"never predicted: {'class' if len(unused) == 1 else 'classes'} {listed(unused)}")
    if (groups or scores.n) < _FEW_ROWS:
        notes.append(f"only {rows_text(scores.n, groups).replace('row', 'test row', 1)}: the intervals are wide")
    if paired and paired.low <= 0:
        verdict = "worse than" if paired.high < 0 else "not shown to be better than"
        notes.append(
            f"{verdict} the TF-IDF baseline: {score_title(metric)}, model minus TF-IDF baseline: "
            f"{paired.difference:+.4f} {interval_text(paired.interval, '+.4f', NO_SPREAD)}"
        )
    return tuple(notes)
