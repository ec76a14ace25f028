"""YAML files as plain trees (plain values only, no key twice), and what a message says of the keys at fault."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from bertft_core.base.errors import ConfigError
from bertft_core.base.text import mask_uri


class _Core(yaml.SafeLoader):
    """Scalars by YAML 1.2's core schema; what it calls a number in another notation (0x1F, 010) is text, as written.

    PyYAML reads YAML 1.1, where 010 is 8, 12:30 is 750, `no` is false, 2026-01-31 a date, and 2e-5 text.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # the stubs call it the instance's


class _Twice(yaml.MarkedYAMLError):
    """A key that stood in its mapping before."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def parse_yaml(text: str) -> Any:
    """The one document in a YAML text. Raises yaml.YAMLError, also for a key that occurs twice."""
    loader = _Core(text)
    try:
        node = loader.get_single_node()
        if (twice := _repeated_key(node)) is not None:
            raise _Twice(problem=f"the key {twice.value!r} occurs twice: keep one", problem_mark=twice.start_mark)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the file, and the line of a key that occurs twice."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = parse_yaml(text)
    except _Twice as fault:
        line = f":{fault.problem_mark.line + 1}" if fault.problem_mark else ""
        raise ConfigError(f"{file}{line}: {fault.problem}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else type(tree).__name__
        raise ConfigError(f"{file}: wanted a mapping of keys, found {found}")
    return tree


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The known dotted key that a misspelt one most likely means: by the whole key, else by its last part."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(key.split(".")[-1], [k.split(".")[-1] for k in known], n=1, cutoff=0.6)
    return near[0] if near else None


def dotted(loc: Sequence[Any]) -> str:
    """The key at fault; pydantic names the members of a union too, in brackets."""
    return ".".join(str(part) for part in loc if "[" not in str(part))


def masked(value: Any) -> str:
    """A value for a message: without credentials, at most 80 characters."""
    text = mask_uri(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def fault_lines(fault: ValidationError, unknown_key: Callable[[Sequence[Any], Any], str]) -> list[str]:
    """Every fault of a settings file by its dotted key, each once; `unknown_key(loc, value)` words a key it has not."""
    lines: list[str] = []
    for error in fault.errors():
        key, value, message = dotted(error["loc"]), error["input"], error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            lines.append(f"{key}: {unknown_key(error['loc'], value)}")
        elif error["type"] == "missing":
            lines.append(f"{key}: required key is missing")
        elif not key:  # of the whole: the message names its keys itself
            lines.append(message)
        elif message.startswith(f"{key.rpartition('.')[2]}."):  # of a whole section: so does each of its lines
            lines += [f"{key.rpartition('.')[0]}.{line}".removeprefix(".") for line in message.splitlines()]
        else:
            lines.append(f"{key}: {message[0].lower()}{message[1:]}, was {masked(value)}")
    return list(dict.fromkeys(lines))


def config_error(origin: str, lines: Sequence[str]) -> ConfigError:
    """The error of a settings file with these faults."""
    return ConfigError("\n  ".join([f"{origin}: {len(lines)} fault{'s' if len(lines) > 1 else ''}", *lines]))


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
