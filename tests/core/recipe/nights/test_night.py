"""Real nights on a tiny encoder, through plain functions: no orchestrator, no registry."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.clock import DAY, Stamp
from bertft_core.base.errors import BertftError
from bertft_core.base.locks import exclusive
from bertft_core.config.run import load_config
from bertft_core.recipe import chain
from bertft_core.recipe.evaluation import stored_report
from bertft_core.recipe.nights.drift import measure_drift
from bertft_core.recipe.nights.log import FAILED, KEPT, REJECTED, SKIPPED, Night, NightLog
from bertft_core.recipe.nights.night import NightRun, NightSteps
from bertft_core.recipe.prepare import Prepared, ingest, prepare
from bertft_core.recipe.runs import identify

from ....night_lines import Lines

FRUGAL: dict[str, Any] = {
    "training": {"lr": 2e-3, "batch_size": 16, "epochs": 1, "threads": 1, "precision": "float32"},
    "search": {"trials": 0},
    "nightly": {"new_rows": 20, "text_drift": None, "score_drop": None},
}


class Nights:
    """Nights of one configuration in one home. trained: overrides and `again` of each training."""

    def __init__(self, config: Path) -> None:
        self.config, self.home = config, config.parent / "home"
        self.log = NightLog(self.home, "tiny")
        self.trained: list[tuple[list[str], bool]] = []
        self.report = Lines()

    def prepare(self, config: Any, dataset: Any) -> Prepared:
        return prepare(config, self.home)

    def train(self, overrides: list[str], *, again: bool) -> dict[str, Any]:
        """The chain up to the evaluation: nothing is released here."""
        self.trained.append((overrides, again))
        config = load_config(self.config, overrides)
        report = chain.run(config, self.home, again=again)
        run = identify(config, prepare(config, self.home), self.home)
        return {
            "run_id": run.run_id,
            "version": None,
            "outcome": "kept",
            "champion_after": None,
            "reason": "nothing is released here",
            "seconds": {"finetune": 1.0},
            "test": {"accuracy": report.scores.accuracy, "n": report.n},
        }

    def run(self, *overrides: str, **values: Any) -> Night:
        self.report = Lines()
        steps = {
            "ingest": lambda config: ingest(config, self.home),
            "tokenize": self.prepare,
            "drift": lambda config, prepared, last, label: measure_drift(config, prepared, last, label, self.home),
            "champion_on_new": lambda *_: None,
            "train": self.train,
            "require_comparable": lambda: None,
        }
        steps |= values.pop("steps", {})
        self.night = NightRun(
            config=load_config(self.config, list(overrides)),
            config_path=str(self.config),
            overrides=list(overrides),
            home=self.home,
            night=values.pop("night", "2026-03-01"),
            steps=NightSteps(**steps),
            report=self.report,
            **values,
        )
        return self.night.run()

    def add(self, rows: list[tuple[str, str]]) -> None:
        with open(self.config.parent / "rows.csv", "a", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(rows)


@pytest.fixture
def nights(project: Callable[..., Path], rows: Callable[..., list[tuple[str, str]]]) -> Nights:
    return Nights(project(rows(150), **FRUGAL))


def test_first_night_trains_and_an_unchanged_second_one_does_not(nights: Nights) -> None:
    first = nights.run()
    assert (first.outcome, first.reason) == (
        KEPT,
        "nothing is released here (trained: this home remembers no training)",
    )
    assert first.run_id is not None and (nights.home / "runs" / first.run_id / "rows.npz").exists()
    assert first.facts["no_champion"] and first.is_to_be_told
    assert first.facts["rows"] == 150 and first.facts["seconds_finetune"] == 1.0 and first.facts["accuracy"] > 0
    second = nights.run()
    assert (second.outcome, second.reason, second.run_id) == (SKIPPED, "unchanged", None)
    assert not second.is_to_be_told
    assert [n.outcome for n in nights.log.nights()] == [KEPT, SKIPPED]
    assert nights.trained == [([], False)] and nights.log.left_open() is None


def test_a_night_over_a_database_and_a_metric_of_a_plug_in(
    project: Callable[..., Path], rows: Callable[..., list[tuple[str, str]]], plug_in: Callable[..., None]
) -> None:
    """The content decides whether it is unchanged, in whatever order the rows come."""
    plug_in(
        "bertft.metrics", "share = share_metric:share", share_metric="def share(y, d, p): return float((y == d).mean())"
    )
    source = {"source": "sqlite:///rows.db", "query": "SELECT body AS text, kind AS label FROM mails", "text": "text"}
    config = project(rows(150), **FRUGAL, data=source, evaluation={"extra_metrics": ["share"]})
    found, database = Nights(config), config.parent / "rows.db"

    def fill(order: int) -> None:
        database.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(database)) as made, made:
            made.execute("CREATE TABLE mails (body TEXT, kind TEXT)")
            made.executemany("INSERT INTO mails VALUES (?, ?)", rows(150)[::order])

    fill(1)
    first = found.run()
    assert first.outcome == KEPT and first.facts["rows"] == 150
    run = identify(load_config(config), prepare(load_config(config), found.home), found.home)
    report = stored_report(run)
    assert report is not None and [(s.name, s.value) for s in report.extra] == [("share", report.scores.accuracy)]
    fill(-1)
    assert (found.run().outcome, len(found.trained)) == (SKIPPED, 1)
    assert not [path for path in found.home.rglob("*") if path.suffix == ".jsonl" and "sqlite" in path.name]


def test_forced_night_trains_again(nights: Nights) -> None:
    nights.run()
    assert nights.run(is_forced=True).reason.endswith("(trained: forced)")
    assert [again for _, again in nights.trained] == [False, True]


def test_new_class_is_rejected_or_left_out(nights: Nights) -> None:
    nights.run()
    nights.add([(f"third kind {i}", "third") for i in range(30)])
    refused = nights.run()
    assert refused.outcome == REJECTED and "nightly.new_class: fail" in refused.reason and nights.night.exit_code == 2
    assert nights.run("nightly.new_class=warn").outcome == SKIPPED
    assert len(nights.trained) == 1


def test_night_that_falls_over_is_written_down_as_failed(nights: Nights) -> None:
    def broken(overrides: list[str], *, again: bool) -> dict[str, Any]:
        raise ZeroDivisionError("by zero")

    ended = nights.run(steps={"train": broken})
    assert (ended.outcome, ended.reason, nights.night.exit_code) == (FAILED, "ZeroDivisionError: by zero", 1)
    assert nights.log.nights() == [ended] and nights.log.left_open() is None


def test_night_that_takes_too_long_is_written_down_as_failed(nights: Nights) -> None:
    @contextlib.contextmanager
    def over() -> Iterator[None]:
        yield
        raise BertftError("nightly.timeout of 1 s passed")

    assert nights.run(limit=over()).reason == "nightly.timeout of 1 s passed"


def test_killed_night_is_written_down_and_its_plan_goes_on(nights: Nights) -> None:
    def killed(overrides: list[str], *, again: bool) -> dict[str, Any]:
        raise KeyboardInterrupt  # no Exception: as a kill, it leaves the night open

    with pytest.raises(KeyboardInterrupt):
        nights.run(steps={"train": killed}, is_forced=True)
    left = nights.log.left_open()
    assert left is not None and left.plan is not None and left.plan.overrides == [] and left.plan.settings
    assert '"asked"' in (nights.home / "nights" / "tiny.open.json").read_text()  # its name on disk since format 1
    after = nights.run(night="2026-03-02", is_forced=True)
    assert [(n.night, n.outcome) for n in nights.log.nights()] == [("2026-03-01", FAILED), ("2026-03-02", KEPT)]
    assert after.outcome == KEPT and nights.trained == [([], False)]  # resumed, not begun again
    assert any("was killed; this one goes on" in line for line in nights.report.lines)


def test_cancelled_night_leaves_its_line_to_the_next_one(nights: Nights) -> None:
    def broken(overrides: list[str], *, again: bool) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nights.run(steps={"train": broken}, is_cancelled=lambda: True)
    assert nights.log.nights() == [] and nights.log.left_open() is not None


def test_night_goes_on_where_every_small_file_is_broken_and_says_so(nights: Nights) -> None:
    nights.run()
    (run,) = (nights.home / "runs").glob("*/run.json")
    files = [*(nights.home / name for name in ("format.json", "machine.json", "nights/tiny.basis.json")), run]
    for file in (*files, nights.home / "nights" / "tiny.open.json"):
        file.write_bytes(b"\0\0\0")
    with open(nights.log.file, "ab") as handle:
        handle.write(b'{"night": "2026-')
    ended = nights.run(night="2026-03-02")
    assert ended.outcome == KEPT and "the record of the last training was damaged" in ended.reason
    assert [n.outcome for n in nights.log.nights()] == [KEPT, FAILED, KEPT] and len(nights.log.faults()) == 1
    assert all(file.with_name(f"{file.name}.broken").exists() for file in files)
    assert nights.run(night="2026-03-03").outcome == SKIPPED  # all of it is sound again


def test_second_night_at_once_is_skipped(nights: Nights) -> None:
    with exclusive(nights.home / "locks" / "nightly-tiny.lock", "a night of tiny"):
        ended = nights.run()
    assert ended.outcome == SKIPPED and "a night of tiny is already running in process" in ended.reason


HOLD = """
import sys, time
from pathlib import Path
from bertft_core.base.clock import Stamp
from bertft_core.base.locks import exclusive
from bertft_core.recipe.nights.log import NightLog, OpenNight
home = Path(sys.argv[1])
with exclusive(home / "locks" / "nightly-tiny.lock", "a night of tiny"):
    NightLog(home, "tiny").begin(OpenNight(night="2026-03-01", started=sys.argv[2], clock=str(Stamp.now())))
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hanging(nights: Nights) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts another process that works on a night of these, and hangs."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        when = f"2026-03-0{len(started) + 1}T02:30:00+00:00"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", HOLD, str(nights.home), when], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def ended_night(day: int, seconds: float, outcome: str = KEPT) -> Night:
    started = f"2026-02-{day:02}T02:30:00+00:00"
    return Night(night=f"2026-02-{day:02}", started=started, outcome=outcome, reason="x", seconds=seconds)


def test_a_night_that_hangs_is_told_once_and_its_death_frees_the_next(
    nights: Nights, hanging: Callable[[], subprocess.Popen[str]]
) -> None:
    for day, outcome in ((1, KEPT), (2, SKIPPED), (3, FAILED)):
        nights.log.folder.mkdir(parents=True, exist_ok=True)
        nights.log.add(ended_night(day, 0.5 if outcome == KEPT else 900.0, outcome))
    process = hanging()
    time.sleep(2.2)  # a night's clock counts whole seconds
    told, quiet = nights.run(night="2026-03-02"), nights.run(night="2026-03-03")
    for night in (told, quiet):
        assert night.outcome == SKIPPED and f"already running in process {process.pid}" in night.reason
        assert "The night of 2026-03-01 is at work for" in night.reason and "twice the 0 s that" in night.reason
    assert told.is_to_be_told and not quiet.is_to_be_told
    process.kill()
    process.wait()
    after = nights.run(night="2026-03-04")
    assert after.outcome == KEPT and "was killed" in nights.report.lines[0]
    again = hanging()
    time.sleep(1.2)
    nights.log.add(ended_night(4, 0.1))
    assert again.poll() is None and not nights.run(night="2026-03-05").is_to_be_told  # the last real one took longer


def test_a_night_at_work_without_history_hangs_after_nightly_timeout(
    nights: Nights, hanging: Callable[[], subprocess.Popen[str]]
) -> None:
    hanging()
    early = nights.run(night="2026-03-02")
    time.sleep(2.2)
    late = nights.run("nightly.timeout=1", night="2026-03-03")
    assert not early.is_to_be_told and "longer than" not in early.reason
    assert late.is_to_be_told and "longer than 1 s, with no night before" in late.reason


def test_a_night_is_given_up_after_half_a_day_by_default(nights: Nights) -> None:
    assert load_config(nights.config).nightly.timeout == 12 * 3600


def shifted(days: float) -> Stamp:
    """This moment, by a clock that somebody set so many days ahead."""
    return replace(Stamp.now(), wall=time.time() + days * DAY)


@pytest.mark.parametrize("days", [400, -400])
def test_a_clock_that_jumps_is_named_and_ages_no_training(nights: Nights, days: float) -> None:
    today = dt.datetime.now(dt.UTC).date()
    nights.run(night=today.isoformat())
    nights.add([("a further text", "sport")])
    moved = nights.run(night=(today + dt.timedelta(days=days)).isoformat(), clock=shifted(days))
    assert moved.outcome == SKIPPED and "no trigger fired" in moved.reason and moved.night == today.isoformat()
    assert f"{abs(days):.0f} days {'more' if days > 0 else 'less'}" in moved.reason and moved.reason in str(moved)
    after = nights.run(night=today.isoformat())
    assert after.outcome == SKIPPED and "clock" not in after.reason


def test_a_training_dated_by_a_wrong_clock_is_as_old_as_the_nights_since(nights: Nights) -> None:
    today = dt.datetime.now(dt.UTC).date()
    then = today + dt.timedelta(days=400)  # what a flow calls a night by such a clock
    nights.run(night=then.isoformat(), clock=replace(shifted(400), boot="a machine before"))
    last = nights.log.last_training
    assert last is not None and dt.datetime.fromisoformat(last.trained).date() > today + dt.timedelta(days=300)
    nights.add([("a further text", "sport")])
    first = nights.run("nightly.max_age_days=3", night=today.isoformat())
    assert (
        first.outcome == SKIPPED
        and "which is to come" in first.reason
        and "earlier than what was written" in first.reason
    )
    for day in range(1, 4):
        nights.log.add(replace(first, night=f"2020-01-0{day}"))
    due = nights.run("nightly.max_age_days=3", night=today.isoformat())
    assert due.outcome == KEPT and "max_age_days" in due.reason


def test_drift_of_the_texts_is_measured_where_the_cheap_signs_are_silent(nights: Nights) -> None:
    nights.run()
    nights.add([(f"quite new words {i}", ("sport", "tech", "food")[i % 3]) for i in range(60)])
    ended = nights.run("nightly.new_rows=null", "nightly.label_shift=null", "nightly.text_drift=0.99")
    assert nights.night.drift is not None and ended.facts["text_auroc"] > 0.5
