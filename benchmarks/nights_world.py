"""The world of thirty_nights.py: rows that arrive, a Prefect server, commands that are killed, a small disk."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BERTFT = "import sys; from flows.cli import main; sys.exit(main())"
NAME = "nights"
Row = tuple[str, str]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class World:
    """Folders, server and commands of one run of the benchmark. fresh: rows that have not arrived yet."""

    folder: Path
    fresh: Iterator[Row]
    tree: dict[str, Any]
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None
    arrived: list[Row] = field(default_factory=list)
    is_mounted: bool = False

    @property
    def home(self) -> Path:
        """BERTFT_HOME."""
        return self.folder / "home"

    @property
    def rows(self) -> Path:
        """The folder that the configuration reads."""
        return self.folder / "rows"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "nights.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: the time zone has a daylight-saving change among the nights."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "BERTFT_"))}
        own = {"BERTFT_HOME": str(self.home), "PREFECT_HOME": str(self.folder / "prefect"), "TZ": "Europe/Berlin"}
        return {**kept, **own, "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api", "DO_NOT_TRACK": "true"}

    def prepare(self) -> None:
        """Folders, configuration, and a server that answers."""
        self.rows.mkdir(parents=True)
        self.home.mkdir()
        self.config.write_text(yaml.safe_dump({"name": NAME, **self.tree}), encoding="utf-8")
        self.start_server()

    def start_server(self) -> None:
        """Start Prefect's server; wait until it answers."""
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**self.environment, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        environment.pop("PREFECT_API_URL")
        self.server = subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 180
        while not self._answers():
            if time.monotonic() > deadline:
                raise SystemExit(f"the Prefect server did not answer: {self.folder / 'server.log'}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop_server(self) -> None:
        """End the server and its children."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            self.server = None

    def close(self) -> None:
        """Leave nothing behind but the folder."""
        self.stop_server()
        if self.is_mounted:
            subprocess.run(["umount", str(self.home)], check=False)

    # ---- rows

    def arrive(self, date: str, rows: list[Row], name: str | None = None) -> Path:
        """A file of rows dated `date`."""
        file = self.rows / f"{name or date}.csv"
        with open(file, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(
                [("text", "label", "day"), *((t, y, f"{date}T01:30:00+01:00") for t, y in rows)]
            )
        self.arrived += rows
        return file

    def take(self, count: int) -> list[Row]:
        """The next rows that nobody has seen."""
        return [row for row, _ in zip(self.fresh, range(count), strict=False)]

    # ---- commands

    def command(self, *arguments: str) -> list[str]:
        """`bertft` with these arguments."""
        return [sys.executable, "-P", "-c", BERTFT, *arguments]

    def night(self, date: str, *more: str) -> tuple[dict[str, Any], int]:
        """One night to its end: the document it prints, and its exit code."""
        done = subprocess.run(
            self.command("nightly", str(self.config), "--as-of", date, "--live", "--json", *more),
            env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=1800, check=False,
        )  # fmt: skip
        try:
            return json.loads(done.stdout), done.returncode
        except ValueError:
            line = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "nothing was printed"
            return {"outcome": "no document", "reason": line[:300]}, done.returncode

    def begin(self, date: str) -> subprocess.Popen[str]:
        """A night that goes on while something else happens."""
        return subprocess.Popen(
            self.command("nightly", str(self.config), "--as-of", date, "--live", "--json"), env=self.environment,
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill_when(self, date: str, is_there: Callable[[], bool], seconds: float = 240.0) -> str:
        """Begin a night, kill -9 it as soon as `is_there`; how far it came."""
        process, begun = self.begin(date), time.monotonic()
        while process.poll() is None and not is_there() and time.monotonic() - begun < seconds:
            time.sleep(0.02)
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        return f"killed after {time.monotonic() - begun:.1f} s" if was_running else "had ended before the kill"

    def bertft(self, *arguments: str) -> dict[str, Any]:
        """Another verb's document. Ends the benchmark where it fails."""
        done = subprocess.run(
            self.command(*arguments, "--json"), env=self.environment, cwd=self.folder, capture_output=True, text=True,
            timeout=1800, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"bertft {' '.join(arguments)}: {done.stderr[-2000:]}")
        return dict(json.loads(done.stdout))

    # ---- disk

    def mount(self, megabytes: int) -> bool:
        """Put BERTFT_HOME on a small disk of its own, where that is allowed (root on Linux)."""
        self.home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "bertft-nights", str(self.home)],
            capture_output=True, check=False,
        )  # fmt: skip
        self.is_mounted = done.returncode == 0
        return self.is_mounted

    def fill_disk(self, left: int) -> Path:
        """A file that leaves `left` bytes of the small disk."""
        ballast = self.home / "ballast"
        free = shutil.disk_usage(self.home).free
        with open(ballast, "wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, free - left)
        return ballast

    def used_megabytes(self) -> float:
        """Bytes below BERTFT_HOME, in 10^6."""
        return sum(f.stat().st_size for f in self.home.rglob("*") if f.is_file()) / 1e6
