"""What a person sees of a fit's progress: few lines, that say something."""

from __future__ import annotations

import io
from typing import Any

import pytest

from bertft_core.recipe.notebook.progress import ProgressLine

STAGES: list[tuple[str, float, dict[str, Any]]] = [
    ("rows", 0.0, {"rows read": 300}),
    ("rows", 1.0, {"train": 210, "validation": 30, "test": 60}),
    *(("fine-tuning", i / 500, {"step": i, "depth": 2, "seconds": i / 10}) for i in range(500)),
    ("fine-tuning", 0.999, {"epoch": 1, "score": 0.8125, "seconds": 50.0}),
    ("fine-tuning", 1.0, {"score": 0.8125}),
    ("evaluation", 0.0, {}),
    ("done", 1.0, {"report": "accuracy 0.9000 [0.80, 0.95] on 60 rows"}),
]
LEFT = [
    "rows: 210 train, 30 validation, 60 test",
    "fine-tuning 100%, 0:00, validation score 0.8125",
    "evaluation: the test rows, beside the TF-IDF baseline",
    "accuracy 0.9000 [0.80, 0.95] on 60 rows",
]


def tell(line: ProgressLine) -> None:
    for stage, fraction, facts in STAGES:
        line(stage, fraction, facts)


def test_moving_line_leaves_one_line_a_stage_and_no_flood() -> None:
    out = io.StringIO()
    tell(ProgressLine(out=out, moves=True))
    rows = out.getvalue().split("\n")
    assert [row.split("\r")[-1].strip() for row in rows] == [*LEFT, ""]
    assert out.getvalue().count("\r") < 20  # of 506 states


def test_log_has_whole_lines_alone() -> None:
    out = io.StringIO()
    tell(ProgressLine(out=out, moves=False))
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue() and [line for line in lines if line in LEFT] == LEFT
    assert len(lines) < 8


@pytest.mark.parametrize(
    ("fraction", "facts", "said"),
    [
        (0.5, {"trial": 2, "trials": 20}, "search: trial 3 of 20  50%"),
        (0.25, {"trial": 0, "trials": 4, "epoch": 2, "score": 0.5}, "epoch 2: validation score 0.5000"),
    ],
)
def test_search_names_its_trial_and_last_score(fraction: float, facts: dict[str, Any], said: str) -> None:
    out = io.StringIO()
    ProgressLine(out=out, moves=True)("search", fraction, facts)
    assert said in out.getvalue()
