"""Names that come from outside: what a run, a registered model, an alias and a version may be called; names as files.

Whoever takes a name from an argument, a flow's parameter, a file or an environment variable asks its function here,
which raises ValueError with what was wanted. A name becomes part of a path by `file_name` alone.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

from bertft_core.base.errors import InputError
from bertft_core.base.text import is_all_visible

MOST_SIGNS = 255  # of a registered model's name: MLflow keeps 256
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # which Windows keeps for itself
# In a model's name MLflow refuses / and : and a path such as .., reads ? in a models:/ URI as the end of the name, and
# its queries break at quotes. It keeps `latest` and v<N> for itself. A name that begins with - would be an option.
_MODEL = re.compile(r"(?!\.$|\.\.|-)[^/:?\\'\"`]+")
_ALIAS = re.compile(r"(?!(?i:latest|v\d+)$)[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def run_name(value: str) -> str:
    """`value`, where a run, or the log of its nights, may be called so."""
    if not _is_file_name(value):
        raise ValueError(
            "must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit, with no '.' at the "
            "end, and no device of Windows (con, nul, com1)"
        )
    return value


def model_name(value: str, most: int = MOST_SIGNS) -> str:
    """`value`, where a registered model may be called so. What Unicode calls a compatible spelling counts too."""
    spellings = {value, unicodedata.normalize("NFKC", value)}
    if not _is_plain(value) or not 0 < len(value) <= most or not all(map(_MODEL.fullmatch, spellings)):
        raise ValueError(
            f"must be 1 to {most} signs: no / : ? \\, quotation mark, control sign or invisible sign, nor one that "
            "Unicode takes for them, no space at an end, no .. or - at the beginning; MLflow cannot hold or find such "
            "a name"
        )
    return value


def experiment_name(value: str, most: int = MOST_SIGNS) -> str:
    """`value`, where an experiment may be called so; MLflow takes / in it, and keeps 500 signs."""
    if not _is_plain(value) or not 0 < len(value) <= most:
        raise ValueError(f"must be 1 to {most} signs that can be seen, with no space at an end")
    return value


def alias_name(value: str) -> str:
    """`value`, where an alias of a registered model may be called so."""
    if not _ALIAS.fullmatch(value):
        raise ValueError("must be letters, digits, _ or -, not - at the beginning, and not latest or v<number>")
    return value


def version_number(value: str) -> str:
    """`value`, where it is the number of a version."""
    if not _VERSION.fullmatch(value):
        raise ValueError("must be the number of a version, such as 3")
    return value


def checked(kind: Callable[[str], str], value: str, what: str) -> str:
    """`value`, which `what` is called in the message of the InputError that is raised where it is no `kind`."""
    try:
        return kind(value)
    except ValueError as fault:
        shown = value if len(value) <= 80 else f"{value[:77]}..."
        raise InputError(f"{what} {fault}, was {shown!r}") from None


def file_name(name: str) -> str:
    """A name as part of a path: itself where that is plain, else a digest. Never two parts, hidden, or too long.

    >>> file_name("news.v2"), file_name("a/../../x") == file_name("a/../../x"), len(file_name("N" * 500))
    ('news.v2', True, 18)
    """
    return (
        name if _is_file_name(name) else f"n-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    )


def _is_plain(value: str) -> bool:
    return value == value.strip() and value.isprintable() and is_all_visible(value)


def _is_file_name(value: str) -> bool:
    return bool(_PLAIN.fullmatch(value)) and not value.endswith(".") and not _DEVICE.fullmatch(value)
