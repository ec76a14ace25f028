"""Small files that are read back: whatever they hold, the fault names file, key, what was wanted and what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertft_core.base.errors import DamagedFile
from bertft_core.base.files import is_complete, staged_folder, write_json
from bertft_core.base.home import STATE_FORMAT, open_home
from bertft_core.base.records import BROKEN, parse_record, read_record, set_aside
from bertft_core.recipe.nights.log import LastTraining, Night, NightLog, OpenNight
from bertft_core.recipe.nights.rows import Rows
from bertft_core.recipe.runs import Run, RunFolder, open_run
from bertft_core.training.spec import MachineSettings

BROKEN_BYTES = {
    "empty": b"",
    "cut off": b'{"format": 1, "ni',
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "NUL bytes": b"\0" * 64,
    "deep": b"[" * 100_000,
}
broken = pytest.mark.parametrize("content", BROKEN_BYTES.values(), ids=BROKEN_BYTES)
LAST = {"rows": "r", "asked": "s", "run": "/r", "run_id": "i", "version": None, "params": {}}
LAST |= {"trained": "2026-01-01T00:00:00+00:00", "searched": "2026-01-01T00:00:00+00:00"}


@broken
@pytest.mark.parametrize("kind", [Night, LastTraining, OpenNight, MachineSettings, dict[str, MachineSettings]])
def test_broken_file_is_one_error_that_names_it_and_says_what_to_do(tmp_path: Path, kind: type, content: bytes) -> None:
    file = tmp_path / "small.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"small\.json is damaged: .*; delete it$"):
        read_record(file, kind, "delete it")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"precision": "float32", "device": "cpu"}', "wanted the key threads, found none of that name"),
        (
            '{"precision": "float32", "device": "cpu", "threads": "2"}',
            "threads: input should be a valid integer, found '2'",
        ),
        ('{"precision": 3, "device": "cpu", "threads": 2}', "precision: input should be a valid string, found 3"),
    ],
)
def test_fault_names_the_key_what_was_wanted_and_what_was_found(text: str, told: str) -> None:
    with pytest.raises(DamagedFile) as fault:
        parse_record(text, MachineSettings, "machine.json", "delete it")
    assert str(fault.value) == f"machine.json is damaged: {told}; delete it"


def test_key_of_a_later_version_is_left_out() -> None:
    text = '{"precision": "float32", "device": "cpu", "threads": 2, "npus": 1}'
    assert parse_record(text, MachineSettings, "", "") == MachineSettings(precision="float32", device="cpu", threads=2)


def test_file_that_is_moved_aside_is_said_and_replaces_an_earlier_one(tmp_path: Path, caplog) -> None:
    for content in ("one", "two"):
        (tmp_path / "a.json").write_text(content)
        assert set_aside(tmp_path / "a.json", DamagedFile("a.json is damaged")).read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == [f"a.json{BROKEN}"]
    assert "a.json is damaged (kept as a.json.broken)" in caplog.text


@broken
def test_home_whose_stamp_is_broken_gets_a_new_one(tmp_path: Path, content: bytes) -> None:
    home = open_home(tmp_path / "home")
    (home / "format.json").write_bytes(content)
    assert open_home(home) == home
    assert json.loads((home / "format.json").read_text()) == {"format": STATE_FORMAT}
    assert (home / "format.json.broken").read_bytes() == content


@broken
def test_manifest_that_is_broken_makes_a_folder_incomplete(tmp_path: Path, content: bytes) -> None:
    with staged_folder(tmp_path / "a") as staging:
        (staging / "x").write_text("1")
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    assert not is_complete(tmp_path / "a")


@broken
def test_run_whose_state_is_broken_is_named_and_the_same_command_goes_on(tmp_path: Path, content: bytes) -> None:
    run = open_run(tmp_path, "k" * 64, again=False)
    run.folder.state.write_bytes(content)
    with pytest.raises(DamagedFile, match="doctor --repair"):
        run.state()
    assert open_run(tmp_path, "k" * 64, again=False).state() == {}
    assert run.folder.state.with_name("run.json.broken").read_bytes() == content


def test_state_of_a_later_bertft_is_kept(tmp_path: Path) -> None:
    run = open_run(tmp_path, "k" * 64, again=False)
    write_json(run.folder.state, {"study": "s", "distilled": {"teacher": "3"}})
    run.update(study="t")
    assert run.state() == {"study": "t", "distilled": {"teacher": "3"}}


@pytest.mark.parametrize(
    "state", [{"settings": {"threads": 1}}, {"result": []}, {"fit": {"score": "high"}}, {"study": 3}]
)
def test_wrong_value_inside_a_state_is_named(tmp_path: Path, state: dict) -> None:
    run = open_run(tmp_path, "k" * 64, again=False)
    write_json(run.folder.state, state)
    with pytest.raises(DamagedFile, match=next(iter(state))):
        run.state()


# --- nights ---


@broken
def test_record_of_a_night_at_work_that_is_broken_is_a_killed_night(tmp_path: Path, content: bytes) -> None:
    log = NightLog(tmp_path, "news")
    log.begin(OpenNight(night="2026-01-01", started="2026-01-01T02:00:00+00:00"))
    (tmp_path / "nights" / "news.open.json").write_bytes(content)
    left = log.left_open()
    assert left is not None and left.started.startswith(left.night) and left.plan is None
    assert log.left_open() is None and (tmp_path / "nights" / "news.open.json.broken").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"\0\0\0",
        b"[]",
        b"null",
        b'{"night": 3}',
        b'{"night": "2026-01-02", "started": "", "outcome": "flew"',
    ],
)
def test_line_that_cannot_be_read_is_told_and_spoils_no_other(tmp_path: Path, line: bytes) -> None:
    log = NightLog(tmp_path, "news")
    night = Night(night="2026-01-01", started="", outcome="skipped", reason="x", seconds=1)
    log.add(night)
    log.file.write_bytes(log.file.read_bytes() + line + b"\n")
    log.add(night)
    assert log.nights() == [night, night]
    assert [fault.partition(" is damaged")[0] for fault in log.faults()] == [f"{log.file}:2"]


def test_line_with_a_field_of_a_later_version_is_read(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    night = Night(night="2026-01-01", started="", outcome="skipped", reason="x", seconds=1)
    log.add(night)
    log.file.write_text(log.file.read_text().replace('"night"', '"shadow": 1, "night"'))
    assert log.nights() == [night] and log.faults() == []


def test_reason_with_half_a_sign_is_written_down(tmp_path: Path) -> None:
    log = NightLog(tmp_path, "news")
    log.add(Night(night="2026-01-01", started="", outcome="failed", reason="no file caf\udce9", seconds=1))
    assert [n.reason for n in log.nights()] == ["no file caf?"]


@broken
def test_last_training_that_is_broken_is_made_again_from_the_last_run_of_a_night(
    tmp_path: Path, content: bytes
) -> None:
    log = NightLog(tmp_path, "news")
    log.remember_training(parse_record(json.dumps(LAST), LastTraining, "", ""))
    (tmp_path / "nights" / "news.basis.json").write_bytes(content)
    results = {"abc": {"name": "news", "version": "3", "best_params": {"lr": 1e-4}}, "def": {"name": "other"}}
    for run_id, result in results.items():
        run = Run(run_key="", run_id=run_id, directory=str(tmp_path / "runs" / run_id), attempt=1)
        run.path.mkdir(parents=True)
        run.update(result=result)
        RunFolder(run.path).rows.write_bytes(b"")
    with pytest.raises(DamagedFile) as fault:
        _ = log.last_training
    made = log.remake_last_training(fault.value)
    assert made is not None and (made.run_id, made.version, made.params) == ("abc", "3", {"lr": 1e-4})
    assert made.settings == "" and Rows.load(Path(made.run)) is None
    assert log.last_training is None  # the next training is remembered in its place
