"""What a search must look like after it was killed (fault_drill.py): strikes, study, MLflow tree, one fit again."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertft_core.config.run import RunConfig
from bertft_core.recipe import fit as fitting
from bertft_core.recipe import trials
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify
from bertft_core.search.slots import slot_seed
from bertft_core.tracking import store as tracking

Stored = Sequence[Any]  # Optuna's trials of the study, whatever their state


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim, whether it held, and what was found."""

    claim: str
    holds: bool
    found: str

    @classmethod
    def of(cls, claim: str, holds: Any, found: Any) -> Check:
        """A check from whatever is true and whatever can be shown."""
        return cls(claim=claim, holds=bool(holds), found=str(found))


@dataclass(kw_only=True)
class Strike:
    """A trial that lost its trainer. step, fraction: by its last lease, up to 5 s old; at_step: drawn on to the strike.

    seconds: of the fit. first_step: where that trainer had begun. checkpoint: step of what lay on disk, 0 for none.
    """

    what: str
    slot: int
    pid: int
    step: int
    fraction: float
    seconds: float
    at_step: int
    first_step: int
    checkpoint: int
    goes_on_from: int | None = None

    @property
    def is_in_the_middle(self) -> bool:
        """Whether steps had been made for certain, and others were still to come."""
        return self.fraction < 1 and max(self.step, self.checkpoint) > 0

    @property
    def lost(self) -> int | None:
        """Steps made twice, about; None where the trial was not seen again."""
        return None if self.goes_on_from is None else max(0, self.at_step - self.goes_on_from)


def of_strikes(strikes: Sequence[Strike], kills: int, fit_seconds: float, stored: Stored) -> Iterator[Check]:
    """Enough was struck, in the middle of fits that are long enough, and everything went on from its checkpoint."""
    killed = [s for s in strikes if s.what == "trainer"]
    yield Check.of(f"{kills} trainers were killed", len(killed) == kills, len(killed))
    middle = sum(s.is_in_the_middle for s in killed)
    yield Check.of("all but one in the middle of a fit", middle >= kills - 1, middle)
    seen = [s for s in strikes if s.goes_on_from is not None]
    wrong = [s.slot for s in seen if s.goes_on_from != s.checkpoint]
    early = sum(s.checkpoint == 0 for s in seen)
    found = f"{len(seen)} of {len(strikes)} seen, {early} before the first checkpoint, wrong: {wrong or 'none'}"
    yield Check.of("struck trials went on from their checkpoint", seen and not wrong, found)
    lengths = [_whole_seconds(t.user_attrs["result"]) for t in _fitted(stored).values()]
    shortest = min(lengths, default=0.0)
    found = f"{shortest:.1f} s at least, median {statistics.median(lengths or [0]):.1f} s"
    yield Check.of(f"a whole fit lasts {fit_seconds:g} s or more", shortest >= fit_seconds, found)


def of_study(stored: Stored, before: Stored, document: dict[str, Any], wanted: int) -> Iterator[Check]:
    """Each slot is finished once, nothing is open or was done twice. before: what was finished at the restart."""
    done = [t for t in stored if t.state.name in ("COMPLETE", "PRUNED") or "reason" in t.user_attrs]
    states = dict(Counter(t.state.name for t in stored))
    yield Check.of(f"exactly {wanted} finished trials", len(done) == wanted, states)
    slots = Counter(t.user_attrs["slot"] for t in stored if "lease" in t.user_attrs)
    twice = sorted(slot for slot, count in slots.items() if count > 1)
    yield Check.of("each slot was begun in exactly one trial", slots == Counter(range(wanted)), twice or "none twice")
    now = {t.number: _kept(t) for t in stored}
    changed = [t.number for t in before if now.get(t.number) != _kept(t)]
    found = f"{len(before)} trials, changed: {changed or 'none'}"
    yield Check.of("what was finished before the restart is as it was", before and not changed, found)
    unfinished = [t.number for t in stored if not t.state.is_finished()]
    yield Check.of("no trial is running or waiting", not unfinished, unfinished or "none")
    complete = [t for t in done if t.state.name == "COMPLETE"]
    best = min(complete, key=lambda t: (-t.value, t.user_attrs["result"]["log_loss"], t.user_attrs["slot"]))
    named = document.get("search", {})
    is_best = (named.get("trial"), named.get("score")) == (best.user_attrs["slot"], best.value)
    has_values = best.params.items() <= document.get("best_params", {}).items()
    found = f"trial {named.get('trial')}, {named.get('score')}"
    yield Check.of("the command names the best stored value", is_best and has_values, found)


def of_tree(store: Any, stored: Stored) -> Iterator[Check]:
    """MLflow holds one search run with a finished child per trial that says what Optuna says."""
    roles: dict[str, list[Any]] = {}
    for run in tracking.client(store).search_runs([tracking.ensure_store(store)], max_results=1000):
        roles.setdefault(run.data.tags[tracking.ROLE], []).append(run)
    by_slot = {t.user_attrs["slot"]: t for t in stored if "lease" in t.user_attrs}
    counts = {role: len(found) for role, found in sorted(roles.items())}
    wanted = {"pipeline": 1, "search": 1, "trial": len(by_slot)}
    yield Check.of("MLflow holds one search run and a child per trial", counts == wanted, counts)
    children, searches = roles.get("trial", []), roles.get("search", [])
    slots = sorted(int(c.data.tags[tracking.SLOT]) for c in children)
    parents = {c.data.tags["mlflow.parentRunId"] for c in children}
    is_below = parents == {s.info.run_id for s in searches}
    yield Check.of("one child per slot, below the search run", is_below and slots == sorted(by_slot), slots)
    states = Counter(r.info.status for found in roles.values() for r in found)
    yield Check.of("every run is finished", set(states) == {"FINISHED"}, dict(states))
    unlike = [c.info.run_name for c in children if not _is_mirror(c, by_slot)]
    yield Check.of("parameters, state, score and time of each child are Optuna's", not unlike, unlike or "none differs")


def of_refit(config: RunConfig, home: Path, strikes: Sequence[Strike], stored: Stored) -> Iterator[Check]:
    """One struck trial, fitted again undisturbed with its parameters, seed and threads, ends in the same bits."""
    fitted = _fitted(stored)
    struck = [s for s in strikes if s.slot in fitted]
    if not struck:
        yield Check.of("a struck trial is bit-equal when undisturbed", False, "none of them finished an epoch")
        return
    strike = max(struck, key=lambda s: (fitted[s.slot].state.name == "COMPLETE", s.goes_on_from or 0))
    trial = fitted[strike.slot]
    told, again = _comparable(trial.user_attrs["result"]), _comparable(_refit(config, home, trial))
    unlike = [key for key in told if told[key] != again[key]]
    found = f"score {told['score']!r}, weights {told['weights_digest'][:12]}, differ: {unlike or 'none'}"
    claim = f"trial {strike.slot}, struck at about step {strike.at_step}, is bit-equal when undisturbed"
    yield Check.of(claim, not unlike, found)


def _fitted(stored: Stored) -> dict[int, Any]:
    """Finished trials with at least one epoch, by slot."""
    return {t.user_attrs["slot"]: t for t in stored if t.user_attrs.get("result", {}).get("history")}


def _whole_seconds(result: dict[str, Any]) -> float:
    """Seconds of a fit; of one that was ended at a rung, what all of it would have taken."""
    return float(result["seconds"]) / (result["rungs"][-1][0] if result["state"] == "pruned" else 1.0)


def _kept(trial: Any) -> tuple[Any, ...]:
    """What may not change in a finished trial."""
    return trial.state, trial.datetime_complete, trial.values, trial.params, trial.user_attrs


def _is_mirror(child: Any, by_slot: dict[int, Any]) -> bool:
    trial, data = by_slot[int(child.data.tags[tracking.SLOT])], child.data
    result = trial.user_attrs["result"]
    params = {k: v if isinstance(v, str) else json.dumps(v) for k, v in trial.params.items()}
    is_told = trial.state.name != "COMPLETE" or trial.value == result["score"]
    is_same = data.params == params and data.metrics.get("validation_score") == result.get("score")
    lasted, wanted = child.info.end_time - child.info.start_time, trial.duration.total_seconds()
    is_timed = abs(lasted / 1000 - wanted) < 0.01
    return is_told and is_same and is_timed and data.tags["bertft.state"] == trial.state.name.lower()


def _refit(config: RunConfig, home: Path, trial: Any) -> dict[str, Any]:
    """The trial's fit once more, in a folder of its own; ended at the rung where the search ended it."""
    search, stored = config.search, trial.user_attrs["result"]
    assert search is not None, "a drill has a search"
    prepared = prepare(config, home)
    run = identify(config, prepared, home)
    last = stored["rungs"][-1][0] if stored["state"] == "pruned" else 1.0
    with Trainer() as trainer, tempfile.TemporaryDirectory() as folder:
        context = RunContext(config=config, prepared=prepared, run=run, home=home, trainer=trainer)
        settings = trials.share(fitting.machine_settings(context), search.workers)
        spec = fitting.fit_spec(
            config.with_values(trial.params),
            prepared,
            settings,
            home,
            Path(folder),
            rows=search.rows,
            seed=slot_seed(config.training.seed, trial.user_attrs["slot"]),
            keep_model=False,
        )
        return asdict(trainer.fit(spec, None, lambda fraction, _: fraction >= last))


def _comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A training result without times, as JSON has it."""
    kept = ("state", "score", "log_loss", "best_epoch", "steps", "rungs", "weights_digest")
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result["history"]]
    return dict(json.loads(json.dumps({**{k: result[k] for k in kept}, "history": history})))
