"""The page of benchmarks/unfreezing.py, from records that stand for fits: which are paired, what counts as cost."""

from __future__ import annotations

from importlib import import_module as load
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")
LABELS = "0101010101"


def fit(answers: str, cpu: float, *, code: str = "one", built: int = 0) -> dict[str, Any]:
    return {"answers": answers, "fit_cpu": cpu, "code": code, "at": "2026-11-30", "prefix": {"built": built}}


def rows(tmp_path: Path, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> Any:
    script, page = load("unfreezing"), load("unfreezing_page")
    records = load("records").Records(tmp_path / "imdb.jsonl", {})
    records.add("test rows", {"labels": LABELS})
    arms = {name: script.arm_of(name, 1e-4) for name in ("none", page.CHOSEN)}
    for arm, fits in ((arms[page.CHOSEN], ours), (arms["none"], theirs)):
        for seed, found in enumerate(fits, 1):
            records.add(arm.key(seed), found)
    return page.row_of(records, arms[page.CHOSEN], arms["none"])


def test_fits_of_another_code_are_no_pair(tmp_path: Path) -> None:
    plain = [fit(LABELS, 9.0), fit(LABELS, 9.0)]
    row = rows(tmp_path, [fit("0" + LABELS[1:], 6.0), fit("1" * 10, 6.0, code="two")], plain)
    assert row.difference["seeds"] == 1 and row.difference["difference"] == 0
    assert row.accuracies == [100, 50]


def test_cost_is_the_lowest_of_the_seeds_and_of_warm_fits(tmp_path: Path) -> None:
    plain = [fit(LABELS, 12.0), fit(LABELS, 10.0)]
    warm = rows(tmp_path / "warm", [fit(LABELS, 5.0, built=7), fit(LABELS, 6.0)], plain)
    assert (warm.cost, warm.is_cold) == (0.6, False)
    cold = rows(tmp_path / "cold", [fit(LABELS, 5.0, built=7)], plain)
    assert (cold.cost, cold.is_cold) == (0.5, True) and "0.50 (cold)" in cold.text()


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((-0.03, -0.01), "it loses"),
        ((-0.008, 0.01), "none of 1 point or more is left open"),
        ((-0.02, 0.01), "one of up to 2.0 points is left open"),
        ((float("nan"), float("nan")), "nothing is shown"),
    ],
)
def test_verdict_goes_by_the_worse_interval(tmp_path: Path, ends: tuple[float, float], said: str) -> None:
    page = load("unfreezing_page")
    row = rows(tmp_path, [fit(LABELS, 1.0)], [fit(LABELS, 1.0)])
    row.difference.update(interval_seeds=ends, interval_rows_and_seeds=(-0.005, ends[1]))
    (line,) = page.verdict([("IMDb", row)])
    assert said in line
