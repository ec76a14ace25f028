"""PostgreSQL by URL: a lock on the server itself, and which database errors pass. Knows no Optuna and no MLflow.

sqlalchemy is imported inside functions: only a run with a database on a server needs it here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bertft_core.base.display import masked
from bertft_core.base.errors import BusyError, StorageError

if TYPE_CHECKING:
    from sqlalchemy import Connection


_LOGGER = logging.getLogger(__name__)
CONNECT_SECONDS = 10  # libpq waits for ever by default
UNREACHABLE_SECONDS = 15.0  # a small server restarts in less
_POLL_SECONDS = 0.25
_LOCK_TIMEOUT = "55P03"  # lock_not_available (PostgreSQL, appendix A)


def is_postgres(uri: str) -> bool:
    """Whether a URI names a PostgreSQL database, with or without a driver."""
    return uri.partition("://")[0].partition("+")[0] in {"postgresql", "postgres"}


def lock_key(name: str) -> int:
    """The 64-bit signed key of a lock's name: blake2b, so that every machine computes the same."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "big", signed=True)


def connect_arguments(url: str) -> dict[str, Any]:
    """What a connection needs beyond its URL: it gives up on a silent server, and says who it is.

    A dead host answers nothing: without keepalives a query waits for it for two hours (tcp_keepalive_time).
    A connect_timeout in the URL wins.
    """
    settings: dict[str, Any] = {
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,  # milliseconds
        "application_name": f"bertft {os.getpid()} on {os.uname().nodename}"[:63],
    }
    return settings if "connect_timeout=" in url else {**settings, "connect_timeout": CONNECT_SECONDS}


def check_server(url: str) -> None:
    """Connect once. Raises StorageError naming the masked URL and the reason within about 10 s."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _connect(url).close()
    except SQLAlchemyError as fault:
        raise _unanswered(url, fault) from fault


@contextlib.contextmanager
def advisory_lock(url: str, name: str, what: str, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock `name` of a database; PostgreSQL frees it when the connection or the process ends.

    It belongs to a transaction of a connection of its own rather than to the session, so that a pooler such as
    pgbouncer may stand in between. Raises BusyError naming the holder after `timeout_seconds`, StorageError when
    the server does not answer for 15 s. A connection lost while the lock is held is logged, not raised: the
    caller's work is done by then.
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    key, started = lock_key(name), time.monotonic()
    while True:
        waited = time.monotonic() - started
        try:
            connection = _take(_connect(url), key, timeout_seconds - waited)
            break
        except DBAPIError as fault:
            if (getattr(fault.orig, "sqlstate", None) or getattr(fault.orig, "pgcode", None)) == _LOCK_TIMEOUT:
                raise BusyError(
                    f"{what} is held by {_holder(url, key)}: wait for it, then run the command again"
                ) from fault
            if not is_passing(fault) or waited >= min(timeout_seconds, UNREACHABLE_SECONDS):
                raise _unanswered(url, fault) from fault
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        try:
            connection.commit()
        except SQLAlchemyError as fault:
            _LOGGER.warning("the lock for %s was lost before its end: %s", what, short_reason(fault))
        finally:
            connection.close()


def _take(connection: Connection, key: int, seconds: float) -> Connection:
    """Lock on `connection`, which then stays in its transaction; on any error it is closed."""
    from sqlalchemy import text

    milliseconds = max(1, round(1000 * seconds))  # 0 means no limit
    try:
        connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(url: str) -> Connection:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(url, poolclass=NullPool, connect_args=connect_arguments(url)).connect()


def _holder(url: str, key: int) -> str:
    """The application name of the lock's holder (ours says process and host), for a message."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    query = text(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
        "AND granted AND ((classid::bigint << 32) | objid::bigint) = :key AND pg_locks.database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    try:
        with _connect(url) as connection:
            name = connection.execute(query, {"key": key}).scalar()
    except SQLAlchemyError:
        name = None
    return f"`{name}`" if name else "another process"


def is_passing(fault: BaseException) -> bool:
    """Whether the same operation may succeed in a while: a lost connection, a restarting server, a locked file.

    Looks through the causes of `fault`, since Optuna wraps what sqlalchemy raises.
    """
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    if isinstance(fault, BusyError):
        return False
    for link in _chain(fault):
        if isinstance(link, PendingRollbackError | PoolTimeoutError):
            return True
        if isinstance(link, DBAPIError):
            if type(link.orig).__module__.startswith("sqlite3"):
                return "is locked" in str(link.orig)
            return link.connection_invalidated or isinstance(link, OperationalError | InterfaceError)
    return False


def short_reason(fault: BaseException) -> str:
    """The database's own first line, without SQL, links or credentials."""
    lines = str(fault).strip().splitlines() or [type(fault).__name__]
    return database_reason(fault) or masked(lines[0])


def database_reason(fault: BaseException) -> str | None:
    """As `short_reason`; None where no database raised what `fault` came from."""
    from sqlalchemy.exc import DBAPIError

    inner = next((link.orig for link in _chain(fault) if isinstance(link, DBAPIError) and link.orig), None)
    return None if inner is None else masked((str(inner).strip().splitlines() or [type(inner).__name__])[0])


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    while fault is not None:
        yield fault
        fault = fault.__cause__


def _unanswered(url: str, fault: BaseException) -> StorageError:
    return StorageError(
        f"{masked(url)} cannot be used ({short_reason(fault)}): check that the server runs, that the database "
        "exists, and the user and password in the URL (or PGUSER and PGPASSWORD)"
    )
