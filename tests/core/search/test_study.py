import multiprocessing
import os
from pathlib import Path

import pytest

from bertft_core.config import SearchConfig, TrainingConfig
from bertft_core.errors import BertftError, TrialPruned
from bertft_core.search.study import SearchStudy, run_slot
from bertft_core.training.spec import TrainingResult

CONFIG = SearchConfig(trials=6)
TRAINING = TrainingConfig(lr=3e-5, alpha=0.9)


def _study(folder: Path) -> SearchStudy:
    return SearchStudy(folder / "s.db", "study", CONFIG, TRAINING)


def _result(score: float) -> TrainingResult:
    return TrainingResult(
        state="complete", reason="", score=score, log_loss=1 - score, best_epoch=1, steps=1, history=(), rungs=(),
        weights_digest="", model_dir="", seconds=1.0,
    )  # fmt: skip


def _score(params: dict[str, float]) -> float:
    return 1 - abs(params["alpha"] - 0.9) - params["lr"]


def _run_all(study: SearchStudy) -> list[dict[str, float]]:
    for slot in study.open_slots():
        run_slot(study, slot, lambda asked, rung: _result(_score(asked.params)))
    return [r.params for r in study.results()]


def _die_in_slot_two(folder: Path) -> None:
    study = _study(folder)

    def fit(asked, rung):  # type: ignore[no-untyped-def]
        if asked.slot == 2:
            os.kill(os.getpid(), 9)
        return _result(_score(asked.params))

    for slot in study.open_slots():
        run_slot(study, slot, fit)


def test_slot_zero_has_the_configured_values(tmp_path: Path) -> None:
    assert _study(tmp_path).ask(0).params == {"alpha": 0.9, "batch_size": 16, "epochs": 3, "lr": 3e-5}


def test_killed_search_ends_with_the_parameters_of_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    undisturbed = _run_all(_study(tmp_path / "a"))
    process = multiprocessing.get_context("fork").Process(target=_die_in_slot_two, args=(tmp_path / "b",))
    process.start()
    process.join()
    assert process.exitcode == -9
    resumed = _study(tmp_path / "b")
    assert resumed.open_slots() == [2, 3, 4, 5]
    assert _run_all(resumed) == undisturbed


def test_pruned_trial_is_finished_with_its_reason(tmp_path: Path) -> None:
    def fit(asked, rung):  # type: ignore[no-untyped-def]
        raise TrialPruned("nonfinite loss at step 3")

    study = _study(tmp_path)
    result = run_slot(study, 1, fit)
    assert (result.state, result.reason) == ("pruned", "nonfinite loss at step 3")
    assert 1 not in study.open_slots() and study.best() is None


def test_programming_error_leaves_the_slot_open(tmp_path: Path) -> None:
    def fit(asked, rung):  # type: ignore[no-untyped-def]
        raise BertftError("bug")

    study = _study(tmp_path)
    with pytest.raises(BertftError):
        run_slot(study, 1, fit)
    params = study.ask(1).params
    assert 1 in study.open_slots() and _study(tmp_path).ask(1).params == params


def test_bad_trial_is_pruned_at_a_rung(tmp_path: Path) -> None:
    study = _study(tmp_path)
    stops = []
    for slot in range(6):
        value = 0.1 if slot == 5 else 0.9

        def fit(asked, rung, value=value):  # type: ignore[no-untyped-def]
            stops.append(rung(0.25, value))
            return _result(value)

        run_slot(study, slot, fit)
    assert stops == [False] * 5 + [True]
