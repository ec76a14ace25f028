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
PROBE = "linear_probe"
UNFREEZING = ("gradual", "late", "fast", "none", "ulmfit", "head_first", PROBE)
Schedule = Literal["linear", "slanted_triangular", "cosine", "constant"]
SLANTED = "slanted_triangular"
CHUNKS = "chunks"
BASE, ADAPTED = "base", "adapted"  # in place of an encoder's name: the configured one as it is, and trained further
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
_Processes = Annotated[Annotated[Whole, Field(ge=1, le=1024), Tag("[number]")] | _Auto, Discriminator(_kind_of_number)]


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
    """A section: unknown keys are faults, values do not change. The text below a field is its row in docs/."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Part):
    """The pretrained encoder, and what the head reads of it."""

    pretrained: Annotated[str, Field(min_length=1)]
    """The encoder: a folder, `package://NAME/path`, or a hub id (docs/encoders.md). With an `adaptation`, in
    `search.space` also the words `base` and `adapted`: this encoder as it is, and as the adaptation leaves it."""
    adapted: bool = True
    """Of a run with `adaptation` alone: whether fits begin with the adapted encoder. `search.space` asks for both by
    `model.pretrained: [base, adapted]`."""
    pooling: Pooling = "cls"
    """What the head reads: `cls`, the top layer's [CLS] through the encoder's own pooler; `layers`, the raw [CLS] of
    `model.layers`; `mean`, the mean of the top layer's tokens (docs/techniques/features.md)."""
    layers: Annotated[int | str | tuple[int, ...], BeforeValidator(read_layers)] = "last_4"
    """Of `pooling: layers` alone: a layer (0 the lowest, -1 the top), a list, `all`, `first_N`, `last_N`."""
    combine: Combine = "concat"
    """Of `pooling: layers` alone: how several layers become one."""


class TokenizationConfig(Part):
    """How long texts are cut (Sun et al. 2019, section 5.3.1)."""

    max_length: Annotated[Whole, Field(ge=8, le=8192)] = 256
    """Tokens with special tokens; of a chunk under `chunks`."""
    truncation: Literal["head", "tail", "head+tail", "chunks"] = "head+tail"
    """Which end of a longer text stays, or `chunks`: all of it, in chunks that go through the encoder one by one (Sun
    et al. 2019, section 5.3.1; docs/techniques/features.md)."""
    chunk_overlap: Annotated[Whole, Field(ge=0)] = 0
    """Of `chunks` alone: tokens of a chunk that the one before has too; at most half of `max_length`."""
    max_chunks: Annotated[Whole, Field(ge=1)] | None = 8
    """Of `chunks` alone: the first ones are kept; null: all."""
    chunk_pooling: ChunkPooling = "mean"
    """Of `chunks` alone: what the head reads of several chunks."""

    def cut(self) -> dict[str, Any]:
        """The fields that decide which ids a text becomes."""
        chunks = ("chunk_overlap", "max_chunks") if self.truncation == CHUNKS else ()
        return {name: getattr(self, name) for name in ("max_length", "truncation", *chunks)}


class TrainingConfig(Part):
    """Fine-tuning settings. lr and epochs that are `auto` follow the rows (`config.auto`)."""

    lr: _Lr = AUTO
    """Peak learning rate of the top layer. `auto`: what the training rows and classes call for, 5e-5 and 3 epochs from
    about 1,600 rows on, more of both below (docs/techniques/small_data.md); `bertft check` says the numbers, a run
    records them."""
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 16
    """Rows of a step."""
    epochs: _Epochs = AUTO
    """Times through the training rows; `auto` as of `training.lr`."""
    alpha: Annotated[Number, Field(gt=0, le=1)] = 0.95
    """Rate of a layer over the rate of the layer above it."""
    embedding_rate: Literal["layerwise", "paper_code"] = "layerwise"
    """The embeddings go on below layer 0 with alpha, or take lr (`paper_code`, as Sun et al.'s released code; refused
    where they never train: `gradual`, `fast`)."""
    head_multiplier: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    """Rate of the head over lr."""
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Share of the updates over which the rate rises; not of `slanted_triangular`."""
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 0.01
    """Of AdamW, on weight matrices."""
    unfreezing: Annotated[str | Phases, BeforeValidator(read_unfreezing)] = "gradual"
    """`gradual`: the top two thirds of the layers from the first step; `late` thaws in quarters, from the top layer to
    everything; `fast` never trains below the top third; `none` trains everything from the first step; `ulmfit`,
    `head_first`, or phases of your own such as `[[0.0, 1], [0.5, 7]]`, (start, depth) each
    (docs/techniques/schedules.md). `linear_probe`: the encoder stays as it is, the head is a logistic regression on it,
    its penalty by cross-validation; rates, epochs and batches are not read (docs/few_labels.md)."""
    schedule: Schedule = "linear"
    """Course of the rate (docs/techniques/schedules.md)."""
    cut_fraction: Share = 0.1
    """Of `slanted_triangular` alone: share of the updates over which the rate rises."""
    ratio: Annotated[Number, Field(gt=1)] = 32.0
    """Of `slanted_triangular` alone: peak over floor."""
    phase_restart: bool = False
    """Each phase of unfreezing runs through the schedule anew; refused where there is one phase (`gradual`, `none`)."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 13
    """Of the head's first weights, the order of rows and dropout."""
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to it."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """In encoder and head; null: the encoder's own, 0.1 in most."""
    attention_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Of attention probabilities; 0 is 1.9 times as fast as 0.1 (docs/speed.md)."""
    loss: Loss = "cross_entropy"
    """`focal` (Lin et al. 2017) or `logit_adjusted` (Menon et al. 2021) in place of cross-entropy
    (docs/techniques/losses.md)."""
    focal_gamma: Annotated[Number, Field(gt=0, le=10)] = 2.0
    """Of `focal` alone: how much sure rows lose weight."""
    tau: Annotated[Number, Field(gt=0, le=10)] = 1.0
    """Of `logit_adjusted` alone: weight of the logarithm of the class's share."""
    class_weights: Annotated[str | dict[str, Positive], BeforeValidator(read_class_weights)] = "none"
    """`balanced`: a row's weight in the loss is inverse to its class's share of the training rows; `sqrt`: to its root;
    `none`; or `{class: weight}`, 1 for a class left out. Multi-label: of a class's "yes" over its "no", balanced:
    the rows without the class over those with it. The mean weight over the training rows is 1; validation stays
    unweighted."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over all classes."""
    patience: Annotated[Whole, Field(ge=1)] | None = None
    """Epochs of the last phase of unfreezing without a better validation score after which the fit ends; null: none do.
    """
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is float32 on a processor without bfloat16 instructions; elsewhere it times a real training step, once per
    machine (docs/speed.md)."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """null: all of the processor."""
    processes: _Processes = 1
    """That fit together, each its share of a step's rows, on its share of the threads or a GPU of its own; `auto`: one
    a GPU, on a CPU one (docs/scaling.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where there is one."""
    prefix_cache: Literal["auto", "float32", "float16", "off"] = "auto"
    """Number type in which the hidden states below the trained layers are kept in BERTFT_HOME/prefix for all fits
    (docs/speed.md)."""
    prefix_cache_gb: Annotated[Number, Field(gt=0, le=100_000)] = 20.0
    """At most so much of them, in 10^9 bytes."""
