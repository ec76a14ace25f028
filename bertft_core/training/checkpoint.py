"""Checkpoints of one fit: one safetensors file (tensors and JSON facts), replaced atomically. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bertft_core.base.files import replacing
from bertft_core.training.results import EpochResult

_FILE = "checkpoint.safetensors"


@dataclass(kw_only=True)
class FitState:
    """What a fit has to remember besides tensors. Dropout is seeded by (seed, step): no generator state.

    ``best`` is (epoch, score, log_loss, digest) or None; ``phase_digests`` are the levels' weights when the
    phase began, at ``phase_step``. ``micro_batch``: rows at a time, None where memory holds a whole batch.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    seconds: float = 0.0
    depth: int = -1
    phase_step: int = 0
    phase_digests: list[str] = field(default_factory=list)
    best: tuple[int, float, float, str] | None = None
    history: list[EpochResult] = field(default_factory=list)
    rungs: list[tuple[float, float]] = field(default_factory=list)
    micro_batch: int | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FitState:
        """Inverse of dataclasses.asdict after a trip through JSON."""
        known = dict(value)
        known["best"] = tuple(value["best"]) if value["best"] else None
        known["history"] = [EpochResult(**h) for h in value["history"]]
        known["rungs"] = [(f, s) for f, s in value["rungs"]]
        return cls(**known)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors (mode 0644) so that a reader sees the old file or the new one, never half."""
    with replacing(path) as part:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, part, metadata)


def save_checkpoint(
    folder: Path, key: str, state: FitState, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write output/checkpoint.safetensors: trained weights, optimizer state and facts of this fit.

    Levels that never trained are left out: they still equal the encoder's weights.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {f"model|{n}": p for n, p in model.named_parameters() if p.requires_grad}
    for parameter, values in optimizer.state.items():
        tensors.update({f"optimizer|{kind}|{names[id(parameter)]}": value for kind, value in values.items()})
    save_tensors(folder / _FILE, tensors, {"key": key, "state": json.dumps(asdict(state))})


def load_checkpoint(folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> FitState | None:
    """Restore model and optimizer in place and return the facts; None if there is none of this fit."""
    path = folder / _FILE
    if not path.is_file():
        return None
    parameters = dict(model.named_parameters())
    with safe_open(path, framework="pt") as handle:
        facts = handle.metadata()
        if facts.get("key") != key:
            return None
        for name in handle.keys():  # noqa: SIM118 (safe_open is no dict)
            kind, _, rest = name.partition("|")
            value = handle.get_tensor(name)
            if kind == "model":
                with torch.no_grad():
                    parameters[rest].copy_(value)
            else:
                entry, _, owner = rest.partition("|")
                home = torch.empty_like(value, device=parameters[owner].device).copy_(value)
                optimizer.state[parameters[owner]][entry] = home
    return FitState.from_json(json.loads(facts["state"]))


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished fit."""
    (folder / _FILE).unlink(missing_ok=True)
