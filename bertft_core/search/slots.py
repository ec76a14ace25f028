"""What a study consists of: its name, its slots, their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertft_core.config import RunConfig, SearchConfig
from bertft_core.search.space import space_hash
from bertft_core.state import hash_json


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
    """Name with a hash of space, data, encoder and every setting that changes a trial's value.

    Threads and device are left out: a machine that joins may have others.
    """
    resolved = config.resolved()
    training = {name: value for name, value in resolved["training"].items() if name not in ("threads", "device")}
    parts = [training, resolved["tokenization"], resolved["evaluation"]["metric"], rows, encoder]
    search = config.search or SearchConfig(trials=0)
    second = search.second.measure if search.second else ""
    return f"{config.name}-{space_hash(search)}-{hash_json([*parts, search.rows, second])[:12]}"


def slot_seed(base: int, slot: int | str) -> int:
    """Seed of a slot's sampler and fit: a pure function of (base seed, slot), below 2**31."""
    return int(hash_json([base, slot])[:8], 16) & 0x7FFFFFFF
