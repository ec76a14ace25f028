"""What an encoder's config.json says of its input, and whether a tokenizer fits it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.base.files import read_json
from bertft_core.base.text import counted
from bertft_core.data.tokens.encoding import SpecialLayout

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# model_type of encoders whose positions begin above pad_token_id: config.json alone does not say it
_OFFSET_POSITIONS = (
    "roberta",
    "camembert",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "data2vec-text",
    "xmod",
    "ibert",
    "mpnet",
    "longformer",
)
MOST_BYTES = 1 << 22  # of config.json: 20,000 labels of 40 letters, twice, are 2 MB
# transformers makes an object for each of these as it reads config.json: 500 million labels would fill the memory
_AT_MOST = {
    **dict.fromkeys(("num_labels", "_num_labels"), 100_000),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_hidden_groups"), 200),  # of 1,000 a tree takes 15 s
    **dict.fromkeys(("hidden_size", "dim", "d_model", "embedding_size"), 1_000_000),
    "vocab_size": 10_000_000,
}
# other counts and sizes, wherever they stand: of modules that are made one by one, and of tensors
_MODULES, _MOST_MODULES = re.compile(r"layer|block|group|expert|repeat|stage"), 1_000
_SIZES, _LARGEST = re.compile(r"^(num|n)_|size|dim|position|embed|heads"), 10_000_000
# transformers computes tables of fixed positions number by number in Python
_FIXED_POSITIONS, _MOST_FIXED = ("sinusoidal_pos_embds", "sinusoidal_embeddings"), 4_000_000
_KERNELS = ("attn_implementation", "experts_implementation")  # OWNER/NAME is code on the hub


def encoder_config(pretrained: Path) -> dict[str, Any]:
    """The encoder's config.json. Raises ModelError where it is no JSON object, or has values that cannot be meant."""
    file = pretrained / "config.json"
    try:
        config = read_json(file, MOST_BYTES)
    except (OSError, ValueError) as fault:
        why = str(fault) if isinstance(fault, ValueError) else type(fault).__name__
        raise ModelError(
            f"model.pretrained: {pretrained} holds no encoder: it has no readable config.json ({why[:100]})"
        ) from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} must be a JSON object, was a {type(config).__name__}: copy the encoder's own")
    for key, limit in _AT_MOST.items():
        value = config.get(key)
        if value is not None and (type(value) is not int or not 0 < value <= limit):
            raise ModelError(f"{file}: {key} must be a whole number from 1 to {limit}, was {_shown(value)}")
    for key, value in _values(config):
        if isinstance(value, str) and key.endswith(_KERNELS) and re.search("[/:]", value):
            raise ModelError(f"{file}: {key} names code to fetch, {value[:80]!r}, which is never run: take it out")
        if isinstance(value, int | float) and not abs(value) <= (most := _most(key)):  # NaN neither
            wanted = "finite" if most == sys.float_info.max else f"at most {most}"
            raise ModelError(f"{file}: {key} must be {wanted}, was {_shown(value)}: copy the encoder's own")
    _require_few_positions(file, config)
    return config


def _values(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All plain values, also in lists and mappings within, each with the name it stands under."""
    left: list[tuple[str, Any]] = list(config.items())
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, part) for part in value]
        else:
            yield key, value


def _most(key: str) -> float:
    return _MOST_MODULES if _MODULES.search(key) else _LARGEST if _SIZES.search(key) else sys.float_info.max


def _require_few_positions(file: Path, config: dict[str, Any]) -> None:
    if not (config.get("model_type") == "roformer" or any(config.get(key) for key in _FIXED_POSITIONS)):
        return
    sizes = [config.get(key) for key in ("max_position_embeddings", "hidden_size", "dim", "embedding_size", "emb_dim")]
    numbers = math.prod(sorted(size for size in sizes if isinstance(size, int))[-2:])
    if numbers > _MOST_FIXED:
        raise ModelError(f"{file}: {numbers} numbers of fixed positions, at most {_MOST_FIXED} are computed")


def _shown(value: Any) -> str:
    return (f"a number of {value.bit_length()} bits" if isinstance(value, int) and value > 1 << 99 else str(value))[:40]


def longest_input(pretrained: Path) -> int | None:
    """How many positions the encoder has for ids, or None where config.json gives no limit.

    RoBERTa and its relatives number positions from pad_token_id + 1, which costs them that many.
    """
    config = encoder_config(pretrained)
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int) or limit <= 0:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        pad = config.get("pad_token_id")
        limit -= (pad if isinstance(pad, int) else 1) + 1
    return limit


def check_max_length(pretrained: Path, max_length: int, key: str = "tokenization.max_length") -> None:
    """Raises ConfigError when the encoder has fewer positions than a length; `key`: what the length is called."""
    limit = longest_input(pretrained)
    if limit is not None and max_length > limit:
        raise ConfigError(
            f"{key} must not exceed {limit}, the positions of the encoder {pretrained.name}; was {max_length}"
        )


def fitting_layout(tokenizer: Tokenizer, pretrained: Path) -> SpecialLayout:
    """The special tokens that a tokenizer puts around a text, where it fits the encoder.

    Raises ModelError where its largest id has no row in the embedding matrix, where it puts no special token before
    or after a text, or not the encoder's own, or where the encoder takes an ordinary token for padding.
    """
    config, layout = encoder_config(pretrained), SpecialLayout.of(tokenizer)
    known = tokenizer.get_vocab(with_added_tokens=True)
    before, after = layout.single
    rows = config.get("vocab_size")
    if isinstance(rows, int):
        top, largest = max((i, token) for token, i in [*known.items(), *((f"id {i}", i) for i in (*before, *after))])
        if top >= rows:
            beyond = len({i for i in (*known.values(), *before, *after) if i >= rows})
            raise _unfit(
                pretrained,
                f"{counted(beyond, 'token')} of the tokenizer, up to {largest!r} with id {top}, lie beyond the {rows} "
                "rows of the encoder's embedding matrix: add rows with resize_token_embeddings and save both, or take "
                "the tokens out of tokenizer.json",
            )
    if not before or not after:
        where = "after" if before else "before" if after else "before and after"
        raise _unfit(
            pretrained,
            f"the tokenizer puts no special token {where} a text, so the encoder would read a word as its first or "
            "last mark ([CLS], [SEP]): its tokenizer.json needs a post_processor, as that of the encoder's source has",
        )
    pad = config.get("pad_token_id")
    if isinstance(pad, int) and isinstance(rows, int) and not 0 <= pad < rows:
        raise _unfit(pretrained, f"pad_token_id {pad} of config.json lies beyond the {rows} rows of its embeddings")
    if config.get("model_type") in _OFFSET_POSITIONS:
        _require_marks(tokenizer, pretrained, config, before[0])
    return layout


def tokens_line(tokenizer: Tokenizer, pretrained: Path) -> str:
    """How many tokens the tokenizer has, what it puts around a text, how far the encoder reads; for people."""
    before, after = SpecialLayout.of(tokenizer).single
    marks = " … ".join(" ".join(str(tokenizer.id_to_token(i)) for i in ids) for ids in (before, after))
    rows, limit = encoder_config(pretrained).get("vocab_size"), longest_input(pretrained)
    return (
        f"{tokenizer.get_vocab_size(with_added_tokens=True)} tokens for {rows or 'an unknown number of'} rows of the "
        f"encoder's embeddings; {marks}; {f'up to {limit} ids' if limit else 'no limit of ids'}"
    )


def _require_marks(tokenizer: Tokenizer, pretrained: Path, config: dict[str, Any], first: int) -> None:
    """RoBERTa and its relatives count positions by what is padding: another tokenizer's ids shift them in silence."""
    begin, pad = config.get("bos_token_id"), config.get("pad_token_id")
    # CamemBERT keeps fairseq's unused signs: <s>NOTUSED has id 0, which its config.json may name, and <s> has id 5.
    stated = tokenizer.id_to_token(begin) if isinstance(begin, int) else None
    if isinstance(begin, int) and first != begin and stated != f"{tokenizer.id_to_token(first)}NOTUSED":
        raise _unfit(
            pretrained,
            f"the tokenizer begins a text with {tokenizer.id_to_token(first)!r} (id {first}), config.json says "
            f"bos_token_id {begin}: it is another encoder's tokenizer; copy both from one source",
        )
    token = tokenizer.id_to_token(pad) if isinstance(pad, int) else None
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    if token is not None and token not in special and "pad" not in token.lower():
        raise _unfit(
            pretrained,
            f"id {pad}, which the encoder takes for padding, is the ordinary token {token!r} of the tokenizer: it is "
            "another encoder's tokenizer; copy both from one source",
        )


def _unfit(pretrained: Path, fault: str) -> ModelError:
    return ModelError(f"model.pretrained {pretrained}: tokenizer and encoder do not fit: {fault}")
