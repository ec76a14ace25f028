"""What follows from ledger entries, without a store."""

import json

import pytest

from bertft_core.base.errors import DamagedFile, RegistryError
from bertft_core.registry import entries
from bertft_core.registry.entries import LedgerEntry


def ledger(*moves):
    """(action, version, from, to) -> entries 1, 2, ... with weights w<version>."""
    return tuple(
        LedgerEntry(
            number=n,
            action=action,
            version=version,
            from_version=before,
            to_version=after,
            reason=f"reason {n}",
            by="ann@desk",
            at="2026-01-31T00:00:00Z",
            weights=f"w{version}",
        )
        for n, (action, version, before, after) in enumerate(moves, 1)
    )


TWO_THEN_BACK = (("promoted", "1", None, "1"), ("promoted", "2", "1", "2"), ("rolled_back", "2", "2", "1"))


def test_rollback_target_skips_versions_rolled_back():
    known = ledger(*TWO_THEN_BACK, ("promoted", "3", "1", "3"))
    assert entries.rollback_target(known, "3", {"1", "2", "3"}) == "1"


def test_rollback_target_skips_versions_that_are_gone():
    known = ledger(("promoted", "1", None, "1"), ("promoted", "2", "1", "2"), ("promoted", "3", "2", "3"))
    assert entries.rollback_target(known, "3", {"1", "3"}) == "1"


def test_rollback_target_of_a_lost_champion_is_that_champion():
    known = ledger(("promoted", "1", None, "1"), ("promoted", "2", "1", "2"), ("noticed", "2", "2", None))
    assert entries.rollback_target(known, None, {"1", "2"}) == "2"


def test_first_champion_has_no_rollback_target():
    assert entries.rollback_target(ledger(("promoted", "1", None, "1")), "1", {"1"}) is None


def test_hold_lasts_from_rollback_to_resume():
    known = ledger(*TWO_THEN_BACK, ("held", "3", "1", "1"), ("resumed", "1", "1", "1"))
    assert [bool(entries.hold(known[:n])) for n in range(6)] == [False, False, False, True, True, False]
    assert entries.hold(known[:3]) == "rolled back from version 2: reason 3"


def test_rolled_back_weights_stay_rejected():
    known = ledger(*TWO_THEN_BACK, ("resumed", "1", "1", "1"))
    assert entries.rejected_weights(known) == {"w2"} and entries.rolled_back(known) == {"2"}


def test_void_entry_changes_nothing():
    known = ledger(*TWO_THEN_BACK)
    void = (*known[:2], LedgerEntry(**{**known[2].__dict__, "state": "void"}))
    assert entries.expected_champion(void) == "2" and entries.hold(void) is None


def test_decision_stands_for_the_same_rule_and_champion_only():
    kept = LedgerEntry(**{**ledger(("kept", "2", "1", "1"))[0].__dict__, "numbers": {"gate": "g1"}})
    assert entries.standing_decision((kept,), "2", "1", "g1") == kept
    assert entries.standing_decision((kept,), "2", "3", "g1") is None
    assert entries.standing_decision((kept,), "2", "1", "g2") is None


@pytest.mark.parametrize("letter", ["x", '"', "\n", "é"])
def test_longest_reason_still_fits_its_tag(letter):
    entry = LedgerEntry(**{**ledger(("kept", "2", "1", "1"))[0].__dict__, "reason": letter * 20_000})
    text = entry.to_text()
    assert 4900 < len(text) <= 5000 and LedgerEntry.from_text(text).reason.endswith(f"{letter}…")


def test_numbers_go_before_a_reason_is_lost():
    numbers = {"failed": ["a check of a slice"] * 500}
    entry = LedgerEntry(**{**ledger(("kept", "2", "1", "1"))[0].__dict__, "numbers": numbers, "reason": "r" * 300})
    read = LedgerEntry.from_text(entry.to_text())
    assert read.reason == "r" * 300 and read.numbers == {}


def test_entry_survives_its_tag():
    entry = LedgerEntry(**{**ledger(("kept", "2", "1", "1"))[0].__dict__, "numbers": {"interval": [-0.1, 0.2]}})
    assert LedgerEntry.from_text(entry.to_text()) == entry
    assert json.loads(entry.to_text())["numbers"] == {"interval": [-0.1, 0.2]}


@pytest.mark.parametrize("text", ["no json", "[]", '{"number": 1}', '{"number": 1, "action": "danced"}'])
def test_tag_that_is_no_entry_is_named(text):
    with pytest.raises(DamagedFile, match="ledger entry"):
        LedgerEntry.from_text(text)


def test_action_of_a_later_version_is_refused_by_name():
    text = ledger(("kept", "2", "1", "1"))[0].to_text().replace('"kept"', '"danced"')
    with pytest.raises(RegistryError, match="unknown action 'danced'.*install the bertft that wrote it"):
        LedgerEntry.from_text(text)


def test_field_of_a_later_version_is_left_out():
    entry = ledger(("kept", "2", "1", "1"))[0]
    assert LedgerEntry.from_text(json.dumps({**json.loads(entry.to_text()), "mood": "calm"})) == entry
