"""What a classifier costs whoever serves it: milliseconds for one row, bytes of its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bertft_core.model.encoder_pass import Batch, batch_tensors
from bertft_core.model.features import Classifier, answer_of
from bertft_core.training.batching import pad_batch, unit_rows
from bertft_core.training.forwarding import padding
from bertft_core.training.scoring import runtime

if TYPE_CHECKING:
    from bertft_core.data.tokenization import TokenArrays

_ROWS = 32
_WARM_UP = 3


def one_row_milliseconds(model: Classifier, arrays: TokenArrays, device: torch.device) -> float:
    """Median milliseconds of answering one row at a time, over 32 rows spread evenly over the lengths.

    Rule: eval mode, inference mode, the weights' own type (float32, as saved models are served); three rows go
    before uncounted. From token ids to logits: tokenizing is left out. On a CPU it is the processor time of one
    thread: beside other workers it moved by 7 % where the clock moved by 170 % (MiniLM, 2 cores, measured). On a
    GPU it is the clock. The model is left in eval mode.
    """
    rows = _spread(np.diff(arrays.offsets))
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    model.eval()
    settings = padding(model)
    parts = [unit_rows(arrays, np.array([row])) for row in rows]
    batches = [batch_tensors(model, *pad_batch(arrays.units, units, **settings)[:3]) for units in parts]
    with runtime(1), torch.inference_mode():
        to_logits = answer_of(model)

        def answer(batch: Batch) -> torch.Tensor:
            return to_logits(batch, [len(batch["input_ids"])])

        for batch in batches[-_WARM_UP:]:  # the longest: they reserve the memory that the others need
            _seconds(answer, batch, clock)
        return 1000 * float(np.median([_seconds(answer, batch, clock) for batch in batches]))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers that a saved model holds; a tensor with two names counts once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values())


def _spread(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Up to 32 row numbers, shortest row first, at even steps through the rows sorted by length."""
    order = np.argsort(lengths, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, _ROWS).round().astype(np.int64))]


def _seconds(answer: Callable[[Batch], torch.Tensor], batch: Batch, clock: Callable[[], float]) -> float:
    begun = clock()
    answer(batch).cpu()  # waits for a GPU
    return clock() - begun
