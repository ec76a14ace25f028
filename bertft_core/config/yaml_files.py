"""YAML files as plain trees: safe loader, no key twice, one message for every way a file can be unreadable."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bertft_core.base.errors import ConfigError


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the file, and the line of a key that occurs twice."""
    try:
        text = file.read_text(encoding="utf-8")
        twice = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))
        tree = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(fault).split())}") from None
    if twice is not None:
        raise ConfigError(f"{file}:{twice.start_mark.line + 1}: the key {twice.value!r} occurs twice: keep one")
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else type(tree).__name__
        raise ConfigError(f"{file}: wanted a mapping of keys, found {found}")
    return tree


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The known dotted key that a misspelt one most likely means: by the whole key, else by its last part."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(key.split(".")[-1], [k.split(".")[-1] for k in known], n=1, cutoff=0.6)
    return near[0] if near else None


def _repeated_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The first key of a mapping, however deep, that stood in it before."""
    if isinstance(node, yaml.SequenceNode):
        return next((found for item in node.value if (found := _repeated_key(item))), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    seen: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                return key
            seen.add(key.value)
        if found := _repeated_key(value):
            return found
    return None
