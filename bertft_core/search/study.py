"""A study of numbered slots: claim, report, tell, and take up again after a crash. Optuna's storage is the truth.

A search has slots 0..trials-1. Sampler and fit are seeded by (base seed, slot), so that a retry repeats its own
parameters and nobody else's. Slots are claimed under a lock of the storage, by any number of coordinators; a trial
left RUNNING by a dead owner is adopted with its parameters, and its fit continues from its checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from bertft_core.base.errors import InputError, LeaseLost
from bertft_core.config.metrics import score_column
from bertft_core.config.run import RunConfig
from bertft_core.config.search import SearchConfig
from bertft_core.search.lease import LEASE_SECONDS, Owner, Watch
from bertft_core.search.results import TrialFailure, TrialResult
from bertft_core.search.slots import Slot, StudyPlan, is_finished, result_of, slot_seed
from bertft_core.search.space import first_values, is_probe, probe_values, suggest, values_inside
from bertft_core.search.stopping import Clock, exhausted, spent
from bertft_core.search.storage import StudyStorage
from bertft_core.search.strategies import blaming, grid_points, pruner_for, sampler_for
from bertft_core.training.results import TrainingResult


class SearchStudy:
    """Slots of one study in an Optuna storage. Its methods may be called from several threads.

    With `search.second` the study has two directions, and nothing is pruned (Optuna prunes single objectives only).
    """

    def __init__(
        self,
        storage: StudyStorage,
        name: str,
        config: RunConfig,
        owner: Owner | None = None,
        plan: StudyPlan | None = None,
        *,
        must_exist: bool = False,
    ) -> None:
        self.storage, self.owner = storage, owner or Owner()
        self._config, self._search = config, config.search or SearchConfig(trials=0)
        self._seed, self._measure = config.training.seed, self._search.second and self._search.second.measure
        self._study, self._plan = storage.call(self._locked_open, name, plan, must_exist=must_exist)
        self._clock = Clock(limit=self._search.timeout if self._plan.is_pruned else None)
        self._watch = Watch(self.owner)
        self._live: dict[int, tuple[optuna.Trial, float]] = {}
        self._guard = threading.RLock()

    @property
    def name(self) -> str:
        """The study's name in the storage."""
        return self._study.study_name

    @property
    def slots(self) -> int:
        """How many finished trials are wanted."""
        return self._plan.slots

    @property
    def is_pruned(self) -> bool:
        """Whether scores at the rungs count. Where they do not (confirming fits, `second`), none need be measured."""
        return self._plan.is_pruned and not self._measure and self._search.pruner.name != "none"

    @property
    def first_params(self) -> tuple[dict[str, Any], ...]:
        """Parameters of the first slots, where they were decided on; of all slots of a confirmation."""
        return tuple(dict(params) for params in self._plan.first)

    @property
    def stopped(self) -> str:
        """Why the study ends before its last slot, "" while it goes on. A raised search.timeout lets it go on."""
        if not self._plan.is_pruned:  # confirming fits are few and decided on: they are run in any case
            return ""
        stored = self._attributes()
        early = str(stored.get("stopped", "")) if self._search.stop_early else ""
        return early or spent(self._clock.spent(stored.get("time", {})), self._search.timeout)

    @property
    def is_out_of_time(self) -> bool:
        """Whether search.timeout has passed; reads no storage."""
        return self._clock.is_over

    def results(self) -> list[TrialResult]:
        """Finished trials of the plan's slots, by slot."""
        found = {int(t.user_attrs["slot"]): t for t in self._trials() if is_finished(t, self._search.trial_timeout)}
        return [result_of(found[s], self._plan.seeds[s]) for s in sorted(found) if s < self._plan.slots]

    def open_slots(self) -> list[int]:
        """Slots that still owe a finished trial; none once the search was stopped early."""
        if self.stopped:
            return []
        done = {r.slot for r in self.results()}
        return [s for s in range(self._plan.slots) if s not in done]

    def claim(self) -> Slot | None:
        """Begin the lowest slot that nobody holds; None when every open one is held. Safe in threads and machines."""
        return self.storage.call(self._claim)

    def _claim(self) -> Slot | None:
        with self._guard, self.storage.lock(self.name):
            self._clock.start(self._attributes().get("time", {}))
            self._bury()
            running = self._running()
            for slot in self.open_slots():
                trial = running.get(slot)
                if trial is None:
                    return self._begin(slot, self._fresh(slot), is_adopted=False)
                if not self._is_held(trial):
                    return self._begin(slot, optuna.Trial(self._study, trial._trial_id), is_adopted=True)
        return None

    def held(self) -> dict[int, str]:
        """Slots of the plan that a living owner works on, and who."""
        found = self._running().items()
        running = {s: t.user_attrs["lease"] for s, t in found if s < self._plan.slots and self._is_held(t)}
        return {slot: f"process {lease['pid']} on {lease['host']}" for slot, lease in sorted(running.items())}

    def renew(self, slot: int, *, is_forced: bool = False, **facts: Any) -> None:
        """Renew the lease of a claimed slot, at most every 5 s unless forced. Raises LeaseLost when it is another's."""
        trial, last = self._live[slot]
        if not is_forced and time.monotonic() - last < LEASE_SECONDS:
            return
        with self._own(slot, trial):
            self.storage.call(trial.set_user_attr, "lease", self.owner.lease(**facts))
        self._live[slot] = (trial, time.monotonic())

    def report(self, slot: int, fraction: float, score: float) -> bool:
        """Report the validation score at progress `fraction`; True means: stop, the trial is pruned.

        Raises LeaseLost as `renew` does.
        """
        if not self.is_pruned:
            return False
        trial, _ = self._live[slot]
        with self._own(slot, trial):
            self.storage.call(trial.report, score, step=round(100 * fraction))
            with blaming("search.pruner", self._search.pruner):
                return bool(self.storage.call(trial.should_prune))

    def tell(self, slot: int, result: TrainingResult | TrialFailure, depth: int | None = None) -> TrialResult:
        """Finish a claimed slot; depth: levels that were thawed when it ended.

        A score that is no number ends it as pruned: Optuna would neither store nor learn from it. So does a fit that
        did not train: its score is that of the class frequencies. Raises LeaseLost when another owner took the slot
        over.
        """
        state, reason = result.state, result.reason
        if isinstance(result, TrainingResult) and state == "complete" and not math.isfinite(result.score):
            state, reason = "pruned", f"nonfinite: the validation score is {result.score}"
        elif isinstance(result, TrainingResult) and result.fault:
            state, reason = "pruned", result.fault
        self.storage.call(self._tell, slot, {**asdict(result), "depth": depth, "state": state, "reason": reason})
        finished = next((r for r in self.results() if r.slot == slot), None)
        if finished is None:
            raise LeaseLost(f"trial {slot} was ended by another process")
        return finished

    def _tell(self, slot: int, result: dict[str, Any]) -> None:
        with self._guard, self.storage.lock(self.name):
            trial, _ = self._live[slot]
            now = self._require_own(slot, trial)
            if not now.state.is_finished():  # else an earlier attempt was told and its answer was lost
                self._study.sampler = sampler_for(self._search, slot_seed(self._seed, slot))  # it is told, too
                trial.set_user_attr("result", result)
                if result["state"] == "complete":
                    values = [result["score"], result[_FIELDS[self._measure]]] if self._measure else result["score"]
                    self._study.tell(trial.number, values)
                else:
                    trial.set_user_attr("reason", result["reason"] or "no reason given")
                    state = TrialState.FAIL if result["state"] == "fail" else TrialState.PRUNED
                    self._study.tell(trial.number, state=state)
            del self._live[slot]

    def release(self, slot: int) -> None:
        """Give a claimed slot back unfinished: whoever claims it next continues it. Another owner's stays as it is."""
        trial, _ = self._live.pop(slot)
        with contextlib.suppress(LeaseLost), self._own(slot, trial):
            self.storage.call(trial.set_user_attr, "lease", self.owner.lease(released=True))

    def give_up(self, slot: int) -> None:
        """End a claimed slot's trial without a result. The slot stays open, with its parameters and its checkpoint."""
        self.storage.call(self._give_up, slot)

    def _give_up(self, slot: int) -> None:
        with self._guard, self.storage.lock(self.name), contextlib.suppress(LeaseLost):
            trial, _ = self._live[slot]
            with self._own(slot, trial):
                self.storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            del self._live[slot]

    def spend(self, rows: int) -> str:
        """Write down the time spent; stop the study when there is no time or nothing left to gain.

        The reason, "" to go on. rows: validation rows, for the noise of a score.
        """
        return self.storage.call(self._spend, rows)

    def _spend(self, rows: int) -> str:
        with self._guard, self.storage.lock(self.name):
            self._study.set_user_attr("time", self._clock.entry(self._attributes().get("time", {})))
            if not self.stopped and self._may_stop_early():
                done = (t for t in self._trials() if t.state == TrialState.COMPLETE)
                completed = [t for t in done if not is_probe(t.params, self._search)]
                if reason := exhausted(completed, rows, self._seed):
                    self._study.set_user_attr("stopped", reason)
            return self.stopped

    def store_winner(self, params: Mapping[str, Any]) -> None:
        """Store the winner's parameters: the next study of this configuration's name begins with them."""
        self.storage.call(self._study.set_user_attr, "winner", dict(params))

    def _may_stop_early(self) -> bool:
        metric = self._config.evaluation.metric
        is_asked = self._plan.is_pruned and self._search.stop_early and not self._measure and metric != "log_loss"
        return is_asked and len(self.open_slots()) > 0

    def _locked_open(self, name: str, plan: StudyPlan | None, *, must_exist: bool) -> tuple[optuna.Study, StudyPlan]:
        with self.storage.lock(name):
            study = self._open(name, must_exist=must_exist)
            return study, plan or self._first_plan(study)

    def _open(self, name: str, *, must_exist: bool) -> optuna.Study:
        known = optuna.get_all_study_names(storage=self.storage.optuna)
        if must_exist and name not in known:
            near = [n for n in known if n.startswith(f"{self._config.name}-")] or ["none"]
            raise InputError(
                f"no study {name} in {self.storage.shown}: start `bertft search` there first. Its name holds a hash of "
                f"space, settings, rows and encoder, which must be equal on both sides; of this name: {', '.join(near)}"
            )
        directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"] if self._measure else ["maximize"]
        study = optuna.create_study(
            storage=self.storage.optuna,
            study_name=name,
            load_if_exists=True,
            directions=directions,
            sampler=sampler_for(self._search, self._seed),
            pruner=pruner_for(self._search),
        )
        names = [score_column(self._config.evaluation.metric), *([_FIELDS[self._measure]] if self._measure else [])]
        if study.metric_names != names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(names)
        return study

    def _first_plan(self, study: optuna.Study) -> StudyPlan:
        """Configured values first, last night's winner, the head alone; decided once and stored with the study."""
        stored = study.user_attrs.get("first")
        if stored is None:
            configured = first_values(self._search, self._config)
            wanted = [configured, self._last_winner(study.study_name), probe_values(self._search, self._config)]
            stored = [v for i, v in enumerate(wanted) if v is not None and v not in wanted[:i]]
            study.set_user_attr("name", self._config.name)
            study.set_user_attr("first", stored)
        trials = self._search.trials
        if self._search.sampler.name == "grid":
            stored = [*stored, *(p for p in grid_points(self._search, self._seed) if p not in stored)]
        return StudyPlan(
            slots=trials, seeds=tuple(slot_seed(self._seed, s) for s in range(trials)), first=tuple(stored)
        )

    def _last_winner(self, but: str) -> dict[str, Any] | None:
        summaries = optuna.get_all_study_summaries(storage=self.storage.optuna)
        kept = [
            s
            for s in summaries
            if s.user_attrs.get("name") == self._config.name and "winner" in s.user_attrs and s.study_name != but
        ]
        last = max(kept, key=lambda s: s.datetime_start.timestamp() if s.datetime_start else 0.0, default=None)
        return values_inside(self._search, last.user_attrs["winner"]) if last else None

    def _fresh(self, slot: int) -> optuna.Trial:
        """A new trial with its parameters; the lease, written last, tells a complete one from one that died here."""
        params = self._earlier(slot) or (self._plan.first[slot] if slot < len(self._plan.first) else None)
        if params is not None:
            self._study.enqueue_trial(dict(params), user_attrs={"slot": slot})
        self._study.sampler = sampler_for(self._search, slot_seed(self._seed, slot))
        with blaming("search.sampler", self._search.sampler):
            return self._asked(slot, params)

    def _asked(self, slot: int, params: Mapping[str, Any] | None) -> optuna.Trial:
        trial = self._study.ask()
        if params is not None and is_probe(params, self._search):
            for key, value in params.items():
                trial.suggest_categorical(key, [value])
        else:
            suggest(trial, self._search)
        trial.set_user_attr("slot", slot)
        return trial

    def _earlier(self, slot: int) -> dict[str, Any] | None:
        """Parameters of a trial of this slot that was begun and ended unfinished: a retry keeps them."""
        own = [t for t in self._trials() if t.user_attrs.get("slot") == slot and "lease" in t.user_attrs]
        return dict(own[-1].params) if own else None

    def _begin(self, slot: int, trial: optuna.Trial, *, is_adopted: bool) -> Slot:
        trial.set_user_attr("lease", self.owner.lease(fraction=0.0))
        self._live[slot] = (trial, time.monotonic())
        seed = self._plan.seeds[slot]
        return Slot(slot=slot, number=trial.number, params=dict(trial.params), seed=seed, is_adopted=is_adopted)

    def _running(self) -> dict[int, FrozenTrial]:
        """Running trials by slot."""
        found = self._trials(TrialState.RUNNING)
        return {int(t.user_attrs["slot"]): t for t in found if "lease" in t.user_attrs}

    def _bury(self) -> None:
        """End what died while it was asked for (no lease yet; nobody else asks now: the lock is held).

        Once the study is stopped, also what its dead owner will never finish.
        """
        is_over = bool(self.stopped)
        for trial in self._trials(TrialState.RUNNING, TrialState.WAITING):
            if "lease" not in trial.user_attrs or (is_over and not self._is_held(trial)):
                self.storage.optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _is_held(self, trial: FrozenTrial) -> bool:
        lease = trial.user_attrs["lease"]
        if lease["token"] == self.owner.token:
            return int(trial.user_attrs["slot"]) in self._live
        return self._watch.is_held(trial.number, lease)

    def _require_own(self, slot: int, trial: optuna.Trial) -> FrozenTrial:
        """The trial as stored. Raises LeaseLost when its lease is another owner's."""
        now: FrozenTrial = self.storage.call(self.storage.optuna.get_trial, trial._trial_id)
        lease = now.user_attrs["lease"]
        if lease["token"] != self.owner.token:
            self._live.pop(slot, None)
            raise LeaseLost(f"trial {slot} was taken over by process {lease['pid']} on {lease['host']}")
        return now

    @contextlib.contextmanager
    def _own(self, slot: int, trial: optuna.Trial) -> Iterator[None]:
        """Around a write to a trial. Raises LeaseLost when its lease is another owner's, or others ended it."""
        self._require_own(slot, trial)
        try:
            yield
        except optuna.exceptions.UpdateFinishedTrialError as fault:
            self._live.pop(slot, None)
            raise LeaseLost(f"trial {slot} was ended by another process") from fault

    def _trials(self, *states: TrialState) -> Sequence[FrozenTrial]:
        found: list[FrozenTrial] = self.storage.call(self._study.get_trials, deepcopy=False, states=states or None)
        return found

    def _attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = self.storage.call(lambda: self._study.user_attrs)
        return found


_FIELDS = {"latency": "latency_ms", "size": "size_bytes"}
