"""Content hashes: of values, files, folders, encoders and our own code."""

from __future__ import annotations

import ast
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


@lru_cache(maxsize=8)
def code_fingerprint(*places: str) -> str:
    """sha256 over what bertft_core's sources do in `places`: rooms ("data"), files ("recipe/fit.py"); none: all of it.

    Comments, docstrings and layout do not count: what is hashed is the syntax tree, which is the same in every patch
    release of one Python version; another version (3.12) may name the same code anew.
    """
    root = Path(__file__).parents[1]
    return hash_json([[str(file.relative_to(root)), _code_digest(file)] for file in code_files(*places)])


def code_files(*places: str) -> tuple[Path, ...]:
    """The Python files of bertft_core in `places`, as for `code_fingerprint`. Raises FileNotFoundError for none."""
    root = Path(__file__).parents[1]
    files: set[Path] = set()
    for place in places or (".",):
        found = [root / place] if (root / place).is_file() else list((root / place).rglob("*.py"))
        if not found:
            raise FileNotFoundError(f"bertft_core has no code in {place}")
        files.update(found)
    return tuple(sorted(files))


def _is_text(line: ast.stmt) -> bool:
    """Whether a statement is a text alone: a docstring, or what is said of the field above it."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


@lru_cache(maxsize=512)
def _code_digest(file: Path) -> str:
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)]
    return hashlib.sha256(ast.dump(tree).encode("utf-8")).hexdigest()
