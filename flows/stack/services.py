"""Programs that come up together, each once what it needs is healthy, are watched, and end together."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertft_core.base.display import masked
from bertft_core.base.errors import StackError, fault_text

LOG_BYTES = 10_000_000  # of one log; as much again is kept beside it
START_SECONDS = 180.0  # the slowest service takes 16 s on two idle cores
_LOOK_SECONDS = 0.2
_ROTATE_SECONDS = 60.0
_DEPENDENT_SECONDS, _OTHER_SECONDS = 5.0, 3.5  # from SIGTERM to SIGKILL; all ends within 10 s
_TAIL_LINES, _TAIL_BYTES = 15, 8192


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program to keep running. arguments: of this Python interpreter. address: where a person finds it.

    is_healthy: takes when it was started (seconds since 1970); may raise OSError or ValueError for an answer that
    is not there yet. when_healthy: called once, after that. needs: names of services that must be healthy first.
    """

    name: str
    arguments: tuple[str, ...]
    address: str
    environment: Mapping[str, str] = field(repr=False)
    is_healthy: Callable[[float], bool]
    when_healthy: Callable[[], None] | None = None
    needs: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Running:
    """A started service. seconds: until it was healthy, None before. answer: its last one until then, in words."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    since: float
    seconds: float | None = None
    answer: str = "no answer"

    def look(self) -> None:
        """Ask once whether it is healthy."""
        try:
            is_healthy = self.service.is_healthy(self.since)
        except (OSError, ValueError, http.client.HTTPException) as fault:
            self.answer = fault_text(fault)
            return
        if not is_healthy:
            self.answer = "it answers, but is not ready"
            return
        if self.service.when_healthy is not None:
            self.service.when_healthy()
        self.seconds = round(time.time() - self.since, 1)

    def is_left(self) -> bool:
        """Whether it or a child in its process group still runs."""
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Stack:
    """Services of one command. is_stopped: whether the user asked for the end."""

    def __init__(
        self, services: Sequence[Service], logs: Path, *, is_stopped: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        self._waiting = list(services)
        self._running: list[_Running] = []
        self._logs = logs
        self._is_stopped = is_stopped
        self._say = say

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start all, independent ones at once, and return when each is healthy.

        Raises StackError when one ends or is not healthy after `seconds`, KeyboardInterrupt when the user stops it.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + seconds
        while self._waiting or self._unhealthy():
            healthy = {one.service.name for one in self._running if one.seconds is not None}
            for service in [s for s in self._waiting if healthy.issuperset(s.needs)]:
                self._waiting.remove(service)
                self._launch(service)
            for one in self._unhealthy():
                one.look()
                if one.seconds is not None:
                    self._say(f"{one.service.name} is healthy after {one.seconds:.1f} s: {one.service.address}")
            self._raise_if_ended()
            if self._is_stopped():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                late = [f"{one.service.name} ({masked(one.answer)}; log {one.log})" for one in self._unhealthy()]
                raise StackError(f"not healthy after {seconds:.0f} s: {', '.join(late)}: read the log, then try again")
            time.sleep(_LOOK_SECONDS)

    def watch(self) -> None:
        """Return when the user asks for the end. Raises StackError when a service ends before that."""
        due = time.monotonic() + _ROTATE_SECONDS
        while not self._is_stopped():
            self._raise_if_ended()
            if time.monotonic() > due:
                due += _ROTATE_SECONDS
                for one in self._running:
                    rotate(one.log, LOG_BYTES)
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """End all within 10 s, those that need others first: SIGTERM, then SIGKILL for what remains."""
        dependent = [one for one in self._running if one.service.needs]
        others = [one for one in self._running if not one.service.needs]
        for group, seconds in ((dependent, _DEPENDENT_SECONDS), (others, _OTHER_SECONDS)):
            deadline = time.monotonic() + seconds
            for one in group:
                one.signal(signal.SIGTERM)
            while any(one.is_left() for one in group) and time.monotonic() < deadline:
                time.sleep(0.05)
            for one in group:
                one.signal(signal.SIGKILL)
                one.process.wait()

    def shown(self) -> list[dict[str, Any]]:
        """Name, address, process id, seconds until healthy and log of each service, in the order of their start."""
        return [
            {
                "name": one.service.name,
                "address": one.service.address,
                "pid": one.process.pid,
                "seconds": one.seconds,
                "log": str(one.log),
            }
            for one in self._running
        ]

    def _unhealthy(self) -> list[_Running]:
        return [one for one in self._running if one.seconds is None]

    def _launch(self, service: Service) -> None:
        """Start it in a session of its own, so that a Ctrl-C reaches it in our order, and in the logs' folder."""
        log = self._logs / f"{service.name}.log"
        rotate(log, 0)
        since = time.time()
        with open(log, "ab") as out:  # appending, so that it may be emptied meanwhile
            process = subprocess.Popen(
                [sys.executable, *service.arguments],
                env=dict(service.environment),
                cwd=self._logs,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(_Running(service=service, process=process, log=log, since=since))

    def _raise_if_ended(self) -> None:
        for one in self._running:
            if (code := one.process.poll()) is not None:
                how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
                raise StackError(
                    f"{one.service.name} ended ({how}), the rest is stopped; {one.log} ends with\n{tail(one.log)}"
                )


def rotate(log: Path, limit: int) -> None:
    """Move what a log holds to LOG.1 where it is longer than `limit` bytes; a program that appends goes on in it."""
    if log.exists() and log.stat().st_size > limit:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def tail(log: Path) -> str:
    """The last lines of a log, indented, without credentials."""
    with open(log, "rb") as handle:
        handle.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = handle.read().decode("utf-8", errors="replace").splitlines()[1 if handle.tell() > _TAIL_BYTES else 0 :]
    return "\n".join(f"  {masked(line)}" for line in lines[-_TAIL_LINES:] if line.strip()) or "  (nothing)"
