"""One pass over the slots of a study, without its flow."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bertft_core.config.run import parse_config
from bertft_core.search.results import TrialResult
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.training.results import TrainingResult
from flows import search
from flows.search import Scheduler, Workers
from flows.terminal.board import TrialBoard
from flows.terminal.console import WholeConsole

pytestmark = pytest.mark.orchestration


@pytest.fixture
def study(tmp_path: Path) -> SearchStudy:
    tree = {
        "name": "n",
        "data": {"source": "x.csv"},
        "model": {"pretrained": "m"},
        "search": {"trials": 1, "space": {"lr": [1e-5, 5e-5]}},
    }
    found = SearchStudy(open_storage(None, tmp_path), "n-study", parse_config(tree, tmp_path))
    slot = found.claim()
    assert slot is not None
    found.tell(slot.slot, TrainingResult(state="complete", score=0.5, log_loss=0.6, seconds=1.0))
    return found


class Store:
    """What mirrors trials: away while `is_away`."""

    def __init__(self) -> None:
        self.is_away = True
        self.written: list[int] = []

    def __call__(self, results: list[TrialResult]) -> None:
        if self.is_away:
            raise ConnectionError("refused")
        self.written = [r.slot for r in results]


def _scheduler(study: SearchStudy, store: Store) -> tuple[Scheduler, io.StringIO]:
    text = io.StringIO()
    board = TrialBoard(1, "accuracy", console=WholeConsole(file=text, width=200))
    return Scheduler(study=study, runner=None, workers=Workers(trainers=[]), board=board, mirror=store), text  # type: ignore[arg-type]


def test_store_that_is_away_is_said_and_written_later(study: SearchStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MIRROR_PAUSE_SECONDS", 0.0)
    store = Store()
    scheduler, text = _scheduler(study, store)
    scheduler._mirror()
    assert "MLflow is not written for now (ConnectionError: refused)" in text.getvalue()
    store.is_away = False
    scheduler._mirror()
    assert store.written == [0]


def test_store_that_is_away_is_not_asked_every_two_seconds(study: SearchStudy) -> None:
    store = Store()
    scheduler, _ = _scheduler(study, store)
    scheduler._mirror()
    store.is_away = False
    scheduler._mirror()
    assert store.written == []


def test_store_that_is_still_away_at_the_end_is_an_error(study: SearchStudy) -> None:
    scheduler, _ = _scheduler(study, Store())
    with pytest.raises(ConnectionError):
        scheduler._mirror(is_last=True)


def test_what_ended_before_a_fault_is_written(study: SearchStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.is_away = False
    scheduler, _ = _scheduler(study, store)
    scheduler.running = 1
    scheduler.finished.put((None, None))  # type: ignore[arg-type]

    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scheduler, "_submit", defect)
    with pytest.raises(ZeroDivisionError):
        scheduler.run()
    assert store.written == [0] and scheduler.workers.is_stopped
