"""What the head reads of the encoder, resolved for one encoder. Importing this needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.base.text import counted
from bertft_core.config.fit import CHUNKS, ChunkPooling, Combine, ModelConfig, Pooling, TokenizationConfig

POOLINGS, COMBINES, CHUNK_POOLINGS = (get_args(kind) for kind in (Pooling, Combine, ChunkPooling))


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """Features of a text other than the stock head's on one piece of text.

    pooling: cls (the encoder's own head over the top [CLS]), mean (of the top layer's tokens) or layers (raw [CLS] of
    `layers`, 0 the lowest, joined by `combine` in this order). chunk_pooling: how the chunks of a text become one, None
    where texts are cut. Raises ModelError on other values.
    """

    pooling: str = "cls"
    layers: tuple[int, ...] = ()
    combine: str = "concat"
    chunk_pooling: str | None = None

    def __post_init__(self) -> None:
        has_layers = bool(self.layers) is (self.pooling == "layers") and all(layer >= 0 for layer in self.layers)
        known = self.pooling in POOLINGS and self.combine in COMBINES
        if not known or not has_layers or self.chunk_pooling not in (None, *CHUNK_POOLINGS):
            raise ModelError(f"wanted a plan of features of this version, found {asdict(self)}")

    def __str__(self) -> str:
        texts = {
            "cls": "[CLS] through the encoder's own head",
            "mean": "mean of the top layer's tokens",
            "layers": f"raw [CLS] of layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))}"
            + (f" ({self.combine})" if len(self.layers) > 1 else ""),
        }
        return texts[self.pooling] + (f", {self.chunk_pooling} over chunks" if self.chunk_pooling else "")

    @property
    def depth_used(self) -> int | None:
        """How many layers are computed, from the lowest; None for all."""
        return max(self.layers) + 1 if self.layers else None

    def can_begin_at(self, cut: int) -> bool:
        """Whether what goes into layer `cut` is enough: the output of layer cut - 1 goes into it, none below."""
        return not self.layers or cut <= min(self.layers) + 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**{**value, "layers": tuple(value["layers"])})


def resolve_layers(layers: str | int | tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    """Layers of model.layers, counted from the lowest. Raises ConfigError for one that the encoder does not have.

    >>> resolve_layers((-1, 0), 6), resolve_layers("last_2", 6)
    ((5, 0), (4, 5))
    """
    if isinstance(layers, str):
        which, _, number = layers.partition("_")
        count = int(number or n_layers)
        start = n_layers - count if which == "last" else 0
        found = tuple(range(start, start + count))
    else:
        given = layers if isinstance(layers, tuple) else (layers,)
        found = tuple(layer + n_layers if layer < 0 else layer for layer in given)
    if not all(0 <= layer < n_layers for layer in found):
        raise ConfigError(
            f"model.layers: the encoder has {counted(n_layers, 'layer')} (0 or -{n_layers} the lowest), was {layers!r}"
        )
    if len(set(found)) < len(found):
        raise ConfigError(f"model.layers: names a layer twice in an encoder of {n_layers} layers, was {list(found)}")
    return found


def feature_plan(model: ModelConfig, tokenization: TokenizationConfig, n_layers: int) -> FeaturePlan | None:
    """The plan of a configuration for an encoder of so many layers; None: the stock head. Raises ConfigError."""
    chunk_pooling = tokenization.chunk_pooling if tokenization.truncation == CHUNKS else None
    if model.pooling != "layers":
        is_stock = model.pooling == "cls" and chunk_pooling is None
        return None if is_stock else FeaturePlan(pooling=model.pooling, chunk_pooling=chunk_pooling)
    layers = resolve_layers(model.layers, n_layers)
    combine = model.combine if len(layers) > 1 else "concat"  # one layer: the three are the same
    return FeaturePlan(pooling="layers", layers=layers, combine=combine, chunk_pooling=chunk_pooling)
