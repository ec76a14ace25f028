"""Rows of the prefix cache's tests, with states that float16 holds exactly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bertft_core.model.prefix.cache import PrefixCache, PrefixView

KEY, OTHER = "0a" * 16, "0b" * 16
WIDTH = 8


def make_rows(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keys and lengths (1 to 7 tokens) of rows number first, first + 1, ..."""
    number = np.arange(first, first + count, dtype=np.uint64)
    return np.stack([number, number * 7 + 1], axis=1), (number % 7 + 1).astype(np.int64)


def activations(keys: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers that float16 holds exactly, another set for each row: [tokens, WIDTH]."""
    rows = [np.arange(n * WIDTH).reshape(n, WIDTH) + int(k[0]) % 997 for k, n in zip(keys, lengths, strict=True)]
    return np.concatenate(rows).astype(np.float32)


def store(cache: PrefixCache, count: int, first: int = 0, key: str = KEY, dtype: str = "float32") -> str:
    """Write rows as one segment; the writer's reason if it was full."""
    keys, lengths = make_rows(count, first)
    with cache.writer([key], WIDTH, dtype) as writer:
        writer.add(keys, lengths, {key: activations(keys, lengths)})
    return writer.reason


def look(cache: PrefixCache, count: int, first: int = 0, key: str = KEY, dtype: str = "float32") -> PrefixView:
    return cache.view(key, *make_rows(count, first), WIDTH, dtype)


def files(root: Path) -> list[Path]:
    """Everything but locks, the oldest first."""
    found = (Path(folder) / name for folder, _, names in os.walk(root) for name in names)  # folders may go meanwhile
    return sorted(p for p in found if p.is_file() and p.suffix != ".lock")


def again(cache: PrefixCache) -> PrefixCache:
    """The same store in the next fit."""
    return PrefixCache(cache.store.root, cache.store.budget_bytes)
