"""Commands of `bertft`, each in a process forked from one that has imported the libraries once.

A cold import of torch, transformers, Prefect and MLflow is 8 s of processor time, more than the work of a command on
tiny data. All else is as in a process of its own: environment, working directory, output, exit code, death.

As a program: reads one command per line of stdin as JSON, answers with the process id, then the exit code as
`subprocess` counts it, a line each. The end of stdin ends it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_LOADED = (
    "cleanlab.rank",
    "datasets",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "sklearn.linear_model",
    "transformers.models.bert.modeling_bert",
    "flows.nightly",
    "flows.release",
    "flows.scoring",
    "flows.search",
)


class CommandServer:
    """The side of the tests. environment: of all commands, as far as libraries read it when they are imported."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with open(log, "w") as handle:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                text=True,
            )
        while (line := self._answer()) != "ready":
            assert line or self._process.poll() is None, log.read_text()

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], cwd: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does. Raises TimeoutExpired."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            asked = {"arguments": arguments, "environment": environment, "cwd": str(cwd)}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
            self._process.stdin.flush()
            late = threading.Event()
            timer = threading.Timer(timeout, _kill, (int(self._answer()), late))
            timer.start()
            code = int(self._answer())
            timer.cancel()
            said = [file.read_text(encoding="utf-8") for file in (out, err)]
        if late.is_set():
            raise subprocess.TimeoutExpired(list(arguments), timeout, *said)
        return subprocess.CompletedProcess(list(arguments), code, *said)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


def _kill(pid: int, late: threading.Event) -> None:
    late.set()
    os.kill(pid, signal.SIGKILL)


def _load() -> None:
    """Import what commands use. They quieten the libraries before they import them, and so does this."""
    from flows.environment import QUIET

    os.environ |= QUIET
    warnings.filterwarnings("ignore")
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()


def _become(asked: dict[str, Any]) -> list[str]:
    """Turn this forked process into the command's; its arguments."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    written = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, file, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], written), (2, asked["err"], written)):
        handle = os.open(file, flags)
        os.dup2(handle, number)
        os.close(handle)
    return list(asked["arguments"])


def _serve() -> list[str] | None:
    """Fork a process for each line of stdin; its arguments in that process, None here at the end."""
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            return _become(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    _load()
    print("ready", flush=True)
    if (given := _serve()) is not None:
        from flows.cli import main

        sys.exit(main(given))
