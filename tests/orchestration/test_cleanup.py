"""`bertft gc` on a real store and a real home: what goes, what never does, and that it may be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from bertft_core.base.errors import BusyError, RegistryError
from bertft_core.base.files import write_json
from bertft_core.base.locks import exclusive
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.cleanup import clean_up
from bertft_core.recipe.nights.log import LastTraining, NightLog
from bertft_core.registry import aliases, ledger, versions
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"
OLD = time.time() - 90 * 86400
FIT = {"state": "complete", "score": 0.5, "log_loss": 1.0, "seconds": 1.0}  # as training keeps it


def record(store, action, version, champion, to):
    made = ledger.Draft(action=action, version=version, champion=champion, to_version=to, reason="because")
    return ledger.write(store, MODEL, made)


def removed(store, *, keep=1, days=0.0, apply=False):
    found = clean_up(store, keep, days, apply=apply)["removals"]
    return sorted((r["kind"], r["version"] or Path(r["path"]).name) for r in found)


def aged(path):
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def four(shelf):
    """Versions 1 to 4: two past champions, the champion, and one that nobody needs. Their files are shared."""
    return settled(shelf())


@pytest.fixture
def four_to_delete(publish, store):
    """The same, with files of the test's own."""
    for number in range(1, 5):
        publish(f"r{number}")
    return settled(store)


def settled(store):
    record(store, "promoted", "1", None, "1")
    record(store, "promoted", "2", "1", "2")
    record(store, "promoted", "3", "2", "3")
    record(store, "kept", "4", "3", "3")
    return store


def test_dry_run_lists_unneeded_versions_with_their_bytes_and_removes_none(four):
    answer = clean_up(four, 1, 0.0, apply=False)
    (gone_1, gone_4) = answer["removals"]  # 2 is `previous` and where a rollback goes
    assert (gone_1["version"], gone_4["version"]) == ("1", "4") and not answer["applied"]
    assert gone_4["size"] > 10_000 and answer["bytes"] == gone_1["size"] + gone_4["size"]
    assert len(aliases.versions(four, MODEL)) == 4


def test_apply_removes_version_logged_model_and_files_and_says_so(four_to_delete):
    version, told = aliases.get_version(four_to_delete, MODEL, "4"), []
    files = Path(four_to_delete.artifact_root) / "models" / version.model_id
    clean_up(four_to_delete, 3, 0.0, told.append, apply=True)
    assert [v.version for v in aliases.versions(four_to_delete, MODEL)] == ["1", "2", "3"] and told == [
        "removed version letters version 4"
    ]
    assert tracking.logged_model_status(four_to_delete, version.model_id) == "GONE" and not list(
        files.rglob("*.safetensors")
    )
    assert removed(four_to_delete, keep=3) == []


def test_young_versions_stay(four):
    assert removed(four, days=1.0) == []


def test_kept_champions_and_their_versions_stay(four):
    assert removed(four, keep=3) == [("version", "4")]


def test_version_that_awaits_approval_stays(four):
    record(four, "awaiting", "4", "3", "3")
    assert removed(four, keep=3) == []


def test_rolled_back_champion_is_no_past_champion(four):
    record(four, "rolled_back", "3", "3", "2")
    aliases.drop_alias(four, MODEL, "previous")
    assert removed(four, keep=3) == [("version", "3"), ("version", "4")]


def test_version_registered_by_somebody_else_stays(four):
    other = aliases.get_version(four, MODEL, "4")
    tracking.client(four).delete_model_version_tag(MODEL, "4", "bertft.run_id")
    assert ("version", other.version) not in removed(four)


def test_version_whose_files_a_copy_shares_stays(four):
    source = aliases.get_version(four, MODEL, "4")
    api = tracking.client(four)
    api.create_registered_model("production")
    place = tracking.logged_model_location(four, source.model_id)
    api.create_model_version("production", source=place, tags=source.tags)
    assert removed(four, keep=3) == []
    with pytest.raises(RegistryError, match="shares its artefacts"):
        versions.delete_version(four, MODEL, "4")


def test_model_of_somebody_else_is_left_alone(store):
    api = tracking.client(store)
    api.create_registered_model("theirs")
    made = api.create_model_version("theirs", source="s3://elsewhere/model")
    api.set_registered_model_alias("theirs", "champion", made.version)
    assert removed(store, apply=True) == [] and ledger.read(store, "theirs") == ()


@pytest.mark.parametrize(("version", "why"), [("3", "alias champion"), ("2", "alias previous")])
def test_version_behind_an_alias_is_never_deleted(four, version, why):
    with pytest.raises(RegistryError, match=why):
        versions.delete_version(four, MODEL, version)
    assert aliases.find(four, MODEL, version) is not None


def test_rollback_target_without_an_alias_is_never_deleted(four):
    aliases.drop_alias(four, MODEL, "previous")
    with pytest.raises(RegistryError, match="a rollback would return to it"):
        versions.delete_version(four, MODEL, "2")


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("step", ["delete_logged_model", "delete_model_version"])
def test_killed_removal_of_a_version_is_finished_by_the_next(four_to_delete, step):
    def die(self, *args, **kwargs):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(mlflow.MlflowClient, step, die)
        clean_up(four_to_delete, 3, 0.0, apply=True)
    assert removed(four_to_delete, keep=3, apply=True) == [("version", "4")]
    assert aliases.find(four_to_delete, MODEL, "4") is None


# --- folders ---


def a_run(home, name, **state):
    folder = home / "runs" / name
    (folder / "fit").mkdir(parents=True)
    write_json(folder / "run.json", state)
    aged(folder / "run.json")
    return folder


def test_old_finished_run_goes_and_one_that_an_alias_rests_on_stays(four):
    home = Path(four.home)
    for name in ("r1", "r3", "r9"):
        a_run(home, name, result={})
    a_run(home, "r8", fit=FIT)  # not finished: the same command goes on with it
    assert [r for r in removed(four, days=1.0) if r[0] == "run folder"] == [("run folder", "r1"), ("run folder", "r9")]


def test_run_whose_rows_the_next_night_is_compared_with_stays(store):
    home = Path(store.home)
    for name in ("r1", "r2"):
        a_run(home, name, result={})
    last = LastTraining(
        rows="",
        settings="",
        run=str(home / "runs" / "r1"),
        run_id="r1",
        version="1",
        params={},
        trained="",
        searched="",
    )
    NightLog(home, MODEL).remember_training(last)
    assert removed(store) == [("run folder", "r2")]


def test_attempts_of_one_key_go_together_or_not_at_all(store):
    home = Path(store.home)
    a_run(home, "abc", result={})
    a_run(home, "abc-2", fit=FIT)
    assert removed(store) == []
    write_json(home / "runs" / "abc-2" / "run.json", {"result": {}})
    assert removed(store) == [("run folder", "abc"), ("run folder", "abc-2")]


def test_checkpoints_and_search_folders_of_finished_runs_go(store):
    home = Path(store.home)
    for name, state in (("done", {"result": {}}), ("open", {})):
        folder = a_run(home, name, study=f"study-{name}", **state)
        (folder / "fit" / "checkpoint.safetensors").write_bytes(b"x" * 100)
        (home / "search" / f"study-{name}" / "trial-0").mkdir(parents=True)
    os.utime(home / "runs" / "done" / "run.json")  # finished today: its folder stays, its checkpoint does not
    found = removed(store, days=1.0)
    assert found == [("checkpoint", "checkpoint.safetensors"), ("search folder", "study-done")]


def test_old_downloads_go_and_those_of_needed_versions_stay(four):
    home, champion = Path(four.home), aliases.get_version(four, MODEL, "3")
    for folder in ("served", "evidence"):
        for name in (champion.model_id, "m-gone"):
            (home / folder / name).mkdir(parents=True)
            aged(home / folder / name)
    assert removed(four, days=1.0) == [("evidence copy", "m-gone"), ("served copy", "m-gone")]


def test_old_caches_go_only_while_no_run_is_open(store):
    home = Path(store.home)
    for name in ("data", "tokens", "floors"):
        (home / name / "old").mkdir(parents=True)
        aged(home / name / "old")
        (home / name / "new").mkdir()
    assert removed(store, days=1.0) == [("cache", "old")] * 3
    run = a_run(home, "open")
    os.utime(run / "run.json")
    assert removed(store, days=1.0) == []


def test_hidden_states_go_once_no_fit_has_read_them_of_late(store):
    folders = [Path(store.home) / "prefix" / name for name in ("unread", "read")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "segment").write_bytes(b"states")
        aged(folder / "segment")
        aged(folder)
    os.utime(folders[1] / "segment")
    assert removed(store, days=1.0) == [("cache", "unread")]


def test_killed_removal_of_a_folder_is_finished_by_the_next(store, monkeypatch):
    run = a_run(Path(store.home), "old", result={})

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(shutil, "rmtree", die)
        clean_up(store, 1, 0.0, apply=True)
    assert not run.exists()
    assert removed(store, apply=True) == [("leftover", ".old.removed")] and removed(store) == []


def test_apply_refuses_while_a_command_works(store):
    with exclusive(Path(store.home) / "locks" / "abc.lock", "a run"), pytest.raises(BusyError, match="abc"):
        clean_up(store, 1, 0.0, apply=True)


# --- what cannot be read, who works here, no room ---


def test_model_whose_ledger_cannot_be_read_keeps_all_and_stops_no_other(four):
    api = tracking.client(four)
    api.create_registered_model("other")
    source = aliases.get_version(four, MODEL, "4")
    api.create_model_version("other", source=tracking.logged_model_location(four, source.model_id), tags=source.tags)
    api.set_registered_model_tag("other", f"{ledger.LEDGER}000001", "{")
    home = Path(four.home)
    a_run(home, "r9", result={})
    answer = clean_up(four, 3, 0.0, apply=True)
    assert [r["name"] for r in answer["removals"]] == ["runs/r9"]  # r4 of both models stays
    (note,) = answer["notes"]
    assert note.startswith(
        f"everything of other stays: the tag {ledger.LEDGER}000001 of registered model other is damaged"
    )


def test_run_and_night_that_cannot_be_read_stay_and_are_said(store):
    home = Path(store.home)
    for name in ("r1", "r2"):
        a_run(home, name, result={})
    aged((home / "runs" / "r1" / "run.json").write_bytes(b"[]") and home / "runs" / "r1" / "run.json")
    assert removed(store) == [("run folder", "r2")]
    (home / "nights").mkdir()
    (home / "nights" / "news.basis.json").write_bytes(b"\0")
    answer = clean_up(store, 1, 0.0, apply=True)
    assert answer["removals"] == [] and len(answer["notes"]) == 2 and (home / "runs" / "r2").exists()


def test_what_killed_processes_left_goes(store):
    home, gone = Path(store.home), 2**22 + 1  # no process has such a number
    staging = home / "tokens" / f".abc.part-{gone}-x0y1z2w3"
    staging.mkdir(parents=True)
    (home / "search" / "study" / "trial-0").mkdir(parents=True)
    parts = [
        home / f".machine.json.{gone}-0a1b2c3d.part",
        home / "search" / "study" / "trial-0" / f".checkpoint.safetensors.{gone}-0a1b2c3d.part",
    ]
    for part in (*parts, staging / "train.ids"):
        part.write_bytes(b"x" * 100)
    names = sorted([("leftover", staging.name), *(("leftover", part.name) for part in parts)])
    assert removed(store, days=1.0, apply=True) == names
    assert not staging.exists() and not any(part.exists() for part in parts)


def test_apply_refuses_while_a_command_works_that_holds_no_lock_but_the_homes(store):
    code = "import sys; from bertft_core.base.locks import work_in; work_in(sys.argv[1]); print(1); sys.stdout.close()"
    code += "; sys.stdin.read()"
    worker = subprocess.Popen(
        [sys.executable, "-c", code, store.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout.readline()
    with pytest.raises(BusyError, match=f"process {worker.pid}"):
        clean_up(store, 1, 0.0, apply=True)
    assert clean_up(store, 1, 0.0, apply=False)["removals"] == []
    worker.communicate()


def test_cleaning_up_makes_room_on_a_full_disk(blank, small_disk):
    shutil.copytree(blank, small_disk / "home")
    config = load_mlflow_config(environ={})
    store = tracking.open_store(
        config.model_copy(update={"artifact_root": str(small_disk / "home" / "artifacts")}), small_disk / "home"
    )
    (small_disk / "home" / "tokens" / "old").mkdir(parents=True)
    file = small_disk / "home" / "tokens" / "old" / "train.arrow"
    with open(file, "wb", buffering=0) as handle, contextlib.suppress(OSError):
        while handle.write(b"x" * 4096):
            pass
    aged(small_disk / "home" / "tokens" / "old")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "more").write_bytes(b"x")
    assert removed(store, days=1.0, apply=True) == [("cache", "old")]
    (small_disk / "more").write_bytes(b"x")
