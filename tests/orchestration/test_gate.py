"""What the gate is given: rivals' own answers, rows they have seen, slices, budgets, the error budget, the anchor."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from bertft_core.base.clock import Stamp
from bertft_core.base.errors import InputError
from bertft_core.base.files import write_json
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.registry import entries, gate, ledger, versions
from bertft_core.registry.answers import Answers
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.evaluation_folder import TRAIN_ROWS
from bertft_core.serving.artifact import build_artifact, read_card
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
CLASSES = ("ham", "spam")
MODEL = "letters"
NOW = 1_800_000_000.0


@pytest.fixture
def against(tmp_path):
    """The decision on a candidate whose champion, version 1, answers `right` of the 60 rows rightly."""

    def go(candidate, right, seen=(), **rule):
        labels = np.arange(60) % 2
        said = np.where(np.arange(60) < right, labels, 1 - labels)
        file = tmp_path / "champion.npz"
        np.savez(file, probabilities=(np.eye(2)[said] * 0.8 + 0.1).astype("float32"), predicted=said)
        answers = Answers(classes=CLASSES, file=str(file), latency_ms=1.0, code="")
        champion = gate.Rival(version="1", answers=answers, trained_on=np.array(seen, dtype=np.uint64))
        made = PromotionRule(metric="accuracy", **rule)
        return gate.judge_against(candidate, made, champion, None, spent=0, same_weights=False)

    return go


def check(decision, name):
    return next(c for c in decision.checks if name in c.name)


def test_better_candidate_is_promoted_and_says_by_how_much(candidate, against):
    found = against(candidate("2"), 30)
    assert found.promote and found.n == 60 and found.difference == pytest.approx(0.5)


@pytest.mark.parametrize("has_champion", [True, False])
def test_candidate_that_did_not_train_is_kept_for_that_reason(candidate, against, has_champion):
    fault = "did not train: the training loss was 0.6919 at its lowest, class frequencies alone give 0.6931"
    judged = replace(candidate("2"), fault=fault)
    rule = PromotionRule(metric="accuracy")
    found = (
        against(judged, 30)
        if has_champion
        else gate.judge_against(judged, rule, None, None, spent=0, same_weights=False)
    )
    assert not found.promote and found.reason.startswith(fault if has_champion else f"not worth promoting: {fault}")


def test_rows_the_champion_has_seen_are_left_out_for_both(candidate, against):
    found = against(candidate("2"), 60, seen=range(20))
    assert found.n == 40 and "20" in check(found, "seen").detail


def test_rows_of_one_group_are_judged_together_and_the_seen_ones_leave_their_groups(candidate, against):
    grouped = candidate("2")
    np.save(grouped.folder.groups, np.arange(60) // 4, allow_pickle=False)
    found = against(grouped, 30)
    assert found.groups == 15 and "on 60 rows in 15 groups" in found.reason and check(found, "groups").passed
    fewer = against(grouped, 60, seen=range(24))
    assert fewer.groups == 9 and not fewer.promote and "36 rows in 9 groups" in check(fewer, "groups").detail


def test_champion_that_has_seen_every_row_cannot_be_compared(candidate, against):
    with pytest.raises(InputError, match="no row is left"):
        against(candidate("2"), 60, seen=range(60))


def test_slice_vetoes_only_when_the_rule_asks(candidate, against):
    loser = candidate("2")
    answers = np.arange(60) % 2
    answers[:16] = 1 - answers[:16]  # worse on the champion's good rows, better on all the others
    np.save(loser.folder.predicted, answers, allow_pickle=False)
    np.savez(loser.folder.slices, first=np.arange(60) < 30)
    lenient = {"per": "night", "max_class_loss": None}
    assert not any("slice" in c.name for c in against(loser, 30, **lenient).checks)
    strict = against(loser, 30, **lenient, max_slice_loss=0.05)
    assert not strict.promote and not check(strict, "slice").passed


def answered_in(candidate, milliseconds):
    """The candidate's answers from a fresh process, which took so long a row."""
    file, said = candidate.folder.answers(candidate.version), np.load(candidate.folder.probabilities)
    np.savez(file, probabilities=said, predicted=said.argmax(axis=1))
    write_json(f"{file}.json", {"classes": list(CLASSES), "latency_ms": milliseconds, "code": ""})


def test_budgets_are_measured_by_the_caller(candidate, against):
    slow = candidate("2")
    answered_in(slow, 50.0)
    found = against(slow, 30, max_latency_ms=20.0, max_size_mb=0.5)
    assert not check(found, "latency").passed and not check(found, "size").passed and not found.promote


def test_judge_takes_decisions_and_training_rows_from_the_champion_itself(store, served, candidate, tmp_path):
    always_spam = DecisionPolicy(temperature=2.0, thresholds=(1e6, 1e-6))
    folder = build_artifact(served[0], tmp_path / "made", replace(read_card(served[0]), policy=always_spam))
    evidence = tmp_path / TRAIN_ROWS
    np.save(evidence, np.array([*range(0, 40, 2), 77, 2**64 - 1], dtype=np.uint64), allow_pickle=False)
    run = tracking.find_or_create_run(store, "champion", "final")
    made = versions.register(store, run, folder, MODEL, {"bertft.run_id": "champion"}, extra_files=[evidence])
    found = gate.judge(candidate("9", right=20), ledger.view_model(store, MODEL), made.version)
    # 20 of the 30 ham rows are left out: of 40 rows the champion has 30, the candidate rows 1, 3, ... 19 right
    assert (found.n, found.champion_score, found.challenger_score) == (40, 0.75, 0.25)
    assert check(found, "seen").detail.startswith("20 of 60 test rows left out, 40 compared")


@pytest.mark.slow
def test_judge_refuses_a_champion_of_another_label_set(shelf, candidate):
    with pytest.raises(InputError, match="version 1: another label set: new 'eggs'; gone 'ham'"):
        gate.judge(candidate("9", classes=("eggs", "spam")), ledger.view_model(shelf(), MODEL), "1")


def promoted(store, version, champion, **numbers):
    ledger.write(
        store,
        MODEL,
        ledger.Draft(
            action=entries.PROMOTED, version=version, champion=champion, to_version=version, reason="", numbers=numbers
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "names"), [({"test": "non_inferiority", "margin": 0.05}, ["anchor"]), ({}, [])])
def test_judge_asks_the_anchor_under_non_inferiority_only(shelf, candidate, rule, names):
    store = shelf(**rule)
    promoted(store, "1", None, test="first")
    promoted(store, "2", "1", test="non_inferiority", difference=0.0)
    found = gate.judge(candidate("3"), ledger.view_model(store, MODEL), "2")
    assert [c.name for c in found.checks if c.name == "anchor"] == names
    assert all(check(found, name).detail.startswith("not worse than version 1") for name in names)


def test_judge_counts_the_decisions_spent_in_the_ledger(shelf, candidate):
    store = shelf()
    promoted(store, "1", None, test="first")
    promoted(store, "2", "1", test="superiority", difference=0.1)
    assert gate.judge(candidate("3"), ledger.view_model(store, MODEL), None).spent == 1


def test_budgets_hold_for_the_first_version_too(shelf, candidate):
    first = candidate("1")
    answered_in(first, 19.0)
    found = gate.judge(first, ledger.view_model(shelf(max_latency_ms=20.0, max_size_mb=0.5), MODEL), None)
    assert check(found, "latency").passed and not check(found, "size").passed and not found.promote


def entry(number, action, version, days_ago=0.0, champion="1", **numbers):
    at = time.strftime(entries.TIME_FORMAT, time.gmtime(NOW - days_ago * 86_400))
    return LedgerEntry(
        number=number,
        action=action,
        version=version,
        from_version=champion,
        to_version=version if action in entries.PROMOTIONS else champion,
        reason="",
        by="",
        at=at,
        numbers=numbers,
    )


def test_spent_counts_comparisons_of_the_period_and_an_approval_once():
    known = (
        entry(1, entries.KEPT, "2", 40, difference=0.0),
        entry(2, entries.KEPT, "3", 29, difference=0.0),
        entry(3, entries.HELD, "4", 5),
        entry(4, entries.AWAITING, "5", 2, difference=0.1),
        entry(5, entries.APPROVED, "5", 1.5, difference=0.1),
    )
    assert entries.spent(known, 30, NOW) == 2
    assert entries.spent(known, 1, NOW) == 0


def test_spent_leaves_out_void_entries_and_decisions_beyond_the_budget():
    void = replace(entry(1, entries.PROMOTED, "2", 1, difference=0.1), state=entries.VOID)
    beyond = entry(2, entries.KEPT, "3", 1, difference=0.1, spent=30)
    assert entries.spent((void, beyond), 30, NOW) == 0


def test_spent_counts_a_version_again_against_another_champion():
    known = (
        entry(1, entries.KEPT, "5", 2, difference=0.1),
        entry(2, entries.KEPT, "5", 1, champion="4", difference=0.0),
    )
    assert entries.spent(known, 30, NOW) == 2


@pytest.mark.parametrize("days", [-400, 400])
def test_no_clock_frees_a_budget_that_was_spent_and_none_spends_it_for_ever(days):
    """One of three decisions was dated by a clock that was wrong; entries lie in the order they were written."""
    sound = [entry(1, entries.KEPT, "2", 6, difference=0.0), entry(3, entries.KEPT, "4", 4, difference=0.0)]
    odd = entry(2, entries.KEPT, "3", 5 - days, difference=0.0)
    known = (sound[0], odd, sound[1])
    assert entries.spent(known, 30, NOW) == 3
    assert entries.spent(known[:2], 30, NOW) == 2
    assert entries.spent(known, 30, NOW + 40 * 86_400) == 0


def test_a_clock_that_jumps_forward_frees_no_budget():
    now = Stamp.now()
    stamps = [str(replace(now, wall=now.wall - ago * 86_400, ran=now.ran - ago * 86_400)) for ago in (2, 1)]
    dated = [time.strftime(entries.TIME_FORMAT, time.gmtime(float(text.split()[0]))) for text in stamps]
    known = tuple(
        replace(entry(i, entries.KEPT, str(i), 0, difference=0.0), at=at, clock=text)
        for i, (at, text) in enumerate(zip(dated, stamps, strict=True), start=1)
    )
    moment, odd = entries.time_now(known, replace(now, wall=now.wall + 90 * 86_400))
    assert abs(moment - now.wall) < 10 and "90 days more" in odd
    assert entries.spent(known, 30, moment) == 2
    assert entries.time_now(known, now) == (now.wall, "")


def test_anchor_is_the_last_version_shown_better_and_never_rolled_back():
    known = (
        entry(1, entries.PROMOTED, "1", champion=None, test="first"),
        entry(2, entries.PROMOTED, "2", test="superiority"),
        entry(3, entries.PROMOTED, "3", champion="2", test="non_inferiority"),
        entry(4, entries.FORCED, "4", champion="3"),
    )
    assert entries.anchor(known) == "2"
    rolled = LedgerEntry(
        number=5, action=entries.ROLLED_BACK, version="2", from_version="2", to_version="1", reason="", by="", at=""
    )
    assert entries.anchor((*known, rolled)) == "1"
