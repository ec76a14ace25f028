"""A transformers classifier's own head, run by itself: from the top layer's [CLS] states to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bertft_core.errors import ModelError

AGREEMENT = 1e-4  # largest difference of a number from the stock modules', in float32

Head = Callable[[torch.Tensor], torch.Tensor]


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
