"""The registry verbs as a person meets them: what is refused before anything is opened, and the tables."""

from __future__ import annotations

import pytest

from flows.command.cli import is_refused
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
            "lost": "",
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
    answer["notes"] = ["the runs of tiny stay: a tag cannot be read"]
    lines = render("gc", {**answer, "applied": False}).splitlines()
    assert lines[0].startswith("    2.5 MB  version") and lines[1].startswith(" elsewhere")
    assert "note: the runs of tiny stay: a tag cannot be read" in lines
    assert any(line.startswith("2 items, 2.5 MB, would go; --apply removes them") for line in lines)
    assert any("removed" in line for line in render("gc", {**answer, "applied": True}).splitlines())


RUN = {
    "name": "tiny",
    "run_id": "abc",
    "registered_model": "tiny",
    "version": "2",
    "promoted": False,
    "reason": "not worth promoting: worse than the TF-IDF baseline",
    "test": {
        "n": 60,
        "metric": "macro_f1",
        **{"macro_f1": 0.9, "macro_f1_interval": [0.85, 0.95], "accuracy": 0.91, "accuracy_interval": [0.86, 0.96]},
        **{"log_loss": 0.3, "log_loss_interval": None},
        **{"baseline_score": 0.92, "baseline_score_difference": -0.02, "baseline_score_interval": [-0.05, 0.01]},
    },
    "seconds": {"ingest": 1.0},
}


def test_run_table_says_first_what_became_of_the_model_and_compares_by_the_metric_that_decides():
    lines = render("run", RUN).splitlines()
    assert lines[1] == "model        tiny version 2: not promoted"
    assert lines[2] == "reason       not worth promoting: worse than the TF-IDF baseline"
    assert lines[3:] == [
        "test         n 60, macro F1 decides",
        "  macro F1   0.9000  [0.8500, 0.9500]",
        "  accuracy   0.9100  [0.8600, 0.9600]",
        "  log loss   0.3000",
        "  TF-IDF     0.9200  model minus TF-IDF baseline: -0.0200 [-0.0500, +0.0100]",
        "seconds      ingest 1",
    ]
    test = {**RUN["test"], "groups": 12, "no_interval": {"log_loss": "no interval: the same on every row"}}
    grouped = render("run", {**RUN, "test": {**test, "baseline_score_interval": None}})
    assert "test         n 60 in 12 groups, macro F1 decides" in grouped
    assert "  log loss   0.3000  no interval: the same on every row" in grouped
    assert "baseline: -0.0200 no interval: the same on every row" in grouped
    search = {
        "trial": 2,
        "score": None,
        "chosen_by": "no trial trained",
        "optimism": None,
        "report": "r",
        "dashboard": "d",
    }
    assert "search       trial 2, no score: no trial trained" in render("run", {**RUN, "search": search}).splitlines()
    numbers = {"champion_score": -0.4, "difference": 0.1, "interval": [0.02, 0.18]}
    by_loss = {**RUN["test"], "metric": "log_loss", "baseline_score": -0.5, "baseline_score_difference": 0.2}
    shown = render("run", {**RUN, "test": by_loss, "numbers": numbers})
    assert "  TF-IDF     0.5000  model minus TF-IDF baseline, negated: +0.2000" in shown
    assert "  champion   0.4000  model minus champion, negated: +0.1000 [+0.0200, +0.1800]" in shown


@pytest.mark.parametrize(
    ("outcome", "champion_after", "refused"),
    [
        ("kept", None, True),
        ("kept", "1", True),
        ("held", "1", True),
        ("kept", "2", False),  # it is the champion already
        ("promoted", "2", False),
        ("forced", "2", False),
        ("awaiting approval", "1", False),
    ],
)
def test_promote_refuses_where_the_gate_says_no(outcome, champion_after, refused):
    assert is_refused({"outcome": outcome, "version": "2", "champion_after": champion_after}) is refused


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
