"""Looking at processes of a test, through /proc: `ps` and a cut-off line tell different things in different places."""

from __future__ import annotations

import time
from pathlib import Path


def _stat(pid: int) -> list[str]:
    """State, parent and so on; none of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def is_gone(pid: int, seconds: float = 5) -> bool:
    """Whether the process has ended, or ends within so long; a zombie has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def processes(*, home: Path | None = None, parent: int | None = None, doing: str = "") -> dict[int, str]:
    """Living processes, their whole command lines by id: of a home, below a process, with a text in the line."""
    found = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if home else []
        except (OSError, ValueError):
            continue
        if home and f"BERTFT_HOME={home}".encode() not in environment:
            continue
        if parent is not None and _stat(pid)[1:2] != [str(parent)]:
            continue
        if doing in line and is_alive(pid):
            found[pid] = line
    return found
