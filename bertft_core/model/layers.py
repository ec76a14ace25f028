"""Which parameters belong to which depth, and the rate of each depth. Importing this needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bertft_core.base.errors import ConfigError
from bertft_core.base.text import counted
from bertft_core.model.structures import Layers, find_layers, unknown_structure

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """Parameter names of an encoder classifier: every parameter sits in exactly one place.

    ``layers`` is counted from the embeddings (0 .. L-1); a group of shared weights (ALBERT) is one layer.
    """

    embeddings: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{counted(len(self.layers), 'layer')}, {len(self.head)} head and {len(self.embeddings)} embedding tensors"
        )

    def by_level(self) -> list[tuple[str, tuple[str, ...]]]:
        """(name, parameter names) from the head (level 0) over the top layer (1) to the embeddings (L+1)."""
        names = level_names(len(self.layers))
        return list(zip(names, [self.head, *reversed(self.layers), self.embeddings], strict=True))


@dataclass(frozen=True, kw_only=True)
class LayerRates:
    """Peak rate of the head, of each layer (0 .. L-1) and of the embeddings; from layer 0 up it never falls."""

    head: float
    layers: tuple[float, ...]
    embeddings: float

    def __post_init__(self) -> None:
        ladder = [*self.layers, self.head]
        if any(low > high for low, high in itertools.pairwise(ladder)):
            raise ConfigError(f"rates must not fall from layer 0 up to the head, were {ladder}")

    def by_level(self) -> tuple[float, ...]:
        """Rates from the head (level 0) over the top layer (1) down to the embeddings (L+1)."""
        return (self.head, *reversed(self.layers), self.embeddings)


def level_names(n_layers: int) -> list[str]:
    """Names of the levels, counted from the head: head, layer L-1, ..., layer 0, embeddings."""
    return ["head", *(f"layer {i}" for i in reversed(range(n_layers))), "embeddings"]


def layer_rates(
    n_layers: int,
    lr: float,
    alpha: float,
    *,
    embedding_rate: Literal["layerwise", "paper_code"] = "layerwise",
    head_multiplier: float = 1.0,
) -> LayerRates:
    """Layer-wise rates: pooler and top layer take ``lr``, each layer below ``alpha`` of the one above.

    Layer i gets lr * alpha**(L-1-i) (Sun et al. 2019 §5.4.3, arXiv 1905.05583, where alpha is xi), the head
    lr * ``head_multiplier``. The embeddings continue the row, lr * alpha**L (``layerwise``), or take ``lr`` as in
    the paper's released code (``paper_code``).

    lr > 0, 0 < alpha <= 1 and head_multiplier >= 1 (TrainingConfig sees to that). Raises ConfigError for rates that
    fall towards the head.

    >>> layer_rates(2, 1.0, 0.5)
    LayerRates(head=1.0, layers=(0.5, 1.0), embeddings=0.25)
    """
    layers = tuple(lr * alpha ** (n_layers - 1 - i) for i in range(n_layers))
    embeddings = lr * alpha**n_layers if embedding_rate == "layerwise" else lr
    return LayerRates(head=lr * head_multiplier, layers=layers, embeddings=embeddings)


def layer_table(model: nn.Module) -> LayerMap:
    """Sort every parameter of an encoder classifier into embeddings, layers or head.

    The layers are `structures.find_layers`; the rest goes by what the forward pass does with it. Read above the last
    layer alone: head. Read by one layer alone: that layer (DeBERTa's convolution). Everything else, so what lies below
    the layers and what several of them read (MPNet's and DeBERTa's relative positions), is embeddings: a frozen layer
    stays as it is only while that is frozen too.

    Raises: ModelError for a structure that is not known (`structures.unknown_structure`).
    """
    from bertft_core.model.structures import segments_read

    modules = find_layers(model)
    reads = segments_read(model, modules)
    homes = {name: _home(name, segments, modules) for name, segments in reads.items()}
    for name, home in homes.items():
        if 0 < home <= len(modules) and min(reads[name], default=home) < home:
            raise unknown_structure(model, f"{name}, in layer {home - 1}, is read below that layer")
    by_home = [tuple(n for n, home in homes.items() if home == place) for place in range(len(modules) + 2)]
    if not all(by_home):
        places = [*reversed(level_names(len(modules)))]
        raise unknown_structure(model, f"no weights of their own in {places[by_home.index(())]}")
    return LayerMap(embeddings=by_home[0], layers=tuple(by_home[1:-1]), head=by_home[-1])


def set_depth(model: nn.Module, layers: LayerMap, depth: int) -> None:
    """Let levels 0..depth train; the others get no gradient and go to eval mode (no dropout).

    A module goes with the deepest level that it takes part in: what runs for a frozen level too is frozen with it. One
    without parameters goes with the module around it; what lies outside the encoder is head.
    """
    levels = {name: level for level, (_, names) in enumerate(layers.by_level()) for name in names}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(levels[name] <= depth)
    prefix = getattr(model, "base_model_prefix", "")
    modules = dict(model.named_modules())
    base = prefix if prefix and prefix in modules else None
    deepest: dict[str, int] = {}
    for name, module in modules.items():
        inside = [levels[full] for n, _ in module.named_parameters() if (full := f"{name}.{n}") in levels]
        is_encoder = base is None or name == base or name.startswith(f"{base}.")
        around = deepest.get(name.rpartition(".")[0], 0)
        deepest[name] = max(inside, default=around) if is_encoder else 0
        module.training = deepest[name] <= depth


def _home(name: str, segments: Collection[int], modules: Layers) -> int:
    """0 embeddings, i + 1 layer i, L + 1 head."""
    for i, names in enumerate(modules):
        if any(name.startswith(f"{module}.") for module in names):
            return i + 1
    return next(iter(segments)) if len(segments) == 1 else 0
