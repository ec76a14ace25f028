"""Logits of a fit's batches: the whole model, or only what lies above the frozen prefix."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from bertft_core.model.encoder_pass import EncoderPass, batch_tensors, inference_tokens, mask_bias
from bertft_core.model.features import Classifier
from bertft_core.training.batching import pad_batch, scoring_batches
from bertft_core.training.prefix import Beat, FrozenPrefix

if TYPE_CHECKING:
    from bertft_core.data.tokenization import TokenArrays


WHOLE = 1_000_000  # a depth below every encoder's embeddings: nothing is frozen

Ints = NDArray[np.int64]


def padding(model: Classifier) -> dict[str, Any]:
    """`pad_batch` arguments of this encoder: its padding id and its largest width (None if it has none)."""
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None)
    return {"pad_id": config.pad_token_id or 0, "max_width": positions if isinstance(positions, int) else None}


def by_batch(
    lengths: NDArray[np.integer],
    answer: Callable[[Ints], torch.Tensor],
    width: int,
    device: torch.device,
    on_beat: Beat | None = None,
) -> NDArray[np.float32]:
    """``answer`` [b, width] of length-sorted batches of row numbers, in the rows' order; a beat about once a second."""
    result: NDArray[np.float32] = np.zeros((len(lengths), width), dtype=np.float32)
    done, last = 0, time.monotonic()
    with torch.inference_mode():
        for rows in scoring_batches(lengths, inference_tokens(device)):
            result[rows] = answer(rows).float().cpu().numpy()
            done += len(rows)
            if on_beat and time.monotonic() - last > 1:
                last = time.monotonic()
                on_beat(done / len(lengths))
    return result


@dataclass(kw_only=True, eq=False)
class Forward:
    """The forward pass of one fit at a depth (levels 0..depth train, `layers.set_depth`).

    ``passes`` None: an encoder of another structure, which runs through its stock modules. ``prefixes`` by id of the
    split's arrays; a split without one has its frozen layers computed in its own batches.
    """

    model: PreTrainedModel
    passes: EncoderPass | None
    device: torch.device
    precision: str
    padding: Mapping[str, Any]
    prefixes: dict[int, FrozenPrefix] = field(default_factory=dict)

    def logits(self, arrays: TokenArrays, rows: Ints, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [B, C], targets) of these rows; what is frozen gets no gradient and is not recorded."""
        batch = pad_batch(arrays, rows, **self.padding)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits = self._answer(arrays, rows, batch, depth)
        return logits, torch.from_numpy(np.array(batch[3])).to(self.device)

    def _answer(self, arrays: TokenArrays, rows: Ints, batch: Any, depth: int) -> torch.Tensor:
        passes, tensors = self.passes, batch_tensors(self.model, *batch[:3])
        if passes is None:
            return self.model(**tensors).logits  # type: ignore[no-any-return]
        cut = len(passes.layers) - max(depth, 1)  # with the head alone the top layer still runs, at [CLS] only
        if cut < 0:
            return passes.logits(tensors)
        bias, prefix = mask_bias(tensors["attention_mask"]), self.prefixes.get(id(arrays))
        if prefix is not None and cut in prefix.keys:
            hidden = prefix.read(cut, rows, batch[0].shape[1])
        else:
            with torch.no_grad():
                hidden = passes.run(passes.embed(tensors), bias, 0, cut)
        return passes.answer(hidden, bias, cut)

    def predict(self, arrays: TokenArrays, depth: int, on_beat: Beat | None = None) -> NDArray[np.float32]:
        """Logits [n, C] float32 of all rows of a split, in order; leaves the model in eval mode."""
        self.model.eval()  # type: ignore[no-untyped-call]

        def answer(rows: Ints) -> torch.Tensor:
            return self.logits(arrays, rows, depth)[0]

        config: Any = self.model.config
        return by_batch(np.diff(arrays.offsets), answer, config.num_labels, self.device, on_beat)
