"""The sections that say what is learnt (model, tokenization, training), their fields by name, and shared types."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from bertft_core.config.numbers import Number, Positive, Share, Whole, no_bool

# Stands in the name of a study and the key of a checkpoint: raise it where a value gets another meaning.
# 2: unfreezing `gradual` is the top two thirds (1: what is `late` now), a batch has all classes in their shares
FITS_VERSION = 2
UNFREEZING = ("gradual", "late", "fast", "none", "ulmfit", "head_first")
Schedule = Literal["linear", "slanted_triangular", "cosine", "constant"]
SLANTED = "slanted_triangular"
CHUNKS = "chunks"
Pooling = Literal["cls", "mean", "layers"]
Combine = Literal["concat", "mean", "max"]
ChunkPooling = Literal["mean", "max", "attention"]
Loss = Literal["cross_entropy", "focal", "logit_adjusted"]
FOCAL, ADJUSTED = "focal", "logit_adjusted"
WEIGHTINGS = ("none", "balanced", "sqrt")
# key: the key that decides whether it is read, and the one value of it with which it is
READ_WITH = {
    "cut_fraction": ("schedule", SLANTED),
    "ratio": ("schedule", SLANTED),
    "focal_gamma": ("loss", FOCAL),
    "tau": ("loss", ADJUSTED),
    "model.layers": ("model.pooling", "layers"),
    "model.combine": ("model.pooling", "layers"),
    "tokenization.chunk_overlap": ("tokenization.truncation", CHUNKS),
    "tokenization.max_chunks": ("tokenization.truncation", CHUNKS),
    "tokenization.chunk_pooling": ("tokenization.truncation", CHUNKS),
}
Phases = tuple[tuple[float, int], ...]
AUTO: Literal["auto"] = "auto"


def _kind_of_number(value: Any) -> str:
    return "[auto]" if value == AUTO else "[number]"


_Auto = Annotated[Literal["auto"], Tag("[auto]")]
HIGHEST_LR = 0.01
_Lr = Annotated[Annotated[Number, Field(gt=0, le=HIGHEST_LR), Tag("[number]")] | _Auto, Discriminator(_kind_of_number)]
_Epochs = Annotated[Annotated[Whole, Field(ge=1, le=1000), Tag("[number]")] | _Auto, Discriminator(_kind_of_number)]


_N = TypeVar("_N", int, float)


def number(value: _N | Literal["auto"]) -> _N:
    """A setting that is no longer `auto`: by the time of a fit `auto.settled` has put a number in its place."""
    assert value != "auto", "lr and epochs are settled for the rows before anything is computed from them"
    return value


def phases_fault(phases: Sequence[tuple[float, int]]) -> str:
    """What keeps (start, depth) pairs from being a schedule of unfreezing; "" for none. The encoder is not known."""
    starts, depths = [start for start, _ in phases], [depth for _, depth in phases]
    if not phases or starts[0] != 0:
        return f"must start at 0, starts at {starts[0]:g}" if phases else "must hold a [start, depth] pair"
    if not all(a < b for a, b in itertools.pairwise([*starts, 1.0])):
        return "must have starts that rise and stay below 1"
    if depths[0] < 0 or not all(a < b for a, b in itertools.pairwise(depths)):
        return "must have depths that rise, from 0 (the head alone) on: nothing is frozen again"
    return ""


def read_unfreezing(value: Any) -> str | Phases:
    """The name of a schedule, or its phases as (start, depth) pairs. Raises ValueError for anything else."""
    wanted = f"must be one of {', '.join(UNFREEZING)}, or [start, depth] pairs such as [[0.0, 1], [0.5, 7]]"
    if isinstance(value, str) and value in UNFREEZING:
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(wanted)
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or any(isinstance(number, bool) for number in pair):
            raise ValueError(wanted)
        if not isinstance(pair[0], int | float) or not isinstance(pair[1], int):
            raise ValueError(wanted)
    phases = tuple((float(start), int(depth)) for start, depth in value)
    if fault := phases_fault(phases):
        raise ValueError(fault)
    return phases


def read_class_weights(value: Any) -> Any:
    """The name of a rule, or {class: weight} with its classes as text. Raises ValueError for anything else."""
    if isinstance(value, str) and value in WEIGHTINGS:
        return value
    if isinstance(value, dict) and value:
        return {str(no_bool(name)): weight for name, weight in value.items()}
    raise ValueError(f"must be one of {', '.join(WEIGHTINGS)}, or weights by class such as {{spam: 2.0}}")


def class_weight_faults(weights: Mapping[str, float], classes: Sequence[str]) -> list[str]:
    """What is wrong with weights by class, in words; empty where each is a number above 0 of a known class."""
    faults = [
        f"training.class_weights: no class {name!r} in the data; classes: {', '.join(classes)}"
        for name in weights
        if name not in classes
    ]
    low = [f"{name} {value!r}" for name, value in weights.items() if not 0 < value < float("inf")]
    return faults + [f"training.class_weights must be numbers above 0, was {fault}" for fault in low]


def target_faults(loss: str, metric: str, *, multi_label: bool) -> list[str]:
    """Settings that do not go with rows of several labels (multi-label), or with rows of one."""
    if not multi_label:
        return ["evaluation.metric micro_f1 is accuracy where a row has one label: write accuracy"] * (
            metric == "micro_f1"
        )
    if loss == ADJUSTED:
        return [f"training.loss {ADJUSTED} wants one class per row, this data is multi-label: cross_entropy, focal"]
    return []


def read_layers(value: Any) -> str | int | tuple[int, ...]:
    """One layer, a list of different ones, or their name. Raises ValueError for anything else."""
    wanted = "must be a layer (0 the lowest, -1 the top), a list of layers, all, first_N or last_N"
    if isinstance(value, str) and re.fullmatch(r"all|(first|last)_[1-9][0-9]*", value):
        return value
    given = value if isinstance(value, list | tuple) else [value]
    if not given or not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in given):
        raise ValueError(wanted)
    if len(set(given)) < len(given):
        raise ValueError("must name each layer once")
    return tuple(given) if isinstance(value, list | tuple) else given[0]


def is_one_layer(layers: str | int | Sequence[int]) -> bool:
    """Whether a value of model.layers names a single layer of every encoder."""
    return layers in ("first_1", "last_1") if isinstance(layers, str) else isinstance(layers, int) or len(layers) == 1


class Part(BaseModel):
    """A section: unknown keys are faults, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Part):
    """The pretrained encoder: package://NAME/path, a local directory, or a hub id; and what the head reads of it.

    pooling: cls, the top layer's [CLS] through the trained pooler; layers, the raw [CLS] of `layers`, joined by
    `combine`; mean, the mean of the top layer's tokens.
    """

    pretrained: Annotated[str, Field(min_length=1)]
    pooling: Pooling = "cls"
    layers: Annotated[int | str | tuple[int, ...], BeforeValidator(read_layers)] = "last_4"
    combine: Combine = "concat"


class TokenizationConfig(Part):
    """How long texts are cut (Sun et al. 2019, section 5.3.1).

    chunks: every chunk of at most max_length tokens goes through the encoder, and what the head reads is the
    chunk_pooling over them. chunk_overlap: tokens of a chunk that the one before has too. max_chunks: None for all.
    """

    max_length: Annotated[Whole, Field(ge=8, le=8192)] = 256
    truncation: Literal["head", "tail", "head+tail", "chunks"] = "head+tail"
    chunk_overlap: Annotated[Whole, Field(ge=0)] = 0
    max_chunks: Annotated[Whole, Field(ge=1)] | None = 8
    chunk_pooling: ChunkPooling = "mean"

    def cut(self) -> dict[str, Any]:
        """The fields that decide which ids a text becomes."""
        chunks = ("chunk_overlap", "max_chunks") if self.truncation == CHUNKS else ()
        return {name: getattr(self, name) for name in ("max_length", "truncation", *chunks)}


class TrainingConfig(Part):
    """Fine-tuning settings. lr and epochs that are `auto` follow the rows (`config.auto`).

    alpha: the ratio of a layer's rate to the rate of the layer above, in (0, 1].
    embedding_rate: the embeddings go on below layer 0 with alpha, or take lr (paper_code: Sun et al.'s released code).
    head_multiplier: rate of the head over lr.
    loss: cross_entropy, focal (Lin et al. 2017, with focal_gamma) or logit_adjusted (Menon et al. 2021, with tau).
    class_weights: weight of a row in the loss by its class, inverse to the class's share of the training rows
    (balanced) or to its root (sqrt), or {class: weight}, 1 for a class left out; in every case scaled to a mean of 1
    over the training rows. Multi-label: weight of a class's "yes" over its "no", balanced: the rows without the class
    over those with it. label_smoothing: share of each target spread evenly over all classes.
    patience: epochs of the last phase of unfreezing without a better validation score that end the fit; None: none do.
    cut_fraction, ratio: of schedule slanted_triangular, which takes no warmup_fraction. phase_restart: every phase
    of unfreezing runs through the schedule anew.
    prefix_cache: number type in which the hidden states below the trained layers are kept on disk for all fits, at most
    prefix_cache_gb (10^9 bytes) of them.
    """

    lr: _Lr = AUTO
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 16
    epochs: _Epochs = AUTO
    alpha: Annotated[Number, Field(gt=0, le=1)] = 0.95
    embedding_rate: Literal["layerwise", "paper_code"] = "layerwise"
    head_multiplier: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 0.01
    unfreezing: Annotated[str | Phases, BeforeValidator(read_unfreezing)] = "gradual"
    schedule: Schedule = "linear"
    cut_fraction: Share = 0.1
    ratio: Annotated[Number, Field(gt=1)] = 32.0
    phase_restart: bool = False
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 13
    max_grad_norm: Positive = 1.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] | None = None
    attention_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    loss: Loss = "cross_entropy"
    focal_gamma: Annotated[Number, Field(gt=0, le=10)] = 2.0
    tau: Annotated[Number, Field(gt=0, le=10)] = 1.0
    class_weights: Annotated[str | dict[str, Positive], BeforeValidator(read_class_weights)] = "none"
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[Whole, Field(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    prefix_cache: Literal["auto", "float32", "float16", "off"] = "auto"
    prefix_cache_gb: Annotated[Number, Field(gt=0, le=100_000)] = 20.0
