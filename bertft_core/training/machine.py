"""What this machine does best: threads, device, precision, milliseconds for one row."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from bertft_core.base.errors import ConfigError
from bertft_core.data.tokens.batching import pad_batch, unit_rows
from bertft_core.data.tokens.encoder_fit import longest_input
from bertft_core.model.classifier import load_classifier
from bertft_core.model.encoder_pass import Batch, batch_tensors, logits_of
from bertft_core.model.features import Classifier, answer_of
from bertft_core.training.forward import padding

if TYPE_CHECKING:
    from bertft_core.data.tokens.tokenization import TokenArrays

FASTER = 1.3  # bfloat16 must win by this much: below it float32's exactness is worth more
_STEP_ROWS, _STEP_TOKENS = 8, 128  # about 0.3 s a float32 step of a 6-layer MiniLM on 2 cores
_STEP_ROUNDS = 4  # the first warms up; the fastest of the rest counts, since other work only ever slows a round
_STEP_SECONDS = 2.0  # after so long, and where one type is twice as good as it must be, no further round begins
# of torch.cpu.get_capabilities: instructions that multiply bfloat16 numbers (x86; Arm)
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
_TIMED_ROWS, _WARM_UP = 32, 3  # of the latency of one row


@contextlib.contextmanager
def runtime(threads: int | None, device: str = "cpu") -> Iterator[None]:
    """Run with ``threads`` torch threads and deterministic kernels; puts back what it changed.

    In that mode torch would fill every new tensor with NaN before its kernel writes it (4 % of a step): not here.
    """
    before, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    was_filling = memory.fill_uninitialized_memory
    torch.set_num_threads(threads or before)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(was_deterministic)
        memory.fill_uninitialized_memory = was_filling


def pick_device(name: str) -> torch.device:
    """The device called cpu or cuda. Raises ConfigError when there is no CUDA device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is cuda, but torch finds no CUDA device: use auto or cpu")
    return torch.device(name)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has instructions for it. A GPU is timed in any case, so True.

    Without them torch computes bfloat16 products in software: a step is then 13 times as slow as a float32 one (MiniLM,
    2 cores of an AMD EPYC with AVX2 alone, measured).
    """
    return device.type != "cpu" or any(torch.cpu.get_capabilities().get(name) for name in _BFLOAT16)


def step_seconds(
    pretrained: Path | str,
    device: torch.device,
    kinds: Sequence[str] = ("float32", "bfloat16"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of one training step (forward, loss, backward; all layers) of 8 rows x 128 tokens (or the encoder's
    positions, where it has fewer), by precision; of the `kinds` asked for, by `clock`.

    The precisions alternate, so that a busy machine slows both alike; three counted rounds at most, about 3 s with
    MiniLM. Raises ModelError as `load_classifier` does.
    """
    model = load_classifier(pretrained, ("a", "b"), seed=0)
    model.to(device)  # type: ignore[arg-type]
    model.train()
    assert isinstance(model, PreTrainedModel), "without a plan the head is the stock one"
    forward = logits_of(model)
    width = min(_STEP_TOKENS, longest_input(Path(pretrained)) or _STEP_TOKENS)
    ids = torch.arange(_STEP_ROWS * width, device=device).reshape(_STEP_ROWS, width) % model.config.vocab_size
    best: dict[str, float] = {}
    end = time.perf_counter() + _STEP_SECONDS
    for round_number in range(_STEP_ROUNDS):
        if best and (time.perf_counter() > end or len(kinds) == 1 or _is_clear(best["float32"] / best["bfloat16"])):
            break
        for kind in kinds:
            begun = clock()
            with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16"):
                logits = forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            loss = functional.cross_entropy(logits.float(), ids[:, 0] % 2)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            model.zero_grad(set_to_none=True)
            if round_number:
                best[kind] = min(best.get(kind, float("inf")), clock() - begun)
    return best


def _is_clear(gain: float) -> bool:
    return not FASTER / 2 < gain < FASTER * 2


def faster_precision(seconds: dict[str, float]) -> str:
    """bfloat16 where its step is 1.3 times faster than float32's, else float32.

    >>> faster_precision({"float32": 0.4, "bfloat16": 0.2})
    'bfloat16'
    """
    return "bfloat16" if seconds["float32"] > FASTER * seconds["bfloat16"] else "float32"


def token_seconds(pretrained: Path | str) -> float:
    """Seconds of a training step of all layers for each token of its batch, in the faster precision of this machine.

    On a CPU the processor time of one thread over their number: what the step takes where nothing else is at work (many
    threads wait for each other, which counts as work where others are). About 2 s with MiniLM. Raises ModelError as
    `load_classifier` does.
    """
    device = pick_device("cuda" if torch.cuda.is_available() else "cpu")
    kinds = ("float32", *["bfloat16"] * multiplies_bfloat16(device))
    if device.type == "cpu":
        with runtime(1):
            seconds = step_seconds(pretrained, device, kinds, time.process_time)
        seconds = {kind: value / len(os.sched_getaffinity(0)) for kind, value in seconds.items()}
    else:
        seconds = step_seconds(pretrained, device, kinds)
    width = min(_STEP_TOKENS, longest_input(Path(pretrained)) or _STEP_TOKENS)
    return min(seconds.values()) / (_STEP_ROWS * width)


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
    return order[np.unique(np.linspace(0, len(order) - 1, _TIMED_ROWS).round().astype(np.int64))]


def _seconds(answer: Callable[[Batch], torch.Tensor], batch: Batch, clock: Callable[[], float]) -> float:
    begun = clock()
    answer(batch).cpu()  # waits for a GPU
    return clock() - begun
