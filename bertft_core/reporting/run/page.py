"""What an HTML report shows, as plain values: `html.report_html` draws it, `filling.page_of` fills it from a run.

Every part is optional; an absent part leaves no trace on the page. Shares lie in [0, 1], intervals are (low, high).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertft_core.base.errors import DataError

Interval = tuple[float, float]
Facts = tuple[tuple[str, str], ...]  # (name, value) as they are to be read
Outcome = Literal["promoted", "kept", "awaiting", "held", "none"]
OUTCOMES = ("promoted", "kept", "awaiting", "held", "none")


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """One check of the gate: its name, whether it held, the numbers behind it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the model, why in one sentence, and every check. outcome "none": nothing was decided."""

    outcome: Outcome
    text: str
    checks: tuple[CheckRow, ...] = ()

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise DataError(f"a verdict is one of {', '.join(OUTCOMES)}, was {self.outcome!r}")


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A score with its interval (None: none to give), beside the champion's and the TF-IDF floor's.

    is_lower_better: log loss and its like. decides: this score decides the promotion.
    """

    name: str
    value: float | None
    interval: Interval | None = None
    champion: float | None = None
    floor: float | None = None
    is_lower_better: bool = False
    decides: bool = False


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """A paired difference on the same rows, positive where this model is better, with its interval."""

    name: str
    value: float
    interval: Interval
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: precision, recall, F1 or None where undefined; its rows and the rows decided as it."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    rows: int
    predicted: int


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
class SliceRow:
    """Accuracy on a part of the rows with its interval; `group` is what the parts divide, `note` a warning."""

    group: str
    name: str
    rows: int
    accuracy: float | None
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class WrongRow:
    """A wrong prediction. words: (word or span, weight in [-1, 1]) in order; positive speaks for the prediction."""

    row: str
    text: str
    label: str
    predicted: str
    confidence: float
    words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuspectRow:
    """A row whose label is doubted, the label suggested, and how probable each is out of sample."""

    row: str
    text: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


@dataclass(frozen=True, kw_only=True)
class BinRow:
    """A bin of the reliability diagram: mean confidence, accuracy, rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Reliability before and after temperature scaling; scores: (name, before, after); notes of the policy."""

    before: tuple[BinRow, ...]
    after: tuple[BinRow, ...] = ()
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
class EpochRow:
    """One epoch: losses in nats and validation scores after `step` updates; best: the epoch that was kept."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    accuracy: float
    macro_f1: float
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The epochs and the unfreezing phases (start, end, depth), fractions of the fit; facts beside them."""

    epochs: tuple[EpochRow, ...]
    phases: tuple[tuple[float, float, int], ...] = ()
    facts: Facts = ()


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
    """One report. `facts` stand under the title; `warnings` right after the verdict.

    level: of all intervals, in (0, 1). rows: test rows. suspects_note: how the suspects were found, how many.
    """

    title: str
    facts: Facts = ()
    level: float = 0.95
    rows: int | None = None
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    differences: tuple[DifferenceRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    confusion: Confusion | None = None
    slices: tuple[SliceRow, ...] = ()
    errors: tuple[WrongRow, ...] = ()
    suspects: tuple[SuspectRow, ...] = ()
    suspects_note: str = ""
    calibration: Calibration | None = None
    coverage: Coverage | None = None
    learning: Learning | None = None
    data: DataFacts | None = None
    config_yaml: str = ""
    lineage: Facts = ()
