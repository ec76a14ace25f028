"""Measurements as JSON lines, one a finished part: a second start of a benchmark skips what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Records:
    """The finished parts of one benchmark in one file, each under a key, all measured with the same settings.

    >>> records = Records(Path("/tmp/x.jsonl"), {"rows": 10})  # doctest: +SKIP
    >>> records.get("round 1") or records.add("round 1", {"seconds": 2.0})  # doctest: +SKIP
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Read what `path` holds; ends the program when it was measured with other settings."""
        self.path = path
        self._found: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        if lines and lines[-1]:  # half a line, from a kill: cut off
            path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
        for line in lines[:-1]:
            entry = json.loads(line)
            self._found[entry["key"]] = entry["value"]
        known = self._found.get("settings")
        if known is None:
            self.add("settings", settings)
        elif known != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} was measured with other settings, {known}: name another file with --out")

    def get(self, key: str) -> dict[str, Any] | None:
        """The finished part, None where it is still to be measured."""
        return self._found.get(key)

    def matching(self, prefix: str) -> dict[str, dict[str, Any]]:
        """The finished parts whose keys begin with `prefix`, by the rest of the key."""
        return {key.removeprefix(prefix): value for key, value in self._found.items() if key.startswith(prefix)}

    def add(self, key: str, value: dict[str, Any]) -> dict[str, Any]:
        """Keep a finished part; returns it as it will be read back."""
        text = json.dumps({"key": key, "value": value})
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(text + "\n")
        self._found[key] = json.loads(text)["value"]
        return self._found[key]


def conclude(found: Any, show: Callable[[Any], None], out: Path, *, is_json: bool) -> None:
    """The end of a benchmark: one JSON document, or the tables and where the measurements lie."""
    if is_json:
        print(json.dumps(found, indent=1))
        return
    show(found)
    print(f"measurements: {out}")
