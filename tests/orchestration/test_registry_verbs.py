"""The registry verbs as a person meets them: what is refused before anything is opened, and the tables."""

from __future__ import annotations

import pytest

from flows.command.tables import render

ENTRY = {
    "number": 7,
    "action": "rolled_back",
    "version": "2",
    "from_version": "2",
    "to_version": "1",
    "by": "ann@desk",
    "reason": "complaints",
    "at": "2026-01-31T00:00:00Z",
    "state": "done",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "tiny", "2", "--force"), "--reason"),
        (("promote", "tiny", "2", "--force", "--reason", " "), "--reason"),
        (("promote", "tiny", "2", "--reason", "x"), "--force"),
        (("promote", "tiny", "2", "--force", "--approve", "--reason", "x"), "--approve"),
        (("rollback", "tiny"), "--reason"),
        (("resume", "tiny", "--reason", ""), "--reason"),
        (("gc", "--keep", "0"), "1 or more"),
        (("gc", "--days", "-1"), "0 or more"),
    ],
)
def test_incomplete_command_is_bad_input_and_touches_nothing(command, tmp_path, arguments, words):
    done = command(tmp_path / "home", *arguments)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "home").exists()


def test_history_shows_who_moved_the_champion_where_and_why():
    shown = render(
        "history",
        {
            "registered_model": "tiny",
            "aliases": {"champion": "1"},
            "hold": "rolled back from version 2: complaints",
            "repaired": [7],
            "entries": [ENTRY, {**ENTRY, "number": 8, "state": "void"}],
        },
    )
    lines = shown.splitlines()
    assert lines[1] == "hold         rolled back from version 2: complaints"
    assert lines[4].split() == ["7", ENTRY["at"], "rolled_back", "2", "2", "->", "1", "ann@desk"]
    assert lines[5].strip() == "complaints" and lines[6].split()[2] == "void" and lines[-1].endswith("entries 7")


def test_gc_table_sums_bytes_and_says_what_was_done():
    removal = {"kind": "version", "name": "tiny version 4", "why": "past the policy", "size": 2_500_000}
    answer = {"removals": [removal, {**removal, "size": None}], "bytes": 2_500_000, "keep": 3, "days": 30.0}
    lines = render("gc", {**answer, "applied": False}).splitlines()
    assert lines[0].startswith("    2.5 MB  version") and lines[1].startswith(" elsewhere")
    assert lines[2].startswith("2 items, 2.5 MB, would go; --apply removes them")
    assert "removed" in render("gc", {**answer, "applied": True}).splitlines()[-1]


def test_release_table_shows_outcome_and_move():
    shown = render(
        "promote",
        {
            "registered_model": "tiny",
            "version": "2",
            "outcome": "awaiting approval",
            "reason": "better",
            "by": "ann",
            "promoted": False,
            "champion_before": None,
            "champion_after": None,
            "look": (),
        },
    )
    assert "tiny version 2: awaiting approval" in shown and "none -> none" in shown
