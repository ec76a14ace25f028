"""YAML files as plain trees, within limits; no key twice, no tags. What a message says of the keys at fault."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from bertft_core.base import display
from bertft_core.base.errors import ConfigError

MOST_SIGNS = 1 << 19  # of a text: 5,000 classes of 100 letters; PyYAML reads about 100,000 signs a second
MOST_REPEATED = 1 << 16  # signs that the aliases of a text may stand for, all together
MOST_DEPTH = 40  # of values within values; the deepest key that there is lies at 6
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")  # what says no more than quotes do


class _Core(yaml.SafeLoader):
    """Scalars by YAML 1.2's core schema; what it calls a number in another notation (0x1F, 010) is text, as written.

    PyYAML reads YAML 1.1, where 010 is 8, 12:30 is 750, `no` is false, 2026-01-31 a date, and 2e-5 text.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # the stubs call it the instance's
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node. Raises _Refused for a tag and for values too deep: PyYAML calls itself for each level."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if (tag := getattr(event, "tag", None)) not in _TEXT_TAGS:
            raise _Refused(problem=f"the tag {masked(tag)}: only plain values are read", problem_mark=event.start_mark)
        if self._depth == MOST_DEPTH:
            raise _too_deep(event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def fetch_flow_collection_start(self, kind: Any) -> None:
        """Of [ and {: the scanner runs 1,024 signs ahead of the nodes, and looks at all open ones at each."""
        if self.flow_level == MOST_DEPTH:
            raise _too_deep(self.get_mark())
        super().fetch_flow_collection_start(kind)


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and a settings file may not hold; `problem` says it whole."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def _too_deep(mark: Any) -> _Refused:
    return _Refused(problem=f"more than {MOST_DEPTH} values within values", problem_mark=mark)


def parse_yaml(text: str) -> Any:
    """The one document in a YAML text of at most 512 Ki signs, in time that grows with its length alone.

    Raises yaml.YAMLError, also for a key that occurs twice, for tags, for values too deep or with themselves inside,
    and for aliases that stand for more than 64 Ki signs.
    """
    if len(text) > MOST_SIGNS:
        raise _Refused(problem=f"more than {MOST_SIGNS} signs")
    loader = _Core(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (repeated := _extent(node, {})[0] - len(text)) > MOST_REPEATED:
            problem = f"its aliases stand for {repeated} signs, at most {MOST_REPEATED} are read: write the values out"
            raise _Refused(problem=problem, problem_mark=node.start_mark)
        return loader.construct_document(node)
    except ValueError:  # more than sys.get_int_max_str_digits()
        raise _Refused(problem="a whole number has too many digits") from None
    finally:
        loader.dispose()


def read_yaml(file: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; {} for an empty one that may be. Raises ConfigError naming file, line and fault."""
    try:
        with open(file, encoding="utf-8") as handle:
            tree = parse_yaml(handle.read(MOST_SIGNS + 1))
    except _Refused as fault:
        line = f":{fault.problem_mark.line + 1}" if fault.problem_mark else ""
        raise ConfigError(f"{file}{line}: {fault.problem}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(fault).split())}") from None
    if tree is None and may_be_empty:
        return {}
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
    text = display.masked(repr(value))
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


def _extent(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(signs, values within values) of a node with its aliases written out; looks at each node once. Raises _Refused.

    known: extents by the identity of a node, None while the node is being looked at. An alias stands after its anchor,
    so that no more calls lie within each other than `compose_node` let pass.
    """
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 1, 0
    if id(node) in known:
        if (extent := known[id(node)]) is None:
            raise _Refused(problem="an alias stands inside of what it stands for", problem_mark=node.start_mark)
        return extent
    known[id(node)] = None
    children = node.value
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        firsts = {key.value: key for key in reversed(keys)}
        if (twice := next((key for key in keys if firsts[key.value] is not key), None)) is not None:
            problem = f"the key {masked(twice.value)} occurs twice: keep one"
            raise _Refused(problem=problem, problem_mark=twice.start_mark)
    parts = [_extent(child, known) for child in children]
    extent = 1 + sum(signs for signs, _ in parts), 1 + max((depth for _, depth in parts), default=0)
    if extent[1] > MOST_DEPTH:
        raise _too_deep(node.start_mark)
    known[id(node)] = extent
    return extent
