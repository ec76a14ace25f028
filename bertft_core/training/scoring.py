"""Logits, probabilities and frozen features of a tokenized split: length-sorted batches, rows in original order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from bertft_core.data.tokens.batching import pad_batch, sample_rows, unit_rows
from bertft_core.model.classifier import MULTI_LABEL, load_encoder, load_saved
from bertft_core.model.encoder_pass import batch_tensors
from bertft_core.model.features import masked_mean
from bertft_core.model.prefix.frozen import Beat
from bertft_core.training.forward import WHOLE, by_batch, open_forward, padding
from bertft_core.training.machine import pick_device, runtime
from bertft_core.training.spec import MachineSettings


def score(
    model_dir: Path | str,
    tokens_dir: Path | str,
    split: str,
    device: str = "cpu",
    threads: int | None = None,
    on_beat: Beat | None = None,
    precision: str = "float32",
) -> NDArray[np.floating]:
    """Probabilities [n, C] float32 of a saved classifier on one split, in the split's order.

    Rows sum to 1; of a multi-label classifier each number stands for itself, in float64: whoever blends or scales wants
    1 - p as exactly as p. ``precision`` of the products: float32
    or bfloat16.

    Raises: ModelError if ``model_dir`` is no trained classifier; ConfigError if the device is missing.
    """
    from bertft_core.data.tokens.tokenization import open_split

    target = pick_device(device)
    with runtime(threads):
        model = load_saved(model_dir)
        model.to(target)  # type: ignore[arg-type]
        arrays = open_split(Path(tokens_dir), split)
        logits = open_forward(model, target, precision).predict(arrays, WHOLE, on_beat).astype(np.float64)
    if model.config.problem_type == MULTI_LABEL:
        return np.asarray(1 / (1 + np.exp(-logits)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def features(
    pretrained: Path | str,
    tokens_dir: Path | str,
    split: str,
    settings: MachineSettings,
    on_beat: Beat | None = None,
    *,
    rows: int | None = None,
    places: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Mean over each row's tokens of the pretrained encoder's last hidden states, [n, H] float32, in order.

    ``rows``: only those of `batching.sample_rows`; ``places``: only these, in their order. Special tokens count,
    padding does not, as in sentence-transformers' mean pooling; of a row in chunks, the tokens of all its chunks.

    Raises: ModelError if ``pretrained`` holds no encoder; ConfigError if the device is missing.
    """
    from bertft_core.data.tokens.tokenization import open_split

    target = pick_device(settings.device)
    with runtime(settings.threads):
        encoder = load_encoder(pretrained)
        encoder.to(target)  # type: ignore[arg-type]
        arrays, width = open_split(Path(tokens_dir), split), int(encoder.config.hidden_size)
        chosen, pad = sample_rows(arrays, rows) if places is None else places, padding(encoder)
        units, parts = arrays.units, unit_rows(arrays, chosen)
        lengths = np.diff(units.offsets)[parts]

        def answer(places: NDArray[np.int64]) -> torch.Tensor:
            return _mean_pooled(encoder, pad_batch(units, parts[places], **pad))

        with torch.autocast(target.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            found = by_batch(lengths, answer, width, target, on_beat)
    if arrays.chunk is None:
        return found
    begins = np.concatenate([[0], np.cumsum(np.diff(arrays.first_unit)[chosen])[:-1]]).astype(np.int64)
    total = np.add.reduceat(found * lengths[:, None], begins) / np.add.reduceat(lengths, begins)[:, None]
    return total.astype(np.float32)


def _mean_pooled(model: PreTrainedModel, batch: Any) -> torch.Tensor:
    tensors = batch_tensors(model, *batch[:3])
    return masked_mean(model(**tensors).last_hidden_state, tensors["attention_mask"])
