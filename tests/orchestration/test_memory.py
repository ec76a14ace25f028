"""What nights remember in a real MLflow store, where homes come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertft_core.base.files import write_json
from bertft_core.recipe.nights.log import FAILED, KEPT, PROMOTED, LastTraining, Night, NightLog
from bertft_core.recipe.nights.memory import POINTER, Memory
from bertft_core.recipe.nights.record import log_night, nights_in
from bertft_core.recipe.nights.rows import Rows, changes_of_champion
from bertft_core.registry import aliases
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"
RUN = "0123456789ab"
NIGHT = ("2026-03-01", "2026-03-01T01:00:00+00:00")
ROWS = Rows(
    hashes=np.array([f"{i:016}".encode() for i in range(9)], dtype="S16"),
    labels=np.zeros(9, dtype=np.int32),
    splits=np.arange(9, dtype=np.int32) % 3,
    classes=("ham", "spam"),
)


def training(run_id: str = RUN, version: str = "1", trained: str = NIGHT[1]) -> LastTraining:
    return LastTraining(
        rows="r", settings="s", run="", run_id=run_id, version=version, params={}, trained=trained, searched=trained
    )


@pytest.fixture
def at(store, tmp_path):
    """The memory of a home by its name, over one store."""

    def go(name: str) -> Memory:
        (tmp_path / name).mkdir(exist_ok=True)
        return Memory(lambda: store, MODEL, MODEL, tmp_path / name)

    return go


@pytest.fixture
def trained(at, publish, tmp_path):
    """A home whose night trained version 1 and wrote it to the registry."""
    publish(RUN)

    def go(name: str, last: LastTraining | None = None, *, is_told: bool = True) -> Path:
        memory, last = at(name), last or training()
        ROWS.save(tmp_path / name / "runs" / last.run_id)
        NightLog(tmp_path / name, MODEL).remember_training(last)
        if is_told:
            memory.remember(*NIGHT)
        return tmp_path / name

    return go


def last_of(home: Path) -> LastTraining:
    last = NightLog(home, MODEL).last_training
    assert last is not None
    return last


def test_fresh_home_remembers_the_last_training_with_its_rows(at, trained, tmp_path) -> None:
    one = trained("one")
    first = at("two").recall(*NIGHT)
    assert first.said == (f"the last training, run {RUN}, was fetched from the registry",)
    assert first.losses == () and first.champion is None
    here = last_of(tmp_path / "two")
    assert replace(here, run="") == replace(last_of(one), run="") and set(here.files) == {"rows.npz"}
    assert np.array_equal(Rows.require(Path(here.run)).hashes, ROWS.hashes)
    assert at("two").recall(*NIGHT).said == ()  # the copy is good: nothing is downloaded


def broken_record(home: Path) -> None:
    NightLog(home, MODEL).record.write_bytes(b"\0\0")


def broken_rows(home: Path) -> None:
    (home / "runs" / RUN / "rows.npz").write_bytes(b"PK")


def foreign_record(home: Path) -> None:
    NightLog(home, MODEL).remember_training(training("ba9876543210", "7", "2027-01-01T00:00:00+00:00"))


@pytest.mark.parametrize(
    "harm, said",
    [
        (broken_record, "the record of the last training was damaged"),
        (broken_rows, f"rows.npz of run {RUN} was missing or damaged"),
        (foreign_record, "the record of the last training was another one's, ba9876543210"),
    ],
)
def test_copy_that_is_not_what_the_registry_has_is_fetched_again_and_told(at, trained, harm, said) -> None:
    home = trained("one")
    before = last_of(home)
    harm(home)
    assert at("one").recall(*NIGHT).losses == (f"{said}: the last training, run {RUN}, was fetched from the registry",)
    assert last_of(home) == before and Rows.load(home / "runs" / RUN) is not None


def test_registry_that_holds_something_else_than_it_was_given_is_not_believed(at, trained, store, tmp_path) -> None:
    trained("one")
    (rows,) = Path(store.artifact_root).rglob("last_training/*/rows.npz")
    rows.write_bytes(b"PK")
    (loss,) = at("two").recall(*NIGHT).losses
    assert "in the registry is lost" in loss and "rows.npz" in loss and "not what was written" in loss
    assert NightLog(tmp_path / "two", MODEL).last_training is None


def test_home_of_an_earlier_release_tells_the_registry_at_its_next_night(at, trained, tmp_path) -> None:
    trained("one", is_told=False)
    assert at("one").recall(*NIGHT).losses == ()
    at("two").recall(*NIGHT)
    assert last_of(tmp_path / "two").run_id == RUN


def test_training_that_could_not_be_told_that_night_is_told_at_the_next(at, trained, publish, tmp_path) -> None:
    trained("one")
    publish("ba9876543210")
    home = trained("one", training("ba9876543210", "2", "2026-03-02T01:00:00+00:00"), is_told=False)
    assert at("one").recall("2026-03-03", "2026-03-03T01:00:00+00:00").losses == ()
    at("two").recall(*NIGHT)
    assert last_of(tmp_path / "two").run_id == last_of(home).run_id == "ba9876543210"


def test_pointer_of_an_earlier_release_is_read_and_goes_when_there_is_a_new_one(at, trained, store, tmp_path) -> None:
    trained("one")
    api, old = tracking.client(store), f"bertft.last_training.{MODEL}"
    aliases.tag_model(store, MODEL, {old: api.get_registered_model(MODEL).tags[POINTER + MODEL]})
    api.delete_registered_model_tag(MODEL, POINTER + MODEL)
    at("two").recall(*NIGHT)
    assert last_of(tmp_path / "two").run_id == RUN
    at("two").remember(*NIGHT)
    at("two").recall(*NIGHT)
    tags = api.get_registered_model(MODEL).tags
    assert POINTER + MODEL in tags and old not in tags


def test_pointer_that_nobody_can_read_is_told_and_written_anew(at, trained, store) -> None:
    trained("one")
    aliases.tag_model(store, MODEL, {POINTER + MODEL: "{"})
    (loss,) = at("one").recall(*NIGHT).losses
    assert POINTER + MODEL in loss
    assert at("two").recall(*NIGHT).losses == ()


def test_each_home_learns_the_nights_of_the_others(at, store, tmp_path) -> None:
    def night(day: int, outcome: str, **more) -> Night:
        return Night(night=f"2026-03-{day:02}", started=f"2026-03-{day:02}T01:00:00+00:00", outcome=outcome, **more)

    promoted = night(
        1, PROMOTED, reason="better", seconds=20.5, run_id=RUN, version="1", facts={"rows": 9, "warnings": ["x"]}
    )
    log_night(promoted, MODEL, store, "", None)
    killed = night(2, FAILED, reason="its process was killed", seconds=0.0)
    NightLog(tmp_path / "one", MODEL).folder.mkdir(parents=True)
    NightLog(tmp_path / "one", MODEL).add(killed)
    at("one").recall(*NIGHT)
    at("two").recall(*NIGHT)
    assert NightLog(tmp_path / "two", MODEL).nights() == [promoted, killed]
    assert set(n.outcome for n in NightLog(tmp_path / "one", MODEL).nights()) == {PROMOTED, FAILED}
    at("one").recall(*NIGHT)
    assert len(NightLog(tmp_path / "one", MODEL).nights()) == len(nights_in(store, MODEL)) == 2


def test_night_that_an_earlier_release_wrote_is_read_from_its_tags(store) -> None:
    tags = {
        "bertft.name": MODEL,
        "bertft.night": "2026-03-01",
        "bertft.outcome": "kept champion",
        "bertft.reason": "a tie",
    }
    run = tracking.find_or_create_run(store, f"{MODEL} {NIGHT[1]}", "night", tags=tags)
    tracking.log_metrics(store, run, {"seconds": 12.5, "rows": 9.0})
    (night,) = nights_in(store, MODEL)
    assert (night.started, night.outcome, night.seconds, night.facts) == (NIGHT[1], KEPT, 12.5, {"rows": 9.0})


@pytest.mark.parametrize("name, is_known", [(MODEL, True), ("another", False)])
def test_champion_without_a_record_is_known_by_its_own_evidence(at, publish, store, tmp_path, name, is_known) -> None:
    document = {"config": {"name": name}, "base_dir": "/", "test_rows": "t", "classes": ["ham", "spam"]}
    write_json(tmp_path / "evidence.json", {**document, "weights": "w", "folder": "f"})
    np.save(tmp_path / "train_rows.npy", np.arange(4, dtype=np.uint64), allow_pickle=False)
    version = publish(extra_files=[tmp_path / "evidence.json", tmp_path / "train_rows.npy"])
    aliases.set_alias(store, MODEL, "champion", version.version)
    champion = at("one").recall(*NIGHT).champion
    assert (champion is not None) == is_known
    if champion is not None:
        assert (champion.version, champion.classes, len(champion.rows)) == ("1", ("ham", "spam"), 4)


def test_champion_whose_evidence_is_lost_is_named_all_the_same(at, publish, store) -> None:
    aliases.set_alias(store, MODEL, "champion", publish().version)
    champion = at("one").recall(*NIGHT).champion
    assert champion is not None and str(champion) == "version 1, whose evidence cannot be read"


def test_rows_of_tonight_are_compared_with_those_of_a_champion() -> None:
    keys = ROWS.hashes.view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    assert len(np.unique(keys)) < 9  # equal beginnings: these texts are no hashes
    hashed = replace(ROWS, hashes=np.frombuffer(np.random.default_rng(0).bytes(144), dtype="S16"))
    keys = hashed.hashes.view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    champion = np.sort(np.append(keys[hashed.splits == 0][:2], np.arange(8, dtype=np.uint64)))
    found = changes_of_champion(champion, ("ham", "eggs"), hashed)
    assert (found.before, found.now, found.new, found.deleted) == (10, 3, 1, 8)
    assert (found.new_classes, found.lost_classes) == ((), ("eggs",))
    assert changes_of_champion(None, None, hashed).any is False
