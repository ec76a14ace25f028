"""From a candidate to its outcome on a real sqlite MLflow: gate, hold, rejected versions, unusable champions."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path

import mlflow
import pytest

from bertft_core.base.errors import InputError
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.registry import aliases, ledger, overrides, versions
from bertft_core.registry.decision import promote_or_keep
from bertft_core.registry.files import digest
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
MODEL = "letters"


def record(store, action, version, champion, to, reason="because"):
    made = ledger.Draft(action=action, version=version, champion=champion, to_version=to, reason=reason)
    return ledger.write(store, MODEL, made)


def outcome(release):
    return (release.outcome, release.promoted, release.champion_before, release.champion_after)


@pytest.fixture
def one(shelf):
    """Version 1 is champion."""

    def go(**promotion):
        store = shelf(**promotion)
        record(store, "promoted", "1", None, "1")
        return store

    return go


def test_first_version_is_promoted_and_asking_again_changes_nothing(shelf, candidate):
    store = shelf()
    answers = [promote_or_keep(candidate("1"), store)[0] for _ in range(2)]
    assert answers[0] == answers[1] and outcome(answers[0]) == ("promoted", True, None, "1")
    (entry,) = ledger.read(store, MODEL)
    assert entry.numbers["n"] == 60 and entry.numbers["challenger_score"] == 1.0 and entry.numbers["failed"] == []


def test_first_version_below_a_minimum_is_kept_with_the_failed_check(shelf, candidate):
    store = shelf(min_score={"accuracy": 0.9})
    release, _ = promote_or_keep(candidate("1", right=53), store)
    assert outcome(release) == ("kept", False, None, None)
    assert ledger.read(store, MODEL)[0].numbers["failed"] == ["minimum accuracy"]


def test_first_version_below_the_baseline_is_kept_as_not_worth_promoting_and_can_be_forced(shelf, candidate):
    """The decision stands in the ledger with its numbers and on the version; asked again it is the same."""
    store = shelf()
    answers = [promote_or_keep(candidate("1", right=30), store) for _ in range(2)]
    release = answers[0][0]
    assert outcome(release) == ("kept", False, None, None) and answers[1] == (release, None)
    assert release.reason.startswith("not worth promoting: ")
    assert "worse than the TF-IDF baseline: accuracy 0.5000 against 0.9167, -0.4167" in release.reason
    (entry,) = ledger.read(store, MODEL)
    assert (entry.action, entry.numbers["failed"]) == ("kept", ["TF-IDF baseline", "majority class", "chance"])
    assert entry.numbers["baseline_score"] == pytest.approx(55 / 60) and entry.numbers["majority_score"] == 0.5
    assert entry.numbers["baseline_interval"][1] < 0 and entry.numbers["test"] == "first"
    tags = aliases.get_version(store, MODEL, "1").tags
    assert tags["bertft.decision"] == "kept" and tags["bertft.decision_reason"] == release.reason
    assert aliases.aliases(store, MODEL) == {"challenger": "1"}
    forced = overrides.force(store, MODEL, "1", "a demonstration")
    assert outcome(forced) == ("forced", True, None, "1")


def test_first_version_without_the_baselines_answers_is_kept_and_the_reason_says_so(shelf, candidate):
    bare = candidate("1")
    bare.folder.baseline.unlink()
    release, _ = promote_or_keep(bare, shelf())
    assert not release.promoted and "the answers of the TF-IDF baseline are not there" in release.reason
    assert promote_or_keep(bare, shelf(baseline="off"))[0].promoted


def test_gate_is_asked_again_when_the_rule_changed(shelf, candidate):
    strict = shelf()
    for _ in range(2):
        promote_or_keep(candidate("1", right=30), strict)
    release, _ = promote_or_keep(candidate("1", right=30), shelf(baseline="off"))
    assert release.promoted and [e.action for e in ledger.read(strict, MODEL)] == ["kept", "promoted"]


class Killed(BaseException):
    """Stands for kill -9 just before a write to the registry."""


def test_kill_between_any_two_steps_of_a_promotion(shelf, candidate, tmp_path):
    store = shelf()
    database = tmp_path / "shelf" / "mlflow.db"
    before = database.read_bytes()
    for number in itertools.count(1):
        database.write_bytes(before)
        shutil.rmtree(tmp_path / "shelf" / "champions", ignore_errors=True)  # else the home would miss what came since
        count, struck = itertools.count(1), []
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            for name in ("set_registered_model_alias", "set_registered_model_tag", "set_model_version_tag"):
                real = getattr(mlflow.MlflowClient, name)

                def write(self, *args, real=real, count=count, struck=struck, number=number, **kwargs):
                    if next(count) == number:
                        struck.append(number)
                        raise Killed
                    return real(self, *args, **kwargs)

                patch.setattr(mlflow.MlflowClient, name, write)
            promote_or_keep(candidate("1"), store)
        release, _ = promote_or_keep(candidate("1"), store)
        assert outcome(release) == ("promoted", True, None, "1"), f"write {number}"
        assert aliases.aliases(store, MODEL) == {"champion": "1"}
        assert [(e.number, e.state) for e in ledger.read(store, MODEL)] == [(1, "done")]
        if not struck:
            break
    assert number > 6


def test_better_challenger_is_promoted_with_its_numbers(one, candidate):
    store = one()
    release, gate = promote_or_keep(candidate("2"), store)
    assert outcome(release) == ("promoted", True, "1", "2") and gate.promote
    numbers = ledger.read(store, MODEL)[-1].numbers
    assert numbers["difference"] > 0 and numbers["interval"][0] > 0 and numbers["n"] == 60


@pytest.mark.slow
def test_equal_weights_are_kept_and_the_answer_stands(one, candidate):
    store = one()
    answers = [promote_or_keep(candidate("2", weights="w1"), store)[0] for _ in range(2)]
    assert answers[0] == answers[1] and outcome(answers[0]) == ("kept", False, "1", "1")
    assert "same model" in answers[0].reason and len(ledger.read(store, MODEL)) == 2


def test_hold_answers_before_the_gate_and_once(one, candidate):
    store = one()
    record(store, "promoted", "2", "1", "2")
    record(store, "rolled_back", "2", "2", "1", "complaints")
    for _ in range(2):
        release, gate = promote_or_keep(candidate("3"), store)
        assert outcome(release) == ("held", False, "1", "1") and gate is None and "complaints" in release.reason
    assert [e.action for e in ledger.read(store, MODEL)].count("held") == 1


@pytest.mark.parametrize(("version", "weights"), [("2", "w2"), ("3", "w2")], ids=["version", "weights"])
def test_what_was_rolled_back_never_comes_back_by_the_gate(one, candidate, version, weights):
    store = one()
    record(store, "promoted", "2", "1", "2")
    record(store, "rolled_back", "2", "2", "1")
    record(store, "resumed", "1", "1", "1")
    release, _ = promote_or_keep(candidate(version, weights=weights), store)
    assert outcome(release) == ("kept", False, "1", "1") and "rolled back" in release.reason


# --- approval ---


def test_approval_is_awaited_and_asked_for_once(shelf, candidate):
    store = shelf(require_approval=True)
    answers = [promote_or_keep(candidate("1"), store)[0] for _ in range(2)]
    assert answers[0] == answers[1] and outcome(answers[0]) == ("awaiting approval", False, None, None)
    assert "bertft promote letters 1 --approve" in answers[0].reason
    assert aliases.aliases(store, MODEL) == {"challenger": "1"} and len(ledger.read(store, MODEL)) == 1


@pytest.mark.slow
def test_approval_promotes_with_the_numbers_that_were_approved(shelf, candidate):
    store = shelf(require_approval=True)
    promote_or_keep(candidate("1"), store)
    asked = overrides.awaiting(store, MODEL, "1")
    release = overrides.approve(store, MODEL, asked, by="ann")
    assert outcome(release) == ("approved", True, None, "1") and release.by == "ann"
    assert ledger.read(store, MODEL)[-1].numbers == asked.numbers
    assert overrides.awaiting(store, MODEL, "1") is None


def test_declined_approval_keeps_the_champion(shelf, candidate):
    store = shelf(require_approval=True)
    promote_or_keep(candidate("1"), store)
    release = overrides.decline(store, MODEL, overrides.awaiting(store, MODEL, "1"), by="ann")
    assert outcome(release) == ("kept", False, None, None) and "not given" in release.reason


def test_approval_lapses_when_the_champion_changes(one):
    store = one()
    record(store, "awaiting", "2", "1", "1")
    record(store, "forced", "3", "1", "3")
    assert overrides.awaiting(store, MODEL, "2") is None


# --- a champion that cannot be compared ---


def lose_champion(store):
    tracking.client(store).delete_model_version(MODEL, "1")


def lose_logged_model(store):
    tracking.client(store).delete_logged_model(aliases.get_version(store, MODEL, "1").model_id)


def lose_alias(store):
    aliases.drop_alias(store, MODEL, "champion")


@pytest.mark.parametrize("lose", [lose_champion, lose_logged_model, lose_alias])
def test_lost_champion_keeps_unless_told_otherwise(one, shelf, candidate, lose):
    store = one()
    lose(store)
    for _ in range(2):
        release, gate = promote_or_keep(candidate("2"), store)
        assert release.outcome == "kept" and gate is None and "no comparison" in release.reason
    assert aliases.champion(store, MODEL) != "2"
    told, _ = promote_or_keep(candidate("2"), shelf(champion_unavailable="promote"))
    assert told.promoted and told.champion_after == "2" and "champion_unavailable: promote" in told.reason


@pytest.mark.slow
def test_version_that_is_worth_nothing_beside_a_champion_of_other_classes_is_kept_and_the_champion_named(
    one, shelf, candidate
):
    one()
    eggs = candidate("2", right=30, classes=("eggs", "spam"))
    release, gate = promote_or_keep(eggs, shelf(champion_unavailable="promote"))
    assert outcome(release) == ("kept", False, "1", "1") and gate.test == "first"
    assert release.reason.startswith("not compared with the champion: version 1: another label set: new 'eggs'")
    assert "promote); not worth promoting: worse than the TF-IDF baseline" in release.reason


@pytest.mark.slow
def test_alias_moved_by_hand_is_what_the_gate_compares_with(one, candidate):
    store = one()
    aliases.set_alias(store, MODEL, "champion", "3")
    release, _ = promote_or_keep(candidate("2", weights="w3"), store)
    assert outcome(release) == ("kept", False, "3", "3")
    assert [e.action for e in ledger.read(store, MODEL)] == ["promoted", "noticed", "kept"]


@pytest.fixture
def damaged(publish, store, candidate):
    """A champion of the test's own, to be damaged, and a challenger that is better."""
    first, second = publish("a", 0), publish("b", 1)
    record(store, "promoted", first.version, None, first.version)
    return Path(store.artifact_root) / "models" / first.model_id / "artifacts", candidate(second.version)


def test_champion_whose_files_are_gone_is_kept(damaged, store):
    files, challenger = damaged
    shutil.rmtree(files)
    release, _ = promote_or_keep(challenger, store)
    assert outcome(release) == ("kept", False, "1", "1")
    assert "version 1: its files are gone from" in release.reason and len(release.reason) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False])
def test_champion_whose_code_no_longer_loads_or_was_changed_is_kept(publish, store, candidate, is_known):
    first, second = publish("a", 0), publish("b", 1)
    location = Path(store.artifact_root) / "models" / first.model_id / "artifacts"
    (predictor,) = location.rglob("serving/predictor.py")
    predictor.write_text("import a_library_that_was_removed\n", encoding="utf-8")
    if is_known:
        aliases.tag_version(store, MODEL, first.version, {aliases.FILES: digest(location)})
    record(store, "promoted", first.version, None, first.version)
    release, _ = promote_or_keep(candidate(second.version), store)
    assert outcome(release) == ("kept", False, "1", "1")
    why = "a_library_that_was_removed" if is_known else "letters version 1 does not answer: its files hash as"
    assert why in release.reason


def test_champion_with_another_label_set_is_kept(store, publish, encoder, tmp_path, candidate):
    labels = ("ham", "eggs", "spam")
    fit = save_classifier(load_classifier(encoder, labels, seed=1), encoder, tmp_path / "fit", labels)
    folder = build_artifact(fit, tmp_path / "made", ArtifactCard(max_length=48, truncation="head", classes=labels))
    run = tracking.find_or_create_run(store, "other", "final")
    other = versions.register(store, run, folder, MODEL, {"bertft.run_id": "other"})
    record(store, "promoted", other.version, None, other.version)
    release, _ = promote_or_keep(candidate(publish().version), store)
    assert outcome(release) == ("kept", False, "1", "1") and "eggs" in release.reason


# --- roll back, resume ---


def test_rollback_needs_an_earlier_champion(one):
    with pytest.raises(InputError, match="no champion before version 1"):
        overrides.rollback(one(), MODEL, "complaints")


def test_rollback_to_a_version_that_never_was_champion_is_refused(one):
    store = one()
    record(store, "promoted", "2", "1", "2")
    with pytest.raises(InputError, match="--to 3: wanted an earlier champion.*never rolled back: 1;"):
        overrides.rollback(store, MODEL, "complaints", to="3")


def test_rollback_checks_the_target_sets_a_hold_and_is_done_once(one):
    store = one()
    record(store, "promoted", "2", "1", "2")
    answers = [overrides.rollback(store, MODEL, "complaints") for _ in range(2)]
    assert answers[0] == answers[1] and outcome(answers[0]) == ("rolled_back", False, "2", "1")
    shown = overrides.history(store, MODEL)
    assert (shown["hold"], shown["rolled_back"]) == ("rolled back from version 2: complaints", ["2"])


def test_resume_lifts_the_hold_and_leaves_a_rolled_back_version_barred(one):
    store = one()
    record(store, "promoted", "2", "1", "2")
    record(store, "rolled_back", "2", "2", "1")
    assert overrides.barred(store, MODEL) == ["2"]
    overrides.resume(store, MODEL, "mended")
    assert overrides.history(store, MODEL)["hold"] is None and overrides.barred(store, MODEL) == ["2"]


def test_promoting_a_champion_that_a_rollback_made_says_so(one, candidate):
    store = one()
    record(store, "promoted", "2", "1", "2")
    record(store, "rolled_back", "2", "2", "1")
    release, _ = promote_or_keep(candidate("1"), store)
    assert (release.version, *outcome(release)) == ("1", "kept", False, "1", "1")
    assert "by entry 3 of the ledger (rolled_back)" in release.reason and len(ledger.read(store, MODEL)) == 3


def test_resume_without_a_hold_is_refused(one):
    with pytest.raises(InputError, match="not on hold"):
        overrides.resume(one(), MODEL, "mended")


def test_force_on_the_champion_changes_nothing(one):
    store = one()
    assert overrides.force(store, MODEL, "1", "sure").outcome == "promoted"
    assert len(ledger.read(store, MODEL)) == 1
