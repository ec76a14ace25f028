"""The run log of the nights."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from bertft_core.base.clock import Stamp
from bertft_core.recipe.nights.log import (
    FAILED,
    KEPT,
    SKIPPED,
    LastTraining,
    Night,
    NightLog,
    OpenNight,
    TrainingPlan,
    time_now,
)


def night(day: int, outcome: str = SKIPPED) -> Night:
    return Night(night=f"2026-01-{day:02}", started="2026-01-01T02:30:00+00:00", outcome=outcome, reason="x", seconds=1)


def append(home: Path, day: int) -> None:
    for _ in range(20):
        NightLog(home, "news").add(night(day))


def test_nights_are_read_back_in_order(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    for day in (1, 2, 3):
        log.add(night(day))
    assert [n.night for n in log.nights()] == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_former_name_of_an_outcome_is_read(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    log.add(night(1, KEPT))
    log.file.write_bytes(log.file.read_bytes().replace(b'"kept"', b'"kept champion"'))
    assert [n.outcome for n in log.nights()] == ["kept"]


def test_log_that_is_not_there_has_no_nights(tmp_path: Path) -> None:
    assert NightLog(tmp_path, "news").nights() == []


def test_half_a_line_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    log.add(night(1))
    log.file.write_bytes(log.file.read_bytes() + b'{"night": "2026-01-')
    log.add(night(3, KEPT))
    assert [(n.night, n.outcome) for n in log.nights()] == [("2026-01-01", SKIPPED), ("2026-01-03", KEPT)]


def test_processes_that_append_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append, args=(tmp_path, day)) for day in (1, 2, 3, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(NightLog(tmp_path, "news").nights()) == 80
    assert all(json.loads(line) for line in NightLog(tmp_path, "news").file.read_text().splitlines())


def test_night_that_never_ended_is_found(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    plan = TrainingPlan(rows="r", settings="s", overrides=["search.trials=0"], is_searched=False)
    log.begin(OpenNight(night="2026-01-01", plan=plan))
    assert NightLog(tmp_path, "news").left_open() == OpenNight(night="2026-01-01", plan=plan)
    log.end(night(1))
    assert log.left_open() is None


def test_a_home_tells_the_time_by_its_nights_where_the_clock_jumped(tmp_path: Path) -> None:
    now = Stamp.now()
    then = replace(now, wall=now.wall - 3600, ran=now.ran - 3600)
    started = dt.datetime.fromtimestamp(then.wall, dt.UTC).isoformat()
    NightLog(tmp_path, "news").add(replace(night(1), started=started, clock=str(then)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: now.wall + 90 * 86_400)
        moment, odd = time_now(tmp_path)
    assert abs(moment - now.wall) < 60 and "90 days more" in odd
    assert time_now(tmp_path)[1] == "" and time_now(tmp_path / "none")[1] == ""


def test_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="an outcome is one of"):
        night(1, "fine")


def test_age_is_counted_from_the_training(tmp_path: Path) -> None:
    basis = LastTraining(
        rows="r",
        settings="a",
        run=str(tmp_path / "runs" / "i"),
        run_id="i",
        version="1",
        params={},
        trained="2026-01-01T00:00:00+00:00",
        searched="2025-12-25T00:00:00+00:00",
    )
    NightLog(tmp_path, "news").remember_training(basis)
    back = NightLog(tmp_path, "news").last_training
    assert back == basis
    moment = dt.datetime(2026, 1, 3, 12, tzinfo=dt.UTC)
    assert (back.age_days(moment), back.search_age_days(moment)) == (2.5, 9.5)


def fill(folder: Path) -> Path:
    """Take every byte of a disk."""
    file = folder / "filler"
    with open(file, "wb", buffering=0) as handle, contextlib.suppress(OSError):
        while handle.write(b"x" * 4096):
            pass
    with pytest.raises(OSError, match="No space left"):
        (folder / "more").write_bytes(b"x")
    return file


def test_night_on_a_full_disk_is_written_down(small_disk: Path) -> None:
    log = NightLog(small_disk, "news")
    log.begin(OpenNight(night="2026-01-01"))
    log.end(night(1))
    filler = fill(small_disk)
    log.add(night(2, FAILED))
    assert [n.night for n in log.nights()] == ["2026-01-01", "2026-01-02"] and not log.faults()
    filler.unlink()
    log.add(night(3))
    fill(small_disk)
    log.add(night(4, FAILED))  # room was kept anew
    assert len(log.nights()) == 4


def test_line_that_found_no_room_leaves_no_half_of_itself(small_disk: Path) -> None:
    log = NightLog(small_disk, "news")
    log.folder.mkdir()
    log.file.write_bytes(b"")
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        log.add(night(1))
    assert log.file.read_bytes() == b""
