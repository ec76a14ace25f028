"""Knobs that change nothing on these rows: a search over them would only search over noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bertft_core.base.errors import ConfigError
from bertft_core.config.auto import LEAST_EPOCHS
from bertft_core.config.fit import ADJUSTED, AUTO, CHUNKS, PROBE, READ_WITH, SLANTED, is_one_layer
from bertft_core.config.knobs import UNREAD
from bertft_core.config.run import RunConfig
from bertft_core.config.search import Range, SearchConfig, conditions_of, requirements, values_of
from bertft_core.data.tokens.encoding import Cutting
from bertft_core.data.tokens.tokenization import TokenizedSplits
from bertft_core.training.schedules import UnfreezeSchedule

_LENGTH, _CUT, _ENCODER = "tokenization.max_length", "tokenization.truncation", "model.pretrained"
_LAYERS = "model.layers"
_CHUNK_LIMIT, _OVERLAP = "tokenization.max_chunks", "tokenization.chunk_overlap"
# what a fit in steps reads, and a logistic regression does not
_OF_STEPS = (
    *("lr", "batch_size", "epochs", "alpha", "embedding_rate", "head_multiplier", "warmup_fraction", "weight_decay"),
    *("schedule", "cut_fraction", "ratio", "phase_restart", "max_grad_norm", "dropout", "attention_dropout"),
)
# (knob, a field that decides whether the knob is read, for which values of that field it is not)
_UNUSED: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    *((key, other, wanted.__ne__) for key, (other, wanted) in READ_WITH.items()),
    ("warmup_fraction", "schedule", lambda value: value == SLANTED),
    *((key, "unfreezing", is_unread) for key, is_unread, *_ in UNREAD),
    *((key, "unfreezing", lambda value: value == PROBE) for key in _OF_STEPS),
    ("alpha", "unfreezing", lambda value: not isinstance(value, str) and value[-1][1] <= 1),  # nothing below the top
    ("embedding_rate", "alpha", lambda value: value == 1),
    ("model.combine", _LAYERS, is_one_layer),
    ("tokenization.chunk_pooling", _CHUNK_LIMIT, lambda value: value == 1),
    (_OVERLAP, _CHUNK_LIMIT, lambda value: value == 1),
)
_CHUNKED = tuple(key for key, (other, _) in READ_WITH.items() if other == _CUT)
_ANY_DEPTH = 12  # layers: schedules that differ on one encoder differ on another


def longest_text(tokens: TokenizedSplits) -> int:
    """Tokens of the longest training or validation row before cutting, special tokens included."""
    return max((tokens.percentiles[split].get("max", 0) for split in ("train", "validation")), default=0)


def require_effect(config: RunConfig, longest: Mapping[str, int], class_rows: Mapping[str, int]) -> None:
    """Refuse knobs of the search that change nothing on these rows.

    ``longest``: `longest_text` by each value of model.pretrained that the search can take (the configured one where
    it is not searched). ``class_rows``: training rows by class.

    Raises: ConfigError naming tokenization.truncation or tokenization.max_length when no text is ever cut where
    it counts, max_chunks when no text has so many, class_weights (loss, tau) when all classes are of one size, and
    knobs that another field leaves unread.
    """
    search = config.search
    if search is None or not search.trials:
        return
    faults = [_length_fault(config, search, key, longest) for key in (_CUT, _LENGTH, *_CHUNKED) if key in search.space]
    faults += [_unused_fault(config, search, *rule) for rule in _UNUSED if rule[0] in search.space]
    more = {"unfreezing": _unfreezing_fault, "phase_restart": _restart_fault, _CUT: _one_chunk_fault}
    faults += [fault_of(config, search) for key, fault_of in more.items() if key in search.space]
    if _CHUNK_LIMIT in search.space:
        faults.append(_chunk_limit_fault(config, search, longest))
    if len(set(class_rows.values())) == 1:
        rows = next(iter(class_rows.values()))
        even = f"has no effect: every class has {rows} training rows; take it out"
        faults += [f"{key} {even}" for key in _of_class_sizes(search)]
    found = [f"search.space.{fault}" for fault in faults if fault]
    if found:
        raise ConfigError("\n".join(found))


def _of_class_sizes(search: SearchConfig) -> list[str]:
    """Searched knobs that change nothing where all classes are of one size: log priors are then one constant."""
    losses = values_of(search.space["loss"]) if "loss" in search.space else [ADJUSTED]
    named = [("class_weights", True), ("tau", True), ("loss", set(losses) <= {"cross_entropy", ADJUSTED})]
    return [key for key, is_unused in named if key in search.space and is_unused]


def _length_fault(config: RunConfig, search: SearchConfig, key: str, longest: Mapping[str, int]) -> str:
    """Why a knob of the tokenization changes nothing, or ""."""
    shortest = min(_possible(config, search, key, _LENGTH))
    text = max(longest[encoder] for encoder in _possible(config, search, key, _ENCODER))
    if text > shortest:
        return ""
    return f"{key} has no effect: no text is longer than {shortest:g} tokens (the longest has {text}); take it out"


def _chunk_limit_fault(config: RunConfig, search: SearchConfig, longest: Mapping[str, int]) -> str:
    """Why the searched numbers of chunks are all more than any text has, or "" (of one chunk: `_length_fault`)."""
    key, n_special = _CHUNK_LIMIT, 2
    shortest, overlap = min(_possible(config, search, key, _LENGTH)), max(_possible(config, search, key, _OVERLAP))
    finest = Cutting(max_length=int(shortest), truncation=CHUNKS, chunk_overlap=int(overlap))
    text = max(longest[encoder] for encoder in _possible(config, search, key, _ENCODER))
    most = len(finest.spans(text - n_special, n_special))
    if most == 1 or any(limit is not None and limit < most for limit in values_of(search.space[key])):
        return ""
    return f"{key} has no effect: no text has more than {most} chunks; take it out"


def _one_chunk_fault(config: RunConfig, search: SearchConfig) -> str:
    """Why `head` and `chunks` are the same, or ""."""
    limits = set(_possible(config, search, _CUT, _CHUNK_LIMIT))
    if set(values_of(search.space[_CUT])) != {"head", CHUNKS} or limits != {1}:
        return ""
    return f"{_CUT} has no effect: one chunk is the head of the text; take it out, or change {_CHUNK_LIMIT}"


def _restart_fault(config: RunConfig, search: SearchConfig) -> str:
    """Why `ulmfit` has a single phase in every trial, or "" (of other schedules: `_UNUSED`)."""
    schedules, epochs = (_possible(config, search, "phase_restart", key) for key in ("unfreezing", "epochs"))
    is_one = all(name == "ulmfit" for name in schedules) and set(epochs) == {1}
    return "phase_restart has no effect: there is one phase; take it out" if is_one else ""


def _unused_fault(
    config: RunConfig, search: SearchConfig, key: str, other: str, is_unused: Callable[[Any], bool]
) -> str:
    """Why some trials would search a knob that their fits do not read, or "". Of a range: why all would."""
    possible = _possible(config, search, key, other)
    unused = [value for value in possible if is_unused(value)]
    is_range = isinstance(search.space.get(other), Range)
    if not unused or (is_range and len(unused) < len(possible)):
        return ""
    read = [value for value in possible if not is_unused(value)]
    remedy = f"add `when: {{{other}: [{', '.join(map(str, read))}]}}`" if read else f"take it out, or change {other}"
    return f"{key} has no effect while {other} is {unused[0]}: {remedy}"


def _unfreezing_fault(config: RunConfig, search: SearchConfig) -> str:
    """Why all searched schedules of unfreezing are one and the same, or "": `ulmfit` in one epoch is `none`."""
    names = values_of(search.space["unfreezing"])
    for epochs in _possible(config, search, "unfreezing", "epochs"):
        length = LEAST_EPOCHS if epochs == AUTO else int(epochs)
        if len({UnfreezeSchedule.of(name, _ANY_DEPTH, length).starts for name in names}) > 1:
            return ""
    return f"unfreezing has no effect: with one epoch {' and '.join(names)} are the same; take it out"


def encoders(config: RunConfig, search: SearchConfig) -> list[str]:
    """Every encoder that a trial may have; the configured one too where model.pretrained does not always count."""
    if _ENCODER not in search.space:
        return [config.model.pretrained]
    choice = search.space[_ENCODER]
    unasked = [config.model.pretrained] if conditions_of(choice) else []
    return list(dict.fromkeys([*values_of(choice), *unasked]))


def longest_cut(config: RunConfig, search: SearchConfig, encoder: str) -> int:
    """The largest tokenization.max_length that a trial with this encoder may have."""
    if _LENGTH not in search.space:
        return config.tokenization.max_length
    choice, wanted = search.space[_LENGTH], requirements(search.space, _LENGTH).get(_ENCODER, [encoder])
    asked = values_of(choice) if encoder in wanted else []
    unasked = [config.tokenization.max_length] if conditions_of(choice) else []
    return int(max([*asked, *unasked]))


def feature_layers(config: RunConfig, search: SearchConfig, encoder: str) -> list[Any]:
    """Every model.layers that a trial with this encoder may have."""
    if _LAYERS not in search.space:
        return [config.model.layers]
    choice = search.space[_LAYERS]
    is_asked = encoder in requirements(search.space, _LAYERS).get(_ENCODER, [encoder])
    return [*(values_of(choice) if is_asked else []), *([config.model.layers] if conditions_of(choice) else [])]


def _possible(config: RunConfig, search: SearchConfig, key: str, other: str) -> list[Any]:
    """Values (of a range: its ends) that `other` can have in trials in which `key` counts."""
    if other not in search.space:
        return [config.value_of(other)]
    required = requirements(search.space, key).get(other)
    if required is not None:
        return required
    choice = search.space[other]
    unasked = [config.value_of(other)] if conditions_of(choice) and other != key else []
    return [*values_of(choice), *unasked]
