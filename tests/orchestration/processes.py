"""Looking at processes that a test started."""

from __future__ import annotations

import time
from pathlib import Path


def is_gone(pid: int, seconds: float = 5) -> bool:
    """Whether the process has ended, or ends within so long; a zombie has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
