"""Which number type trains faster here: a full training step of the encoder itself, measured in both."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from bertft_core.data.tokenization import longest_input
from bertft_core.model.classifier import load_classifier
from bertft_core.model.encoder_pass import logits_of

FASTER = 1.3  # bfloat16 must win by this much: below it float32's exactness is worth more
_ROWS, _LONGEST = 8, 128  # about 0.3 s a float32 step of a 6-layer MiniLM on 2 cores
_ROUNDS = 4  # the first warms up; the fastest of the rest counts, since other work only ever slows a round


def step_seconds(pretrained: Path | str, device: torch.device) -> dict[str, float]:
    """Seconds of one training step (forward, loss, backward; all layers) of 8 rows x 128 tokens (or the encoder's
    positions, where it has fewer), by precision.

    The two precisions alternate, so that a busy machine slows both alike. Raises ModelError as
    `load_classifier` does.
    """
    model = load_classifier(pretrained, ("a", "b"), seed=0)
    model.to(device)  # type: ignore[arg-type]
    model.train()
    assert isinstance(model, PreTrainedModel), "without a plan the head is the stock one"
    forward = logits_of(model)
    width = min(_LONGEST, longest_input(Path(pretrained)) or _LONGEST)
    ids = torch.arange(_ROWS * width, device=device).reshape(_ROWS, width) % model.config.vocab_size
    best: dict[str, float] = {}
    for round_number in range(_ROUNDS):
        for kind in ("float32", "bfloat16"):
            begun = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16"):
                logits = forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            loss = functional.cross_entropy(logits.float(), ids[:, 0] % 2)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            model.zero_grad(set_to_none=True)
            if round_number:
                best[kind] = min(best.get(kind, float("inf")), time.perf_counter() - begun)
    return best


def faster_precision(seconds: dict[str, float]) -> str:
    """bfloat16 where its step is 1.3 times faster than float32's, else float32.

    >>> faster_precision({"float32": 0.4, "bfloat16": 0.2})
    'bfloat16'
    """
    return "bfloat16" if seconds["float32"] > FASTER * seconds["bfloat16"] else "float32"
