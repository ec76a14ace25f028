"""The one statement that data.query may be."""

from __future__ import annotations

import re

# what is no part of a statement: strings, quoted names, comments
_OPAQUE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


def select_only(query: str) -> str:
    """The query without a last semicolon. Raises ValueError for anything but one SELECT (WITH … SELECT).

    A statement that writes within a WITH is refused by the session, which may only read (`data/elsewhere.py`).

    >>> select_only("SELECT text, label FROM mails;")
    'SELECT text, label FROM mails'
    """
    query = query.strip().removesuffix(";")
    bare = _OPAQUE.sub(lambda found: " " if found[0][0] in "-/" else "''", query)
    if not re.match(r"\s*(select|with)\b", bare, re.IGNORECASE):
        raise ValueError("wanted a SELECT, which reads and changes nothing")
    if ";" in bare:
        raise ValueError("holds several statements: wanted one SELECT")
    return query
