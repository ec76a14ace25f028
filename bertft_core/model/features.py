"""A classifier on features of our choice: raw [CLS] of some layers, the token mean, and texts in chunks.

Two steps, the same in training, evaluation and serving: `vectors` of units (texts, or chunks of texts), then `answer`
from the vectors of each text's units. With pooling cls the encoder's own head answers, on the pooled [CLS]. A saved
model's folder holds the encoder as transformers writes it, and beside it plan and weights of the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from bertft_core.base.errors import ModelError
from bertft_core.base.files import read_json
from bertft_core.model.encoder_pass import (
    AGREEMENT,
    TRICKS,
    Batch,
    EncoderPass,
    PostNormLayer,
    logits_of,
    mask_bias,
    probe,
    stock_head,
)
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.layers import LayerMap, layer_table
from bertft_core.model.structures import find_layers, reference_of

PLAN, WEIGHTS, FORMAT = "bertft_head.json", "bertft_head.safetensors", 1  # beside the encoder in a saved model's folder
_ANSWERED = 4_096  # units, padding included, that `answer_all` answers from at a time
_HEAD_DROPOUT = 0.1  # where an encoder's configuration names none
_DROPOUT_NAMES = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout")


class ChunkAttention(nn.Module):
    """Scores of chunks: v . tanh(W x + b). Sun et al. 2019 say self-attention and no more; the form is ours."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner)
        self.score = nn.Linear(inner, 1, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """[..., F] to [...]."""
        scores: torch.Tensor = self.score(torch.tanh(self.inner(vectors))).squeeze(-1)
        return scores


class FeatureClassifier(nn.Module):
    """An encoder under a head on the features of `plan`.

    `backbone` with pooling cls: a classifier of transformers, whose head is used; else the bare encoder without
    pooler, under dropout and a linear layer. Fresh weights are drawn from torch's generator. Raises ModelError for
    a stock head that cannot be run by itself.
    """

    def __init__(self, backbone: PreTrainedModel, plan: FeaturePlan) -> None:
        super().__init__()
        self.backbone, self.plan = backbone, plan
        config: Any = backbone.config
        self.width = int(config.hidden_size) * (len(plan.layers) if plan.combine == "concat" and plan.layers else 1)
        is_attending = plan.chunk_pooling == "attention"
        self.attention = ChunkAttention(self.width, int(config.hidden_size)) if is_attending else None
        named = (getattr(config, name, None) for name in _DROPOUT_NAMES)
        self.dropout = nn.Dropout(next((float(p) for p in named if isinstance(p, int | float)), _HEAD_DROPOUT))
        self.classifier = nn.Linear(self.width, config.num_labels) if plan.pooling != "cls" else None
        self._draw()
        self.eval()
        self._stock_head = stock_head(backbone) if plan.pooling == "cls" else None
        self.passes: EncoderPass | None = None
        self.passes = self._find_passes()

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.backbone.device

    @property
    def base_model_prefix(self) -> str:
        """Name of the bare encoder among the modules, as transformers' classifiers have it."""
        return f"backbone.{self.backbone.base_model_prefix}" if self.plan.pooling == "cls" else "backbone"

    @property
    def base_model(self) -> Any:
        """The bare encoder."""
        return self.backbone.base_model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [n, C] of a padded batch of units [B, T]; `counts`: units of each text, None: one each."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        logits: Any = self.answer(self.vectors(batch), counts or [1] * len(input_ids))
        return SequenceClassifierOutput(logits=logits)

    def vectors(self, batch: Batch) -> torch.Tensor:
        """Features [B, F] of each unit of a padded batch."""
        if self.passes is None:
            return self._stock_vectors(batch)
        bias = mask_bias(batch["attention_mask"])
        return self.vectors_from(self.passes.embed(batch), bias, batch["attention_mask"])

    def vectors_from(
        self, hidden: torch.Tensor, bias: torch.Tensor | None, mask: torch.Tensor, cut: int = 0, frozen: int = 0
    ) -> torch.Tensor:
        """Features [B, F] from the states [B, T, H] that go into layer `cut`, by an encoder with `passes`.

        Layers below `frozen` get no gradient. `FeaturePlan.can_begin_at` the cut, or a layer below it is missing.
        """
        assert self.passes is not None, "the caller asked for passes"
        top = len(self.passes.layers)
        found: dict[int, torch.Tensor] = {cut - 1: hidden[:, 0]}
        for i in range(cut, top):
            is_first_only = i == top - 1 and self.plan.pooling != "mean" and TRICKS.first_only
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= frozen):
                hidden = self.passes.layers[i](hidden, bias, first_only=is_first_only)
            found[i] = hidden[:, 0]
        if self.plan.pooling == "mean":
            return masked_mean(hidden, mask)
        return self._combined([found[i] for i in self.plan.layers] or [found[top - 1]])

    def answer(self, vectors: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Logits [n, C] of texts whose units' features [sum(counts), F] follow each other."""
        pooled = self._over_chunks(vectors, counts)
        if self._stock_head is not None:
            return self._stock_head(pooled[:, None])
        assert self.classifier is not None, "only pooling cls has a stock head"
        logits: torch.Tensor = self.classifier(self.dropout(pooled))
        return logits

    def answer_all(self, vectors: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `answer`, without gradients and for any number of texts, few at a time: float32 [n, C]."""
        first, order = np.cumsum(counts) - counts, np.argsort(-counts, kind="stable")
        result = np.empty((len(counts), self.config.num_labels), dtype=np.float32)
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, _ANSWERED // int(counts[order[start]]))]
            units = np.concatenate([np.arange(first[row], first[row] + counts[row]) for row in rows])
            with torch.inference_mode():
                found = self.answer(torch.from_numpy(vectors[units]).to(self.device), counts[rows].tolist())
            result[rows] = found.float().cpu().numpy()
            start += len(rows)
        return result

    def _over_chunks(self, vectors: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """[sum(counts), F] to [n, F]."""
        if all(count == 1 for count in counts):
            return vectors  # of one chunk its mean, its maximum and what attention makes of it
        padded = nn.utils.rnn.pad_sequence(list(torch.split(vectors, list(counts))), batch_first=True)
        number = torch.tensor(list(counts), device=vectors.device)
        is_chunk = torch.arange(padded.shape[1], device=vectors.device) < number[:, None]
        if self.plan.chunk_pooling == "max":
            return padded.masked_fill(~is_chunk[:, :, None], float("-inf")).amax(dim=1)
        if self.attention is None:
            return padded.sum(dim=1) / number[:, None].to(padded.dtype)
        scores = self.attention(padded).float().masked_fill(~is_chunk, float("-inf"))
        return (torch.softmax(scores, dim=-1)[:, :, None] * padded).sum(dim=1)

    def _combined(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(layers) == 1:
            return layers[0]
        if self.plan.combine == "concat":
            return torch.cat(list(layers), dim=-1)
        stacked = torch.stack(list(layers))
        return stacked.mean(dim=0) if self.plan.combine == "mean" else stacked.amax(dim=0)

    def _stock_vectors(self, batch: Batch) -> torch.Tensor:
        output = self.base_model(**batch, output_hidden_states=bool(self.plan.layers))
        if self.plan.pooling == "mean":
            return masked_mean(output.last_hidden_state, batch["attention_mask"])
        if not self.plan.layers:
            return output.last_hidden_state[:, 0]  # type: ignore[no-any-return]
        return self._combined([self._read(output, i) for i in self.plan.layers])

    def _read(self, output: Any, layer: int) -> torch.Tensor:
        """[CLS] of a layer; behind the encoder's final norm, where it has one, also below the top.

        Without it the same layer would be normed as the highest of a plan (the encoder then ends there) and raw else.
        """
        if layer == len(output.hidden_states) - 2:
            return output.last_hidden_state[:, 0]  # type: ignore[no-any-return]
        first = output.hidden_states[layer + 1][:, 0]
        norm = getattr(self.base_model, "final_norm", None)
        return first if norm is None else norm(first)  # type: ignore[no-any-return]

    def _draw(self) -> None:
        for module in (self.attention, self.classifier):
            for part in module.modules() if module is not None else ():
                if isinstance(part, nn.Linear):
                    draw_linear(part, self.config)

    def _find_passes(self) -> EncoderPass | None:
        """The encoder in pieces, None where its features of a small batch are not those of the stock modules."""
        try:
            names = find_layers(self)
            layers = tuple(PostNormLayer.of(self.get_submodule(name), self.config) for (name,) in names)
            model: Any = self
            self.passes = EncoderPass(
                model=model, layers=layers, head=self.answer_first, width=int(self.config.hidden_size)
            )
            batch = probe(self.backbone)
            with torch.inference_mode():
                difference = (self.vectors(batch) - self._stock_vectors(batch)).abs().max().item()
            return self.passes if difference < AGREEMENT else None
        except (AttributeError, ModelError, RuntimeError, TypeError, ValueError):
            return None

    def answer_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """Never the way to logits of features: `answer` is."""
        raise ModelError("features are not read off the top layer alone")


Classifier = PreTrainedModel | FeatureClassifier


def level_map(model: Classifier) -> LayerMap:
    """`layers.layer_table`, also of a classifier on features: layers and embeddings are those of the stock classifier.

    What that has above the layers, and what is ours, is head. Raises ModelError as `layer_table`.
    """
    if not isinstance(model, FeatureClassifier):
        return layer_table(model)
    is_whole = model.plan.pooling == "cls"
    stock = model.backbone if is_whole else reference_of(model.config)
    inside, table = "" if is_whole else f"{stock.base_model_prefix}.", layer_table(stock)

    def ours(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"backbone.{name.removeprefix(inside)}" for name in names)

    below = {*ours(table.embeddings), *(name for layer in table.layers for name in ours(layer))}
    head = tuple(name for name, _ in model.named_parameters() if name not in below)
    return LayerMap(embeddings=ours(table.embeddings), layers=tuple(map(ours, table.layers)), head=head)


def draw_linear(layer: nn.Linear, config: Any) -> None:
    """Fresh weights from torch's generator, as the encoders of transformers draw them."""
    nn.init.normal_(layer.weight, std=float(getattr(config, "initializer_range", 0.02)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of [B, T, H] over the tokens that the mask [B, T] shows, special tokens included: [B, H]."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def answer_of(model: Classifier) -> Callable[[Batch, Sequence[int]], torch.Tensor]:
    """From a padded batch of units, and how many each text has, to logits [n, C]; stock classifiers have one each."""
    if isinstance(model, FeatureClassifier):
        return lambda batch, counts: model.answer(model.vectors(batch), counts)
    answer = logits_of(model)
    return lambda batch, counts: answer(batch)


def write_head(model: FeatureClassifier, folder: Path) -> None:
    """Write what the encoder's own folder does not hold."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _own(model).items()}
    if tensors:
        save_file(tensors, folder / WEIGHTS)
    facts = {"format": FORMAT, "plan": model.plan.to_json(), "weights": sorted(tensors)}
    (folder / PLAN).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path | str) -> FeaturePlan | None:
    """The plan of a saved classifier, None where it has the stock head. Raises ModelError for another format."""
    file = Path(folder) / PLAN
    if not file.is_file():
        return None
    try:
        facts = read_json(file)
        if facts["format"] == FORMAT:
            return FeaturePlan.from_json(facts["plan"])
    except (ValueError, KeyError, TypeError) as fault:
        raise ModelError(f"{file} is damaged ({type(fault).__name__}: {fault})") from fault
    raise ModelError(f"{file}: format must be {FORMAT}, was {facts['format']}: use the bertft that wrote it")


def read_weights(model: FeatureClassifier, folder: Path | str) -> None:
    """Fill in the weights that `write_head` wrote. Raises ModelError where they are missing or of another shape."""
    wanted, file = _own(model), Path(folder) / WEIGHTS
    if not wanted:
        return
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{file}: no weights of a head ({fault})") from fault
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in wanted.items()}:
        raise ModelError(f"{file} holds {sorted(found)}, wanted {sorted(wanted)} in the shapes of {PLAN}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _own(model: FeatureClassifier) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
