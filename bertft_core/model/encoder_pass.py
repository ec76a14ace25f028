"""A transformers encoder classifier in pieces that run one by one: embeddings, layers, head.

`EncoderPass` holds the model's own modules and no weights. It exists where a family's layers are those of BERT and the
pieces answer as the stock modules do (to AGREEMENT); all other encoders run through their stock modules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from bertft_core.base.errors import ModelError
from bertft_core.model.attention import attention, dropout_add
from bertft_core.model.structures import find_layers

KERNEL = "chunked-1"  # part of every cache key: raise it when the numbers of a layer change
AGREEMENT = 1e-4  # largest difference of a number from the stock modules', in float32

Batch = dict[str, torch.Tensor]
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Tricks:
    """What is done otherwise than in the stock modules. All on; `benchmarks` measure what each is worth."""

    attention: bool = True
    dropout: bool = True
    first_only: bool = True


TRICKS = Tricks()


@dataclass(frozen=True, kw_only=True, eq=False)
class PostNormLayer:
    """One layer's parts: attention, add and norm, feed-forward, add and norm (BERT, RoBERTa, ELECTRA, DistilBERT)."""

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    joined: nn.Linear
    attention_norm: nn.LayerNorm
    inner: nn.Linear
    activation: Callable[[torch.Tensor], torch.Tensor]
    outer: nn.Linear
    norm: nn.LayerNorm
    heads: int
    dropout: float
    attention_dropout: float

    @classmethod
    def of(cls, layer: Any, config: Any) -> Self:
        """The parts by their names in transformers. Raises AttributeError where one is missing."""
        if hasattr(layer.attention, "q_lin"):
            return cls(
                module=layer,
                query=layer.attention.q_lin,
                key=layer.attention.k_lin,
                value=layer.attention.v_lin,
                joined=layer.attention.out_lin,
                attention_norm=layer.sa_layer_norm,
                inner=layer.ffn.lin1,
                activation=layer.ffn.activation,
                outer=layer.ffn.lin2,
                norm=layer.output_layer_norm,
                heads=config.n_heads,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
            )
        inner, outer = layer.attention.self, layer.attention.output
        return cls(
            module=layer,
            query=inner.query,
            key=inner.key,
            value=inner.value,
            joined=outer.dense,
            attention_norm=outer.LayerNorm,
            inner=layer.intermediate.dense,
            activation=layer.intermediate.intermediate_act_fn,
            outer=layer.output.dense,
            norm=layer.output.LayerNorm,
            heads=config.num_attention_heads,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
        )

    def __call__(
        self,
        hidden: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        first_only: bool = False,
        at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, T, H] to [B, T, H]; to [B, 1, H] at the first position only; to [B, M, H] at the positions ``at`` [B, M].

        ``bias`` [B, 1, 1, T] masks padding.
        """
        p = self.dropout if self.module.training else 0.0
        kind = hidden.device.type  # in autocast's type: cast once for the three projections
        low = hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden
        asking, below = (low[:, :1], hidden[:, :1]) if first_only else (low, hidden)
        if at is not None:
            asking, below = (x.gather(1, at[..., None].expand(-1, -1, x.shape[2])) for x in (low, hidden))
        attended = self.joined(self._attend(asking, low, bias))
        hidden = self.attention_norm(_add(attended, below, p))
        return self.norm(_add(self.outer(self.activation(self.inner(hidden))), hidden, p))  # type: ignore[no-any-return]

    def _attend(self, asking: torch.Tensor, low: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        query, key, value = (self._heads(m(x)) for m, x in ((self.query, asking), (self.key, low), (self.value, low)))
        p = self.attention_dropout if self.module.training else 0.0
        bias = None if bias is None else bias.to(query.dtype)
        kernel = attention if TRICKS.attention else functional.scaled_dot_product_attention
        mixed = kernel(query, key, value, bias, p)
        return mixed.transpose(1, 2).reshape(asking.shape)

    def _heads(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(*values.shape[:2], self.heads, -1).transpose(1, 2)


def _add(hidden: torch.Tensor, residual: torch.Tensor, p: float) -> torch.Tensor:
    return dropout_add(hidden, residual, p) if TRICKS.dropout else functional.dropout(hidden, p) + residual


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderPass:
    """An encoder classifier in pieces: embeddings, layers, head. It holds the model's own modules and no weights."""

    model: PreTrainedModel
    layers: tuple[PostNormLayer, ...]
    head: Head
    width: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self | None:
        """The pieces of ``model``, or None where logits of a small padded batch are not the stock model's (1e-4)."""
        try:
            found = cls(
                model=model, layers=layers_of(model), head=stock_head(model), width=int(model.config.hidden_size)
            )
            return found if found._agrees() else None
        except (AttributeError, ModelError, RuntimeError, TypeError, ValueError):
            return None

    def embed(self, batch: Batch) -> torch.Tensor:
        """Hidden states below layer 0, [B, T, H]. ``batch``: input_ids, attention_mask, maybe token_type_ids."""
        base: Any = self.model.base_model
        arguments = {name: values for name, values in batch.items() if name != "attention_mask"}
        hidden = base.embeddings(**arguments)
        project = getattr(base, "embeddings_project", None)  # ELECTRA
        return hidden if project is None else project(hidden)  # type: ignore[no-any-return]

    def run(self, hidden: torch.Tensor, bias: torch.Tensor | None, start: int, stop: int) -> torch.Tensor:
        """Through layers start .. stop-1 at every position: [B, T, H] to [B, T, H]."""
        for layer in self.layers[start:stop]:
            hidden = layer(hidden, bias, first_only=False)
        return hidden

    def answer(self, hidden: torch.Tensor, bias: torch.Tensor | None, cut: int) -> torch.Tensor:
        """Logits [B, C] from the hidden states that go into layer ``cut``; from [B, 1, H] of the top, for cut L."""
        if cut < len(self.layers):
            hidden = self.run(hidden, bias, cut, len(self.layers) - 1)
            hidden = self.layers[-1](hidden, bias, first_only=TRICKS.first_only)
        return self.head(hidden)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits [B, C] of a padded batch, as the stock model's up to rounding."""
        return self.answer(self.embed(batch), mask_bias(batch["attention_mask"]), 0)

    def _agrees(self) -> bool:
        batch = probe(self.model)
        with evaluating(self.model):
            difference = (self.model(**batch).logits - self.logits(batch)).abs().max().item()
        return float(difference) < AGREEMENT


def layers_of(model: PreTrainedModel) -> tuple[PostNormLayer, ...]:
    """The parts of each layer, from the lowest. Raises AttributeError or ModelError for layers that are not BERT's."""
    names = find_layers(model)
    return tuple(PostNormLayer.of(model.get_submodule(name), model.config) for (name,) in names)


def stock_head(model: Any) -> Head:
    """Logits [n, C] from the top layer's [CLS] states [n, 1, H], by a transformers classifier's own modules.

    Found by trying how the families do it on a small batch. Raises ModelError where none agrees.
    """
    batch, base = probe(model), model.base_model
    with evaluating(model):
        wanted, first = model(**batch).logits, base(**batch).last_hidden_state[:, :1]
        for head in _heads(model, base):
            try:
                found = head(first)
            except (AttributeError, IndexError, RuntimeError, TypeError):
                continue
            if found.shape == wanted.shape and (found - wanted).abs().max().item() < AGREEMENT:
                return head
    raise ModelError(
        f"{type(model).__name__}: its head cannot be run on the pooled [CLS] of chunks: set model.pooling to layers "
        "or mean, or take tokenization.truncation chunks out"
    )


def _heads(model: Any, base: Any) -> tuple[Head, ...]:
    return (
        lambda hidden: model.classifier(model.dropout(base.pooler(hidden))),  # BERT
        lambda hidden: model.classifier(hidden),  # RoBERTa, ELECTRA
        lambda hidden: model.classifier(model.dropout(torch.relu(model.pre_classifier(hidden[:, 0])))),  # DistilBERT
        lambda hidden: model.classifier(model.dropout(model.pooler(hidden))),  # DeBERTa
        lambda hidden: model.classifier(model.drop(model.head(hidden[:, 0]))),  # ModernBERT
        lambda hidden: model.classifier(model.dropout(base.pooler_activation(base.pooler(hidden[:, 0])))),  # ALBERT
    )


def probe(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A small padded batch, to compare two ways of computing."""
    ids = torch.arange(5, 13, device=model.device).reshape(2, 4) % model.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=model.device)
    return {"input_ids": ids, "attention_mask": mask}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients; every module is in its own mode again afterwards."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in was_training:
            module.training = True


def inference_tokens(device: torch.device) -> int:
    """Padded tokens of a batch of inference.

    On a CPU so few that the hidden states stay in its cache: 15 to 20 % faster than 8,192 (MiniLM, 2 cores, measured).
    """
    return 2048 if device.type == "cpu" else 16_384


def takes_types(model: nn.Module) -> bool:
    """Whether token types tell first and second text apart (in BERT; not in RoBERTa and DistilBERT)."""
    known = inspect.signature(model.forward).parameters
    return "token_type_ids" in known and getattr(model.config, "type_vocab_size", 0) > 1


def batch_tensors(model: Any, ids: Any, mask: Any, type_ids: Any) -> Batch:
    """A padded batch of numpy arrays [B, T] on the model's device; type ids go to encoders that tell types apart."""
    arrays = {"input_ids": ids, "attention_mask": mask}
    if takes_types(model):
        arrays["token_type_ids"] = type_ids
    return {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}


def logits_of(model: PreTrainedModel) -> Callable[[Batch], torch.Tensor]:
    """The fastest known way from a padded batch to logits [B, C]: `EncoderPass`, or the stock modules."""
    passes = EncoderPass.of(model)
    return passes.logits if passes else lambda batch: model(**batch).logits


def mask_bias(mask: torch.Tensor, *, is_always: bool = False) -> torch.Tensor | None:
    """What attention adds to its scores, float32 [B, 1, 1, T]: 0 at tokens, -1e9 at padding; None without padding.

    ``is_always``: a tensor of zeros instead of None, so that the same kernel runs with and without padding.
    """
    if not is_always and bool(mask.all()):
        return None
    return ((1.0 - mask.float()) * -1e9)[:, None, None, :]
