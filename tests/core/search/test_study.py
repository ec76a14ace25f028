import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bertft_core.base.errors import InputError, LeaseLost
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.search.lease import STALE_SECONDS, Owner
from bertft_core.search.results import TrialFailure
from bertft_core.search.slots import Slot, StudyPlan, slot_seed
from bertft_core.search.space import probe_values
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.training.results import TrainingResult

_SPACE = {
    "lr": {"low": 2e-5, "high": 5e-5, "log": True},
    "batch_size": [16, 32],
    "epochs": [2, 3, 4],
    "alpha": {"low": 0.8, "high": 1.0},
}


def _config(**search: Any) -> RunConfig:
    tree = {
        "name": "n",
        "data": {"source": "x.csv"},
        "model": {"pretrained": "m"},
        "training": {"lr": 3e-5, "alpha": 0.9, "epochs": 3},
        "search": {"trials": 6, "space": _SPACE, **search},
    }
    return parse_config(tree, Path("."))


def _study(folder: Path, owner: Owner | None = None, name: str = "n-study", **search: Any) -> SearchStudy:
    return SearchStudy(open_storage(None, folder), name, _config(**search), owner)


def _result(score: float, **others: Any) -> TrainingResult:
    return TrainingResult(
        state="complete", score=score, log_loss=1 - score, best_epoch=1, steps=1, seconds=1.0, **others
    )


def _claim(study: SearchStudy) -> Slot:
    slot = study.claim()
    assert slot is not None
    return slot


def _score(params: dict[str, Any]) -> float:
    return float(1 - abs(params.get("alpha", 0.5) - 0.9) - params.get("lr", 1e-5))


def _run_all(study: SearchStudy) -> list[dict[str, Any]]:
    while (slot := study.claim()) is not None:
        study.tell(slot.slot, _result(_score(slot.params)))
    return [r.params for r in study.results()]


def _die_in_slot_two(folder: Path) -> None:
    study = _study(folder)
    while (slot := study.claim()) is not None:
        if slot.slot == 2:
            os.kill(os.getpid(), 9)
        study.tell(slot.slot, _result(_score(slot.params)))


def _elsewhere(target: Any, *given: Any) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=target, args=given)
    process.start()
    process.join()
    return process.exitcode


def test_slot_zero_has_the_configured_values(tmp_path: Path) -> None:
    assert _claim(_study(tmp_path)).params == {"alpha": 0.9, "batch_size": 16, "epochs": 3, "lr": 3e-5}


def test_killed_search_ends_with_the_parameters_of_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    undisturbed = _run_all(_study(tmp_path / "a"))
    assert _elsewhere(_die_in_slot_two, tmp_path / "b") == -9
    resumed = _study(tmp_path / "b")
    assert resumed.open_slots() == [2, 3, 4, 5]
    assert _run_all(resumed) == undisturbed


def test_adopted_slot_says_that_somebody_began_it(tmp_path: Path) -> None:
    _elsewhere(_die_in_slot_two, tmp_path)
    slot = _claim(_study(tmp_path))
    assert (slot.slot, slot.is_adopted) == (2, True)


def test_pruned_trial_is_finished_with_its_reason(tmp_path: Path) -> None:
    study = _study(tmp_path)
    slot = _claim(study)
    told = study.tell(slot.slot, TrialFailure(state="pruned", reason="nonfinite loss at step 3"))
    assert (told.state, told.reason) == ("pruned", "nonfinite loss at step 3")
    assert 0 not in study.open_slots()


def test_failed_trial_is_finished_with_its_reason(tmp_path: Path) -> None:
    study = _study(tmp_path)
    told = study.tell(_claim(study).slot, TrialFailure(state="fail", reason="killed by signal 11 twice"))
    assert (told.state, told.reason) == ("fail", "killed by signal 11 twice")
    assert 0 not in study.open_slots()


def test_reason_that_a_dead_owner_left_is_not_told_of_a_completed_trial(tmp_path: Path) -> None:
    study = _study(tmp_path)
    slot = _claim(study).slot
    study._live[slot][0].set_user_attr("reason", "killed by signal 9")
    assert study.tell(slot, _result(0.5)).reason == ""


def test_released_slot_is_continued_with_its_parameters(tmp_path: Path) -> None:
    study = _study(tmp_path)
    study.tell(_claim(study).slot, _result(0.5))
    params = _claim(study).params
    study.release(1)
    again = _claim(_study(tmp_path))
    assert (again.slot, again.params, again.is_adopted) == (1, params, True)


def test_two_coordinators_claim_different_slots(tmp_path: Path) -> None:
    one, other = _study(tmp_path), _study(tmp_path)
    claimed = [_claim(study).slot for study in (one, other, one, other)]
    assert claimed == [0, 1, 2, 3]


def test_nothing_is_claimed_when_others_hold_all_open_slots(tmp_path: Path) -> None:
    one, other = _study(tmp_path, trials=2), _study(tmp_path, trials=2)
    _claim(one), _claim(one)
    assert other.claim() is None
    assert set(other.held()) == {0, 1}


def test_trial_of_another_host_is_taken_over_when_its_lease_stands_still(
    tmp_path: Path, pass_seconds: Callable[[float], None]
) -> None:
    far = _study(tmp_path, Owner(host="elsewhere", machine="elsewhere", pid=1, began=1), trials=1)
    _claim(far)
    here = _study(tmp_path, trials=1)
    assert here.claim() is None
    pass_seconds(STALE_SECONDS - 1)
    assert here.claim() is None
    pass_seconds(1)
    assert _claim(here).slot == 0


def test_owner_that_was_taken_over_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertft_core.search.lease.STALE_SECONDS", 0.0)
    far = _study(tmp_path, Owner(host="elsewhere", machine="elsewhere", pid=1, began=1), trials=1)
    _claim(far)
    here = _study(tmp_path, trials=1)
    here.claim()
    assert _claim(here).slot == 0
    with pytest.raises(LeaseLost):
        far.tell(0, _result(0.1))
    assert here.tell(0, _result(0.9)).score == 0.9


def test_pid_of_another_process_with_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    reused = Owner(pid=os.getpid(), began=1)
    _claim(_study(tmp_path, reused, trials=1))
    assert _claim(_study(tmp_path, trials=1)).is_adopted


def test_machine_of_the_same_name_is_another_machine(tmp_path: Path) -> None:
    _claim(_study(tmp_path, Owner(machine="another boot", pid=2**22 + 1), trials=1))
    here = _study(tmp_path, trials=1)
    assert here.claim() is None and list(here.held()) == [0]


def test_trial_that_died_while_it_was_asked_for_leaves_its_slot_open(tmp_path: Path) -> None:
    study = _study(tmp_path)
    study._study.enqueue_trial({"lr": 1e-5}, user_attrs={"slot": 0})
    study._study.ask()
    slot = _claim(study)
    assert (slot.slot, slot.is_adopted, slot.params["lr"]) == (0, False, 3e-5)


def test_seed_of_a_slot_is_the_same_after_a_failed_trial_before_it(tmp_path: Path) -> None:
    study = _study(tmp_path)
    study.tell(_claim(study).slot, TrialFailure(state="fail", reason="why"))
    assert _claim(study).seed == slot_seed(13, 1)


def test_last_winner_is_the_second_trial_of_the_next_study(tmp_path: Path) -> None:
    winner = {"lr": 2.5e-5, "alpha": 0.85, "batch_size": 32, "epochs": 2}
    last = _study(tmp_path, name="n-last-night")
    _claim(last)
    last.store_winner(winner)
    tonight = _study(tmp_path)
    assert [_claim(tonight).params for _ in range(2)][1] == winner


def test_last_winner_outside_the_space_is_left_out(tmp_path: Path) -> None:
    last = _study(tmp_path, name="n-last-night")
    _claim(last)
    last.store_winner({"lr": 9e-3, "alpha": 0.85, "batch_size": 32, "epochs": 2})
    tonight = _study(tmp_path)
    assert [_claim(tonight).params for _ in range(2)][1]["lr"] <= 5e-5


def test_more_trials_continue_the_study(tmp_path: Path) -> None:
    _run_all(_study(tmp_path, trials=2))
    assert _study(tmp_path, trials=3).open_slots() == [2]


def test_spent_time_ends_the_study_and_a_raised_timeout_continues_it(
    tmp_path: Path, pass_seconds: Callable[[float], None]
) -> None:
    study = _study(tmp_path, timeout=4)
    _claim(study)
    assert study.spend(rows=100) == "" and not study.is_out_of_time
    pass_seconds(4)
    assert study.is_out_of_time and study.claim() is None  # without waiting for the next entry
    assert study.spend(rows=100).startswith("search.timeout")
    assert _study(tmp_path, timeout=4).open_slots() == []
    assert _study(tmp_path, timeout=60).open_slots() == [0, 1, 2, 3, 4, 5]


def test_trial_given_up_leaves_its_slot_open_and_keeps_its_parameters(tmp_path: Path) -> None:
    study = _study(tmp_path)
    study.tell(_claim(study).slot, _result(0.5))
    params = _claim(study).params
    study.give_up(1)
    assert [r.slot for r in study.results()] == [0] and study.held() == {}
    again = _claim(_study(tmp_path))
    assert (again.slot, again.params) == (1, params)


def test_trial_over_its_time_is_open_again_under_a_raised_limit(tmp_path: Path) -> None:
    study = _study(tmp_path, trial_timeout=5)
    params = _claim(study).params
    study.tell(0, TrialFailure(state="pruned", reason="timeout: 5 s", limit=5.0))
    assert study.open_slots() == [1, 2, 3, 4, 5]
    raised = _study(tmp_path, trial_timeout=6)
    assert raised.open_slots() == [0, 1, 2, 3, 4, 5]
    again = _claim(raised)
    assert (again.slot, again.params) == (0, params)
    assert raised.tell(0, _result(0.5)).state == "complete"
    assert [(r.slot, r.state) for r in _study(tmp_path, trial_timeout=5).results()] == [(0, "complete")]


@pytest.mark.parametrize("score", [float("nan"), float("-inf")])
def test_score_that_is_no_number_ends_the_trial_as_nonfinite(tmp_path: Path, score: float) -> None:
    study = _study(tmp_path)
    told = study.tell(_claim(study).slot, _result(score))
    assert told.state == "pruned" and told.reason.startswith("nonfinite") and 0 not in study.open_slots()


def _taken_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SearchStudy, SearchStudy]:
    """An owner that stood still, and the one that took its trial over."""
    monkeypatch.setattr("bertft_core.search.lease.STALE_SECONDS", 0.0)
    far = _study(folder, Owner(host="elsewhere", machine="elsewhere", pid=1, began=1), trials=1)
    _claim(far)
    here = _study(folder, trials=1)
    here.claim()
    assert _claim(here).is_adopted
    return far, here


def test_owner_that_was_taken_over_cannot_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, here = _taken_over(tmp_path, monkeypatch)
    here.tell(0, _result(0.9))
    with pytest.raises(LeaseLost):
        far.report(0, 0.5, 0.1)


def test_owner_that_was_taken_over_gives_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, here = _taken_over(tmp_path, monkeypatch)
    far.release(0)
    assert list(here.held()) == [0]
    assert here.tell(0, _result(0.9)).score == 0.9


def test_trial_that_others_ended_is_lost(tmp_path: Path) -> None:
    study = _study(tmp_path)
    _claim(study)
    study.storage.optuna.set_trial_state_values(study._study.trials[0]._trial_id, TrialState.FAIL)
    with pytest.raises(LeaseLost):
        study.report(0, 0.5, 0.1)


def test_slots_beyond_the_plan_are_not_waited_for(tmp_path: Path) -> None:
    longer, shorter = _study(tmp_path, trials=3), _study(tmp_path, trials=1)
    for _ in range(3):
        _claim(longer)
    longer.tell(0, _result(0.5))
    assert not shorter.open_slots() and shorter.held() == {}


def test_joining_a_study_that_nobody_began_names_those_there_are(tmp_path: Path) -> None:
    _study(tmp_path, name="n-other")
    with pytest.raises(InputError, match=r"no study n-study .*n-other"):
        SearchStudy(open_storage(None, tmp_path), "n-study", _config(), must_exist=True)


def test_median_rule_prunes_a_bad_trial_below_nine_trials(tmp_path: Path) -> None:
    study, stops = _study(tmp_path), []
    for index in range(6):
        slot = _claim(study)
        value = 0.1 if index == 5 else 0.9
        stops.append(study.report(slot.slot, 0.25, value))
        study.tell(slot.slot, _result(value))
    assert stops == [False] * 5 + [True]


def test_halving_prunes_the_worse_half_from_nine_trials(tmp_path: Path) -> None:
    study, stops = _study(tmp_path, trials=9), []
    for value in (0.5, 0.6, 0.7, 0.8, 0.65, 0.64, 0.9):
        slot = _claim(study)
        stops.append(study.report(slot.slot, 0.25, value))
        study.tell(slot.slot, _result(value))
    # the fifth is third of five (kept), the sixth fourth of six (given up), the seventh first
    assert stops == [False, False, False, False, False, True, False]


def test_second_objective_is_stored_and_prunes_nothing(tmp_path: Path) -> None:
    space = {"lr": [1e-5, 3e-5], "tokenization.max_length": [64, 256]}
    study = _study(tmp_path, space=space, second={"measure": "latency"})
    slot = _claim(study)
    assert study.report(slot.slot, 0.25, 0.0) is False
    told = study.tell(slot.slot, _result(0.9, latency_ms=3.5))
    assert (told.score, told.latency_ms) == (0.9, 3.5)
    assert study._study.trials[0].values == [0.9, 3.5]


def test_trial_that_an_earlier_version_stored_is_read(tmp_path: Path) -> None:
    study = _study(tmp_path)
    slot = _claim(study).slot
    trial, _ = study._live[slot]
    epoch = {"epoch": 1, "step": 6, "train_loss": 0.7, "validation_loss": 0.6, "accuracy": 0.9, "macro_f1": 0.8}
    facts = {"best_epoch": 1, "steps": 6, "weights_digest": "d", "model_dir": "", "prefix": None, "size_bytes": 7}
    stored = {"state": "complete", "reason": "", "score": 0.9, "log_loss": 0.6, "seconds": 3.0, "rungs": [[0.25, 0.6]]}
    history = [{**epoch, "depth": 4, "seconds": 3.0, "micro_batch": None, "micro_f1": None}]
    trial.set_user_attr("result", {"depth": 4, **stored, **facts, "history": history, "latency_ms": None})
    study._study.tell(trial.number, 0.9)
    (found,) = study.results()
    assert found.fit is not None and (found.score, found.seconds, found.depth) == (0.9, 3.0, 4)
    assert found.fit.rungs == ((0.25, 0.6),) and found.fit.history[0].macro_f1 == 0.8 and found.size_bytes == 7


PROBED = {"unfreezing": "linear_probe", "model.pooling": "mean"}


def test_head_alone_is_tried_behind_the_configured_values_and_a_killed_one_again(tmp_path: Path) -> None:
    study = _study(tmp_path, linear_probe=True)
    assert _claim(study).params["lr"] == 3e-5
    slot = _claim(study)
    assert slot.params == PROBED
    study.release(slot.slot)
    again = _claim(_study(tmp_path, linear_probe=True))
    assert (again.slot, again.params, again.seed) == (slot.slot, PROBED, slot.seed)


def test_sampler_goes_on_beside_the_head_alone(tmp_path: Path) -> None:
    """The values of other trials are those of a search that has no such trial, as far as they are not learnt."""
    params = _run_all(_study(tmp_path, linear_probe=True, trials=14))
    assert params[1] == PROBED
    assert all(set(p) == set(_SPACE) for i, p in enumerate(params) if i != 1)


def test_head_alone_is_confirmed_as_any_trial_is(tmp_path: Path) -> None:
    config = _config(linear_probe=True)
    plan = StudyPlan(slots=2, seeds=(1, 2), first=(PROBED, PROBED), is_pruned=False)
    study = SearchStudy(open_storage(None, tmp_path), "n-confirm", config, plan=plan)
    assert [(s.params, s.seed) for s in (_claim(study), _claim(study))] == [(PROBED, 1), (PROBED, 2)]


@pytest.mark.parametrize(
    "tree",
    [
        {"search": {"linear_probe": False}},
        {"search": {"space": {**_SPACE, "unfreezing": ["none", "gradual"]}}},
        {"training": {"unfreezing": "linear_probe"}},
    ],
    ids=str,
)
def test_head_alone_is_no_trial_where_it_is_off_or_a_choice_already(tree: dict[str, Any]) -> None:
    base = _config(linear_probe=True).model_dump(mode="json")
    for section, values in tree.items():
        base[section] = {**base[section], **values}
    config = parse_config(base, Path("."))
    assert config.search is not None
    assert probe_values(config.search, config) is None
    assert probe_values(_config(linear_probe=True).search, _config(linear_probe=True)) == PROBED  # type: ignore[arg-type]
