"""When a trial is given up: its score at a quarter, half and three quarters of its own length against the others'."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

HALVING_FROM = 9  # trials; below, too few reach a rung for a half of them to mean much
_STARTUP = 4  # scores at a rung before anything is given up there


class HalvingPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving at given rungs: at each, the better half of the scores seen there goes on.

    The stopping form of ASHA (Li et al. 2020, arXiv 1810.05934) with a reduction factor of 2. Optuna's own
    SuccessiveHalvingPruner wants rungs in geometric progression and gives the second trial up when it is worse
    than the first; contracts.md fixes the rungs, and the first four scores at a rung are let through here.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether `trial`'s last score lies in the lower half of the scores at its rung. Ties go on."""
        rung = trial.last_step
        if rung is None:
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        seen = [t for t in study.get_trials(deepcopy=False, states=states) if rung in t.intermediate_values]
        others = [t.intermediate_values[rung] for t in seen if t.number != trial.number]
        own = trial.intermediate_values[rung]
        if len(others) < _STARTUP:
            return False
        better = sum(value > own for value in others if value == value)
        return better >= (len(others) + 2) // 2  # more than half of all, this one included


def pruner_for(trials: int) -> optuna.pruners.BasePruner:
    """Successive halving from 9 trials, Optuna's median rule below that."""
    if trials >= HALVING_FROM:
        return HalvingPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP)
