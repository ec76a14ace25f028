"""What a night leaves behind: its MLflow run, and its line where Prefect fails."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bertft_core.base.errors import InputError
from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.evaluation.drift.text_figures import text_figures
from bertft_core.recipe.nights.log import FAILED, KEPT, PROMOTED, REJECTED, Night, NightLog
from bertft_core.recipe.nights.record import log_night
from bertft_core.tracking import store as tracking
from flows import nightly

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
    page = Path(store.home) / "nights" / "letters.html"
    kept = tracking.client(store).download_artifacts(run_id, page.name, str(tmp_path))
    assert Path(kept).read_text() == page.read_text() and "0.800" in page.read_text()


def test_night_without_drift_has_no_such_files(store) -> None:
    assert files_of(store, log_night(NIGHT, "letters", store, "", None)) == set()


@pytest.mark.parametrize("outcome, exit_code", [(PROMOTED, 0), (REJECTED, 2)])
def test_server_that_goes_away_at_the_end_changes_no_outcome(tmp_path, monkeypatch, outcome, exit_code) -> None:
    document = {"outcome": outcome, "reason": "because"}
    monkeypatch.setattr(nightly, "_ended", [(document, exit_code)])
    if exit_code:
        with pytest.raises(nightly.NightFailed, match="because") as caught:
            nightly.night_despite(tmp_path, "letters", None, ConnectionError("refused"))
        assert caught.value.exit_code == exit_code
    else:
        assert nightly.night_despite(tmp_path, "letters", None, ConnectionError("refused")) == document
    assert NightLog(tmp_path, "letters").nights() == []


def test_night_that_prefect_could_not_begin_is_written_down_as_failed(tmp_path) -> None:
    with pytest.raises(nightly.NightFailed, match="did not begin: ConnectionError: refused"):
        nightly.night_despite(tmp_path, "letters", "2026-03-01", ConnectionError("refused"))
    (told,) = NightLog(tmp_path, "letters").nights()
    assert (told.night, told.outcome) == ("2026-03-01", FAILED)


def test_night_that_could_not_begin_is_told_where_no_server_is_needed_for_it(tmp_path, monkeypatch) -> None:
    told: list[bytes] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NIGHT_HOOK", f"http://127.0.0.1:{server.server_port}")
        targets = ("slack-webhook/team", "env:NIGHT_HOOK")  # the first is a block of a Prefect server
        with pytest.raises(nightly.NightFailed):
            nightly.night_despite(tmp_path, "letters", None, InputError("0 MB free"), targets)
        server.shutdown()
    assert len(told) == 1 and b"0 MB free" in told[0]
