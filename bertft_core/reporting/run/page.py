"""What the report of a run shows, as plain values; `report_html` draws it, `page_of` fills it from an evaluation.

Every part is optional; an absent part leaves no trace on the page. Shares lie in [0, 1], intervals are (low, high).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bertft_core.base.errors import DataError

if TYPE_CHECKING:
    from bertft_core.evaluation.gate.decision import PromotionDecision
    from bertft_core.evaluation.report import WorstError
    from bertft_core.evaluation.scores.metrics import ClassScores, ReliabilityBin, Scores
    from bertft_core.evaluation.scores.slices import SliceScore
    from bertft_core.training.results import TrainingResult

Interval = tuple[float, float]
Facts = tuple[tuple[str, str], ...]  # (name, value) as they are to be read
Outcome = Literal["promoted", "kept", "awaiting", "held", "none"]
_HEADLINES: dict[Outcome, str] = {
    "promoted": "Promoted",
    "kept": "Not promoted: the champion stays",
    "awaiting": "Awaiting approval",
    "held": "Held",
    "none": "No decision was taken",
}


@dataclass(frozen=True, kw_only=True)
class ReleaseFacts:
    """What became of the model and why, in one sentence; outcome "none": nothing was decided.

    model, version: as registered, "" where it is not. serves: whether a champion serves now.
    decision: the gate's, which the release may overrule (held, awaiting approval). champion: its scores on the same
    rows.
    """

    outcome: Outcome
    reason: str
    model: str = ""
    version: str = ""
    serves: bool = True
    decision: PromotionDecision | None = None
    champion: Scores | None = None

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise DataError(f"an outcome is one of {', '.join(get_args(Outcome))}, was {self.outcome!r}")

    @property
    def headline(self) -> str:
        """The outcome in a few words, the first ones of a report."""
        if self.outcome == "kept" and not self.serves:
            return "Not promoted: there is no champion"
        return _HEADLINES[self.outcome]


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A score with its interval (None: `no_interval` says why), beside the champion's and the TF-IDF baseline's; of a
    blend also the encoder's alone.

    is_lower_better: log loss and its like. decides: this score decides the promotion.
    """

    name: str
    value: float | None
    interval: Interval | None = None
    champion: float | None = None
    baseline: float | None = None
    encoder: float | None = None
    is_lower_better: bool = False
    decides: bool = False
    no_interval: str = ""


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """A paired difference on the same rows, positive where this model is better, with its interval.

    interval None: the difference is the same on every row. rival: whom the deciding metric compares with, "" where this
    row is of another metric.
    """

    name: str
    value: float
    interval: Interval | None
    note: str = ""
    rival: str = ""

    @property
    def said(self) -> str:
        """What the interval shows, in words; "" without one."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """counts[i][j]: rows of class i decided as class j. Raises DataError unless square."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        sizes = [len(row) for row in self.counts]
        if sizes != [len(self.classes)] * len(self.classes):
            raise DataError(f"a confusion of {len(self.classes)} classes has as many rows and columns, found {sizes}")


@dataclass(frozen=True, kw_only=True)
class SuspectRow:
    """A row of suspects.json: the place and text of a doubted label, the label suggested, and how probable each is."""

    row: str
    text: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Reliability of the encoder (before) and after blend and temperature; scores: (name, before, after); notes of the
    policy.
    """

    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...] = ()
    scores: tuple[tuple[str, float, float | None], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Accuracy of the most confident share of the rows. chosen: (coverage, accuracy) that the model works at.

    sentence: "automate 92 % at 99 % accuracy". Raises DataError for curves of different length.
    """

    coverage: tuple[float, ...]
    accuracy: tuple[float, ...]
    sentence: str = ""
    chosen: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.coverage) != len(self.accuracy):
            raise DataError(f"{len(self.coverage)} points of coverage, {len(self.accuracy)} of accuracy")


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the data gate and the tokeniser saw.

    class_counts: (class, (rows in each of `splits`)). Each of the other tables is (name, value) pairs.
    """

    facts: Facts = ()
    splits: tuple[str, ...] = ()
    class_counts: tuple[tuple[str, tuple[int, ...]], ...] = ()
    split_facts: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """One report. `facts` stand under the title; `warnings` right after the outcome.

    summary: the result in one sentence for whoever knows no metric. level: of all intervals, in (0, 1). rows: test
    rows, groups: of them (data.group). words: for each of the first `errors` its (word, weight in [-1, 1]) in order, a
    positive weight speaking for the prediction. suspects_note: how the suspects were found. phases: of the unfreezing,
    (start, end, depth), as fractions of the fit.
    """

    title: str
    facts: Facts = ()
    summary: str = ""
    level: float = 0.95
    rows: int | None = None
    groups: int | None = None
    release: ReleaseFacts | None = None
    warnings: tuple[str, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    differences: tuple[DifferenceRow, ...] = ()
    classes: tuple[ClassScores, ...] = ()
    confusion: Confusion | None = None
    slices: tuple[SliceScore, ...] = ()
    errors: tuple[WorstError, ...] = ()
    words: tuple[tuple[tuple[str, float], ...], ...] = ()
    suspects: tuple[SuspectRow, ...] = ()
    suspects_note: str = ""
    calibration: Calibration | None = None
    coverage: Coverage | None = None
    fit: TrainingResult | None = None
    phases: tuple[tuple[float, float, int], ...] = ()
    data: DataFacts | None = None
    config_yaml: str = ""
    lineage: Facts = ()
