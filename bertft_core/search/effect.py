"""Knobs that change nothing on these rows: a search over them would only search over noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertft_core.config import RunConfig, SearchConfig
from bertft_core.data.tokenization import TokenizedSplits
from bertft_core.errors import ConfigError
from bertft_core.search_config import conditions_of, requirements, values_of

_LENGTH, _CUT, _ENCODER = "tokenization.max_length", "tokenization.truncation", "model.pretrained"


def longest_text(tokens: TokenizedSplits) -> int:
    """Tokens of the longest training or validation row before cutting, special tokens included."""
    return max((tokens.percentiles[split].get("max", 0) for split in ("train", "validation")), default=0)


def require_effect(config: RunConfig, longest: Mapping[str, int], class_rows: Mapping[str, int]) -> None:
    """Refuse knobs of the search that change nothing on these rows.

    ``longest``: `longest_text` by each value of model.pretrained that the search can take (the configured one where
    it is not searched). ``class_rows``: training rows by class.

    Raises: ConfigError naming tokenization.truncation or tokenization.max_length when no text is ever cut where
    it counts, class_weights when all classes are of one size.
    """
    search = config.search
    if search is None or not search.trials:
        return
    faults = [_length_fault(config, search, key, longest) for key in (_CUT, _LENGTH) if key in search.space]
    if "class_weights" in search.space and len(set(class_rows.values())) == 1:
        rows = next(iter(class_rows.values()))
        faults.append(f"class_weights has no effect: every class has {rows} training rows; take it out")
    found = [f"search.space.{fault}" for fault in faults if fault]
    if found:
        raise ConfigError("\n".join(found))


def _length_fault(config: RunConfig, search: SearchConfig, key: str, longest: Mapping[str, int]) -> str:
    """Why a knob of the tokenization changes nothing, or ""."""
    shortest = min(_possible(config, search, key, _LENGTH))
    text = max(longest[encoder] for encoder in _possible(config, search, key, _ENCODER))
    if text > shortest:
        return ""
    return f"{key} has no effect: no text is longer than {shortest:g} tokens (the longest has {text}); take it out"


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
