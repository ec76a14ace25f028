"""Who won: the finalists that were confirmed, not those that lead by now; nobody before the confirmation has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertft_core.base.errors import InputError
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.recipe import chain, trials
from bertft_core.search.results import TrialFailure
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.training.results import EpochResult, TrainingResult


@pytest.fixture
def config() -> RunConfig:
    search = {"trials": 3, "space": {"lr": {"low": 1e-5, "high": 1e-3}}, "confirm": {"top": 2, "seeds": 1}}
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}, "search": search}
    return parse_config(tree, Path("."))


def _tell(study: SearchStudy, *scores: float) -> None:
    for score in scores:
        slot = study.claim()
        assert slot is not None
        study.tell(slot.slot, TrainingResult(state="complete", score=score, log_loss=0.5, seconds=1.0))


def _opened(config: RunConfig, folder: Path) -> SearchStudy:
    return SearchStudy(open_storage(None, folder), "n-study", config)


def _confirmation(study: SearchStudy, config: RunConfig) -> SearchStudy:
    found = trials.open_confirmation(study, config)
    assert found is not None
    return found


def test_trial_that_ends_after_the_confirmation_began_changes_no_finalist(config: RunConfig, tmp_path: Path) -> None:
    study = _opened(config, tmp_path)
    _tell(study, 0.7, 0.8)
    confirmation = _confirmation(study, config)
    _tell(confirmation, 0.5, 0.6)  # of trials 1 and 0
    _tell(study, 0.9)
    found = trials.find_winner(study, config, confirmation)
    assert [(c.trial.slot, c.scores) for c in found.confirmations] == [(1, (0.5,)), (0, (0.6,))]
    assert found.best.slot == 0


@pytest.mark.parametrize("confirmed", [(), (0.5,)])
def test_nobody_has_won_before_the_confirmation_has_ended(
    config: RunConfig, tmp_path: Path, confirmed: tuple[float, ...]
) -> None:
    study = _opened(config, tmp_path)
    _tell(study, 0.7, 0.8, 0.6)
    if confirmed:
        _tell(_confirmation(study, config), *confirmed)
    assert chain._winner_if_done(study, config) is None


def test_looking_for_a_verdict_begins_no_confirmation(config: RunConfig, tmp_path: Path) -> None:
    import optuna

    study = _opened(config, tmp_path)
    _tell(study, 0.7, 0.8, 0.6)
    chain._winner_if_done(study, config)
    assert optuna.get_all_study_names(storage=study.storage.optuna) == ["n-study"]


def test_winner_is_named_once_the_confirmation_has_ended(config: RunConfig, tmp_path: Path) -> None:
    study = _opened(config, tmp_path)
    _tell(study, 0.7, 0.8, 0.6)
    _tell(_confirmation(study, config), 0.5, 0.6)
    found = chain._winner_if_done(study, config)
    assert found is not None and found.best.slot == 0


def _untrained(score: float) -> TrainingResult:
    epoch = EpochResult(
        epoch=1, step=6, train_loss=0.7, validation_loss=0.69, accuracy=0.5, macro_f1=score, depth=1, seconds=1.0
    )
    facts = {"history": (epoch,), "chance_loss": 0.693, "learnt": 0.001}
    return TrainingResult(state="complete", score=score, log_loss=0.69, seconds=1.0, **facts)


def test_trial_that_did_not_train_is_pruned_and_has_no_score(config: RunConfig, tmp_path: Path) -> None:
    study = _opened(config, tmp_path)
    slot = study.claim()
    assert slot is not None
    told = study.tell(slot.slot, _untrained(0.9))
    assert (told.state, told.score) == ("pruned", None) and told.reason.startswith("did not train")
    _tell(study, 0.4)
    assert trials.find_winner(study, config, None).best.score == 0.4


def test_search_in_which_no_trial_trained_says_so(config: RunConfig, tmp_path: Path) -> None:
    study = _opened(config, tmp_path)
    for score in (0.33, 0.35):
        slot = study.claim()
        assert slot is not None
        study.tell(slot.slot, _untrained(score))
    found = trials.find_winner(study, config, None)
    assert found.best.slot == 1 and found.how.startswith("no trial trained")


def test_finalist_that_did_not_train_with_a_further_seed_loses_to_one_that_did(
    config: RunConfig, tmp_path: Path
) -> None:
    study = _opened(config, tmp_path)
    _tell(study, 0.7, 0.8)
    confirmation = _confirmation(study, config)
    slot = confirmation.claim()
    assert slot is not None
    confirmation.tell(slot.slot, _untrained(0.9))  # of trial 1
    _tell(confirmation, 0.5)
    assert trials.find_winner(study, config, confirmation).best.slot == 0


def test_search_in_which_nothing_completed_names_the_reasons(config: RunConfig, tmp_path: Path) -> None:
    study = _opened(config, tmp_path)
    slot = study.claim()
    assert slot is not None
    study.tell(slot.slot, TrialFailure(state="pruned", reason="oom: no memory left"))
    with pytest.raises(InputError, match="no trial of study n-study completed .*oom: no memory left"):
        trials.find_winner(study, config, None)
