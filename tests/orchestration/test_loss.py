"""A registry that lost what the home remembers is no fresh registry: real sqlite stores, lost in every way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bertft_core.base.errors import InputError, LostError
from bertft_core.registry import aliases, ledger, overrides, remembered
from bertft_core.registry.decision import promote_or_keep, require_comparable
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"


def champion(store, version, before=None):
    draft = ledger.Draft(action="promoted", version=version, champion=before, to_version=version, reason="better")
    return ledger.write(store, MODEL, draft)


@pytest.fixture
def one(shelf):
    """Version 1 is champion."""
    store = shelf()
    champion(store, "1")
    return store


@pytest.fixture
def fresh(blank):
    """Empties a store's database: the file stays, since MLflow keeps it open for the rest of this process."""

    def empty(store):
        with sqlite3.connect(blank / "mlflow.db") as source, sqlite3.connect(database_of(store)) as target:
            source.backup(target)
        tracking.ensure_store(store)
        return store

    return empty


def database_of(store):
    return store.tracking_uri.removeprefix("sqlite:///")


def older_database(store, entry):
    """The database as a backup from before `entry` has it: no later entry, no alias."""
    with sqlite3.connect(database_of(store)) as database:
        database.execute("delete from registered_model_tags where key >= ?", (f"{ledger.LEDGER}{entry:06d}",))
        database.execute("delete from registered_model_aliases")
    return store


def test_home_remembers_the_champion_with_the_entry_that_made_it(one):
    file = Path(one.home) / "champions" / f"{MODEL}.json"
    known, (entry,) = json.loads(file.read_text(encoding="utf-8")), ledger.read(one, MODEL)
    assert known["version"] == "1" and known["entry"] == 1 and known["since"] == entry.at
    assert known["weights"] == "w1" and known["registry"] == one.registry_uri


def refused(store):
    """What every deciding call says; all must say it, and none may write anything."""
    said = set()
    for decide in (
        lambda: require_comparable(store, MODEL),
        lambda: overrides.already(store, MODEL, "2"),
        lambda: overrides.force(store, MODEL, "2", "why not"),
        lambda: overrides.rollback(store, MODEL, "complaints"),
        lambda: overrides.resume(store, MODEL, "mended"),
        lambda: ledger.settle(store, MODEL),
    ):
        with pytest.raises(LostError) as fault:
            decide()
        said.add(str(fault.value))
    (text,) = said
    return text


def test_fresh_registry_is_refused_by_every_deciding_call_and_can_be_adopted(one, fresh, candidate):
    entry = ledger.read(one, MODEL)[0]
    store = fresh(one)
    text = refused(store)
    assert text.startswith(f"the registry has lost model letters (champion version 1 since {entry.at})")
    assert text.endswith("restore it, or `bertft adopt letters` goes on with the registry as it is")
    with pytest.raises(LostError):
        promote_or_keep(candidate("1"), store)
    assert overrides.history(store, MODEL)["lost"] == text and aliases.model_names(store) == ()

    done = overrides.adopt(store, MODEL, "the disk is gone for good")
    assert (done.outcome, done.champion_before, done.champion_after) == ("adopted", "1", None)
    (written,) = ledger.read(store, MODEL)
    assert (written.action, written.reason, written.by) == ("adopted", "the disk is gone for good", ledger.who())
    require_comparable(store, MODEL)
    assert overrides.adopt(store, MODEL) == done and len(ledger.read(store, MODEL)) == 1
    assert overrides.history(store, MODEL)["lost"] is None


def test_registry_that_comes_back_is_accepted_without_a_word(one, fresh, tmp_path):
    with sqlite3.connect(database_of(one)) as database, sqlite3.connect(tmp_path / "backup.db") as backup:
        database.backup(backup)
    refused(fresh(one))
    with sqlite3.connect(database_of(one)) as database, sqlite3.connect(tmp_path / "backup.db") as backup:
        backup.backup(database)
    require_comparable(one, MODEL)


def test_older_backup_of_the_registry_is_a_loss_and_adopting_takes_its_champion(one):
    champion(one, "2", "1")
    store = older_database(one, 2)
    aliases.set_alias(store, MODEL, "champion", "1")
    assert "champion version 2 since" in refused(store) and "entry 2 of its ledger is not in" in refused(store)
    done = overrides.adopt(store, MODEL)
    assert (done.outcome, done.champion_after) == ("adopted", "1")
    require_comparable(store, MODEL)


def test_lost_ledger_tags_are_a_loss_though_versions_and_alias_stand(one):
    older_database(one, 1)
    aliases.set_alias(one, MODEL, "champion", "1")
    assert "the registry has lost model letters (champion version 1" in refused(one)


def lose_version(store):
    tracking.client(store).delete_model_version(MODEL, "1")


def lose_alias(store):
    aliases.drop_alias(store, MODEL, "champion")


def lose_logged_model(store):
    tracking.client(store).delete_logged_model(aliases.get_version(store, MODEL, "1").model_id)


@pytest.mark.parametrize(
    ("lose", "words"),
    [
        (lose_version, "was deleted outside bertft"),
        (lose_alias, "lost the alias champion outside bertft"),
        (lose_logged_model, "is GONE, wanted READY"),
    ],
)
def test_champion_that_is_lost_is_told_before_a_training_and_can_be_given_up(one, shelf, lose, words):
    lose(one)
    with pytest.raises(LostError, match=rf"{words}.*rollback letters --to VERSION`, or `bertft adopt letters`"):
        require_comparable(one, MODEL)
    require_comparable(shelf(champion_unavailable="promote"), MODEL)
    done = overrides.adopt(one, MODEL)
    assert (done.outcome, done.champion_after) == ("adopted", None) and words in done.reason
    require_comparable(one, MODEL)
    assert aliases.champion(one, MODEL) is None


def test_champion_whose_files_are_gone_is_told_before_a_training(store, publish):
    first = publish()
    champion(store, first.version)
    require_comparable(store, MODEL)
    files = Path(store.artifact_root) / "models" / first.model_id / "artifacts"
    (weights,) = files.rglob("model.safetensors")
    weights.unlink()
    with pytest.raises(LostError, match=r"its files are gone from .*no weights"):
        require_comparable(store, MODEL)
    shutil.rmtree(files)
    with pytest.raises(LostError, match=r"its files are gone from .*no bertft\.json"):
        require_comparable(store, MODEL)


def test_earlier_champion_can_be_returned_to_where_the_present_one_was_deleted(one):
    champion(one, "2", "1")
    tracking.client(one).delete_model_version(MODEL, "2")
    with pytest.raises(LostError):
        require_comparable(one, MODEL)
    assert overrides.rollback(one, MODEL, "version 2 is gone").champion_after == "1"
    require_comparable(one, MODEL)


def test_another_registry_is_named_with_the_one_before(one, blank, tmp_path):
    shutil.copytree(blank, tmp_path / "elsewhere")
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    moved = replace(one, tracking_uri=uri, registry_uri=uri)
    text = refused(moved)
    assert text.startswith(f"{uri} does not know the champion of letters, version 1 since")
    assert f"which {one.registry_uri} had" in text
    assert overrides.adopt(moved, MODEL).champion_after is None
    require_comparable(moved, MODEL)
    require_comparable(one, MODEL)  # and back again: nothing was left behind there
    assert remembered.recall(one, MODEL)[0].version == "1"


def test_same_registry_by_another_address_is_no_loss(one):
    path = Path(database_of(one))
    link = path.with_name("link.db")
    link.symlink_to(path)
    other = replace(one, tracking_uri=f"sqlite:///{link}", registry_uri=f"sqlite:///{link}")
    require_comparable(other, MODEL)
    assert remembered.recall(other, MODEL)[0].registry == other.registry_uri


def test_two_homes_that_share_a_registry_alarm_nobody(one, tmp_path):
    here, there = one, replace(one, home=str(tmp_path / "second"))
    for home in (here, there):
        ledger.settle(home, MODEL)
    champion(there, "2", "1")
    require_comparable(here, MODEL)
    champion(here, "3", "2")
    overrides.rollback(there, MODEL, "complaints")
    require_comparable(here, MODEL)
    assert remembered.recall(here, MODEL) == remembered.recall(there, MODEL)


def test_alias_moved_by_hand_is_taken_over_and_remembered(one):
    aliases.set_alias(one, MODEL, "champion", "3")
    require_comparable(one, MODEL)
    (known,) = remembered.recall(one, MODEL)
    assert (known.version, known.entry) == ("3", 2)


@pytest.mark.parametrize("found", ["", "[]", '{"version": 1}', "null"])
def test_damaged_memory_is_moved_aside_and_made_again(one, found):
    file = Path(one.home) / "champions" / f"{MODEL}.json"
    before = file.read_text(encoding="utf-8")
    file.write_text(found, encoding="utf-8")
    require_comparable(one, MODEL)
    assert file.read_text(encoding="utf-8") == before
    assert file.with_name(f"{file.name}.broken").read_text(encoding="utf-8") == found


def test_nothing_to_adopt_is_said(one):
    with pytest.raises(InputError, match=r"version 1, and this home remembers no other: nothing to adopt"):
        overrides.adopt(one, MODEL)
    with pytest.raises(InputError, match="no registered model nobody"):
        overrides.adopt(one, "nobody")


def test_model_that_never_had_a_champion_has_nothing_to_lose(shelf, fresh):
    store = shelf()
    require_comparable(store, MODEL)
    require_comparable(fresh(store), MODEL)


@pytest.mark.parametrize("witness", ["run", "night"])
def test_home_of_an_earlier_release_has_its_runs_and_nights_for_witnesses(one, fresh, witness):
    home = Path(one.home)
    shutil.rmtree(home / "champions")
    key = ledger.read(one, MODEL)[0].run_key
    if witness == "run":
        result = {"registered_model": MODEL, "version": "1", "champion_after": "1"}
        (home / "runs" / key[:12]).mkdir(parents=True)
        (home / "runs" / key[:12] / "run.json").write_text(json.dumps({"result": result}), encoding="utf-8")
    else:
        (home / "nights").mkdir()
        night = {"outcome": "promoted", "version": "1", "run_id": key[:12], "started": "2026-11-03T02:30:00+00:00"}
        (home / "nights" / f"{MODEL}.jsonl").write_text(f'{json.dumps(night)}\n{{"half', encoding="utf-8")
    require_comparable(one, MODEL)  # the ledger explains it
    shutil.rmtree(home / "champions")
    store = fresh(one)
    assert "the registry has lost model letters (champion version 1" in refused(store)
    overrides.adopt(store, MODEL)
    require_comparable(store, MODEL)


def test_promotions_go_on_after_adopting_a_registry_without_champion(one, candidate):
    older_database(one, 1)
    assert overrides.adopt(one, MODEL).champion_after is None
    release, gate = promote_or_keep(candidate("2"), one)
    assert release.promoted and gate.test == "first"
