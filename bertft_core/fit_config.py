"""The sections that say what is learnt (model, tokenization, training), their fields by name, and shared types."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def no_bool(value: Any) -> Any:
    """`value`, unless it is a bool: Python takes those for numbers. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("must not be true or false (quote yes and no: YAML reads them as booleans)")
    return value


Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(no_bool)]


UNFREEZING = ("gradual", "fast", "none", "ulmfit", "head_first")
Schedule = Literal["linear", "slanted_triangular", "cosine", "constant"]
SLANTED = "slanted_triangular"
Phases = tuple[tuple[float, int], ...]


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
    if not isinstance(value, list | tuple) or not all(_is_phase(pair) for pair in value):
        raise ValueError(wanted)
    phases = tuple((float(start), int(depth)) for start, depth in value)
    if fault := phases_fault(phases):
        raise ValueError(fault)
    return phases


def _is_phase(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or any(isinstance(v, bool) for v in pair):
        return False
    return isinstance(pair[0], int | float) and isinstance(pair[1], int)


class Part(BaseModel):
    """A section: unknown keys are faults, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Part):
    """The pretrained encoder: package://NAME/path, a local directory, or a hub id."""

    pretrained: Annotated[str, Field(min_length=1)]


class TokenizationConfig(Part):
    """How long texts are cut (Sun et al. 2019, section 5.3.1)."""

    max_length: Annotated[Whole, Field(ge=8, le=8192)] = 256
    truncation: Literal["head", "tail", "head+tail"] = "head+tail"


class TrainingConfig(Part):
    """Fine-tuning settings. alpha is the ratio of a layer's rate to the rate of the layer above, in (0, 1].

    embedding_rate: the embeddings go on below layer 0 with alpha, or take lr (paper_code: Sun et al.'s released code).
    head_multiplier: rate of the head over lr.
    class_weights: weight of a row in the loss by its class, inverse to the class's share of the training rows
    (balanced) or to its root (sqrt). label_smoothing: share of each target spread evenly over all classes.
    cut_fraction, ratio: of schedule slanted_triangular, which takes no warmup_fraction. phase_restart: every phase
    of unfreezing runs through the schedule anew.
    prefix_cache: number type in which the hidden states below the trained layers are kept on disk for all fits, at most
    prefix_cache_gb (10^9 bytes) of them.
    """

    lr: Annotated[Number, Field(gt=0, le=0.01)] = 5e-5
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 16
    epochs: Annotated[Whole, Field(ge=1, le=1000)] = 3
    alpha: Annotated[Number, Field(gt=0, le=1)] = 0.95
    embedding_rate: Literal["layerwise", "paper_code"] = "layerwise"
    head_multiplier: Annotated[Number, Field(ge=1, le=1000)] = 1.0
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 0.01
    unfreezing: Annotated[str | Phases, BeforeValidator(read_unfreezing)] = "gradual"
    schedule: Schedule = "linear"
    cut_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    ratio: Annotated[Number, Field(gt=1)] = 32.0
    phase_restart: bool = False
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 13
    max_grad_norm: Annotated[Number, Field(gt=0)] = 1.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] | None = None
    attention_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    prefix_cache: Literal["auto", "float32", "float16", "off"] = "auto"
    prefix_cache_gb: Annotated[Number, Field(gt=0, le=100_000)] = 20.0


SEARCHED_SECTIONS: dict[str, type[Part]] = {
    "training": TrainingConfig,
    "tokenization": TokenizationConfig,
    "model": ModelConfig,
}
_PER_MACHINE = "cannot be searched, it is settled once per machine and does not change what is learnt"
NOT_SEARCHED = {
    "seed": "cannot be searched, that would find the luckiest seed: search.confirm repeats the best trials",
    "precision": _PER_MACHINE,
    "threads": _PER_MACHINE,
    "device": _PER_MACHINE,
    "prefix_cache": _PER_MACHINE,
    "prefix_cache_gb": _PER_MACHINE,
}


def canonical(key: str) -> str:
    """A knob's one name: fields of training by their short name, all others as section.field."""
    return key.removeprefix("training.")


def place(key: str) -> tuple[str, str]:
    """Section and field of a knob, by its canonical name."""
    section, _, field = (key if "." in key else f"training.{key}").partition(".")
    return section, field


def searchable() -> tuple[str, ...]:
    """Canonical names of all that can be searched: the fields of training, tokenization and model."""
    names = (canonical(f"{s}.{field}") for s, part in SEARCHED_SECTIONS.items() for field in part.model_fields)
    return tuple(name for name in names if name not in NOT_SEARCHED)


def idle_key(training: TrainingConfig, schedules: Sequence[str]) -> str:
    """A key that somebody set although none of these schedules reads it; "" when there is none."""
    shape = () if SLANTED in schedules else ("cut_fraction", "ratio")
    return next((key for key in shape if getattr(training, key) != TrainingConfig.model_fields[key].default), "")


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) is tuple:
        return {tuple}  # the numbers in a list of phases make it no number
    return {annotation}.union(*(_kinds(inner) for inner in get_args(annotation))) if annotation else set()


def _field_kinds(key: str) -> set[Any]:
    section, field = place(key)
    return _kinds(SEARCHED_SECTIONS[section].model_fields[field].annotation)


def is_number(key: str) -> bool:
    """Whether a knob takes numbers."""
    return bool(_field_kinds(key) & {int, float})


def is_integer(key: str) -> bool:
    """Whether a knob takes whole numbers."""
    return int in _field_kinds(key)


def read_value(key: str, value: Any) -> Any:
    """`value` as its section reads it (16.0 becomes 16). Raises ValueError when the section refuses it."""
    section, field = place(key)
    try:
        return getattr(SEARCHED_SECTIONS[section].model_validate({field: value}), field)
    except ValidationError as fault:
        message = fault.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{message[0].lower()}{message[1:]}, was {value!r}") from None


def key_fault(key: str) -> str:
    """Why a knob cannot be searched, with the nearest that can; "" when it can."""
    name = canonical(key)
    if name in searchable():
        return ""
    if name in NOT_SEARCHED:
        return NOT_SEARCHED[name]
    near = [k for k in searchable() if k.endswith(f".{name}")]
    near = near or difflib.get_close_matches(name, searchable(), n=1, cutoff=0.5)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(searchable())}")
