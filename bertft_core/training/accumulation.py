"""The gradient of a batch, in micro-batches where memory does not hold it whole."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
# the CPU's allocators have no error class of their own: torch's, C++'s, oneDNN's (it wants memory for its own code)
_NO_CODE = "could not create a primitive"
_PHRASES = ("allocate memory", "bad_alloc", "could not create a memory", _NO_CODE)


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


def accumulate(mean_loss: Callable[[Ints], torch.Tensor], rows: Ints, size: int) -> float:
    """Add the gradient of the mean loss of ``rows`` to the parameters, at most ``size`` rows at a time; the loss.

    Each part counts by its share of the rows, so that the sum is the gradient of the whole batch, up to rounding and
    the random numbers of dropout. With ``size`` >= len(rows) it is one pass.
    """
    if size >= len(rows):
        return _add(mean_loss(rows))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return sum(_add(mean_loss(part) * (len(part) / len(rows))) for part in parts)


def _add(loss: Any) -> float:
    loss.backward()
    return float(loss.item())
