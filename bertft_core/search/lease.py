"""Who holds a running trial. Optuna's ask and tell have no heartbeat of their own, so the owner writes one."""

from __future__ import annotations

import os
import socket
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEASE_SECONDS = 5.0
STALE_SECONDS = 30.0  # six renewals missed


@dataclass(frozen=True, kw_only=True)
class Owner:
    """One coordinator. `began` tells its process from a later one with the same pid; run, prefect: where it works.

    machine: where `pid` means something. Hosts of one name, and containers that share one, each have their own.
    """

    run: str = ""
    prefect: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    began: int = field(default_factory=lambda: process_start(os.getpid()))
    machine: str = field(default_factory=lambda: machine_id())
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def lease(self, **facts: Any) -> dict[str, Any]:
        """What is stored with a trial: the owner, the time of this renewal and `facts` on the progress."""
        who = {"host": self.host, "machine": self.machine, "pid": self.pid, "began": self.began, "token": self.token}
        return {**who, "run": self.run, "prefect": self.prefect, "at": time.time(), **facts}

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Watch:
    """Judges leases of other owners. A process of this machine is asked for; another machine's renewals are watched.

    Clocks of two machines differ, so a lease from elsewhere is stale when this watch has seen it unchanged for
    30 s of its own clock: one that was never seen before counts as alive.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._seen: dict[int, tuple[float, float]] = {}

    def is_held(self, trial: int, lease: dict[str, Any]) -> bool:
        """Whether somebody else, or this owner, still works on the trial of this storage id."""
        if lease.get("released"):
            return False
        if lease["machine"] == self._owner.machine:
            return process_start(int(lease["pid"])) == int(lease["began"]) != 0
        at, first = self._seen.get(trial, (0.0, 0.0))
        now = time.monotonic()
        if at != lease["at"]:
            self._seen[trial] = (lease["at"], now)
            return True
        return now - first < STALE_SECONDS


def machine_id() -> str:
    """The boot of this machine and the namespace that its process ids count in; the host's name where /proc is not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> int:
    """Start of a process in clock ticks since boot, 0 when there is none (where /proc is missing: 1 while it lives)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0 if os.path.isdir("/proc/self") else int(_answers(pid))
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return 0 if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
