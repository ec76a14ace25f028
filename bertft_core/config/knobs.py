"""Which configuration fields a search may vary, by which names, and what leaves one unread."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from bertft_core.config.fit import READ_WITH, ModelConfig, Part, TokenizationConfig, TrainingConfig

SEARCHED_SECTIONS: dict[str, type[Part]] = {
    "training": TrainingConfig,
    "tokenization": TokenizationConfig,
    "model": ModelConfig,
}
_PER_MACHINE = "cannot be searched, it is settled once per machine and does not change what is learnt"
NOT_SEARCHED = {
    "model.adapted": "cannot be searched by this name: write model.pretrained: [base, adapted]",
    "patience": "cannot be searched: it ends a fit early and makes none better",
    "seed": "cannot be searched, that would find the luckiest seed: search.confirm repeats the best trials",
    "precision": _PER_MACHINE,
    "threads": _PER_MACHINE,
    "processes": _PER_MACHINE,
    "device": _PER_MACHINE,
    "prefix_cache": _PER_MACHINE,
    "prefix_cache_gb": _PER_MACHINE,
}


def has_one_phase(unfreezing: Any) -> bool:
    """Whether a value of training.unfreezing is a single phase, however many epochs and layers there are."""
    return unfreezing in ("none", "gradual") if isinstance(unfreezing, str) else len(unfreezing) == 1


# (knob, for which training.unfreezing no fit reads it, what that one does, one with which it is read)
UNREAD: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("phase_restart", has_one_phase, "has one phase", "late"),
    ("embedding_rate", lambda value: value in ("gradual", "fast"), "never trains the embeddings", "none"),
)


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


def default_of(key: str) -> Any:
    """The default of a field, by its name in search.space."""
    section, field = place(key)
    return SEARCHED_SECTIONS[section].model_fields[field].default


def unused_fault(value_of: Callable[[str], Any], searched: Mapping[str, Sequence[Any]]) -> str:
    """What is wrong with a key that somebody set although no fit reads it; "" when there is none.

    ``value_of``: the configured value by the name in search.space; ``searched``: the values that a search gives.
    """
    for key, (other, wanted) in READ_WITH.items():
        value, set_to = value_of(key), value_of(other)
        if value != default_of(key) and wanted not in (set_to, *searched.get(other, ())):
            name, decider = ".".join(place(key)), ".".join(place(other))
            return (
                f"{name}: has no effect under {decider} {set_to}: take it out, or set {decider} to {wanted}, "
                f"was {value!r}"
            )
    schedules = [value_of("unfreezing"), *searched.get("unfreezing", ())]
    for key, is_unread, why, other in UNREAD:
        if value_of(key) != default_of(key) and all(is_unread(schedule) for schedule in schedules):
            return (
                f"training.{key}: has no effect under training.unfreezing {schedules[0]}, which {why}: set that to "
                f"{other}, or {key} to {str(default_of(key)).lower()}, was {value_of(key)!r}"
            )
    return ""


def without_unused(tree: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration without the keys of `model` and `tokenization` that its other values leave unread."""
    read = {name: dict(part) if name in ("model", "tokenization") else part for name, part in tree.items()}
    for key, (other, wanted) in READ_WITH.items():
        (section, field), (_, decider) = place(key), place(other)
        if section != "training" and read[section][decider] != wanted:
            del read[section][field]
    if read["model"]["pooling"] == "cls":  # what every run was before there was a choice
        del read["model"]["pooling"]
    if read["adaptation"] is None:  # likewise
        del read["adaptation"], read["model"]["adapted"]
    del read["multi_task"]  # the encoder stands for it
    return read


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (tuple, dict):
        return {get_origin(annotation)}  # the numbers in a list of phases make it no number
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
    part = SEARCHED_SECTIONS[section]
    required = {name: "any" for name, known in part.model_fields.items() if known.is_required()}
    try:
        return getattr(part.model_validate({**required, field: value}), field)
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
