"""The forward pass of a fit over rows of a split: padded batches, hidden states kept on disk, features of chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bertft_core.data.tokens.batching import pad_batch, scoring_batches, targets_of, unit_rows
from bertft_core.model.encoder_pass import Batch, EncoderPass, batch_tensors, inference_tokens, mask_bias
from bertft_core.model.features import Classifier, FeatureClassifier
from bertft_core.model.prefix.frozen import Beat, FrozenPrefix
from bertft_core.model.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from bertft_core.data.tokens.tokenization import TokenArrays

WHOLE = 1_000_000  # a depth below every encoder's embeddings: nothing is frozen
CHUNK_TOKENS = 8_192  # padded tokens of chunks whose activations a training step holds at a time
_UNITS = 16_384  # units of a slab of inference, whose features are held: 25 MB at 384 numbers each

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
    ranks: Ranks = ALONE,
) -> NDArray[np.float32]:
    """``answer`` [b, width] of length-sorted batches of row numbers, in the rows' order; a beat about once a second.

    ``ranks``: each of these processes computes its share of the batches, in the shapes that one alone gives them.
    """
    result: NDArray[np.float32] = np.zeros((len(lengths), width), dtype=np.float32)
    done, last = 0, time.monotonic()
    with torch.inference_mode():
        for rows in ranks.share(scoring_batches(lengths, inference_tokens(device))):
            result[rows] = answer(rows).float().cpu().numpy()
            done += len(rows)
            if on_beat and time.monotonic() - last > 1:
                last = time.monotonic()
                on_beat(min(1.0, done * ranks.world / len(lengths)))
    return ranks.merge(result)


def open_forward(
    model: Classifier, device: torch.device, precision: str, ranks: Ranks = ALONE
) -> Forward | FeatureForward:
    """The forward pass of a classifier, stock or on features."""
    common: dict[str, Any] = {"device": device, "precision": precision, "padding": padding(model), "ranks": ranks}
    if isinstance(model, FeatureClassifier):
        return FeatureForward(model=model, **common)
    return Forward(model=model, passes=EncoderPass.of(model), **common)


@dataclass(kw_only=True, eq=False)
class Forward:
    """The forward pass of one fit at a depth (levels 0..depth train, `layers.set_depth`).

    ``passes`` None: an encoder of another structure, which runs through its stock modules. ``prefixes`` by id of the
    split's arrays; a split without one has its frozen layers computed in its own batches. ``ranks``: the processes that
    share a whole split's rows.
    """

    model: PreTrainedModel
    passes: EncoderPass | None
    device: torch.device
    precision: str
    padding: Mapping[str, Any]
    ranks: Ranks = ALONE
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
        return by_batch(np.diff(arrays.offsets), answer, config.num_labels, self.device, on_beat, self.ranks)


@dataclass(kw_only=True, eq=False)
class FeatureForward:
    """As `Forward`, for a FeatureClassifier.

    ``prefixes`` by id of a split's `units`. A step with more than CHUNK_TOKENS padded tokens of chunks goes through the
    encoder in parts that are computed again on the way back: its memory does not grow with the texts, its gradient is
    that of the whole.
    """

    model: FeatureClassifier
    device: torch.device
    precision: str
    padding: Mapping[str, Any]
    ranks: Ranks = ALONE
    prefixes: dict[int, FrozenPrefix] = field(default_factory=dict)

    @property
    def passes(self) -> EncoderPass | None:
        """The encoder in pieces, None for one of another structure."""
        return self.model.passes

    def logits(self, arrays: TokenArrays, rows: Ints, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [B, C], targets) of these rows; what is frozen gets no gradient and is not recorded."""
        units, counts = unit_rows(arrays, rows), np.diff(arrays.first_unit)[rows]
        with self._precision():
            logits = self.model.answer(self._vectors(arrays.units, units, depth, arrays.chunk), counts.tolist())
        return logits, torch.from_numpy(np.array(targets_of(arrays, rows))).to(self.device)

    def predict(self, arrays: TokenArrays, depth: int, on_beat: Beat | None = None) -> NDArray[np.float32]:
        """Logits [n, C] float32 of all rows of a split, in order; leaves the model in eval mode.

        The features of at most _UNITS units (or of one text) are held at a time.
        """
        self.model.eval()
        counts, lengths = np.diff(arrays.first_unit), np.diff(arrays.units.offsets)
        result = np.zeros((len(counts), self.model.config.num_labels), dtype=np.float32)
        done = 0
        for rows in _slabs(np.diff(arrays.offsets), counts):
            units, share = unit_rows(arrays, rows), counts[rows].sum() / max(1, counts.sum())

            def beat(fraction: float, done: int = done, share: float = share) -> None:
                if on_beat:
                    on_beat(done / len(counts) + fraction * share)

            result[rows] = self._answered(arrays.units, units, lengths[units], counts[rows], depth, beat)
            done += len(rows)
        return result

    def _answered(
        self, units: TokenArrays, chosen: Ints, lengths: Ints, counts: Ints, depth: int, on_beat: Beat
    ) -> NDArray[np.float32]:
        def vectors(places: Ints) -> torch.Tensor:
            return self._batch_vectors(units, chosen[places], depth)

        with self._precision():
            found = by_batch(lengths, vectors, self.model.width, self.device, on_beat, self.ranks)
            return self.model.answer_all(found, counts)

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")

    def _vectors(self, units: TokenArrays, chosen: Ints, depth: int, chunk: int | None) -> torch.Tensor:
        """Features [n, F] of these units, in order; with gradient where the caller records one."""
        lengths = np.diff(units.offsets)[chosen]
        parts = scoring_batches(lengths, CHUNK_TOKENS) if chunk is not None else [np.arange(len(chosen))]
        if len(parts) == 1:
            return self._batch_vectors(units, chosen, depth)
        is_recorded = torch.is_grad_enabled() and depth > 0
        found = [self._batch_vectors(units, chosen[part], depth, is_again=is_recorded) for part in parts]
        return torch.cat(found)[torch.from_numpy(np.argsort(np.concatenate(parts))).to(self.device)]

    def _batch_vectors(self, units: TokenArrays, chosen: Ints, depth: int, *, is_again: bool = False) -> torch.Tensor:
        """[n, F] of units in one batch; `is_again`: without keeping activations, which are computed again."""
        padded = pad_batch(units, chosen, **self.padding)
        batch = batch_tensors(self.model, *padded[:3])
        if self.passes is None:
            return self._run(self.model.vectors, batch, is_again=is_again)
        hidden, bias, cut, frozen = self._below(self.passes, units, chosen, batch, depth)
        mask = batch["attention_mask"]
        if hidden is None:  # the embeddings train too
            return self._run(self.model.vectors, batch, is_again=is_again)
        return self._run(self.model.vectors_from, hidden, bias, mask, cut, frozen, is_again=is_again)

    def _below(
        self, passes: EncoderPass, units: TokenArrays, chosen: Ints, batch: Batch, depth: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, int, int]:
        """(states, mask bias, layer they go into, lowest layer with a gradient); None where nothing is frozen."""
        frozen = len(passes.layers) - max(depth, 1)
        if frozen < 0:
            return None, None, 0, 0
        bias, prefix = mask_bias(batch["attention_mask"]), self.prefixes.get(id(units))
        if prefix is not None and frozen in prefix.keys:
            return prefix.read(frozen, chosen, batch["input_ids"].shape[1]), bias, frozen, frozen
        with torch.no_grad():
            return passes.embed(batch), bias, 0, frozen

    @staticmethod
    def _run(compute: Any, *arguments: Any, is_again: bool) -> torch.Tensor:
        if not is_again:
            return compute(*arguments)  # type: ignore[no-any-return]
        return checkpoint(compute, *arguments, use_reentrant=False)  # type: ignore[no-any-return]


def _slabs(lengths: Ints, counts: Ints) -> list[Ints]:
    """Row numbers in slabs of at most _UNITS units, the longest rows first; a longer row is a slab of its own."""
    order = np.argsort(-lengths, kind="stable")
    slabs: list[list[int]] = []
    held = _UNITS
    for row in order.tolist():
        if held + counts[row] > _UNITS:
            slabs.append([])
            held = 0
        slabs[-1].append(row)
        held += int(counts[row])
    return [np.array(slab, dtype=np.int64) for slab in slabs]
