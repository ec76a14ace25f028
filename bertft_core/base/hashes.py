"""Content hashes: of values, files, folders, encoders and our own code."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def hash_json(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash_file(path: Path | str) -> str:
    """sha256 (hex) of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path | str) -> str:
    """sha256 (hex) over relative names and bytes of every file below `folder`, in sorted order."""
    root = Path(folder)
    return hash_json([[str(p.relative_to(root)), hash_file(p)] for p in sorted(root.rglob("*")) if p.is_file()])


def encoder_fingerprint(pretrained: Path | str) -> str:
    """sha256 over the encoder's configuration, tokenizer and weight files (not over its model card)."""
    kinds = {".json", ".safetensors", ".txt", ".model"}
    files = sorted(p for p in Path(pretrained).iterdir() if p.suffix in kinds and p.is_file())
    return hash_json([[p.name, _unchanged_digest(p, p.stat().st_mtime_ns, p.stat().st_size)] for p in files])


@lru_cache(maxsize=64)
def _unchanged_digest(path: Path, modified_ns: int, size: int) -> str:
    # a run asks several times for the same 90 MB; the file's time and size tell whether it changed in between
    return hash_file(path)


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """sha256 over bertft_core's Python sources: part of every run_key."""
    root = Path(__file__).parents[1]
    return hash_json([[str(p.relative_to(root)), hash_file(p)] for p in sorted(root.rglob("*.py"))])
