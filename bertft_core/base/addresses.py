"""Paths as addresses and back: sqlite URLs and file: URIs, as SQLAlchemy and MLflow read them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"
PASSWORD_FAULT = "must not hold a password"


def holds_password(url: str) -> bool:
    """Whether an address that people write down holds a password or a key.

    >>> holds_password("postgresql://me:hidden@host/db"), holds_password("s3://bucket/x?token=abc"), holds_password("a")
    (True, True, False)
    """
    if "://" not in url:
        return False
    return urlsplit(url).password is not None or bool(
        re.search(r"(?i)[?&][^=&]*(password|token|secret|key)[^=&]*=", url)
    )


def is_elsewhere(source: str) -> bool:
    """Whether rows lie at an address, or at that in a variable (env:NAME): not in a file, in a package or on the hub.

    >>> [is_elsewhere(source) for source in ("s3://bucket/rows.csv", "env:MAILS", "hf://ag_news", "rows.csv")]
    [True, True, False, False]
    """
    return bool(re.match(r"env:|(?!hf:|package:)[A-Za-z][\w+.-]*://", source))


def sqlite_url(file: Path) -> str:
    """The URL of an sqlite file for MLflow, Optuna and Prefect: SQLAlchemy takes its path as it is, up to a `?`.

    `home.open_home` refuses a folder with one.
    """
    return f"{SQLITE}{file}"


def sqlite_file(url: str) -> Path | None:
    """The file of an sqlite URL, without what follows a `?`; None for any other URL and for a database in memory."""
    name = url.removeprefix(SQLITE).partition("?")[0]
    return None if not url.startswith(SQLITE) or name in ("", ":memory:") else Path(name)


def artifact_uri(folder: Path) -> str:
    """An absolute folder as MLflow takes it for an artefact root.

    MLflow decodes %XX in a plain path, and parses it as a URI to append to it: a path with a sign that has a meaning
    there is written as a file: URI.

    >>> artifact_uri(Path("/data/of bertft")), artifact_uri(Path("/data/50%"))
    ('/data/of bertft', 'file:///data/50%25')
    """
    return str(folder) if re.fullmatch(r"[\w/. ~+,@=-]*", str(folder)) else folder.as_uri()


def local_path(uri: str) -> Path | None:
    """The path of a local folder or file: URI; None for an address elsewhere.

    >>> local_path("file:///data/50%25"), local_path("s3://bucket/x")
    (PosixPath('/data/50%'), None)
    """
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return None if "://" in uri else Path(uri)
