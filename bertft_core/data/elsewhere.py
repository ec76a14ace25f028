"""Rows that lie elsewhere, as a file while they are read: objects of a store, the answer of a database, of a plug-in.

A plug-in is one function: given the address and data.query, it yields the rows, each a mapping. It is declared as an
entry point of the group bertft.sources under the address's scheme (docs/plugins.md). Rows have no order there: they are
written sorted, so that the same rows are the same file tonight and tomorrow.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from bertft_core.base import plugins
from bertft_core.base.display import masked
from bertft_core.base.errors import BertftError, ConfigError, DataError, StorageError, fault_text
from bertft_core.base.postgres import connect_arguments, is_passing, short_reason
from bertft_core.base.sqlite_files import open_to_read
from bertft_core.data.formats import cell

GROUP = "bertft.sources"
_SORTED = 50_000  # rows in memory
_CHUNK = 1_000  # rows that a database sends at a time
Row = Mapping[str, Any]


def fetch(text: str, query: str | None, base_dir: Path, folder: Path, key: str) -> Path:
    """What stands at an address, as a file (or a folder of files) in `folder`, which is made.

    query: the SELECT for a database, or what a plug-in makes of it. A relative sqlite file starts at base_dir.
    Raises, naming `key`: DataError for what is not there or holds no rows, StorageError for what does not answer,
    ConfigError for a missing package.
    """
    address = _address(text, key)
    scheme = address.partition("://")[0]
    folder.mkdir(parents=True, exist_ok=True)
    entry = plugins.find(GROUP, scheme)
    if entry is not None:
        return _stored(_plugged(entry, address, query, key), folder / f"{scheme}.jsonl", key)
    if query is not None:
        return _stored(_answer(address, query, base_dir, key), folder / f"{scheme.partition('+')[0]}.jsonl", key)
    return _copied(address, folder, key)


def _address(text: str, key: str) -> str:
    if not text.startswith("env:"):
        return text
    name = text.removeprefix("env:")
    address = os.environ.get(name, "")
    if "://" not in address:
        found = "is not set" if not address else "holds no address"
        raise DataError(f"{key}: the environment variable {name} {found}; wanted scheme://… in it")
    return address


def _stored(rows: Iterable[Row], target: Path, key: str) -> Path:
    """The rows as JSON lines, sorted; chunks are sorted in memory and merged from files."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch, contextlib.ExitStack() as stack:
        lines, chunks = (json.dumps(_plain(row, key)) + "\n" for row in rows), list[Path]()
        while chunk := sorted(itertools.islice(lines, _SORTED)):
            chunks.append(Path(scratch, str(len(chunks))))
            chunks[-1].write_text("".join(chunk), encoding="ascii")
        if not chunks:
            raise DataError(f"{key}: the answer holds no rows; wanted labelled rows")
        parts = [stack.enter_context(open(chunk, encoding="ascii")) for chunk in chunks]
        with open(target, "w", encoding="ascii") as handle:
            handle.writelines(heapq.merge(*parts))
    return target


def _plain(row: Any, key: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{key}: wanted each row as a mapping of columns, found {type(row).__name__}")
    return {str(name): cell(value) for name, value in row.items()}


def _plugged(entry: EntryPoint, address: str, query: str | None, key: str) -> Iterator[Row]:
    read = plugins.load(key, entry)
    try:
        yield from read(address, query)
    except BertftError:
        raise
    except Exception as fault:  # somebody else's code
        raise StorageError(
            f"{key}: {masked(address)}: the source {entry.value} failed ({fault_text(fault)})"
        ) from fault


def _answer(address: str, query: str, base_dir: Path, key: str) -> Iterator[Row]:
    """Rows of a SELECT, streamed, in a session that may only read where the database knows such."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    shown = masked(address)
    settings: dict[str, Any] = {}
    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite":
            file = base_dir / Path(url.database or "").expanduser()
            if not file.is_file():
                raise DataError(f"{key}: {shown}: no such file (looked at {file})")
            settings["creator"] = lambda: open_to_read(file)
        elif url.drivername == "postgresql+psycopg":
            settings["connect_args"] = connect_arguments(address)
        engine = create_engine(url, **settings)
        read_only = {"postgresql_readonly": True} if url.get_backend_name() == "postgresql" else {}
        try:
            with engine.connect().execution_options(
                stream_results=True, yield_per=_CHUNK, no_parameters=True, **read_only
            ) as connection:
                answer = connection.exec_driver_sql(query)
                names = list(answer.keys())
                if twice := [name for name in names if names.count(name) > 1]:
                    raise DataError(f"data.query: column {twice[0]!r} comes {names.count(twice[0])} times: rename one")
                yield from (dict(row) for row in answer.mappings())
        finally:
            engine.dispose()
    except NoSuchModuleError:
        raise ConfigError(f"{key}: {shown}: SQLAlchemy knows no such database; its package may be missing") from None
    except ImportError as fault:
        extra = "pip install 'bertft[postgres]'" if address.startswith("postgresql+psycopg:") else "install its driver"
        raise ConfigError(f"{key}: {shown}: {fault}: {extra}") from None
    except (SQLAlchemyError, ValueError) as fault:
        kind = StorageError if is_passing(fault) else DataError
        raise kind(f"{key}: {shown}: {short_reason(fault)}") from fault


def _copied(address: str, folder: Path, key: str) -> Path:
    """A copy of an object, or of all below a prefix, by fsspec."""
    import fsspec

    shown = masked(address)
    try:
        store, path = fsspec.core.url_to_fs(address)
    except ImportError as fault:
        raise ConfigError(f"{key}: {shown}: a package is missing ({fault})") from None
    except ValueError:
        known = ", ".join(sorted(plugins.installed(GROUP).names)) or "none"
        raise DataError(
            f"{key}: {shown}: unknown scheme; wanted a path, package://NAME/path, hf://owner/name, s3:// or gs://, a "
            f"database with data.query, or that of a plug-in (installed: {known})"
        ) from None
    target = folder / (path.rstrip("/").rpartition("/")[2].strip(".") or "rows")  # never .. or hidden
    try:
        store.invalidate_cache()
        if not store.exists(path):
            raise DataError(f"{key}: {shown}: no such object or folder")
        store.get(path, str(target), recursive=store.isdir(path))
    except BertftError:
        raise
    except Exception as fault:  # each store has errors of its own
        raise StorageError(f"{key}: {shown}: cannot be read ({fault_text(fault)})") from fault
    return target
