"""Text to token ids, one way for training and serving: tokenise whole, cut, add special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bertft_core.base.display import cleaned
from bertft_core.base.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


Mode = Literal["head", "tail", "head+tail", "chunks"]
Ids = npt.NDArray[np.int32]
HEAD_REFERENCE, BUDGET_REFERENCE = (128, 510)  # head+tail keeps 128 of 510 tokens (Sun et al. 2019, section 5.3.1)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_MOST_BYTES = 1 << 26  # of one of these files; a tokenizer of 900,000 tokens (XLM-V) has about 2 ** 25
_CHARS_AT_ONCE = 1_000_000  # of text in one call: an Encoding costs about 150 bytes per token


def cut(
    ids: Sequence[int], budget: int, mode: str, h_ref: int = HEAD_REFERENCE, n_ref: int = BUDGET_REFERENCE
) -> list[int]:
    """At most `budget` of `ids` (no special tokens among them): the head, the tail, or a head and a tail.

    head+tail keeps the first h and last budget - h, h = min(h_ref, budget - 1), scaled to
    round(budget * h_ref / n_ref) below n_ref, 0 < h < budget. No longer than `budget`: untouched.

    >>> cut([0, 1, 2, 3, 4, 5], 4, "head+tail")
    [0, 3, 4, 5]
    """
    ids = list(ids)
    if len(ids) <= budget:
        return ids
    if budget <= 0:
        return []
    if mode == "head" or (mode == "head+tail" and budget == 1):
        return ids[:budget]
    if mode == "tail":
        return ids[-budget:]
    if mode != "head+tail":
        raise ValueError(f"mode must be head, tail or head+tail, was {mode!r}")
    scaled = h_ref if budget >= n_ref else round(budget * h_ref / n_ref)
    head = max(1, min(scaled, budget - 1))
    return ids[:head] + ids[len(ids) - (budget - head) :]


def cut_pair(a: Sequence[int], b: Sequence[int], budget: int, mode: str) -> tuple[list[int], list[int]]:
    """Cut the longer side first, by the mode, until both fit: the shorter keeps up to half of the budget.

    >>> cut_pair([1] * 9, [2, 2], 6, "head")
    ([1, 1, 1, 1], [2, 2])
    """
    if len(a) + len(b) <= budget:
        return list(a), list(b)
    half = max(budget, 0) // 2
    if len(b) <= half:
        share_a = budget - len(b)
    elif len(a) <= half:
        share_a = len(a)
    else:  # both are longer than half; an odd token goes to the longer side
        share_a = budget - half if len(a) >= len(b) else half
    return cut(a, share_a, mode), cut(b, budget - share_a, mode)


@dataclass(frozen=True, kw_only=True)
class SpecialLayout:
    """Special tokens around one text (prefix A suffix) and two (prefix A middle B suffix), as ids.

    has_segments: whether B (and what follows it) has token type 1; `pair_zeros` middle tokens have type 0.
    """

    single: tuple[tuple[int, ...], tuple[int, ...]]
    pair: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    has_segments: bool
    pair_zeros: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialLayout:
        """Read the layout off the encodings of 'x' and ('x', 'y'). Raises ModelError if they are unusual."""
        one, two = tokenizer.encode("x"), tokenizer.encode("x", "y")
        a, b = one.sequence_ids, two.sequence_ids
        if 0 not in a or 0 not in b or 1 not in b or any(one.type_ids):
            raise ModelError("the tokenizer does not encode 'x' as prefix, text, suffix of token type 0")
        start, end = a.index(0), len(a) - a[::-1].index(0)
        a_start, a_end = b.index(0), len(b) - b[::-1].index(0)
        b_start, b_end = b.index(1), len(b) - b[::-1].index(1)
        types = list(two.type_ids)
        zeros = types.index(1) if 1 in types else len(types)
        if types != [0] * zeros + [1] * (len(types) - zeros) or (1 in types and not a_end <= zeros <= b_start):
            raise ModelError(
                f"the tokenizer's token types of a pair are {types}; wanted 0 for one text, 1 for the next"
            )
        return cls(
            single=(tuple(one.ids[:start]), tuple(one.ids[end:])),
            pair=(tuple(two.ids[:a_start]), tuple(two.ids[a_end:b_start]), tuple(two.ids[b_end:])),
            has_segments=1 in types,
            pair_zeros=zeros - a_end if 1 in types else 0,
        )

    def n_special(self, is_pair: bool) -> int:
        """How many special tokens surround one text, or two."""
        return sum(len(part) for part in (self.pair if is_pair else self.single))


def pack(
    ids_a: Sequence[int], ids_b: Sequence[int] | None, layout: SpecialLayout, max_length: int, mode: str
) -> tuple[list[int], int]:
    """Cut to at most `max_length` ids with special tokens. Returns (ids, pair_start).

    pair_start: position of the first id of token type 1; len(ids) where there is none, so that
    token types are `position >= pair_start`.
    """
    budget = max_length - layout.n_special(ids_b is not None)
    if ids_b is None:
        prefix, suffix = layout.single
        ids = [*prefix, *cut(ids_a, budget, mode), *suffix]
        return ids, len(ids)
    first, middle, last = layout.pair
    a, b = cut_pair(ids_a, ids_b, budget, mode)
    ids = [*first, *a, *middle, *b, *last]
    return ids, len(first) + len(a) + layout.pair_zeros if layout.has_segments else len(ids)


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How texts are fitted to the encoder: at most `max_length` ids with special tokens, cut by `truncation`.

    chunks: windows of `max_length` ids, each with special tokens of its own, `chunk_overlap` text tokens in common
    with the one before, the first `max_chunks` of them (None: all).
    """

    max_length: int
    truncation: str
    chunk_overlap: int = 0
    max_chunks: int | None = None

    def spans(self, n_tokens: int, n_special: int) -> list[tuple[int, int]]:
        """(start, end) in the text's tokens of each chunk: one at least, all but the last of full length.

        >>> Cutting(max_length=6, truncation="chunks", chunk_overlap=1).spans(9, n_special=2)
        [(0, 4), (3, 7), (6, 9)]
        """
        budget = max(1, self.max_length - n_special)
        stride = max(1, budget - self.chunk_overlap)
        count = 1 + max(0, -(-(n_tokens - budget) // stride))
        count = min(count, self.max_chunks or count)
        return [(i * stride, min(i * stride + budget, n_tokens)) for i in range(count)]

    def longest(self, n_special: int) -> int | None:
        """Ids of the longest text that loses nothing, one set of special tokens included; None: no text does."""
        if self.truncation != "chunks":
            return self.max_length
        if self.max_chunks is None:
            return None
        budget = max(1, self.max_length - n_special)
        return budget + (self.max_chunks - 1) * max(1, budget - self.chunk_overlap) + n_special


def pack_chunks(ids: Sequence[int], layout: SpecialLayout, cutting: Cutting) -> list[int]:
    """The chunks of one text, joined. All but the last have `max_length` ids, which is how `TokenArrays` parts them."""
    prefix, suffix = layout.single
    spans = cutting.spans(len(ids), layout.n_special(False))
    return [i for start, end in spans for i in (*prefix, *ids[start:end], *suffix)]


def chunk_counts(lengths: npt.NDArray[np.integer], max_length: int) -> npt.NDArray[np.int64]:
    """How many chunks rows of so many ids have, int64 [n]: one at least."""
    return np.maximum(1, -(-lengths.astype(np.int64) // max_length))


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a model folder, without the truncation and padding that some files bake in.

    Raises ModelError when the folder holds none.
    """
    from tokenizers import Tokenizer as Backend

    file = Path(folder) / "tokenizer.json"
    for part in (Path(folder) / name for name in TOKENIZER_FILES):
        if part.is_file() and (size := part.stat().st_size) > _MOST_BYTES:
            raise ModelError(f"{part}: {size} bytes are no tokenizer, at most {_MOST_BYTES} are read")
    if file.is_file():
        try:
            tokenizer: Tokenizer = Backend.from_file(str(file))
        except Exception as fault:  # the Rust library raises the bare class
            raise ModelError(f"{file}: not readable as a tokenizer: {cleaned(str(fault))[:200]}") from None
    else:
        tokenizer = _converted(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _converted(folder: Path | str) -> Any:
    """Of a folder without tokenizer.json: transformers converts vocab.txt, vocab.json or a sentencepiece model."""
    from transformers import AutoTokenizer

    found = [name for name in TOKENIZER_FILES if (Path(folder) / name).is_file()]
    if not set(found) - {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}:
        raise ModelError(
            f"{folder}: no tokenizer (wanted tokenizer.json, vocab.txt, vocab.json with merges.txt, or a sentencepiece "
            f"model; found {', '.join(found) or 'none of them'}): copy the encoder's tokenizer files into it"
        )
    pieces = next((name for name in found if name.endswith(".model")), None)
    if pieces and find_spec("sentencepiece") is None:
        raise ModelError(
            f"{folder}: {pieces} can be read only with the package sentencepiece, which is missing: `pip install "
            "sentencepiece`, or put the encoder's tokenizer.json beside it"
        )
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        ).backend_tokenizer
    except Exception as fault:  # transformers raises unrelated types for what it cannot convert
        reason = " ".join(cleaned(str(fault)).split())[:200]
        raise ModelError(
            f"{folder}: no tokenizer.json, and none could be made of {', '.join(found)} ({type(fault).__name__}: "
            f"{reason}): put the encoder's tokenizer.json beside them"
        ) from None


def raw_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of whole texts without special tokens, about 1 million characters at a time to bound memory."""
    result: list[list[int]] = []
    start = chars = 0
    for stop, text in enumerate(texts, start=1):
        chars += len(text)
        if chars >= _CHARS_AT_ONCE or stop == len(texts):
            encodings = tokenizer.encode_batch_fast(list(texts[start:stop]), add_special_tokens=False)
            result += [encoding.ids for encoding in encodings]
            start, chars = stop, 0
    return result


def encode_rows(
    tokenizer: Tokenizer,
    layout: SpecialLayout,
    texts: Sequence[str],
    pairs: Sequence[str | None] | None,
    cutting: Cutting,
) -> tuple[list[list[int]], list[int], list[int]]:
    """(ids, pair_start, uncut length with special tokens) of each row; a pair of None is a single text.

    Raises ModelError for pairs in chunks.
    """
    ids_a = raw_ids(tokenizer, texts)
    ids_b: list[list[int] | None] = [None] * len(ids_a)
    if pairs is not None:
        where = [i for i, pair in enumerate(pairs) if pair is not None]
        for i, ids in zip(where, raw_ids(tokenizer, [str(pairs[i]) for i in where]), strict=True):
            ids_b[i] = ids
    if cutting.truncation == "chunks":
        if any(ids is not None for ids in ids_b):
            raise ModelError(
                "tokenization.truncation chunks is for single texts, found a pair: use head, tail, head+tail"
            )
        chunked = [pack_chunks(ids, layout, cutting) for ids in ids_a]
        packed = [(ids, len(ids)) for ids in chunked]
    else:
        cut_to = (layout, cutting.max_length, cutting.truncation)
        packed = [pack(a, b, *cut_to) for a, b in zip(ids_a, ids_b, strict=True)]
    special = (layout.n_special(False), layout.n_special(True))
    lengths = [len(a) + len(b or ()) + special[b is not None] for a, b in zip(ids_a, ids_b, strict=True)]
    return [ids for ids, _ in packed], [start for _, start in packed], lengths


def encode_texts(
    tokenizer: Tokenizer,
    layout: SpecialLayout,
    texts: Sequence[str],
    pairs: Sequence[str | None] | None,
    max_length: int,
    truncation: str,
    **chunks: Any,
) -> tuple[list[Ids], list[int], int]:
    """(ids, int32 [length] each; pair_start of each, see `pack`; number of rows that were cut); see `Cutting`."""
    cutting = Cutting(max_length=max_length, truncation=truncation, **chunks)
    ids, starts, lengths = encode_rows(tokenizer, layout, texts, pairs, cutting)
    arrays = [np.array(row, dtype=np.int32) for row in ids]
    longest = cutting.longest(layout.n_special(False))
    return arrays, starts, sum(longest is not None and length > longest for length in lengths)
