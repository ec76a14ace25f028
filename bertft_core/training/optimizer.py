"""One optimizer group a level, gradients added up over micro-batches, and what is done where memory runs out."""

from __future__ import annotations

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bertft_core.base.errors import ModelError, TrialPruned
from bertft_core.model.layers import LayerMap, LayerRates
from bertft_core.model.ranks import ALONE, Ranks

Ints = NDArray[np.int64]
# the CPU's allocators have no error class of their own: torch's, C++'s, oneDNN's (it wants memory for its own code)
_NO_CODE = "could not create a primitive"
_PHRASES = ("allocate memory", "bad_alloc", "could not create a memory", _NO_CODE)


def parameter_groups(
    model: nn.Module, layers: LayerMap, rates: LayerRates, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: per level one with weight decay (matrices) and one without (biases and norms: 1-D).

    Groups carry name, level, initial_lr and param_names. Raises ModelError unless every parameter is in exactly one.
    """
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for level, ((name, members), rate) in enumerate(zip(layers.by_level(), rates.by_level(), strict=True)):
        for kind, is_decayed in (("decay", True), ("no decay", False)):
            names = [n for n in members if (parameters[n].ndim > 1) is is_decayed]
            if names:
                groups.append(
                    {
                        "params": [parameters[n] for n in names],
                        "param_names": names,
                        "name": f"{name} / {kind}",
                        "level": level,
                        "lr": rate,
                        "initial_lr": rate,
                        "weight_decay": weight_decay if is_decayed else 0.0,
                    }
                )
    homes = [n for group in groups for n in group["param_names"]]
    lost, twice = sorted(set(parameters) - set(homes)), sorted(n for n, times in Counter(homes).items() if times > 1)
    if lost or twice:
        raise ModelError(f"parameters must be in one group each; in none: {lost[:3]}, in several: {twice[:3]}")
    return groups


def build_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Fused AdamW (betas 0.9, 0.999, eps 1e-8, bias correction); it skips what has no gradient."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factors: Sequence[float]) -> None:
    """Set each group's lr: its peak times the factor of its level (`RatePlan.factors`)."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factors[group["level"]]


def is_memory_fault(fault: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(fault, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(fault, RuntimeError) and any(phrase in str(fault) for phrase in _PHRASES)


def is_worn() -> bool:
    """Whether make_room turned oneDNN off in this process: what it computes later is slower, and rounded otherwise."""
    return not torch.backends.mkldnn.enabled


def make_room(fault_text: str, device: torch.device) -> None:
    """Let go of what a pass that ran out of memory held. Call it when its error is gone.

    A thread in which oneDNN was once refused memory for code gets none any more, however much there is (torch 2.13,
    measured): from then on this process computes without oneDNN, by torch's own kernels.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if _NO_CODE in fault_text:
        torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def memory_faults() -> Iterator[None]:
    """Turn an error that says that memory ran out into TrialPruned, reason "oom ...": no attempt at all."""
    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        if not is_memory_fault(fault):
            raise
        raise TrialPruned(f"oom: {fault}") from fault


def batch_gradient(
    mean_loss: Callable[[Ints], torch.Tensor],
    rows: Ints,
    size: int,
    optimizer: torch.optim.Optimizer,
    seed: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[float, int]:
    """Leave the gradient of the mean loss of ``rows`` in the parameters: (the loss, rows at a time from here on).

    ``seed`` is that of this step's random numbers. Where memory does not hold ``size`` rows together, half as many at
    a time, down to one row. ``ranks``: each of these processes computes its share of the rows; where memory runs out in
    one, all begin the step again. Raises TrialPruned, reason "oom ...", where it does not hold one row.
    """
    own, most = ranks.share(rows), ranks.largest_share(len(rows))
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    while True:
        torch.manual_seed(ranks.seed(seed))
        optimizer.zero_grad(set_to_none=True)
        loss, fault_text = 0.0, ""
        try:
            loss = accumulate(mean_loss, own, size, len(rows))
        except (RuntimeError, MemoryError) as fault:
            if not is_memory_fault(fault):
                raise
            fault_text = str(fault) or "no memory left"
        loss, is_short = ranks.add_up(parameters, loss, is_short=bool(fault_text))
        if not is_short:
            return loss, size
        if min(size, most) == 1:
            raise TrialPruned(f"oom: {fault_text or 'memory ran out in another process of the fit'}")
        size = min(size, most) // 2
        make_room(fault_text, device)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: float, max_norm: float, where: str) -> None:
    """Shorten the gradient to ``max_norm`` and update; TrialPruned, reason "nonfinite ... at WHERE", instead."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm).item()
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrialPruned(f"nonfinite: loss {loss}, gradient norm {norm} at {where}")
    optimizer.step()


def accumulate(mean_loss: Callable[[Ints], torch.Tensor], rows: Ints, size: int, whole: int) -> float:
    """Add these rows' part of the gradient of a batch of ``whole`` rows to the parameters; their part of its mean loss.

    At most ``size`` rows go through the model at a time. Each part counts by its share of the batch, so that the sum is
    the gradient of the whole batch, up to rounding and the random numbers of dropout.
    """
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return sum((_add(mean_loss(part) * (len(part) / whole)) for part in parts), 0.0)


def _add(loss: Any) -> float:
    loss.backward()
    return float(loss.item())
