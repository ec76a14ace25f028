"""The world of thirty_nights.py: rows that arrive, a Prefect server, nights that are killed, a small disk."""

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
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import yaml

BERTFT = "import sys; from flows.cli import main; sys.exit(main())"
NAME = "nights"
ZONE = "Europe/Berlin"  # on 2026-03-29 its clocks jump from 02:00 to 03:00
_POLL_SECONDS = 0.005  # a stage of the tiny form lasts a tenth of a second
Row = tuple[str, str]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process(Protocol):
    """A command at work: what is used of `subprocess.Popen`."""

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


def start_anew(arguments: list[str], environment: dict[str, str], cwd: Path, out: Path, errors: Path) -> Process:
    """`bertft` with these arguments in a fresh interpreter."""
    with open(out, "wb") as printed, open(errors, "wb") as said:
        command = [sys.executable, "-P", "-c", BERTFT, *arguments]
        return subprocess.Popen(command, env=environment, cwd=cwd, stdout=printed, stderr=said)


@dataclass(frozen=True, kw_only=True)
class Lived:
    """A night that was lived through: the document it printed, its exit code, its wall seconds, what befell it."""

    document: dict[str, Any]
    code: int
    seconds: float
    told: str = ""


@dataclass(kw_only=True)
class World:
    """Folders, server and commands of one run of the benchmark. fresh: all rows; taken: how many have arrived.

    start: begins a command (arguments, environment, working directory, files of its stdout and stderr). place: of
    BERTFT_HOME in the folder; variables: further ones of every command.
    """

    folder: Path
    fresh: list[Row]
    tree: dict[str, Any]
    start: Callable[[list[str], dict[str, str], Path, Path, Path], Process] = start_anew
    taken: int = 0
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None
    is_mounted: bool = False
    place: str = "home"
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """BERTFT_HOME."""
        return self.folder / self.place

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
        own = {"BERTFT_HOME": str(self.home), "PREFECT_HOME": str(self.folder / "prefect"), "TZ": ZONE}
        own |= {"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api", "DO_NOT_TRACK": "true"}
        return {**kept, **own, **self.variables}

    def prepare(self) -> None:
        """Folders, configuration, and a rule under which the first version is champion, however poor."""
        self.rows.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(exist_ok=True)
        self.config.write_text(yaml.safe_dump({"name": NAME, **self.tree}), encoding="utf-8")
        (self.folder / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")

    def start_server(self) -> None:
        """Start Prefect's server; wait until it answers."""
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**self.environment, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        environment.pop("PREFECT_API_URL")
        self.server = subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 600
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
            subprocess.run(["umount", "-l", str(self.home)], check=False)

    # ---- rows

    def arrive(self, date: str, rows: list[Row], name: str | None = None) -> Path:
        """A file of rows written at half past two local time, an hour that one night does not have."""
        file, written = self.rows / f"{name or date}.csv", datetime.fromisoformat(f"{date}T02:30:00")
        moment = written.replace(tzinfo=ZoneInfo(ZONE)).isoformat()
        with open(file, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label", "day"), *((t, y, moment) for t, y in rows)])
        return file

    def take(self, count: int) -> list[Row]:
        """The next rows that nobody has seen."""
        self.taken += count
        return self.fresh[self.taken - count : self.taken]

    def arrived(self) -> list[str]:
        """The texts of all rows that lie in the folder."""
        texts = []
        for file in sorted(self.rows.glob("*.csv")):
            with open(file, newline="", encoding="utf-8") as handle:
                texts += [row["text"] for row in csv.DictReader(handle)]
        return texts

    # ---- commands

    def night(self, date: str, *more: str) -> Lived:
        """One night to its end."""
        return self.wait(self.begin(date, *more))

    def begin(self, date: str, *more: str) -> Begun:
        """A night that goes on while something else happens."""
        return self._begin(f"night-{date}", "nightly", str(self.config), "--as-of", date, "--live", "--json", *more)

    def _begin(self, what: str, *arguments: str) -> Begun:
        out, errors = (self.folder / f"{what}-{time.monotonic_ns()}.{kind}" for kind in ("json", "log"))
        process = self.start(list(arguments), self.environment, self.folder, out, errors)
        return Begun(process=process, out=out, errors=errors)

    def wait(self, begun: Begun) -> Lived:
        """The night's end."""
        code = begun.process.wait(timeout=1800)
        seconds, said = time.monotonic() - begun.since, begun.errors.read_text(encoding="utf-8").strip().splitlines()
        try:
            document = json.loads(begun.out.read_text(encoding="utf-8"))
        except ValueError:
            document = {"outcome": "no document", "reason": said[-1][:300] if said else "nothing was printed"}
        return Lived(document=document, code=code, seconds=seconds)

    def kill_in(self, stage: Stage, date: str, *more: str, known: set[Path]) -> str:
        """Begin a night, kill -9 it as soon as the stage has begun; what came of it. known: runs of earlier nights."""
        begun, deadline = self.begin(date, *more), time.monotonic() + 600
        while begun.process.poll() is None and not stage.has_begun(self, begun, known):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        was_running = begun.process.poll() is None
        begun.process.kill()
        begun.process.wait()
        if not was_running:
            return f"{stage.name}: had ended before the kill"
        where = "after its end" if stage.is_over(self, begun, known) else "in it"
        return f"{stage.name}: killed {where}"

    def bertft(self, *arguments: str) -> dict[str, Any]:
        """Another verb's document. Ends the benchmark where it fails."""
        begun = self._begin(arguments[0], *arguments, "--json")
        if begun.process.wait(timeout=1800):
            said = begun.errors.read_text(encoding="utf-8")[-2000:]
            raise SystemExit(f"bertft {' '.join(arguments)}: {said}")
        return dict(json.loads(begun.out.read_text(encoding="utf-8")))

    def clean_up(self) -> tuple[float, float]:
        """`bertft gc` of all that nobody needs, be it a minute old: megabytes before and after."""
        before = self.used_megabytes()
        self.bertft("gc", "--keep", "1", "--days", "0", "--apply")
        return before, self.used_megabytes()

    # ---- disk

    def mount(self, gigabytes: int) -> None:
        """Put BERTFT_HOME on a disk of its own, a file in a loop, where that is allowed (root on Linux)."""
        self.home.mkdir(parents=True, exist_ok=True)
        image = self.folder / "disk.img"
        if not image.exists():
            with open(image, "wb") as handle:
                handle.truncate(gigabytes * 10**9)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", str(image)], check=False, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(self.home)]
        try:
            self.is_mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.is_mounted = False

    def fill_disk(self, left: int) -> Path:
        """A file that leaves `left` bytes of the small disk."""
        ballast = self.home / "ballast"
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(self.home).free
        with open(ballast, "wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, free - left)
        return ballast

    def used_megabytes(self) -> float:
        """Bytes below BERTFT_HOME, in 10^6."""
        files = (f for f in self.home.rglob("*") if f.is_file() and f.name != "ballast")
        return sum(f.stat().st_size for f in files) / 1e6


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A night at work, and the files it writes to."""

    process: Process
    out: Path
    errors: Path
    since: float = field(default_factory=time.monotonic)

    def has_said(self, words: bytes) -> bool:
        """Whether a line on stderr begins so."""
        return any(line.startswith(words) for line in self.errors.read_bytes().splitlines())


Sign = Callable[[World, Begun, set[Path]], bool]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a stage is seen from outside, by the files and lines that it leaves."""

    name: str
    has_begun: Sign
    is_over: Sign


def runs(world: World) -> set[Path]:
    """Folders of all runs."""
    return set(world.home.glob("runs/[!.]*"))


def _made(name: str) -> Sign:
    """Whether the night's run has this file or folder."""
    return lambda world, begun, known: any((run / name).exists() for run in runs(world) - known)


def _stored(key: str) -> Sign:
    """Whether run.json of the night's run holds the key."""

    def is_there(world: World, begun: Begun, known: set[Path]) -> bool:
        files = [run / "run.json" for run in runs(world) - known]
        return any(key in json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists())

    return is_there


def _at_work(world: World, begun: Begun, known: set[Path]) -> bool:
    return (world.home / "nights" / f"{NAME}.open.json").exists()


def _has_read(world: World, begun: Begun, known: set[Path]) -> bool:
    return begun.has_said(b"ingest: ")


STAGES = (
    Stage(name="ingest", has_begun=_at_work, is_over=_has_read),
    Stage(name="tokenize", has_begun=_has_read, is_over=_stored("settings")),
    Stage(
        name="search",
        has_begun=lambda world, begun, known: any(world.home.glob("search/*/trial-*")),
        is_over=_made("fit"),
    ),
    Stage(name="finetune", has_begun=_made("fit"), is_over=_stored("fit")),
    Stage(name="evaluate", has_begun=_made("evaluation"), is_over=_stored("evaluated")),
    Stage(name="release", has_begun=_made("evaluation/evidence.json"), is_over=_stored("result")),
)
