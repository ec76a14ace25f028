"""The trials of a search: whether it is possible, its study, one slot from claim to result, the winner."""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import InputError, LeaseLost, SearchStopped, TrainerDied, TrialPruned
from bertft_core.base.hashes import encoder_fingerprint, hash_json
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.encoder_fit import check_max_length
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.fit import fit_spec, schedule_of
from bertft_core.recipe.prepare import Prepared, prepare_for
from bertft_core.recipe.unused_knobs import encoders, feature_layers, longest_cut, longest_text, require_effect
from bertft_core.search.lease import Owner
from bertft_core.search.results import TrialFailure, TrialResult, ranked, untrained
from bertft_core.search.slots import Slot, StudyPlan, slot_seed, study_name
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.search.winner import SearchWinner, cheapest_within, confirm_slots, confirmed_winner, finalists
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec, MachineSettings, micro_batch_line

if TYPE_CHECKING:
    from bertft_core.recipe.process.client import Trainer


_LOGGER = logging.getLogger(__name__)
_CHECKPOINT_SECONDS = 5.0  # a killed worker loses that much; the loop spends at most 5 % of a fit on checkpoints
_KILLED = 9
_ENCODER, _POOLING, _LAYERS = "model.pretrained", "model.pooling", "model.layers"

OnProgress = Callable[[float, dict[str, Any]], None]


def require_possible(config: RunConfig, prepared: Prepared, home: Path) -> None:
    """Every searched encoder can be read and is long and deep enough, and every knob has an effect.

    Raises ConfigError and ModelError before the first trial. Tokenizes the rows for each further encoder.
    """
    assert config.search is not None, "the caller checked that there is a search"
    longest = {}
    for encoder in encoders(config, config.search):
        chosen = config.with_values({_ENCODER: encoder})
        pretrained = resolve_pretrained(chosen)
        check_max_length(pretrained, longest_cut(config, config.search, encoder))
        for pooling, layers in itertools.product(
            config.possible(_POOLING), feature_layers(config, config.search, encoder)
        ):
            schedule_of(chosen.with_values({_POOLING: pooling, _LAYERS: layers}), pretrained)
        longest[encoder] = longest_text(prepare_for(config, chosen, prepared, home).tokens)
    is_single = not prepared.dataset.multi_label  # where a class's rows say nothing about another's
    require_effect(config, longest, prepared.dataset.report.class_counts["train"] if is_single else {})


def open_study(
    config: RunConfig,
    prepared: Prepared,
    home: Path,
    owner: Owner | None = None,
    storage: str | None = None,
    *,
    must_exist: bool = False,
) -> SearchStudy:
    """The study of a configuration that is searched; before it is begun, `require_possible` says whether it can be.

    storage: a URL that wins over search.storage. must_exist: raise InputError where nobody has begun it.
    """
    assert config.search is not None and config.search.space, "the caller has a search, and `fit.searched_on` a space"
    every = (config.with_values({_ENCODER: encoder}) for encoder in encoders(config, config.search))
    fingerprints = [
        prepared.adaptation.key
        if prepared.adaptation and chosen.model.adapted
        else encoder_fingerprint(resolve_pretrained(chosen))
        for chosen in every
    ]
    all_encoders = hash_json(fingerprints) if len(fingerprints) > 1 else fingerprints[0]
    name = study_name(config, prepared.dataset.fingerprint, all_encoders)
    return SearchStudy(open_storage(storage or config.search.storage, home), name, config, owner, must_exist=must_exist)


def open_confirmation(study: SearchStudy, config: RunConfig, *, must_exist: bool = False) -> SearchStudy | None:
    """The study that runs the best trials again with further seeds; None where search.confirm is off.

    must_exist: raise InputError where nobody has begun it.
    """
    assert config.search is not None, "a study has a search"
    plan = config.search.confirm_plan
    best = finalists(study.results(), plan.top) if plan else []
    if plan is None or len(best) < 2:
        return None
    slots = confirm_slots(best, plan.seeds)
    seeds = tuple(slot_seed(config.training.seed, f"confirm-{index}") for _, index in slots)
    params = tuple(trial.params for trial, _ in slots)
    name = f"{study.name}-confirm-{hash_json([params, seeds])[:8]}"
    fits = StudyPlan(slots=len(slots), seeds=seeds, first=params, is_pruned=False)
    return SearchStudy(study.storage, name, config, study.owner, plan=fits, must_exist=must_exist)


def find_winner(study: SearchStudy, config: RunConfig, confirmation: SearchStudy | None) -> SearchWinner:
    """The winner of a finished search; where no trial trained, the best of those, since more rows may train.

    Raises InputError when no trial ran to its end.
    """
    assert config.search is not None, "a study has a search"
    results, second = study.results(), config.search.second
    best = next(iter(ranked(results)), None)
    if best is None and (left := untrained(results)):
        return SearchWinner(best=left[0], how="no trial trained: the best of those that ran to their end")
    if best is None:
        reasons = "; ".join(sorted({study.stopped, *(r.reason for r in results)} - {""})) or "none given"
        raise InputError(
            f"no trial of study {study.name} completed (reasons: {reasons}): "
            "change search.space, or give more time where a timeout is the reason"
        )
    if second is not None:
        cheapest = cheapest_within(results, second.measure, second.within) or best
        return SearchWinner(best=cheapest, how=f"lowest {second.measure} within {second.within:g} of the best score")
    if confirmation is None:
        return SearchWinner(best=best, how="the best single score")
    # by their parameters, not by today's ranks: a trial of another coordinator may have ended since
    confirmed = list({hash_json(params): params for params in confirmation.first_params}.values())
    by_params = finalists(results, len(results))
    trials = [next(trial for trial in by_params if trial.params == params) for params in confirmed]
    return confirmed_winner(trials, confirmation.slots // len(trials), confirmation.results())


def final_values(config: RunConfig, best: TrialResult | None) -> dict[str, Any]:
    """The values that the final fit uses: the winner's, and the paper's four in any case."""
    values = {name: getattr(config.training, name) for name in ("lr", "batch_size", "epochs", "alpha")}
    return {**values, **(best.params if best else {})}


def winner_document(winner: SearchWinner) -> dict[str, Any]:
    """The `search` part of the result document."""
    confirmed = [
        {"trial": c.trial.slot, "score": c.trial.score, "scores": list(c.scores), "mean": c.mean if c.scores else None}
        for c in winner.confirmations
    ]
    best = {"trial": winner.best.slot, "score": winner.best.score, "chosen_by": winner.how}
    return {**best, "optimism": winner.optimism, "confirmed": confirmed}


def share(settings: MachineSettings, workers: int) -> MachineSettings:
    """The settings of one of `workers` trainers: an equal share of the threads, at least one; of several, one process.

    Fits side by side wait for nothing of each other: what they share out is better spent so than within a fit.
    """
    threads = max(1, settings.threads // workers)
    return replace(settings, threads=threads, processes=settings.processes if workers == 1 else 1)


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """What all trials of one coordinator share, to run them. is_stopped: whether all of them shall stop."""

    config: RunConfig
    prepared: Prepared
    settings: MachineSettings
    home: Path
    is_stopped: Callable[[], bool] = lambda: False

    def run(
        self, study: SearchStudy, slot: Slot, trainer: Trainer, on_progress: OnProgress | None = None
    ) -> TrialResult | None:
        """Run a claimed slot to its end; None when another coordinator took it over, or search.timeout passed.

        In the latter case it is given up and its checkpoint kept: more time continues it, and the sampler learns
        nothing false from it. Diverged, out of memory and over its own time are answers: the trial is pruned with the
        reason. A trainer that dies is started again from the checkpoint; when it dies twice without getting further the
        trial ends, as pruned where signal 9 points to the out-of-memory killer, else as failed. Any other fault gives
        the slot back and is raised.
        """
        folder = self.home / "search" / study.name / f"trial-{slot.slot}"
        folder.mkdir(parents=True, exist_ok=True)
        heartbeat = _Heartbeat(study=study, slot=slot.slot, runner=self, trainer=trainer, on_progress=on_progress)
        try:
            result = self._fit(study, slot, folder, trainer, heartbeat)
            finished = study.tell(slot.slot, result, heartbeat.depth)
        except LeaseLost as lost:
            _LOGGER.warning("%s", lost)
            return None
        except _OutOfTime:
            study.give_up(slot.slot)
            return None
        except BaseException:
            study.release(slot.slot)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return finished

    def _fit(
        self, study: SearchStudy, slot: Slot, folder: Path, trainer: Trainer, heartbeat: _Heartbeat
    ) -> TrainingResult | TrialFailure:
        on_rung = (lambda fraction, score: study.report(slot.slot, fraction, score)) if study.is_pruned else None
        begun = -1
        while True:
            heartbeat.first_step = None
            try:
                spec = self._spec(slot, folder, heartbeat)  # may tokenize, and may take too long over it
                return trainer.fit(spec, heartbeat, on_rung)
            except TrialPruned as stop:
                trainer.close()  # out of memory: the next trial gets a fresh process
                return heartbeat.failure("pruned", stop.reason)
            except TrainerDied as death:
                if not death.signal:  # it ended by itself: a defect, not an accident
                    raise
                if (heartbeat.first_step or 0) <= begun:
                    why = f"killed by signal {death.signal} twice without getting past step {heartbeat.step}"
                    if death.signal == _KILLED:
                        return heartbeat.failure("pruned", f"oom: {why}, often the kernel's out-of-memory killer")
                    return heartbeat.failure("fail", why)
                begun = heartbeat.first_step or 0
                what = "trial %d: the trainer was killed by signal %d at about step %d; the trial goes on"
                _LOGGER.warning(what, slot.slot, death.signal, heartbeat.step)

    def _spec(self, slot: Slot, folder: Path, heartbeat: _Heartbeat) -> FitSpec:
        search = self.config.search
        assert search is not None, "a slot has a search"
        config = self.config.with_values(slot.params)
        prepared = prepare_for(self.config, config, self.prepared, self.home, lambda *_: heartbeat(0.0, {}))
        is_timed = search.second is not None and search.second.measure == "latency"
        spec = fit_spec(
            config, prepared, self.settings, self.home, folder, seed=slot.seed, rows=search.rows, keep_model=False
        )
        return replace(spec, checkpoint_seconds=_CHECKPOINT_SECONDS, measure_latency=is_timed)


@dataclass(kw_only=True)
class _Heartbeat:
    """Listens to one fit: renews the lease, keeps the time limits, remembers how far it came."""

    study: SearchStudy
    slot: int
    runner: TrialRunner
    trainer: Trainer
    on_progress: OnProgress | None
    first_step: int | None = None
    step: int = 0
    depth: int | None = None
    seconds: float = 0.0
    is_warned: bool = False
    micro_batch: int | None = None
    began: float = field(default_factory=time.monotonic)

    def __call__(self, fraction: float, facts: dict[str, Any]) -> None:
        is_new = self.first_step is None and "step" in facts  # a process says where it begins, or goes on from
        if "step" in facts:
            self.step, self.depth, self.seconds = facts["step"], facts["depth"], facts["seconds"]
            self.first_step = self.step if self.first_step is None else self.first_step
        if self.runner.is_stopped():
            raise SearchStopped(f"trial {self.slot}: the search was stopped")
        if "prefix_reason" in facts and not self.is_warned:  # progress is repeated while nothing new happens
            self.is_warned = True
            _LOGGER.warning("trial %d: the prefix cache is not filled: %s", self.slot, facts["prefix_reason"])
        if facts.get("micro_batch", self.micro_batch) != self.micro_batch:
            self.micro_batch = facts["micro_batch"]
            _LOGGER.warning("trial %d: %s", self.slot, micro_batch_line(facts))
        self._keep_time()
        where = {"fraction": fraction, "step": self.step, "first_step": self.first_step, "seconds": self.seconds}
        self.study.renew(self.slot, is_forced=is_new, worker=self.trainer.pid, **where)
        if self.on_progress:
            self.on_progress(fraction, facts)

    def _keep_time(self) -> None:
        search = self.runner.config.search
        limit = search.trial_timeout if search else None
        if limit is not None and max(self.seconds, time.monotonic() - self.began) > limit:
            raise TrialPruned(f"timeout: search.trial_timeout of {limit:g} s passed at step {self.step}")
        if self.study.is_out_of_time:
            raise _OutOfTime

    def failure(self, state: str, reason: str) -> TrialFailure:
        """What is known of a fit that gave no result."""
        search = self.runner.config.search
        limit = search.trial_timeout if search and reason.startswith("timeout") else None
        return TrialFailure(state=state, reason=reason, seconds=self.seconds, limit=limit)


class _OutOfTime(Exception):
    """search.timeout passed while a trial ran."""


def sweep(study: SearchStudy, home: Path) -> None:
    """Remove what finished trials left behind, such as those that another machine took over and ended."""
    for result in study.results():
        shutil.rmtree(home / "search" / study.name / f"trial-{result.slot}", ignore_errors=True)
