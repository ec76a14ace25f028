"""What a study consists of: its name, its slots, their seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from bertft_core.base.hashes import hash_json
from bertft_core.config.fit import FITS_VERSION, PROBE
from bertft_core.config.run import RunConfig
from bertft_core.config.search import SearchConfig
from bertft_core.search.results import TrialResult
from bertft_core.search.space import space_hash
from bertft_core.training.results import TrainingResult


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A trial about to run: its slot, Optuna number, parameters, fit seed, and whether somebody began it before."""

    slot: int
    number: int
    params: dict[str, Any]
    seed: int
    is_adopted: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study runs: its slots, and the parameters of the first ones where they are given (`first`)."""

    slots: int
    seeds: tuple[int, ...]
    first: tuple[Mapping[str, Any], ...] = ()
    is_pruned: bool = True


def study_name(config: RunConfig, rows: str, encoder: str) -> str:
    """Name with a hash of space, data, encoder, every setting that changes a trial's value and what settings mean.

    Threads and device are left out: a machine that joins may have others. So is what was the only way before there
    was a choice.
    """
    resolved = config.resolved()
    training = {name: value for name, value in resolved["training"].items() if name not in ("threads", "device")}
    if training["processes"] == 1:
        del training["processes"]
    parts = [training, resolved["tokenization"], resolved["evaluation"]["metric"], rows, encoder]
    search = config.search or SearchConfig(trials=0)
    second = search.second.measure if search.second else ""
    tree, kept = search.model_dump(mode="json"), SearchConfig(trials=0).model_dump(mode="json")
    strategies = [{key: tree[key]} for key in ("sampler", "pruner") if tree[key] != kept[key]]
    parts += [search.rows, second, *strategies, FITS_VERSION, *([PROBE] if search.linear_probe else [])]
    return f"{config.name}-{space_hash(search)}-{hash_json(parts)[:12]}"


def slot_seed(base: int, slot: int | str) -> int:
    """Seed of a slot's sampler and fit: a pure function of (base seed, slot), below 2**31."""
    return int(hash_json([base, slot])[:8], 16) & 0x7FFFFFFF


def is_finished(trial: FrozenTrial, trial_timeout: float | None) -> bool:
    """Complete, pruned, or failed with a reason; not one that passed a lower limit than today's: it tells nothing."""
    if "slot" not in trial.user_attrs:
        return False
    if trial.state == TrialState.FAIL:
        return "reason" in trial.user_attrs
    limit = trial.user_attrs.get("result", {}).get("limit")
    return trial.state.is_finished() and not (limit and limit < (trial_timeout or math.inf))


def result_of(trial: FrozenTrial, seed: int) -> TrialResult:
    """What is stored of a finished trial; seed: its fit's."""
    stored, began, ended = trial.user_attrs.get("result", {}), trial.datetime_start, trial.datetime_complete
    return TrialResult(
        slot=int(trial.user_attrs["slot"]),
        number=trial.number,
        state=trial.state.name.lower(),
        # an owner that died between reason and state leaves one behind, on a trial that may complete later
        reason="" if trial.state == TrialState.COMPLETE else trial.user_attrs.get("reason", ""),
        params=dict(trial.params),
        fit=TrainingResult.from_json(stored) if stored.get("score") is not None else None,
        seconds=float(stored.get("seconds") or 0.0),
        depth=stored.get("depth"),
        seed=seed,
        host=trial.user_attrs.get("lease", {}).get("host", ""),
        started=began.timestamp() if began else 0.0,
        finished=ended.timestamp() if ended else 0.0,
    )
