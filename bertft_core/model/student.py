"""A smaller encoder cut from a trained one: some of its layers, everything else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bertft_core.base.errors import InputError
from bertft_core.model.classifier import load_saved, save_classifier
from bertft_core.model.features import FeatureClassifier
from bertft_core.model.structures import find_layers, unknown_structure


def spaced_layers(count: int, wanted: int) -> tuple[int, ...]:
    """Which layers of `count`, counted from the embeddings, a student of `wanted` keeps: evenly spaced, both ends kept.

    DistilBERT's choice, one layer out of two (Sanh et al. 2019, arXiv 1910.01108, section 3; its code has the numbers
    of the first example), which Shleifer and Rush 2020 (arXiv 2010.13002, section 3.1) call maximally spaced.

    >>> spaced_layers(12, 6), spaced_layers(12, 3), spaced_layers(6, 3)
    ((0, 2, 4, 7, 9, 11), (0, 6, 11), (0, 2, 5))
    """
    return tuple(int(layer) for layer in np.linspace(0, count - 1, wanted).round())


def require_fewer(folder: Path, wanted: int) -> int:
    """The layers of a saved classifier. Raises InputError unless a student of `wanted` is smaller, 1 at least."""
    from bertft_core.model.pretrained import layer_count

    count = layer_count(folder)
    if not 1 <= wanted < count:
        raise InputError(
            f"--layers must lie between 1 and {count - 1}: the version's encoder has {count}, was {wanted}"
        )
    return count


def write_student(source: Path, target: Path, wanted: int) -> tuple[int, ...]:
    """Write the encoder of a saved classifier with `wanted` of its layers as `target`; which ones these are.

    A transformers folder with the source's tokenizer. Raises InputError as `require_fewer`, ModelError where the
    layers are no list that could be cut, or share their weights.
    """
    require_fewer(source, wanted)
    saved = load_saved(source)
    model: Any = saved.backbone if isinstance(saved, FeatureClassifier) else saved
    names, config = find_layers(model), model.config
    stack, _, first = names[0][0].rpartition(".")
    if any(layer != (f"{stack}.{i}",) for i, layer in enumerate(names)) or first != "0":
        raise unknown_structure(model, "its layers are no one list, of which some could be kept")
    if len(names) != config.num_hidden_layers:
        raise unknown_structure(model, f"{len(names)} groups of weights run {config.num_hidden_layers} times")
    chosen = spaced_layers(len(names), wanted)
    parent, _, name = stack.rpartition(".")
    layers: Any = model.get_submodule(stack)
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[i] for i in chosen))
    if isinstance(getattr(config, "layer_types", None), list):  # ModernBERT: one entry a layer
        config.layer_types = [config.layer_types[i] for i in chosen]
    config.num_hidden_layers = wanted
    save_classifier(model, source, target, tuple(config.id2label.values()))
    return chosen
