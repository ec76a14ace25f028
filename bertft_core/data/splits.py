"""Which split a row belongs to: a pure function of its own text, so that it never moves between nights."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from bertft_core.base.text import normalise
from bertft_core.config.run import SplitConfig

SPLITS = ("train", "validation", "test")
SPLITS_VERSION = 1
_PERSON = b"bertft-split-1"  # the salt: versioned by its last digit, never tuned
_PAIR_MARK = "\x1f"  # str.split() treats it as whitespace, so a normalised text never holds it

U64 = npt.NDArray[np.uint64]
I8 = npt.NDArray[np.int8]


def row_key(text: str, pair: str | None = None) -> str:
    """The text that identifies a row: its normalised text, with the normalised pair where it has one."""
    return normalise(text) if pair is None else f"{normalise(text)}{_PAIR_MARK}{normalise(pair)}"


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

    `key_text` is `row_key(text, pair)`, or the value of the `data.group` column.
    """
    u = int.from_bytes(key_digest(key_text)[:8], "big")
    test, validation = _bounds(split)
    return "test" if u < test else "validation" if u < validation else "train"


def halves(digests: bytes | bytearray) -> U64:
    """Joined 16-byte digests as uint64 [n, 2]: column 0 decides the split, column 1 the sample."""
    return np.frombuffer(bytes(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def sides_of(u: U64, split: SplitConfig) -> I8:
    """The split of each hash as an index into SPLITS; agrees with `split_of`."""
    test, validation = (np.uint64(min(b, 2**64 - 1)) for b in _bounds(split))
    return np.where(u < test, 2, np.where(u < validation, 1, 0)).astype(np.int8)
