"""Logits, probabilities and frozen features of a tokenized split: length-sorted batches, rows in original order."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bertft_core.errors import ConfigError
from bertft_core.model.classifier import load_encoder, load_saved
from bertft_core.training.batching import pad_batch, sample_rows, scoring_batches

if TYPE_CHECKING:
    from bertft_core.data.tokenization import TokenArrays

TOKEN_BUDGET = 8192  # padded tokens a batch: fits the cache of a CPU, fills a GPU well enough

Beat = Callable[[float], None]
Answer = Callable[[nn.Module, tuple[Any, Any, Any, Any], torch.device], torch.Tensor]


@contextlib.contextmanager
def runtime(threads: int | None, seedable_devices: list[int] | None = None) -> Iterator[None]:
    """Run with ``threads`` torch threads and deterministic kernels; puts back what it changed."""
    before, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads or before)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng(devices=seedable_devices or []):
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(was_deterministic)


def pick_device(name: str) -> torch.device:
    """The device called cpu or cuda. Raises ConfigError when there is no CUDA device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is cuda, but torch finds no CUDA device: use auto or cpu")
    return torch.device(name)


def forward(model: nn.Module, batch: tuple[Any, Any, Any, Any], device: torch.device) -> torch.Tensor:
    """Logits [n, C] of one padded numpy batch; type ids go to encoders that know more than one type."""
    return model(**_arguments(model, batch, device)).logits  # type: ignore[no-any-return]


def _arguments(model: nn.Module, batch: tuple[Any, Any, Any, Any], device: torch.device) -> dict[str, torch.Tensor]:
    ids, mask, type_ids, _ = batch
    arrays = {"input_ids": ids, "attention_mask": mask}
    if takes_types(model):
        arrays["token_type_ids"] = type_ids
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def takes_types(model: nn.Module) -> bool:
    """Whether token types tell first and second text apart (in BERT; not in RoBERTa and DistilBERT)."""
    known = inspect.signature(model.forward).parameters
    return "token_type_ids" in known and getattr(model.config, "type_vocab_size", 0) > 1


def padding(model: nn.Module) -> dict[str, Any]:
    """`pad_batch` arguments of this encoder: its padding id and its largest width (None if it has none)."""
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None)
    return {
        "pad_id": config.pad_token_id or 0,
        "max_width": positions if isinstance(positions, int) else None,
    }


def predict_logits(
    model: nn.Module, arrays: TokenArrays, device: torch.device, precision: str = "float32", on_beat: Beat | None = None
) -> NDArray[np.float32]:
    """Logits [n, C] float32 of all rows in order, in eval mode; on_beat(fraction) about once a second.

    ``precision`` bfloat16 computes under autocast, as training does; the result is float32 all the same.
    """
    config: Any = model.config
    return _by_batch(model, arrays, forward, config.num_labels, device, precision, on_beat)


def _by_batch(
    model: nn.Module, arrays: TokenArrays, answer: Answer, width: int, device: torch.device, precision: str,
    on_beat: Beat | None, chosen: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """``answer`` [rows, width] of every batch, put in the order of the rows (``chosen`` ones, or all)."""
    model.eval()
    numbers = np.arange(len(arrays.labels)) if chosen is None else chosen
    lengths = np.diff(arrays.offsets)[numbers]
    result: NDArray[np.float32] = np.zeros((len(lengths), width), dtype=np.float32)
    settings, done, last = padding(model), 0, time.monotonic()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for rows in scoring_batches(lengths, TOKEN_BUDGET):
            result[rows] = answer(model, pad_batch(arrays, numbers[rows], **settings), device).float().cpu().numpy()
            done += len(rows)
            if on_beat and time.monotonic() - last > 1:
                last = time.monotonic()
                on_beat(done / len(lengths))
    return result


def score(
    model_dir: Path | str,
    tokens_dir: Path | str,
    split: str,
    device: str = "cpu",
    threads: int | None = None,
    on_beat: Beat | None = None,
) -> NDArray[np.float32]:
    """Probabilities [n, C] float32 of a saved classifier on one split, in the split's order.

    Raises: ModelError if ``model_dir`` is no trained classifier; ConfigError if the device is missing.
    """
    from bertft_core.data.tokenization import open_split

    target = pick_device(device)
    with runtime(threads):
        model = load_saved(model_dir)
        model.to(target)  # type: ignore[arg-type]
        logits = predict_logits(model, open_split(Path(tokens_dir), split), target, on_beat=on_beat).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def features(
    pretrained: Path | str,
    tokens_dir: Path | str,
    split: str,
    rows: int | None = None,
    precision: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
    on_beat: Beat | None = None,
) -> NDArray[np.float32]:
    """Mean over each row's tokens of the pretrained encoder's last hidden states, [n, H] float32, in order.

    ``rows``: only those of `batching.sample_rows`. Special tokens count, padding does not, as in
    sentence-transformers' mean pooling.

    Raises: ModelError if ``pretrained`` holds no encoder; ConfigError if the device is missing.
    """
    from bertft_core.data.tokenization import open_split

    target = pick_device(device)
    with runtime(threads):
        encoder = load_encoder(pretrained)
        encoder.to(target)  # type: ignore[arg-type]
        arrays, width = open_split(Path(tokens_dir), split), int(encoder.config.hidden_size)
        chosen = sample_rows(arrays, rows)
        return _by_batch(encoder, arrays, _mean_pooled, width, target, precision, on_beat, chosen)


def _mean_pooled(model: nn.Module, batch: tuple[Any, Any, Any, Any], device: torch.device) -> torch.Tensor:
    arguments = _arguments(model, batch, device)
    hidden: torch.Tensor = model(**arguments).last_hidden_state
    mask = arguments["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)
