"""Classifiers of several tasks on one encoder: its weights are the same tensors in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bertft_core.adaptation.model import write_encoder
from bertft_core.model.features import Classifier, FeatureClassifier
from bertft_core.model.layers import LayerMap


def share_encoder(models: Sequence[Classifier]) -> None:
    """Let every encoder weight be one tensor for all models: that of the first one which has it."""
    shared: dict[str, nn.Parameter] = {}
    for model in models:
        for place, module in model.base_model.named_modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, shared.setdefault(f"{place}.{name}", weight))


def levels_together(models: Sequence[Classifier], levels: Sequence[LayerMap]) -> LayerMap:
    """The levels of `nn.ModuleList(models)` that share an encoder: each task's head is head, the encoder counts once.

    Raises AssertionError where the encoders have different layers.
    """
    homes = {
        f"{i}.{name}": level for i, own in enumerate(levels) for level, (_, names) in _numbered(own) for name in names
    }
    by_level: list[list[str]] = [[] for _ in levels[0].by_level()]
    for name, _ in nn.ModuleList(models).named_parameters():  # a shared weight by its first name alone
        by_level[homes[name]].append(name)
    head, *layers, embeddings = map(tuple, by_level)
    return LayerMap(embeddings=embeddings, layers=tuple(reversed(layers)), head=head)


def _numbered(levels: LayerMap) -> Any:
    return enumerate(levels.by_level())


def save_encoder(models: Sequence[Classifier], pretrained: Path, folder: Path) -> None:
    """Write the shared encoder as an ordinary folder: its weights of now, all else as `write_encoder`."""
    stock = models[0].backbone if isinstance(models[0], FeatureClassifier) else models[0]
    prefix = str(stock.base_model_prefix)
    state = {f"{prefix}.{n}": p for model in reversed(models) for n, p in model.base_model.named_parameters()}
    write_encoder(state, prefix, pretrained, folder)
