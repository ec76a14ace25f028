"""The ledger on a real sqlite MLflow: what is written, what a kill leaves, two writers at once."""

from __future__ import annotations

import calendar
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from bertft_core.base.errors import DamagedFile, InputError, RegistryError
from bertft_core.registry import aliases, claims, entries, ledger, overrides
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"
WRITES = (
    "set_registered_model_tag",
    "update_registered_model",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "log_text",
)
ANNOUNCED = 3  # the first write after the claim and the announcement


def record(store, action, version, champion, to, reason="because", **facts):
    made = ledger.Draft(action=action, version=version, champion=champion, to_version=to, reason=reason, **facts)
    return ledger.write(store, MODEL, made)


def promote(store, version, champion, reason="because"):
    return record(store, "promoted", version, champion, version, reason)


def moves(store):
    return [(e.action, e.version, e.from_version, e.to_version) for e in ledger.read(store, MODEL)]


@pytest.fixture
def two(shelf):
    """Version 1 was champion, version 2 is."""
    store = shelf()
    promote(store, "1", None)
    promote(store, "2", "1", "better")
    return store


class Killed(BaseException):
    """Stands for kill -9 just before a write to the registry."""


@contextlib.contextmanager
def killed_before_write(number):
    """Stop the block just before its `number`-th write (from 1); yields a list that is filled when that happens."""
    count, struck = itertools.count(1), []
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in WRITES:
            real = getattr(mlflow.MlflowClient, name)

            def write(self, *args, real=real, **kwargs):
                if next(count) == number:
                    struck.append(number)
                    raise Killed
                return real(self, *args, **kwargs)

            patch.setattr(mlflow.MlflowClient, name, write)
        yield struck


# --- what is written ---


def test_a_decision_by_a_clock_that_jumped_is_dated_by_the_order_and_names_the_clock(two, monkeypatch):
    clock = time.time
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: clock() + 90 * 86_400)
        jumped = record(two, "kept", "1", "2", "2")
    plain = record(two, "kept", "1", "2", "2", "again")
    release = ledger.release_of(MODEL, jumped)
    assert "90 days more than the time it has been running tells" in release.reason and release.reason in str(release)
    assert abs(calendar.timegm(time.strptime(jumped.at, entries.TIME_FORMAT)) - clock()) < 600
    assert "clock" not in plain.numbers and ledger.read(two, MODEL)[-2] == jumped


def test_champion_moves_and_previous_remembers(two):
    assert aliases.aliases(two, MODEL) == {"champion": "2", "previous": "1"}
    assert moves(two) == [("promoted", "1", None, "1"), ("promoted", "2", "1", "2")]


def test_challenger_alias_goes_when_its_version_is_promoted(two):
    aliases.set_alias(two, MODEL, "challenger", "3")
    promote(two, "3", "2")
    assert aliases.aliases(two, MODEL) == {"champion": "3", "previous": "2"}


def test_entry_says_who_when_from_what_and_where_the_evidence_is(shelf, monkeypatch):
    monkeypatch.setenv("BERTFT_USER", "ann@desk")
    store = shelf()
    numbers = {"difference": 0.1, "interval": [0.05, 0.15], "n": 60, "failed": []}
    made = record(store, "promoted", "1", None, "1", numbers=numbers, prefect_run="run-7")
    (read,) = ledger.read(store, MODEL)
    assert read == made and read.state == "done"
    assert (read.by, read.numbers, read.prefect_run, read.run_key) == ("ann@desk", numbers, "run-7", "key1")
    assert (read.rows, read.weights) == ("rows", "w1") and read.at.endswith("Z")
    assert read.report == f"runs:/{aliases.get_version(store, MODEL, '1').run_id}/evaluation"


def test_version_and_its_run_carry_copies_of_the_entry(two):
    version = aliases.get_version(two, MODEL, "2")
    assert version.tags["bertft.decision"] == "promoted" and version.tags["bertft.decision_reason"] == "better"
    assert ledger.LedgerEntry.from_text(version.tags[f"{ledger.LEDGER}000002"]) == ledger.read(two, MODEL)[1]
    text = Path(tracking.client(two).download_artifacts(version.run_id, "ledger.jsonl")).read_text()
    assert [(json.loads(line)["number"], json.loads(line)["state"]) for line in text.splitlines()] == [
        (1, "done"),
        (2, "done"),
    ]


def shown(store):
    """Tags of the model and its versions that MLflow's pages show, and the model's description."""
    api = tracking.client(store)
    found = [api.get_registered_model(MODEL), *(api.get_model_version(MODEL, v) for v in "123")]
    tags = {key: value for one in found for key, value in one.tags.items() if not key.startswith("mlflow.")}
    return tags, found[0].description


def test_pages_of_mlflow_show_the_champion_and_the_last_decision_in_words_and_no_json(two):
    tags, said = shown(two)
    assert not [value for value in tags.values() if value.startswith(("{", "["))] and len(ledger.read(two, MODEL)) == 2
    since = ledger.read(two, MODEL)[1].at[:16].replace("T", " ")
    assert f"**Champion: version 2** since {since} UTC (promoted by " in said
    assert f"Last decision: version 2 promoted on {since} UTC: better" in said
    record(two, "kept", "3", "2", "2", "a *tie*\n<b>")
    said = shown(two)[1]
    assert "**Champion: version 2**" in said and r"version 3 kept on" in said and r"a \*tie\* &lt;b>" in said
    record(two, "rolled_back", "2", "2", "1", "complaints")
    said = shown(two)[1]
    assert "**Champion: version 1**" in said and "On hold: rolled back from version 2: complaints" in said
    assert said.count("Champion:") == 1


def test_description_that_people_wrote_stays(two):
    api = tracking.client(two)
    api.update_registered_model(MODEL, description=f"Of the mail team.\n\n{shown(two)[1]}\n\nAsk Ann.")
    promote(two, "3", "2")
    said = shown(two)[1]
    assert said.startswith("Of the mail team.") and said.endswith("Ask Ann.") and "Champion: version 3" in said
    api.update_registered_model(MODEL, description="Ours alone.")
    record(two, "kept", "1", "3", "3")
    said = shown(two)[1]
    assert said.startswith("Ours alone.\n\n<!-- bertft") and said.count("Champion:") == 1


def test_ledger_of_an_earlier_release_is_read_and_moved_with_the_next_entry(two):
    api, before = tracking.client(two), ledger.read(two, MODEL)
    for key, text in api.get_registered_model(MODEL).tags.items():
        if key.startswith(ledger.LEDGER):  # as that release has them, one of them moved by a process that was killed
            api.set_registered_model_tag(MODEL, ledger.FORMER + key.removeprefix(ledger.LEDGER), text)
            if key.endswith("1"):
                api.delete_registered_model_tag(MODEL, key)
    api.delete_registered_model_tag(MODEL, ledger.INDEX)
    assert ledger.read(two, MODEL) == before and ledger.models(two) == (MODEL,)
    entry = promote(two, "3", "2")
    assert ledger.read(two, MODEL) == (*before, entry)
    tags = set(api.get_registered_model(MODEL).tags)
    assert {key for key in tags if key.startswith(ledger.FORMER)} == {ledger.INDEX}
    assert {key for key in tags if key.startswith(ledger.LEDGER)} == {f"{ledger.LEDGER}00000{n}" for n in (1, 2, 3)}


@pytest.mark.parametrize("text", ["", "[]", '{"number": 2, "act', "\0"])
def test_tag_that_is_damaged_is_read_from_its_copy_and_written_anew(two, text):
    before = ledger.read(two, MODEL)
    tracking.client(two).set_registered_model_tag(MODEL, f"{ledger.LEDGER}000002", text or " ")
    assert ledger.read(two, MODEL) == before
    assert [e.number for e in ledger.settle(two, MODEL).repaired] == [2]
    assert ledger.settle(two, MODEL).repaired == () and ledger.read(two, MODEL) == before


def test_tag_that_is_damaged_like_its_copy_is_named_and_decides_nothing(two):
    tracking.client(two).set_registered_model_tag(MODEL, f"{ledger.LEDGER}000002", "{")
    tracking.client(two).set_model_version_tag(MODEL, "2", f"{ledger.LEDGER}000002", "{")
    with pytest.raises(
        DamagedFile, match=r"tag mlflow\.bertft\.ledger\.000002 of registered model letters .*ledger\.jsonl"
    ):
        promote(two, "3", "2")
    assert aliases.aliases(two, MODEL)["champion"] == "2"


def test_store_that_refuses_the_copy_keeps_the_entry(two, caplog):
    folder = Path(tracking.client(two).get_run(aliases.get_version(two, MODEL, "3").run_id).info.artifact_uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.jsonl").unlink(missing_ok=True)
    (folder / "ledger.jsonl").mkdir()
    try:
        promote(two, "3", "2")
    finally:
        (folder / "ledger.jsonl").rmdir()
    assert moves(two)[-1] == ("promoted", "3", "2", "3") and "ledger.jsonl" in caplog.text


def test_champion_moved_meanwhile_is_refused(two):
    with pytest.raises(RegistryError, match="rests on 1: somebody moved it"):
        promote(two, "3", "1")
    assert aliases.champion(two, MODEL) == "2" and len(moves(two)) == 2


def test_promotion_that_meets_a_hold_is_held(two):
    record(two, "rolled_back", "2", "2", "1", "complaints")
    entry = promote(two, "3", "1", "better again")
    assert entry.action == "held" and "complaints" in entry.reason and "better again" in entry.reason
    assert aliases.champion(two, MODEL) == "1"


def test_version_whose_logged_model_failed_is_refused(publish, store):
    first = publish()
    tracking.client(store).finalize_logged_model(first.model_id, "FAILED")
    with pytest.raises(RegistryError, match="FAILED, wanted READY"):
        promote(store, first.version, None)
    assert ledger.read(store, MODEL) == ()


# --- kills ---


@pytest.mark.parametrize(
    "decision",
    [("promoted", "3", "2", "3"), ("rolled_back", "2", "2", "1"), ("kept", "3", "2", "2")],
    ids=lambda decision: decision[0],
)
def test_kill_before_any_write_loses_and_doubles_nothing(two, decision, tmp_path):
    database = tmp_path / "shelf" / "mlflow.db"
    before = database.read_bytes()
    for number in itertools.count(1):
        database.write_bytes(before)
        shutil.rmtree(tmp_path / "shelf" / "champions", ignore_errors=True)  # else the home would miss what came since
        aliases.set_alias(two, MODEL, "challenger", "3")
        with killed_before_write(number) as struck:
            record(two, *decision)
        was_announced = len(ledger.read(two, MODEL)) == 3
        settled = ledger.settle(two, MODEL)
        assert was_announced == (len(settled.entries) == 3), f"write {number}"
        if not was_announced:
            record(two, *decision)
        known = ledger.read(two, MODEL)
        assert [(e.number, e.state) for e in known] == [(1, "done"), (2, "done"), (3, "done")], f"write {number}"
        assert moves(two)[-1] == decision and aliases.champion(two, MODEL) == decision[3]
        assert ledger.settle(two, MODEL).repaired == ()
        if not struck:
            break
    assert number > 4


def test_killed_resume_is_finished_by_history(two):
    record(two, "rolled_back", "2", "2", "1")
    with killed_before_write(ANNOUNCED) as struck:
        overrides.resume(two, MODEL, "mended")
    assert struck
    shown = overrides.history(two, MODEL)
    assert (shown["hold"], shown["repaired"]) == (None, [4])
    assert overrides.resume(two, MODEL, "mended").outcome == "resumed" and len(moves(two)) == 4


def test_announced_move_is_void_when_the_champion_was_moved_by_hand_meanwhile(two):
    with killed_before_write(ANNOUNCED) as struck:
        promote(two, "3", "2")
    assert struck
    aliases.set_alias(two, MODEL, "champion", "1")
    known = ledger.settle(two, MODEL).entries
    assert [(e.action, e.state) for e in known[2:]] == [("promoted", "void"), ("noticed", "done")]
    assert "not carried out, the champion was moved to 1" in known[2].reason
    assert aliases.champion(two, MODEL) == "1"


def test_announced_move_is_void_when_its_version_was_deleted_meanwhile(two):
    with killed_before_write(ANNOUNCED) as struck:
        promote(two, "3", "2")
    assert struck
    tracking.client(two).delete_model_version(MODEL, "3")
    assert [e.state for e in ledger.settle(two, MODEL).entries] == ["done", "done", "void"]
    assert aliases.champion(two, MODEL) == "2"


# --- two processes ---

RACE = """
import sys, time
from pathlib import Path
from bertft_core.base.errors import RegistryError
from bertft_core.config.store import load_mlflow_config
from bertft_core.registry import ledger
from bertft_core.tracking import store as tracking
home, root, version, gate, database = sys.argv[1:]
own = {"experiment": "own", "artifact_root": root, "tracking_uri": f"sqlite:///{database}"}
config = load_mlflow_config(environ={}).model_copy(update=own)
store = tracking.open_store(config, home)
def decide(action, to):
    made = ledger.Draft(action=action, version=version, champion="1", to_version=to, reason="race")
    return ledger.write(store, "letters", made)
Path(f"{gate}.{version}").touch()
while not (Path(f"{gate}.2").exists() and Path(f"{gate}.3").exists()):
    time.sleep(0.01)
try:
    for _ in range(5):
        decide("kept", "1")
    decide("promoted", version)
    print("won")
except RegistryError as fault:
    print("lost" if "run the command again" in str(fault) else fault)
"""


@pytest.mark.parametrize("homes", [("shelf", "shelf"), ("shelf", "other")], ids=["one home", "no lock in common"])
def test_two_promotions_at_once_have_one_winner_and_no_gap(shelf, stocked, tmp_path, homes):
    store = shelf()
    promote(store, "1", None)
    (tmp_path / "other").mkdir()
    files = [str(tmp_path / "gate"), str(tmp_path / "shelf" / "mlflow.db")]
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RACE, str(tmp_path / home), str(stocked / "artifacts"), version, *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(ledger.__file__).parents[2])},
        )
        for home, version in zip(homes, ("2", "3"), strict=True)
    ]
    answers = [p.communicate(timeout=300) for p in started]
    assert sorted(out.strip() for out, _ in answers) == ["lost", "won"], answers
    known = ledger.read(store, MODEL)
    assert [e.number for e in known] == list(range(1, len(known) + 1))
    assert {e.state for e in known} == {"done"} and len({e.token for e in known}) == len(known) >= 7
    (winner,) = [e for e in known[1:] if e.action == "promoted"]
    assert aliases.champion(store, MODEL) == winner.version


def other_home(store, tmp_path):
    """The same registry from a home of its own, which shares no lock with the first."""
    (tmp_path / "other").mkdir()
    return replace(store, home=str(tmp_path / "other"))


def test_claim_of_a_live_process_is_waited_for(two, tmp_path):
    with claims.claimed(two, MODEL, 3, "theirs"):
        going = threading.Thread(target=record, args=(other_home(two, tmp_path), "kept", "3", "2", "2"))
        going.start()
        time.sleep(1)
        assert going.is_alive() and len(ledger.read(two, MODEL)) == 2
    going.join(60)
    assert moves(two)[-1] == ("kept", "3", "2", "2") and not ledger.view_model(two, MODEL).claims


@pytest.mark.parametrize("is_same_home", [True, False])
def test_claim_of_a_killed_process_holds_nobody_up(two, tmp_path, monkeypatch, is_same_home):
    if not is_same_home:
        monkeypatch.setattr(claims, "_PATIENCE_SECONDS", 0.5)
    claim = claims.claimed(two, MODEL, 3, "theirs")
    claim.__enter__()
    store = two if is_same_home else other_home(two, tmp_path)
    assert record(store, "kept", "3", "2", "2").number == 3
    assert not ledger.view_model(two, MODEL).claims


def test_claim_that_comes_between_is_seen_before_anything_is_written(two, tmp_path, monkeypatch):
    """As of two that claim at once: who reads later sees both, takes its own back and writes after the other."""
    other, real, met = other_home(two, tmp_path), ledger.view_model, []

    def view_model(store, name):
        if not met and real(store, name).claims:
            met.append(claims.claimed(other, MODEL, 3, "theirs"))
            met[0].__enter__()
            threading.Timer(1, lambda: met[0].__exit__(None, None, None)).start()
        return real(store, name)

    monkeypatch.setattr(ledger, "view_model", view_model)
    assert record(two, "kept", "3", "2", "2").number == 3 and met
    assert [e.number for e in ledger.read(two, MODEL)] == [1, 2, 3]


# --- changed by hand ---


def test_alias_moved_by_hand_is_noticed_once(two):
    aliases.set_alias(two, MODEL, "champion", "3")
    for _ in range(2):
        shown = overrides.history(two, MODEL)
    assert [e["action"] for e in shown["entries"]] == ["promoted", "promoted", "noticed"]
    assert "moved outside bertft: 2 -> 3" in shown["entries"][2]["reason"]
    view = ledger.view_model(two, MODEL)
    assert (view.champion, view.champion_fault) == ("3", None)


def test_champion_that_bertft_never_made_is_noticed(shelf):
    store = shelf()
    aliases.set_alias(store, MODEL, "champion", "2")
    ledger.settle(store, MODEL)
    assert moves(store) == [("noticed", "2", None, "2")]


def test_champion_deleted_by_hand_is_a_fault_and_not_a_first_version(two):
    tracking.client(two).delete_model_version(MODEL, "2")
    ledger.settle(two, MODEL)
    view = ledger.view_model(two, MODEL)
    assert view.champion is None and view.champion_fault == "the champion, version 2, was deleted outside bertft"
    assert moves(two)[-1] == ("noticed", "2", "2", None)


def test_alias_taken_off_by_hand_is_a_fault_and_not_a_first_version(two):
    aliases.drop_alias(two, MODEL, "champion")
    ledger.settle(two, MODEL)
    assert "version 2, lost the alias champion" in str(ledger.view_model(two, MODEL).champion_fault)


def test_champion_whose_logged_model_was_deleted_is_a_fault(two):
    tracking.client(two).delete_logged_model(aliases.get_version(two, MODEL, "2").model_id)
    view = ledger.view_model(two, MODEL)
    assert view.champion == "2" and "is GONE, wanted READY" in str(view.champion_fault)


def test_model_without_champion_has_none_and_no_fault(shelf):
    view = ledger.view_model(shelf(), MODEL)
    assert (view.champion, view.champion_fault) == (None, None)


def test_history_of_an_unknown_model_names_the_known_ones(shelf):
    with pytest.raises(InputError, match="no registered model nobody.*letters"):
        overrides.history(shelf(), "nobody")
