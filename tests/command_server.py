"""Commands of `bertft`, each in a process forked from one that has imported the libraries once.

A cold import of torch, transformers, Prefect and MLflow is 8 s of processor time, more than the work of a command on
tiny data. All else is as in a process of its own: environment, working directory, output, exit code, death. What a
command starts (trainer, answers of versions) is forked too: each process is a child of the one that started it, with
the pipes it was given. Only /proc/PID/environ is that of the first process.

`Nursery` does the same for the tests' own process, whose trainers and answers are cold otherwise.

As a program: reads one command per line of stdin as JSON; answers with lines [process id, null] as it begins and
[process id, exit code as `subprocess` counts it] when it has ended. The end of stdin ends it. With a descriptor and a
process id as arguments: forks the children of that process, which asks for them through that socket.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import itertools
import json
import os
import queue
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

_LOADED = (
    "alembic.config",
    "cleanlab.rank",
    "datasets",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "prefect.flow_engine",
    "sklearn.linear_model",
    "sqlalchemy.dialects.sqlite",
    "transformers.models.bert.modeling_bert",
    "transformers.tokenization_utils_tokenizers",
    "bertft_core.serving.attribution",
    "bertft_core.training.loop",
    "bertft_core.training.scoring",
    "flows.nightly",
    "flows.release",
    "flows.scoring",
    "flows.search",
)
_OURS = ("bertft_core", "tasks", "flows")
_MAIN = "import sys; from flows.cli import main; sys.exit(main())"
IsMeant = Callable[[list[str], Any, Any], bool]  # of what stands behind -P, environment and working directory
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@dataclass(kw_only=True)
class Command:
    """A command at work, as `subprocess.Popen` shows it. out, errors: the files that it writes to."""

    pid: int
    out: Path
    errors: Path
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.code if self.ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired."""
        if not self.ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """kill -9, unless it has ended."""
        if not self.ended.is_set():
            os.kill(self.pid, signal.SIGKILL)

    def said(self) -> list[str]:
        """What it has written to stdout and stderr."""
        return [file.read_text(encoding="utf-8") for file in (self.out, self.errors)]


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
        self._folder = TemporaryDirectory()
        self._numbers = itertools.count()
        self._begun: queue.Queue[Command | None] = queue.Queue()
        self._lock = threading.Lock()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", log.read_text()
        threading.Thread(target=self._listen, daemon=True).start()

    def begin(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        cwd: Path,
        *,
        code: str = _MAIN,
        out: Path | None = None,
        errors: Path | None = None,
        cold_children: bool = False,
    ) -> Command:
        """A command that goes on. code: what runs in place of the command line. cold_children: start them anew."""
        number = next(self._numbers)
        out, errors = (file or Path(self._folder.name, f"{number}.{i}") for i, file in enumerate((out, errors)))
        for file in (out, errors):
            file.touch()  # who looks at a command that has just begun finds its files
        asked = {"arguments": arguments, "environment": environment, "cwd": str(cwd), "code": code}
        asked |= {"out": str(out), "errors": str(errors), "cold_children": cold_children}
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            command = self._begun.get(timeout=60)
        assert command is not None, "the command server has ended"
        command.out, command.errors = out, errors
        return command

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], cwd: Path, timeout: float, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does. Raises TimeoutExpired."""
        command = self.begin(arguments, environment, cwd, **how)
        try:
            code = command.wait(timeout)
        except subprocess.TimeoutExpired:
            command.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout, *command.said()) from None
        return subprocess.CompletedProcess(list(arguments), code, *command.said())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        running: dict[int, Command] = {}
        for line in self._process.stdout:
            pid, code = json.loads(line)
            if code is None:
                running[pid] = Command(pid=pid, out=Path(), errors=Path())
                self._begun.put(running[pid])
            else:
                command = running.pop(pid)
                command.code = code
                command.ended.set()
        self._begun.put(None)


class Nursery:
    """Forks for the tests' own process what `is_meant` says, from a process that begins with the first of them."""

    def __init__(self, environment: dict[str, str], is_meant: IsMeant) -> None:
        self._environment = environment
        self._wire: socket.socket | None = None
        self._undo = _fork_instead(self._begun, is_meant)

    def _begun(self) -> socket.socket:
        if self._wire is None:
            self._wire, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends = [str(there.fileno()), str(os.getpid())]
            command = [sys.executable, "-P", __file__, *ends]
            self._process = subprocess.Popen(command, env=self._environment, pass_fds=[there.fileno()])
            there.close()
        return self._wire

    def close(self) -> None:
        """Let processes be started anew again."""
        self._undo()
        if self._wire is not None:
            self._wire.close()
            self._process.wait()


def _load() -> None:
    """Import what commands use. They quieten the libraries before they import them, and so does this."""
    from flows.environment import QUIET

    os.environ |= QUIET
    warnings.filterwarnings("ignore")
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()


def _serve() -> dict[str, Any] | None:
    """Fork a process for each line of stdin; what was asked in that process, None here at the end."""
    buffer, running = b"", 0
    while True:
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running -= 1
            print(json.dumps([ended[0], os.waitstatus_to_exitcode(ended[1])]), flush=True)
        if not select.select([0], [], [], 0.02 if running else None)[0]:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            return None
        *lines, buffer = (buffer + read).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                return dict(json.loads(line))
            running += 1
            print(json.dumps([pid, None]), flush=True)


def _take(files: Sequence[int]) -> None:
    """Make these descriptors stdin, stdout and stderr."""
    for number, handle in enumerate(files):
        os.dup2(handle, number)
    for handle in {*files} - {0, 1, 2}:
        os.close(handle)


def _become(asked: dict[str, Any]) -> None:
    """Turn this forked process into the command's."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    os.chdir(asked["cwd"])
    written = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    _take([os.open(os.devnull, os.O_RDONLY), os.open(asked["out"], written), os.open(asked["errors"], written)])


def _fork_children() -> dict[str, Any] | None:
    """Let a sibling fork the Python programs that this command starts; in such a program what it is, else None.

    The sibling is forked now, before the command has threads. A child of its child, whose parent is gone, becomes the
    command's own, which has asked for orphans: so the command waits for it and is its parent, as of any child.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = os.getpid()
    if os.fork() == 0:
        here.close()
        return _serve_children(there, command)
    there.close()
    _fork_instead(lambda: here, lambda arguments, env, cwd: cwd is None)
    return None


def _fork_instead(wire: Callable[[], socket.socket], is_meant: IsMeant) -> Callable[[], None]:
    """From now on let the other end of `wire` fork the `python -P` programs that this process starts; the undoing."""
    lock, real = threading.Lock(), subprocess.Popen._execute_child  # type: ignore[attr-defined]
    libc = ctypes.CDLL(None)

    def execute(self: Any, args: Any, executable: Any, *rest: Any) -> None:
        cwd, env, files, new_session = rest[3], rest[4], rest[8:14], rest[-2]
        is_ours = isinstance(args, list) and args[:2] == [sys.executable, "-P"] and env is not None
        if not is_ours or not is_meant(args[2:], env, cwd):
            return real(self, args, executable, *rest)
        child_ends = [i if end == -1 else end for i, end in enumerate((files[0], files[3], files[5]))]
        asked = {"arguments": args[2:], "environment": dict(env), "new_session": bool(new_session)}
        asked["cwd"] = str(cwd or os.getcwd())
        with lock:
            forker = wire()
            libc.prctl(_SUBREAPER, 1)
            socket.send_fds(forker, [json.dumps(asked).encode()], child_ends)
            self.pid = int(forker.recv(32))
            libc.prctl(_SUBREAPER, 0)  # other orphans are none of this process's
        self._child_created = True
        self._close_pipe_fds(*files)
        return None

    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]
    return lambda: setattr(subprocess.Popen, "_execute_child", real)


def _serve_children(wire: socket.socket, command: int) -> dict[str, Any] | None:
    """Until the command ends: fork what it asks for, orphan it, and tell its process id."""
    while True:
        message, files, _, _ = socket.recv_fds(wire, 1 << 20, 3)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        if (middle := os.fork()) == 0:
            if (child := os.fork()) != 0:
                os.write(writer, str(child).encode())
                os._exit(0)
            wire.close()
            for end in (reader, writer):
                os.close(end)
            while os.getppid() != command:
                time.sleep(0.001)
            asked = dict(json.loads(message))
            if asked["new_session"]:
                os.setsid()
            os.environ.clear()
            os.environ.update(asked["environment"])
            time.tzset()
            os.chdir(asked["cwd"])
            _take(files)
            return asked
        for handle in (*files, writer):
            os.close(handle)
        os.waitpid(middle, 0)
        wire.send(os.read(reader, 32))
        os.close(reader)


def _run_child(arguments: list[str]) -> None:
    """Run what stands behind `python -P`: the trainer; code; or a file, for which our packages are unknown yet.

    A registered version brings its own.
    """
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
        return
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def _run() -> None:
    """Load, serve, and in each forked process run what it was forked for."""
    _load()
    if sys.argv[1:]:
        child = _serve_children(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
        assert child is not None
        return _run_child(child["arguments"])
    print("ready", flush=True)
    asked = _serve()
    if asked is None:
        return
    _become(asked)
    if not asked["cold_children"] and (child := _fork_children()) is not None:
        return _run_child(child["arguments"])
    sys.argv = ["-c", *asked["arguments"]]
    exec(asked["code"], {"__name__": "__main__"})


def _end(code: int) -> NoReturn:
    """End as the interpreter does, but without taking all modules apart: that is 0.6 s of processor time."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _run()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        _end(ended.code or 0)
    _end(0)
