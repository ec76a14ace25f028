"""What an examination finds, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found.

    severity: error (something is lost or is not what it was), warning (harms nothing now), note (nothing is wrong).
    where: a file, a version, a model. remedy: what to do. repair: mends it and says how, None where a person must.
    """

    severity: str
    where: str
    found: str
    remedy: str = ""
    repair: Callable[[], str] | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.found}"
