"""What a night writes to MLflow."""

from __future__ import annotations

import json

import pytest

from bertft_core.nightly.drift import DomainShift, DriftReport, label_shift, text_figures
from bertft_core.nightly.log import KEPT, Night
from tasks import tracking
from tasks.nights import log_night

pytestmark = pytest.mark.orchestration
NIGHT = Night(night="2026-03-01", started="2026-03-01T01:00:00+00:00", outcome=KEPT, reason="a tie", seconds=20.0)


def files_of(store, run_id):
    return {file.path for file in tracking.client(store).list_artifacts(run_id, "drift")}


def test_night_keeps_figures_and_picture_of_the_drift_that_was_measured(store, tmp_path) -> None:
    report = DriftReport(
        label=label_shift({"a": 60, "b": 40}, {"a": 40, "b": 60}),
        domain=DomainShift(n_old=100, n_new=100, auroc=0.8, low=0.7, high=0.9),
        text=text_figures(["old words"] * 9, ["new words here"] * 9),
    )
    run_id = log_night(NIGHT, "letters", store, "", report)
    assert files_of(store, run_id) == {"drift/drift.json", "drift/drift.md", "drift/drift.png"}
    kept = tracking.client(store).download_artifacts(run_id, "drift/drift.json", str(tmp_path))
    with open(kept, encoding="utf-8") as handle:
        assert json.load(handle)["domain"]["auroc"] == 0.8
    assert log_night(NIGHT, "letters", store, "", report) == run_id
    assert not list(tmp_path.glob("home/.scratch-*"))


def test_night_without_drift_has_no_such_files(store) -> None:
    assert files_of(store, log_night(NIGHT, "letters", store, "", None)) == set()
