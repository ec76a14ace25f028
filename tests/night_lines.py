"""What a night says while it works, kept for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Lines:
    """Keeps what a night says, and what its stages took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.seconds[name] = 0.0
        yield
