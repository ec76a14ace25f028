"""Checkpoints of one fit: one safetensors file (tensors and JSON facts), replaced atomically. No pickle."""

from __future__ import annotations

import json
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bertft_core.base.errors import DamagedFile
from bertft_core.base.files import replacing
from bertft_core.base.records import parse_record, set_aside
from bertft_core.model.classifier import weights_digest
from bertft_core.training.results import EpochResult

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKPOINT, _BEST = "checkpoint.safetensors", "best.safetensors"
_COST_SHARE = 20
State = TypeVar("State", bound="DataclassInstance")


@dataclass(kw_only=True)
class FitState:
    """What a fit has to remember besides tensors. Dropout is seeded by (seed, step): no generator state.

    ``best`` is (epoch, score, log_loss, digest) or None; ``phase_digests`` are the levels' weights when the
    phase began, at ``phase_step``. ``micro_batch``: rows at a time, None where memory holds a whole batch.
    ``processes``: how many fit together, since sums over another number of them are rounded otherwise.
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
    processes: int = 1


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors (mode 0644) so that a reader sees the old file or the new one, never half."""
    with replacing(path) as part:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, part, metadata)


def save_checkpoint(
    folder: Path, key: str, state: DataclassInstance, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write output/checkpoint.safetensors: trained weights, optimizer state and facts (a dataclass) of this fit.

    Levels that never trained are left out: they still equal the encoder's weights.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {f"model|{n}": p for n, p in model.named_parameters() if p.requires_grad}
    for parameter, values in optimizer.state.items():
        tensors.update({f"optimizer|{kind}|{names[id(parameter)]}": value for kind, value in values.items()})
    sums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    facts = {"key": key, "state": json.dumps(asdict(state)), "checksums": json.dumps(sums)}
    save_tensors(folder / CHECKPOINT, tensors, facts)


def load_checkpoint(
    folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, kind: type[State]
) -> State | None:
    """Restore model and optimizer in place and return the facts, a `kind`; None if there is none of this fit.

    A checkpoint that is damaged, a single byte of a tensor included, is moved aside before anything is restored.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    parameters = dict(model.named_parameters())
    try:
        state = _checked_state(path, key, kind)
    except DamagedFile as fault:
        set_aside(path, fault)
        return None
    if state is None:
        return None
    with safe_open(path, framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118 (safe_open is no dict)
            part, _, rest = name.partition("|")
            value = handle.get_tensor(name)
            if part == "model":
                with torch.no_grad():
                    parameters[rest].copy_(value)
            else:
                entry, _, owner = rest.partition("|")
                home = torch.empty_like(value, device=parameters[owner].device).copy_(value)
                optimizer.state[parameters[owner]][entry] = home
    return state


def _checked_state(path: Path, key: str, kind: type[State]) -> State | None:
    """The facts of a checkpoint whose tensors are as they were written; None of another fit. Raises DamagedFile."""
    remedy = "the fit begins anew"
    try:
        with safe_open(path, framework="pt") as handle:
            facts = handle.metadata() or {}
            if facts.get("key") != key:
                return None
            sums = parse_record(facts.get("checksums", "{}"), dict[str, int], str(path), remedy)  # {}: an older one
            changed = [name for name in sums if _checksum(handle.get_tensor(name)) != sums[name]]
    except (OSError, SafetensorError) as fault:
        raise DamagedFile(f"{path} is damaged: wanted a safetensors file, found none ({fault}); {remedy}") from None
    if changed:
        raise DamagedFile(f"{path} is damaged: {changed[0]} is not as it was written; {remedy}")
    return parse_record(facts.get("state", ""), kind, str(path), remedy)


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished fit."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def save_best(folder: Path, key: str, model: nn.Module) -> None:
    """Write output/best.safetensors: the best weights so far."""
    save_tensors(folder / _BEST, untied(model), {"key": key})


def next_checkpoint(begun: float, wait: float) -> float:
    """When the next checkpoint is due after one that began then, both on the monotonic clock.

    wait: seconds between two at least; 0: every step. A longer one waits 20 times what it took, so that at most 5 % of
    a fit goes into checkpoints.
    """
    now = time.monotonic()
    return now + (max(wait, _COST_SHARE * (now - begun)) if wait else 0)


def untied(model: nn.Module, kept: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a model's state; of tied ones, which are one tensor under several names, the first alone.

    kept: names that begin so come first; "": all in the model's own order.
    """
    state: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in sorted(model.state_dict().items(), key=lambda item: not item[0].startswith(kept)):
        state.setdefault(tensor.data_ptr(), (name, tensor))
    return dict(state.values())


def load_best(folder: Path, model: nn.Module, digest: str) -> None:
    """The best weights. Raises DamagedFile where they are not as written; the next try begins anew."""
    file = folder / _BEST
    try:
        model.load_state_dict(load_file(file), strict=False)  # tied tensors stand there once; the digest is of all
        if weights_digest(model) == digest:
            return
        why = "its weights are not as they were written"
    except (OSError, SafetensorError, RuntimeError) as fault:
        why = f"wanted the best epoch's weights, found none ({fault})"
    remove_checkpoint(folder)
    file.unlink(missing_ok=True)
    raise DamagedFile(f"{file} is damaged: {why}; run the command again, the fit begins anew")


def remove_best(folder: Path) -> None:
    """Delete the best weights of a finished fit."""
    (folder / _BEST).unlink(missing_ok=True)
