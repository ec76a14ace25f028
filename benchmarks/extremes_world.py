"""Where the cases of extremes.py happen: commands that are struck, rows, and what a home holds afterwards."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from nights_world import World

from bertft_core.testing.encoders import tiny_encoder

ROOT = Path(__file__).resolve().parents[1]
MAIN = "import sys; sys.argv[0] = 'bertft'; from flows.cli import main; sys.exit(main())"
# The command line, killed just before or after the n-th call of a function.
_STRUCK = """
import importlib, os, signal, sys
when, module, name, left = *{strike!r}, [{number}]
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
real = getattr(owner, last)
def struck(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(*args, **kwargs)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(owner, last, struck)
"""
LIMIT = 1500.0  # seconds of a command
GRACE = 20.0  # within which a command that was told to end is gone, with all its processes
NAME = "x"
TRAINING = {"epochs": 1, "batch_size": 32, "lr": 1e-3, "precision": "float32", "threads": 1}
FILLER = ("the", "a", "was", "of", "new", "old", "very", "on", "in", "and")
_WARM: list[tuple[Any, dict[str, str]]] = []  # where `warm` is on: its server, and what commands must know


def struck(when: str, module: str, name: str, number: int) -> str:
    """Code of the command line that dies before or after the n-th call of a function."""
    return _STRUCK.format(strike=(when, module, name), number=number) + MAIN


@dataclass(frozen=True, kw_only=True)
class Met:
    """What a command answered. said: its last line for people; megabytes: of its largest process.

    processor_seconds: of it and of those of its processes that it waited for.
    wrong: what should not be, in words: a Python trace, processes that outlive it, half of a result; "" for nothing.
    """

    code: int
    said: str
    seconds: float
    megabytes: float
    processor_seconds: float = 0.0
    wrong: str = ""

    def but(self, wrong: str) -> Met:
        """The same with something else that is wrong."""
        return replace(self, wrong="; ".join(filter(None, (self.wrong, wrong))))


@dataclass(frozen=True)
class Case:
    """A situation. expected: the right end in words; codes: the exit codes that are right.

    run: brings it about, in an empty folder; versions: in the folder of `trained`, which has so many.
    """

    name: str
    expected: str
    codes: tuple[int, ...]
    run: Callable[[Path], Met]
    versions: int = 0


class Command:
    """A bertft command at work: in a session of its own, or forked where `warm` is on."""

    def __init__(
        self, folder: Path, *arguments: str, code: str = MAIN, is_cold: bool = False, without: tuple[str, ...] = ()
    ) -> None:
        """code: what runs in place of the command line. is_cold: never forked. without: variables it does not get."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("BERTFT_", "PREFECT_", "MLFLOW_"))}
        environ |= {"BERTFT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for name in without:
            environ.pop(name, None)
        self.home = environ["BERTFT_HOME"]
        self.errors, self.output = folder / "err", folder / "out"
        self.begun, self.asked = time.monotonic(), 0.0
        self.most, self.used = 0.0, 0.0  # MB, processor seconds
        self.is_forked = bool(_WARM) and not is_cold
        if self.is_forked:
            server, settings = _WARM[0]
            known = environ | settings
            self.process = server.begin(
                arguments, known, folder, code="import os; os.setsid()\n" + code, out=self.output, errors=self.errors
            )
            return
        with open(self.errors, "wb") as errors, open(self.output, "wb") as output:
            line = [sys.executable, "-P", "-c", code, *arguments]
            self.process = subprocess.Popen(
                line, cwd=folder, env=environ, stdout=output, stderr=errors, start_new_session=True
            )

    def until(self, is_there: Callable[[], Any]) -> bool:
        """Wait until something is there; False where the command ended before, or took too long."""
        while not is_there():
            if self._has_ended() or time.monotonic() - self.begun > LIMIT:
                return False
            time.sleep(0.05)
        return True

    def send(self, *signals: int) -> Command:
        """Send signals, half a second between two; SIGINT to the whole group, as a terminal does."""
        for number in signals:
            with suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)
            time.sleep(0.5)
        self.asked = time.monotonic()
        return self

    def end(self) -> Met:
        """Wait for its end, and for that of its processes."""
        until = self.asked + GRACE if self.asked else self.begun + LIMIT
        is_late = False
        while not self._has_ended():
            if time.monotonic() > until and not is_late:
                is_late = True
                os.killpg(self.process.pid, signal.SIGKILL)
            time.sleep(0.1)
        code = self.process.wait()
        seconds, gone = time.monotonic() - self.begun, time.monotonic() + GRACE
        while (left := of_home(self.home)) and time.monotonic() < gone:
            time.sleep(0.1)
        text = self.errors.read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()] or [""]
        faults = {
            "a Python trace": "Traceback (most recent call last)" in text,
            f"does not end within {GRACE if self.asked else LIMIT:g} s": is_late,
            f"left running: {', '.join(left.values())}": left,
        }
        return Met(
            code=code,
            said=lines[-1][:300],
            seconds=round(seconds, 1),
            megabytes=round(self.most),
            processor_seconds=round(self.used, 1),
            wrong="; ".join(what for what, is_so in faults.items() if is_so),
        )

    def _has_ended(self) -> bool:
        """Whether it has; notes what it has used until now."""
        pid = self.process.pid
        with suppress(OSError, IndexError):
            used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self.used = max(self.used, sum(map(int, used[11:15])) / os.sysconf("SC_CLK_TCK"))
            for one in [pid, *_children(pid)]:
                lines = Path(f"/proc/{one}/status").read_text().splitlines()
                most = (int(x.split()[1]) * 1.024e-3 for x in lines if x.startswith("VmHWM:"))  # none of a dead one
                self.most = max(self.most, max(most, default=0.0))
        if self.is_forked:
            return self.process.poll() is not None
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _children(pid: int) -> list[int]:
    return [int(one) for file in Path(f"/proc/{pid}/task").glob("*/children") for one in file.read_text().split()]


@contextmanager
def warm(folder: Path) -> Iterator[None]:
    """Within, commands are forked from a process that has imported the libraries, and share one Prefect server.

    A tenth of the processor time; a command's memory then holds what that process had imported.
    """
    sys.path.insert(0, str(ROOT))
    from tests.command_server import CommandServer

    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder=folder, fresh=[], tree={})
    known = {**world.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = CommandServer({k: v for k, v in known.items() if k != "BERTFT_HOME"}, folder / "commands.log")
    try:
        world.start_server()
        _WARM.append((server, {key: known[key] for key in ("PREFECT_API_URL", "PREFECT_HOME")}))
        yield
    finally:
        _WARM.clear()
        server.close()
        world.close()


def of_home(home: str) -> dict[int, str]:
    """Living processes of commands on this home and what they are, but for the one that clears up after a command."""
    found, mark = {}, f"BERTFT_HOME={home}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and b"BERTFT_SESSION" not in words:
                found[int(pid)] = words.replace(b"\0", b" ").decode(errors="replace")[-60:].strip()
    return found


def bertft(folder: Path, *arguments: str, **more: Any) -> Met:
    """Run a command to its end."""
    return Command(folder, *arguments, **more).end()


def table(folder: Path, rows: list[dict[str, Any]], **sections: Any) -> None:
    """rows.csv, an encoder of random weights, run.yaml of the model `x`, a rule that lets every first version win."""
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tiny_encoder(folder / "encoder", layers=3, hidden=32, seed=1)
    settings: dict[str, Any] = {
        "name": NAME,
        "data": {"source": "rows.csv", "text": "text", "label": "label"},
        "model": {"pretrained": "encoder"},
        "tokenization": {"max_length": 24},
        "training": TRAINING,
        "evaluation": {"resamples": 200},
    }
    for section, values in sections.items():
        settings[section] = {**settings.get(section, {}), **values}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    (folder / "mlflow.yaml").write_text("promotion: {baseline: off}\n")
    (folder / "strict.yaml").write_text("promotion: {baseline: off, min_score: {accuracy: 1.01}}\n")


def learnable(count: int, classes: int = 3) -> list[dict[str, Any]]:
    """Rows whose class stands in their text."""
    rng = random.Random(0)
    return [
        {"text": f"{' '.join(rng.choices(FILLER, k=6))} word{i % classes} {i}", "label": f"class{i % classes}"}
        for i in range(count)
    ]


def trained(base: Path, *, versions: int = 1) -> Path:
    """A folder with a finished run of 600 rows and a search of two trials, as it was before any case.

    Its version is champion; versions: how many there are, of which the others were kept back. Made once below `base`,
    put back from a copy at each call. Raises RuntimeError where a run fails.
    """
    place, copy = base / "place", base / f"versions-{versions}"
    shutil.rmtree(place, ignore_errors=True)
    if not copy.exists():
        if versions == 1:
            place.mkdir(parents=True)
            table(place, learnable(600), search={"trials": 2}, training={"unfreezing": "late"})
            more: tuple[str, ...] = ()
        else:
            trained(base, versions=versions - 1)
            more = (f"training.alpha=0.{9 - versions}", "search.trials=0", "--mlflow", "strict.yaml")
        made = bertft(place, "run", "run.yaml", *more)
        if made.code:
            raise RuntimeError(f"bertft run: {made.said}")
        os.replace(shutil.copytree(place, copy.with_name(f".{copy.name}"), dirs_exist_ok=True), copy)
        return place
    return Path(shutil.copytree(copy, place))


# MLflow keeps the row of a deleted version
_VERSIONS = "SELECT version FROM model_versions WHERE current_stage <> 'Deleted_Internal' ORDER BY version"


def registered(folder: Path) -> dict[str, Any]:
    """What mlflow.db says: versions, aliases, (action, state, version) of the ledger, states of runs, weights."""
    with closing(sqlite3.connect(f"file:{folder}/home/mlflow.db?mode=ro", uri=True, timeout=30)) as database:

        def ask(what: str) -> list[Any]:
            return database.execute(what).fetchall()

        entries = [
            json.loads(value)
            for key, value in ask("SELECT key, value FROM registered_model_tags ORDER BY key")
            if key.startswith("mlflow.bertft.ledger.")
        ]
        return {
            "versions": [version for (version,) in ask(_VERSIONS)],
            "aliases": dict(ask("SELECT alias, version FROM registered_model_aliases")),
            "ledger": [(e["action"], e["state"], e["version"]) for e in entries],
            "unfinished": ask("SELECT count(*) FROM runs WHERE status = 'RUNNING'")[0][0],
            "weights": sorted(v for (v,) in ask("SELECT value FROM model_version_tags WHERE key = 'bertft.weights'")),
        }


def unlike(folder: Path, **wanted: Any) -> str:
    """What `registered` says else than wanted, in words."""
    found = registered(folder)
    return "; ".join(f"{k} is {found[k]}, not {v}" for k, v in wanted.items() if found[k] != v)
