"""Commands that are killed at one spot, or told to end; the same command then ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from extremes_world import LIMIT, Case, Command, Met, bertft, learnable, registered, struck, table, unlike
from nights_world import free_port

_KILLED = -signal.SIGKILL
_ONE = {"versions": [1], "aliases": {"champion": 1}, "ledger": [("promoted", "done", "1")], "unfinished": 0}
_STATES = "SELECT state, count(*) FROM trials GROUP BY state"
_undisturbed: dict[str, list[str]] = {}


def undisturbed(folder: Path) -> list[str]:
    """The weights of the same run that nothing happened to, in a folder beside; asked once a start of the script."""
    if "weights" not in _undisturbed:
        beside = folder / "undisturbed"
        beside.mkdir()
        table(beside, learnable(600))
        bertft(beside, "run", "run.yaml")
        _undisturbed["weights"] = registered(beside)["weights"]
    return _undisturbed["weights"]


def struck_run(*strike: Any) -> Callable[[Path], Met]:
    """A run killed at a spot, then the same command: one version, one entry, champion, the undisturbed weights."""

    def run(folder: Path) -> Met:
        table(folder, learnable(600))
        first = bertft(folder, "run", "run.yaml", code=struck(*strike))
        if first.code != _KILLED:
            return first.but("it was not struck")
        again = bertft(folder, "run", "run.yaml")
        return again.but(first.wrong).but(unlike(folder, **_ONE, weights=undisturbed(folder)))

    return run


def struck_tell(*strike: Any) -> Callable[[Path], Met]:
    """A search of 4 trials killed in a tell, then the same command: each slot is finished once."""

    def run(folder: Path) -> Met:
        table(folder, learnable(150), search={"trials": 4})
        first = bertft(folder, "search", "run.yaml", code=struck(*strike))
        if first.code != _KILLED:
            return first.but("it was not struck")
        again = bertft(folder, "search", "run.yaml").but(first.wrong)
        with closing(sqlite3.connect(folder / "home" / "search" / "studies.db")) as database:
            states = dict(database.execute(_STATES))
        is_whole = set(states) <= {"COMPLETE", "PRUNED"} and sum(states.values()) == 4
        return again if is_whole else again.but(f"trials: {states}")

    return run


def struck_cleaning(*strike: Any) -> Callable[[Path], Met]:
    """gc of three versions, of which one may go, killed at a spot; then the same again, and the run is unchanged."""

    def run(folder: Path) -> Met:
        clean = ("gc", "--keep", "1", "--days", "0", "--apply")
        first = bertft(folder, *clean, code=struck(*strike))
        if first.code != _KILLED:
            return first.but("it was not struck")
        again = bertft(folder, *clean).but(first.wrong)
        again = again.but(unlike(folder, versions=[1, 3], aliases={"champion": 1, "challenger": 3}))
        left = [str(path.relative_to(folder)) for path in (folder / "home").rglob("*.removed")]
        return again.but(f"left: {left}" if left else "")

    return run


def signalled(*signals: int) -> Callable[[Path], Met]:
    """A run that is told to end in its fit; then the same command, which goes on and ends well."""

    def run(folder: Path) -> Met:
        table(folder, learnable(600), training={"epochs": 60})
        command = Command(folder, "run", "run.yaml")
        if not command.until(lambda: any(folder.glob("home/runs/*/fit/checkpoint*"))):
            return command.end().but("it ended before it was told to")
        told = command.send(*signals).end()
        again = bertft(folder, "run", "run.yaml")
        told = told.but(again.wrong if again.code == 0 else f"the same command: exit {again.code}, {again.said}")
        return told.but(unlike(folder, **_ONE))

    return run


def server_killed(folder: Path) -> Met:
    """kill -9 of the embedded Prefect server in a fit; then the same command."""
    table(folder, learnable(600), training={"epochs": 60})
    command = Command(folder, "run", "run.yaml", is_cold=True)
    command.until(lambda: any(folder.glob("home/runs/*/fit/checkpoint*")))
    servers = [pid for pid in processes() if _is_server(pid, str(folder / "home"))]
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    first = command.end()
    if not servers:
        return first.but("there was no server to kill")
    again = bertft(folder, "run", "run.yaml")
    first = first.but(again.wrong if again.code == 0 else f"the same command: exit {again.code}, {again.said}")
    return first.but(unlike(folder, **{**_ONE, "unfinished": registered(folder)["unfinished"]}))


def processes() -> list[int]:
    """All process ids."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_server(pid: int, home: str) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        is_ours = f"BERTFT_HOME={home}".encode() in environ.split(b"\0")
        return is_ours and any(word in words for word in (b"uvicorn", b"prefect.server", b"stack.guard"))
    return False


def child_of_up_killed(name: str) -> Callable[[Path], Met]:
    """kill -9 of one service of `bertft up`: all end, and it is said which was killed."""

    def run(folder: Path) -> Met:
        ports = [f"--{service}-port={free_port()}" for service in ("prefect", "mlflow")]
        command = Command(folder, "up", *ports, "--json", is_cold=True)
        if not command.until(lambda: command.output.stat().st_size):
            return command.end().but("it did not come up")
        word = {"prefect": b"guard\0prefect", "mlflow": b"guard\0mlflow", "worker": b"worker\0start"}[name]
        home = f"BERTFT_HOME={folder / 'home'}".encode()
        killed = [pid for pid in processes() if _has(pid, word, home)]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        command.asked = time.monotonic()
        met = command.end()
        said = command.errors.read_text(errors="replace")
        met = met if killed else met.but("there was nothing to kill")
        told = f"bertft up: {name} ended (signal SIGKILL)"
        line = next((line for line in said.splitlines() if line.startswith(told)), "")
        return replace(met, said=line or met.said).but("" if line else f"nobody says {told!r}")

    return run


def _has(pid: int, word: bytes, home: bytes) -> bool:
    with suppress(OSError):
        return word in Path(f"/proc/{pid}/cmdline").read_bytes() and home in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def flipped_checkpoint(folder: Path) -> Met:
    """One bit in the checkpoint of a killed fit; then the same command begins the fit anew and ends alike."""
    table(folder, learnable(600), training={"epochs": 60})
    command, pattern = Command(folder, "run", "run.yaml"), "home/runs/*/fit/checkpoint.safetensors"
    command.until(lambda: any(folder.glob(pattern)))
    os.killpg(command.process.pid, signal.SIGKILL)
    met = command.end()
    files = list(folder.glob(pattern))
    if not files:
        return met.but(f"no checkpoint was written within {LIMIT:g} s")
    flip(files[0])
    again = bertft(folder, "run", "run.yaml")
    return again.but(unlike(folder, **_ONE))


def flip(file: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = np.frombuffer(file.read_bytes(), dtype=np.uint8).copy()
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content.tobytes())


_WRITES = ("mlflow", "MlflowClient.set_registered_model_alias")  # 1: challenger, 2: champion
_DELETE = ("mlflow", "MlflowClient.delete_model_version")
_REGISTER = ("after", "bertft_core.recipe.release", "register", 1)
_ON = "the same command goes on and ends like an undisturbed one"
_ENDS = "all processes end within 20 s; the same command goes on"
CASES = [
    Case("kill -9 between registration and ledger", _ON, (0,), struck_run(*_REGISTER)),
    Case("kill -9 before the champion's alias moves", _ON, (0,), struck_run("before", *_WRITES, 2)),
    Case("kill -9 after the champion's alias has moved", _ON, (0,), struck_run("after", *_WRITES, 2)),
    Case("kill -9 in a tell, before Optuna's", _ON, (0,), struck_tell("before", "optuna", "Study.tell", 2)),
    Case("kill -9 in a tell, after Optuna's", _ON, (0,), struck_tell("after", "optuna", "Study.tell", 2)),
    Case("kill -9 of gc --apply within a folder", _ON, (0,), struck_cleaning("before", "os", "rmdir", 1), versions=3),
    Case("kill -9 of gc --apply within a version", _ON, (0,), struck_cleaning("before", *_DELETE, 1), versions=3),
    Case("kill -9 of the embedded Prefect server in a fit", "one line; " + _ENDS, (0, 1), server_killed),
    *(
        Case(f"kill -9 of {name} below `bertft up`", "all end, the killed one is named", (1,), child_of_up_killed(name))
        for name in ("prefect", "mlflow", "worker")
    ),
    Case("SIGTERM in a fit", _ENDS, (1, 143, -15), signalled(signal.SIGTERM)),
    Case("SIGHUP in a fit", _ENDS, (1, 129, -1), signalled(signal.SIGHUP)),
    Case("Ctrl-C twice in a fit", _ENDS, (1, 130), signalled(signal.SIGINT, signal.SIGINT)),
    Case("flipped bit in a checkpoint", "the fit begins anew", (0,), flipped_checkpoint),
]
