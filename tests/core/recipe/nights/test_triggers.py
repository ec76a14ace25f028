"""When a night trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import DataError
from bertft_core.base.files import write_json
from bertft_core.config.nightly import NightlyConfig
from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import LabelShift, label_shift
from bertft_core.evaluation.scores.intervals import wilson
from bertft_core.recipe.nights.drift import champion_on_test
from bertft_core.recipe.nights.rows import Changes
from bertft_core.recipe.nights.triggers import (
    NewRowsScore,
    cheap_triggers,
    decide_training,
    drift_trigger,
    drop_trigger,
    require_sound,
)
from bertft_core.registry.evaluation_folder import EvaluationFolder


def found(**values: Any) -> Changes:
    fixed = {
        "before": 1000,
        "now": 1000,
        "new": 0,
        "deleted": 0,
        "relabelled": 0,
        "moved": 0,
        "new_classes": (),
        "lost_classes": (),
        "counts_before": {"a": 500, "b": 500},
        "new_by_class": {"a": 0, "b": 0},
    }
    return Changes(**{**fixed, **values})


def fired(changes: Changes, *, age: float = 1.0, anew: bool = False, label: LabelShift | None = None, **config: Any):
    return cheap_triggers(changes, NightlyConfig(**config), age_days=age, settings_changed=anew, label=label)


@pytest.mark.parametrize(
    ("new", "wanted", "fires"), [(9, 0.01, 0), (10, 0.01, 1), (49, 50, 0), (50, 50, 1), (9, None, 0)]
)
def test_new_rows_count_as_a_share_below_one_and_as_a_number_from_one(new: int, wanted: Any, fires: int) -> None:
    assert len(fired(found(new=new, now=1000 + new), new_rows=wanted)) == fires


def test_relabelled_and_deleted_rows_count_together() -> None:
    assert fired(found(relabelled=6, deleted=4)) == ["6 relabelled, 4 deleted rows"]
    assert not fired(found(relabelled=5, deleted=4))


def test_age_counts_only_where_a_row_changed() -> None:
    assert not fired(found(), age=31)
    assert len(fired(found(new=1), age=31)) == 1
    assert not fired(found(new=1), age=29)


def test_shifted_class_shares_fire_above_their_limit() -> None:
    even = {"a": 500, "b": 500}
    assert len(fired(found(new=9), label=label_shift(even, {"a": 161, "b": 100}))) == 1
    assert not fired(found(new=9), label=label_shift(even, {"a": 119, "b": 81}))  # a distance of 0.095
    assert not fired(found(new=9), label=label_shift(even, {"a": 22, "b": 14}))  # 0.11, but of 36 rows


def test_changed_configuration_fires() -> None:
    assert fired(found(), anew=True) == ["configuration, encoder or code changed"]


@pytest.mark.parametrize(("low", "fires"), [(0.71, True), (0.7, False), (None, False)])
def test_text_drift_fires_where_the_whole_interval_is_above_the_limit(low: float | None, fires: bool) -> None:
    known = (
        {"auroc": 0.8, "low": low, "high": 0.9} if low else {"auroc": None, "low": None, "high": None, "reason": "few"}
    )
    shift = DomainShift(n_old=50, n_new=50, **known)
    assert (drift_trigger(shift, NightlyConfig(text_drift=0.7)) is not None) is fires


def new_rows(right: int, rows: int, test: tuple[int, int] | None) -> NewRowsScore:
    seen = None if test is None else test[0] / test[1]
    low = None if test is None else wilson(*test)[0]
    return NewRowsScore(right=right, rows=rows, high=wilson(right, rows)[1], test_accuracy=seen, test_low=low)


def test_lost_accuracy_fires_only_where_both_intervals_exclude_less() -> None:
    config = NightlyConfig(score_drop=0.03)  # Wilson's upper end for 70 of 100 right is 0.7811
    assert wilson(840, 1000)[0] > 0.8112 > wilson(830, 1000)[0]
    text = drop_trigger(new_rows(70, 100, (840, 1000)), config)
    assert (
        text is not None and "right on 70.0% of 100 new rows, at most 78.1%; it was on 84.0% of its test rows" in text
    )
    assert drop_trigger(new_rows(70, 100, (830, 1000)), config) is None
    assert drop_trigger(new_rows(0, 29, (990, 1000)), config) is None
    assert drop_trigger(new_rows(0, 100, None), config) is None


def test_the_champion_is_judged_by_its_own_answers_to_the_last_test_rows(tmp_path: Path) -> None:
    folder, labels = EvaluationFolder(tmp_path), np.arange(200) % 2
    said = np.where(np.arange(200) < 20, 1 - labels, labels)
    np.save(folder.labels, labels, allow_pickle=False)
    np.savez(folder.answers("4"), probabilities=(np.eye(2)[1 - said] * 0.8 + 0.1).astype("float32"), predicted=1 - said)
    others = {"config": {}, "base_dir": "", "test_rows": "", "weights": "", "folder": ""}
    write_json(folder.evidence, {**others, "classes": ["ham", "spam"]})
    facts = {"classes": ["spam", "ham"], "file": "", "latency_ms": 1.0, "code": ""}  # another order of classes
    write_json(f"{folder.answers('4')}.json", facts)
    rows = np.arange(200, dtype=np.uint64)
    np.save(folder.test_fingerprints, rows, allow_pickle=False)
    assert champion_on_test(folder, "4", None) == (0.9, pytest.approx(wilson(180, 200)[0]))
    assert champion_on_test(folder, "3", None) is None
    seen = np.r_[rows[20:120], np.uint64(999)]  # a hundred of those that it is right on, and one of another table
    assert champion_on_test(folder, "4", seen) == (0.8, pytest.approx(wilson(80, 100)[0]))
    assert champion_on_test(folder, "4", rows) is None  # it waits
    np.save(folder.groups, np.arange(200) // 20, allow_pickle=False)  # one of ten customers has all the errors
    accuracy, low = champion_on_test(folder, "4", None) or (0.0, 0.0)
    assert accuracy == 0.9 and low < 0.7
    apart = champion_on_test(folder, "4", rows[:20])  # without the one customer
    assert apart is not None and apart[0] == 1.0


def test_a_champion_that_was_lucky_at_its_promotion_has_lost_nothing() -> None:
    """The best of 30 equal challengers on 400 test rows scores 0.9 + 2 standard errors; on new rows it is as before."""
    fired = plain = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        best, right = int(rng.binomial(400, 0.9, 30).max()), int(rng.binomial(500, 0.9))
        fired += drop_trigger(new_rows(right, 500, (best, 400)), NightlyConfig(score_drop=0.0)) is not None
        plain += wilson(right, 500)[1] < best / 400
    assert plain / 400 > 0.4 and fired / 400 < 0.1


@pytest.mark.parametrize(
    ("changes", "key"),
    [(found(new_classes=("c",)), "new_class"), (found(lost_classes=("b",)), "lost_class"), (found(now=500), "halved")],
)
def test_changed_shape_of_the_data_is_refused_until_it_is_allowed(changes: Changes, key: str) -> None:
    with pytest.raises(DataError, match=rf"nightly\.{key}: fail"):
        require_sound(changes, NightlyConfig())
    assert len(require_sound(changes, NightlyConfig(**{key: "warn"}))) == 1


def test_all_faults_are_told_together() -> None:
    with pytest.raises(DataError, match=r"new_class: fail.*halved: fail"):
        require_sound(found(new_classes=("c",), now=400), NightlyConfig())


def test_first_night_trains_and_an_unchanged_one_does_not() -> None:
    assert decide_training([], None, is_forced=False).trains
    assert decide_training([], found(), is_forced=False).reason == "unchanged"
    assert not decide_training([], found(new=3), is_forced=False).trains
    assert decide_training([], found(), is_forced=True).reason == "forced"
