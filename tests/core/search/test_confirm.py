import pytest

from bertft_core.search.results import TrialResult, ranked
from bertft_core.search.winner import confirm_slots, confirmed_winner, finalists
from bertft_core.training.results import TrainingResult


def _trial(slot: int, score: float | None, log_loss: float = 0.5, state: str = "complete", **params) -> TrialResult:
    fit = None if score is None else TrainingResult(state=state, score=score, log_loss=log_loss, seconds=1.0)
    return TrialResult(slot=slot, number=slot, state=state, reason="", params=params, fit=fit, seconds=1.0)


def test_finalists_are_the_best_by_score_then_log_loss_then_slot() -> None:
    trials = [_trial(0, 0.8), _trial(1, 0.9, 0.4), _trial(2, 0.9, 0.3), _trial(3, 0.95, state="pruned"), _trial(4, 0.8)]
    assert [t.slot for t in ranked(trials)[:3]] == [2, 1, 0]


def test_parameters_that_were_tried_twice_are_confirmed_once() -> None:
    trials = [_trial(0, 0.8, lr=1), _trial(1, 0.9, lr=2), _trial(2, 0.95, lr=2), _trial(3, 0.7, lr=3)]
    assert [t.slot for t in finalists(trials, 2)] == [2, 0]


def test_every_finalist_gets_the_same_further_seeds() -> None:
    first, second = _trial(3, 0.9), _trial(1, 0.8)
    assert [(t.slot, seed) for t, seed in confirm_slots([first, second], 2)] == [(3, 0), (3, 1), (1, 0), (1, 1)]


def test_luckiest_seed_does_not_win_against_a_higher_mean() -> None:
    lucky, steady = _trial(0, 0.95), _trial(1, 0.90)
    fits = [_trial(0, 0.86), _trial(1, 0.88), _trial(2, 0.89), _trial(3, 0.91)]
    found = confirmed_winner([lucky, steady], 2, fits)
    assert found.best is steady
    assert found.optimism == pytest.approx(0.95 - 0.87)
    assert [c.mean for c in found.confirmations] == pytest.approx([0.87, 0.90])


def test_finalist_whose_further_fits_all_failed_does_not_win() -> None:
    failed, other = _trial(0, 0.95), _trial(1, 0.90)
    fits = [_trial(0, None, state="pruned"), _trial(1, None, state="pruned"), _trial(2, 0.5), _trial(3, 0.5)]
    found = confirmed_winner([failed, other], 2, fits)
    assert found.best is other and found.optimism is None


def test_without_any_further_fit_the_best_single_score_wins() -> None:
    first, second = _trial(0, 0.95), _trial(1, 0.90)
    assert confirmed_winner([first, second], 1, []).best is first
