"""Where studies live: a sqlite or journal file, or PostgreSQL; with a lock, and calls that outlast a restart."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from bertft_core.base.addresses import SQLITE, sqlite_url
from bertft_core.base.display import masked
from bertft_core.base.errors import ConfigError, StorageError
from bertft_core.base.files import make_private
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.names import file_name
from bertft_core.base.postgres import advisory_lock, check_server, connect_arguments, is_passing, short_reason

P = ParamSpec("P")
T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
_THREAD = threading.local()
PATIENCE_SECONDS = 300.0  # a server's restart with its recovery takes a minute or two
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between two attempts
# What opening a file of something else, a full disk or tables of another Optuna raise.
_UNUSABLE = (
    SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
)
_SQLITE, _JOURNAL, _POSTGRES = SQLITE, "journal:///", "postgresql+psycopg://"


def _is_to_be_told(record: logging.LogRecord) -> bool:
    """Of what Optuna says of our calls its warnings; of calls of a program around us all, as that has set it up."""
    return record.levelno >= logging.WARNING or not getattr(_THREAD, "is_calling", False)


@dataclass(frozen=True, kw_only=True)
class StudyStorage:
    """An opened storage. optuna: what `create_study` takes. url: holds the password; shown: does not.

    file: of sqlite and journal, absolute; None for PostgreSQL. patience_seconds: how long `call` repeats.
    """

    optuna: BaseStorage = field(repr=False)
    url: str = field(repr=False)
    shown: str
    file: Path | None
    patience_seconds: float = PATIENCE_SECONDS

    def lock(self, name: str, timeout_seconds: float = 60.0) -> contextlib.AbstractContextManager[None]:
        """Exclude every other thread, process and (PostgreSQL) machine that locks `name`; not reentrant.

        Freed when the process dies. Steps that must be seen together go into one function given to `call` that
        takes the lock inside: a lock on a server is lost with its connection.
        Raises BusyError after `timeout_seconds`, StorageError when the server does not answer.
        """
        return _lock(self.url, self.file, self.shown, name, timeout_seconds)

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args, **kwargs)`, repeated for `patience_seconds` while the connection is lost or the file locked.

        An operation whose answer was lost runs twice, so `fn` must bear its own first attempt: `study.tell` needs
        `skip_if_finished=True`, and `study.ask` may leave a RUNNING trial behind that nobody knows. Within `fn`, a
        further `call` does not repeat by itself.
        Raises StorageError when patience ends and when the database refuses, such as on a full disk; at once
        whatever else `fn` raises.
        """
        if getattr(_THREAD, "is_calling", False):
            return fn(*args, **kwargs)
        _THREAD.is_calling = True
        try:
            return self._repeat(lambda: fn(*args, **kwargs))
        finally:
            _THREAD.is_calling = False

    def _repeat(self, fn: Callable[[], T]) -> T:
        started, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                return fn()
            except Exception as fault:
                if not is_passing(fault):
                    if isinstance(fault, SQLAlchemyError | optuna.exceptions.StorageInternalError):
                        reason, remedy = short_reason(fault), "check free space and rights of it; what it holds is kept"
                        if "malformed" in reason or "not a database" in reason:
                            remedy = "it is damaged: restore it, or move it away and the search begins anew"
                        raise StorageError(f"{self.shown} refused ({reason}): {remedy}") from fault
                    raise
                if time.monotonic() - started + wait > self.patience_seconds:
                    raise StorageError(
                        f"{self.shown} did not answer for {self.patience_seconds:.0f} s ({short_reason(fault)}): "
                        "start the database again, then the same command; finished trials are kept"
                    ) from fault
                if wait == _FIRST_WAIT:
                    _LOGGER.warning(
                        "%s does not answer (%s): trying again for up to %.0f s",
                        self.shown,
                        short_reason(fault),
                        self.patience_seconds,
                    )
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def dashboard_command(self) -> str:
        """The shell command that opens this storage in optuna-dashboard (0.21), without credentials."""
        if self.file is not None:
            prefix = _SQLITE if self.url.startswith(_SQLITE) else ""
            return f"optuna-dashboard {shlex.quote(f'{prefix}{self.file}')}"
        if self.shown == self.url:
            return f"optuna-dashboard {shlex.quote(self.url)}"
        return f'optuna-dashboard "$BERTFT_STORAGE"  # BERTFT_STORAGE={shlex.quote(self.shown)}, with the password'


def open_storage(url: str | None, home: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> StudyStorage:
    """Open the storage of `search.storage`, made where missing; None is the sqlite file home/search/studies.db.

    url: sqlite:///FILE, journal:///FILE (a relative FILE starts at `home`) or postgresql+psycopg://. Raises
    ConfigError for any other, and when psycopg is missing; StorageError within about 15 s when it cannot be used.
    """
    for handler in logging.getLogger("optuna").handlers:
        handler.addFilter(_is_to_be_told)
    wanted = url or sqlite_url(Path(home).resolve() / "search" / "studies.db")
    file = _file(wanted, Path(home).resolve())
    if file is None:
        _require_psycopg()
        check_server(wanted)
    else:
        wanted = f"{_JOURNAL if wanted.startswith(_JOURNAL) else _SQLITE}{file}"
        _make_folder(file)
    shown = masked(wanted)
    try:
        with _lock(wanted, file, shown, "schema", 60.0):  # two first users would both create the tables
            if file is not None:
                make_private(file)
            storage = _opened(wanted, file)
    except _UNUSABLE as fault:
        raise StorageError(
            f"search.storage {shown} cannot be used ({short_reason(fault)}): restore it, move it away (its unfinished "
            "searches begin anew), or name another file or database"
        ) from fault
    return StudyStorage(optuna=storage, url=wanted, shown=shown, file=file, patience_seconds=patience_seconds)


def _file(url: str, home: Path) -> Path | None:
    """The absolute file of a sqlite or journal URL, None for PostgreSQL. Raises ConfigError for any other URL."""
    if re.match(r"postgresql\+psycopg://.", url):
        return None
    for prefix in (_SQLITE, _JOURNAL):
        name = url.removeprefix(prefix)
        if name not in (url, "", ":memory:") and not re.search(r"[?]|/$", name):
            return (home / Path(name).expanduser()).resolve()
    hint = f" (write {_POSTGRES}: the driver by name)" if re.match(r"postgres(ql)?(\+\w+)?:", url) else ""
    raise ConfigError(
        f"search.storage must be sqlite:///FILE, journal:///FILE or {_POSTGRES}USER:PASSWORD@HOST/DATABASE, "
        f"was {masked(url)}{hint}"
    )


def _require_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as fault:
        raise ConfigError(
            f"search.storage {_POSTGRES} needs psycopg, which cannot be imported ({fault}): "
            "pip install 'bertft[postgres]'"
        ) from fault


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"search.storage: {file.parent} cannot be made ({fault.strerror}): name another") from fault


def _opened(url: str, file: Path | None) -> BaseStorage:
    if url.startswith(_JOURNAL):
        storage = JournalStorage(JournalFileBackend(str(file), lock_obj=cast(Any, _JournalLock(str(file)))))
        storage.get_all_studies()  # reads the file: a damaged one is refused now
        return storage
    literal = url.replace("{", "{{").replace("}", "}}")  # RDBStorage takes its URL for a template
    if file is not None:
        return RDBStorage(literal)
    return RDBStorage(literal, engine_kwargs={"pool_pre_ping": True, "connect_args": connect_arguments(url)})


@contextlib.contextmanager
def _lock(url: str, file: Path | None, shown: str, name: str, timeout_seconds: float) -> Iterator[None]:
    what = f"the lock {name} of {shown}"
    if file is None:
        with advisory_lock(url, f"bertft.search.{name}", what, timeout_seconds):
            yield
        return
    with exclusive(file.with_name(f"{file.name}.{file_name(name)}.lock"), what, timeout_seconds):
        yield


class _JournalLock:
    """Optuna's own lock is a link that outlives kill -9: the others wait 30 s for it. The kernel frees this one.

    Half a line, left by a full disk or a power cut, is cut off: with a further line behind it the file would be
    unreadable for ever, and no reader takes a line without its end.
    """

    def __init__(self, path: str) -> None:
        self._path, self._lock = path, contextlib.ExitStack()

    def acquire(self) -> bool:
        self._lock.enter_context(exclusive(f"{self._path}.append.lock", f"an append to {self._path}", FOREVER))
        _cut_half_line(self._path)
        return True

    def release(self) -> None:
        self._lock.close()


def _cut_half_line(path: str) -> None:
    with open(path, "rb+") as handle:
        end = handle.seek(0, os.SEEK_END)
        if end == 0:
            return
        handle.seek(end - 1)
        if handle.read(1) != b"\n":
            handle.seek(0)
            handle.truncate(handle.read().rfind(b"\n") + 1)
