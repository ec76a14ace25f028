"""A kill in the middle of a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """Nothing catches it."""


def killer(at_step: int) -> Callable[[float, dict[str, Any]], None]:
    """A listener that ends the fit by `Killed` once it is told of this step."""

    def on_progress(fraction: float, facts: dict[str, Any]) -> None:
        if facts["step"] >= at_step:
            raise Killed

    return on_progress
