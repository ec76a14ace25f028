"""The tiny form of benchmarks/thirty_nights.py: every accident of a month of nights, against a real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "thirty_nights.py"


def test_every_accident_of_a_month_ends_in_its_outcome(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--tiny", "--json", "--picture", str(tmp_path / "p.png")],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert done.returncode == 0, (found["checks"], done.stderr[-3000:])
    assert all(found["checks"].values()) and len(found["checks"]) >= 14, found["checks"]
    nights = {night["what"]: night for night in found["nights"]}
    assert [night["outcome"] for night in found["nights"]].count("data rejected") == 2
    assert nights["half a file"]["facts"]["rows_faulty"] == 1
    last = nights["other texts; champion's files gone"]["reason"]
    assert "no comparison" in last and "new texts can be told from old ones" in last
    assert "did not begin" in nights["Prefect server down"]["reason"]
    assert (tmp_path / "p.png").stat().st_size > 10_000
