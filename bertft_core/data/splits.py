"""Which split a row belongs to: a function of that row and the configuration alone, so it never moves between nights.

Why no split is promised a row of every class: let a rule place a row by the rows around it, and never move it when rows
are added. Then the row lies where it would lie alone, so the rule reads that row only, and rows of one class may all
lie in one split. Such a draw is seen (`draws.py`) and drawn anew by a salt, which stays in the configuration.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bertft_core.base.text import normalise
from bertft_core.config.run import SplitConfig

SPLITS = ("train", "validation", "test")
# What is hashed, by version: 2 leaves invisible signs out; 3 accents, compatibility forms and a final ! or ? as well.
SPLITS_VERSION = 3
_PERSON = b"bertft-split-1"  # the salt: versioned by its last digit, never tuned
_PAIR_MARK = "\x1f"  # str.split() treats it as whitespace, so a normalised text never holds it
_SIGN = r"[\s!\"#%&'()*,\-./:;?@\[\\\]_{}\u00ab\u00bb\u2010-\u2027\u3001-\u3003\u3008-\u3011]+"
_NO_WORD = re.compile(rf"(?<!\d){_SIGN}|{_SIGN}(?!\d)")  # spaces and punctuation, unless they part two numbers

U64 = npt.NDArray[np.uint64]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]


def row_key(text: str, pair: str | None = None) -> str:
    """The text that identifies a row: its normalised text, with the normalised pair if it has one; "" for no text."""
    own = normalise(text)
    return own if pair is None or not own else f"{own}{_PAIR_MARK}{normalise(pair)}"


def split_key(key_text: str) -> str:
    """The text that decides the split of a row, given its `row_key`; most rows have the same for both.

    Left out are accents, compatibility forms (full-width signs) and a run of ! ? . at the end, but for one
    full stop, which most prose ends with: else nearly all its rows would have moved. So copies that tokenizers read
    alike, whichever encoder is configured, and near-copies lie in one split, tonight and every night. It depends on
    no tokenizer, so that another encoder moves no row from train to test.

    >>> split_key("voil\u00e0 !") == split_key("voila") != split_key("voila.")
    True
    """
    return _PAIR_MARK.join(map(_without_marks_and_end, key_text.split(_PAIR_MARK)))


def _without_marks_and_end(text: str) -> str:
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", text)
        text = normalise("".join(c for c in apart if unicodedata.category(c) != "Mn")) or text
    stem = text.rstrip(" !?.")
    return text if text[len(stem) :].strip() in ("", ".") else stem or text


def likeness(key_text: str) -> int:
    """A number that texts share which differ by spaces, punctuation, accents or case alone; given the `row_key`.

    It places no row: `prepare` counts with it which rows of different splits are near-copies.
    """
    bare = _NO_WORD.sub("", split_key(key_text))
    return int.from_bytes(key_digest(bare or key_text)[:8], "big")


def key_digest(key_text: str) -> bytes:
    """16 bytes of salted blake2b. Bytes 0-7 decide the split, bytes 8-15 the sample.

    Raises UnicodeEncodeError when the text holds lone surrogates.
    """
    return hashlib.blake2b(key_text.encode("utf-8"), digest_size=16, person=_PERSON).digest()


def _bounds(split: SplitConfig) -> tuple[int, int]:
    """u * 2**64 below the first is test, below the second validation (scaling by 2**64 is exact)."""
    return math.ceil(split.test * 2.0**64), math.ceil((split.test + split.validation) * 2.0**64)


def split_of(key_text: str, split: SplitConfig) -> str:
    """'test' when u < test, 'validation' when u < test + validation, else 'train'; u = hash / 2**64.

    `key_text` is `split_key(row_key(text, pair))`, or the value of the `data.group` column. Not with a class_salt.
    """
    u = int.from_bytes(key_digest(key_text)[:8], "big")
    if split.salt is not None:
        u = int(salted(np.array([u], dtype=np.uint64), split.salt)[0])
    test, validation = _bounds(split)
    return "test" if u < test else "validation" if u < validation else "train"


def halves(digests: bytes | bytearray) -> U64:
    """Joined 16-byte digests as uint64 [n, 2]: column 0 decides the split, column 1 the sample."""
    return np.frombuffer(bytes(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def salted(u: U64, salt: str) -> U64:
    """Other hashes [n] of the same rows, as independent of `u` as those of another hash function.

    The first 8 bytes of the salt's own digest are XORed in, then SplitMix64's finaliser mixes (Steele, Lea and Flood
    2014, doi 10.1145/2660193.2660195; its constants are Stafford's variant 13).
    """
    x = u ^ np.uint64(int.from_bytes(key_digest(salt)[:8], "big"))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def drawn(u: U64, split: SplitConfig, classes: Sequence[str], top: I32) -> U64:
    """The hashes [n] that decide: `u`, by data.split.salt, or by the salt of the row's class; top [n] is that class."""
    out = u if split.salt is None else salted(u, split.salt)
    for name, salt in split.class_salt.items():
        if name in classes:
            out = np.where(top == classes.index(name), salted(u, salt), out)
    return out


def sides_of(u: U64, split: SplitConfig) -> I8:
    """The split of each hash that decides, as an index into SPLITS; agrees with `split_of`."""
    test, validation = (np.uint64(min(b, 2**64 - 1)) for b in _bounds(split))
    return np.where(u < test, 2, np.where(u < validation, 1, 0)).astype(np.int8)
