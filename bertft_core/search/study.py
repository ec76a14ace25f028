"""A study of numbered slots: ask, report, tell, and take up again after a crash. Optuna's storage is the truth.

A search has slots 0..trials-1. Sampler and fit are seeded by (base seed, slot), so that a retry repeats its own
parameters and nobody else's. A trial left RUNNING by a dead owner is adopted with its parameters; its fit then
continues from its checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from bertft_core.config import RunConfig, SearchConfig
from bertft_core.errors import BusyError, TrialPruned
from bertft_core.search.results import TrialResult
from bertft_core.search.space import space_hash, suggest, values_inside
from bertft_core.state import hash_json

LEASE_SECONDS = 5.0
STALE_SECONDS = 30.0
_PRUNER_STARTUP = 4


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A trial about to run: its slot, Optuna number, parameters and fit seed."""

    slot: int
    number: int
    params: dict[str, Any]
    seed: int


def study_name(config: RunConfig, rows: str, encoder: str) -> str:
    """Name with a hash of space, data, encoder and every setting that changes a trial's value."""
    resolved = config.resolved()
    parts = [resolved["training"], resolved["tokenization"], resolved["evaluation"]["metric"], rows, encoder]
    search = config.search or SearchConfig(trials=0)
    return f"{config.name}-{space_hash(search)}-{hash_json([*parts, search.rows])[:12]}"


def slot_seed(base: int, slot: int) -> int:
    """Seed of a slot's sampler and fit: a pure function of (base seed, slot), below 2**31."""
    return int(hash_json([base, slot])[:8], 16) & 0x7FFFFFFF


class SearchStudy:
    """Slots of one study in an Optuna storage (a sqlite file by default)."""

    def __init__(self, storage: Path, name: str, config: SearchConfig, training: Any, owner: str = "") -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._training, self._owner = config, training, owner
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNER_STARTUP)
        self._study = optuna.create_study(
            storage=f"sqlite:///{storage}", study_name=name, load_if_exists=True, direction="maximize", pruner=pruner
        )
        self._live: dict[int, tuple[optuna.Trial, float]] = {}

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return self._study.study_name

    def results(self) -> list[TrialResult]:
        """Finished trials of slots below `trials`, by slot."""
        found = [self._result(t) for t in self._study.get_trials(deepcopy=False) if self._is_finished(t)]
        return sorted((r for r in found if r.slot < self._config.trials), key=lambda r: r.slot)

    def open_slots(self) -> list[int]:
        """Slots that still owe a finished trial."""
        done = {r.slot for r in self.results()}
        return [s for s in range(self._config.trials) if s not in done]

    def ask(self, slot: int) -> Slot:
        """Start `slot`, or adopt its interrupted trial. Raises BusyError when a living owner holds it."""
        self._study.sampler = optuna.samplers.TPESampler(seed=slot_seed(self._training.seed, slot))
        trial = self._adopt(slot) or self._fresh(slot)
        self._live[slot] = (trial, 0.0)
        self.renew(slot)
        params = values_inside(self._config, trial.params) or {}
        return Slot(slot=slot, number=trial.number, params=params, seed=slot_seed(self._training.seed, slot))

    def renew(self, slot: int) -> None:
        """Renew the owner's lease, at most every 5 s."""
        trial, last = self._live[slot]
        if time.time() - last >= LEASE_SECONDS:
            lease = {"host": socket.gethostname(), "pid": os.getpid(), "owner": self._owner, "at": time.time()}
            trial.set_user_attr("lease", lease)
            self._live[slot] = (trial, time.time())

    def report(self, slot: int, fraction: float, score: float) -> bool:
        """Report the validation score at progress `fraction`; True means: stop, the trial is pruned."""
        trial, _ = self._live[slot]
        trial.report(score, step=round(100 * fraction))
        return bool(trial.should_prune())

    def tell(self, slot: int, result: dict[str, Any]) -> TrialResult:
        """Finish `slot` with a training result (`TrainingResult` as a dict)."""
        trial, _ = self._live.pop(slot)
        trial.set_user_attr("result", result)
        complete = result["state"] == "complete"
        if complete:
            self._study.tell(trial.number, result["score"], skip_if_finished=True)
        else:
            trial.set_user_attr("reason", result["reason"])
            self._study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        return next(r for r in self.results() if r.slot == slot)

    def best(self) -> TrialResult | None:
        """Highest score; ties by lower log loss, then by lower slot. None when no trial completed."""
        done = [r for r in self.results() if r.state == "complete" and r.score is not None]
        return max(done, key=lambda r: (r.score, -(r.log_loss or 0.0), -r.slot), default=None)

    def _fresh(self, slot: int) -> optuna.Trial:
        values = values_inside(self._config, dict(self._training)) if slot == 0 else None
        if values:
            self._study.enqueue_trial(values, user_attrs={"slot": 0}, skip_if_exists=True)
        trial = self._study.ask()
        suggest(trial, self._config)
        trial.set_user_attr("slot", slot)
        return trial

    def _adopt(self, slot: int) -> optuna.Trial | None:
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = frozen.user_attrs.get("lease", {})
            if lease and _is_alive(lease):
                if frozen.user_attrs.get("slot") == slot:
                    raise BusyError(f"trial {slot} is held by process {lease['pid']} on {lease['host']}: wait for it")
                continue
            if values_inside(self._config, frozen.params) is None or "slot" not in frozen.user_attrs:
                self._study.tell(frozen.number, state=TrialState.FAIL)  # died before it had parameters
            elif frozen.user_attrs["slot"] == slot:
                return optuna.Trial(self._study, frozen._trial_id)
        return None

    @staticmethod
    def _is_finished(trial: optuna.trial.FrozenTrial) -> bool:
        if "slot" not in trial.user_attrs:
            return False
        told = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return told or (trial.state == TrialState.FAIL and "reason" in trial.user_attrs)

    @staticmethod
    def _result(trial: optuna.trial.FrozenTrial) -> TrialResult:
        stored = trial.user_attrs.get("result", {})
        return TrialResult(
            slot=trial.user_attrs["slot"],
            number=trial.number,
            state=trial.state.name.lower(),
            reason=trial.user_attrs.get("reason", ""),
            params=dict(trial.params),
            score=stored.get("score"),
            log_loss=stored.get("log_loss"),
            seconds=float(stored.get("seconds", 0.0)),
            history=tuple(stored.get("history", ())),
            rungs=tuple((float(f), float(v)) for f, v in stored.get("rungs", ())),
        )


def _is_alive(lease: dict[str, Any]) -> bool:
    if lease["pid"] == os.getpid() and lease["host"] == socket.gethostname():
        return False  # our own earlier attempt in this process
    if lease["host"] == socket.gethostname():
        try:
            os.kill(int(lease["pid"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return time.time() - float(lease["at"]) < STALE_SECONDS


def run_slot(study: SearchStudy, slot: int, fit: Callable[[Slot, Callable[[float, float], bool]], Any]) -> TrialResult:
    """Ask, fit with pruning at the rungs, tell. `fit(slot, on_rung)` returns a TrainingResult.

    An exception of `fit` leaves the trial RUNNING: the next command adopts it with its parameters.
    """
    asked = study.ask(slot)
    try:
        result = asdict(fit(asked, lambda fraction, score: study.report(slot, fraction, score)))
    except TrialPruned as stop:  # diverged, out of memory or timed out: an answer, not an accident
        result = {"state": "pruned", "reason": stop.reason}
    return study.tell(slot, result)
