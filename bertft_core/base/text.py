"""Text for people and for comparison: Markdown, names in quotes, normalised spelling."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from bertft_core.base.display import one_line

NO_SPREAD = "no interval: the same on every row"


def multi_label_text(chosen: Sequence[Any], classes: Sequence[str]) -> str:
    """A set of labels as it stands in a cell, a JSON list; `chosen` holds 0 or 1 for each class.

    >>> multi_label_text([1, 0, 1], ["a", "b", "c"])
    '["a", "c"]'
    """
    return json.dumps([str(n) for n, flag in zip(classes, chosen, strict=True) if flag], ensure_ascii=False)


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun in the singular or the plural, which is `one` with an s unless it is given.

    >>> counted(1, "row"), counted(2_000, "row"), counted(1, "class is", "classes are")
    ('1 row', '2000 rows', '1 class is')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names behind each other, and how many more there are than `most`.

    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def rows_text(n: int, groups: int | None) -> str:
    """So many rows, and in how many groups where they have some.

    >>> rows_text(500, 25), rows_text(1, None)
    ('500 rows in 25 groups', '1 row')
    """
    return counted(n, "row") + ("" if groups is None else f" in {counted(groups, 'group')}")


def size_text(size: int) -> str:
    """Bytes in the unit that people use for so many, of a thousand each.

    >>> [size_text(size) for size in (400, 250_000, 3_000_000_000)]
    ['0.4 kB', '0.2 MB', '3.0 GB']
    """
    for unit, scale, least in (("GB", 1e9, 1e9), ("MB", 1e6, 1e5)):
        if size >= least:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def percent(share: float) -> str:
    """A share in percent, with three digits at most.

    >>> percent(0.05 / 30)
    '0.167 %'
    """
    return f"{share * 100:.3g} %"


def plain(text: str) -> str:
    """Text that may come from the data, safe inside a Markdown table: no new cell, line, tag, link or emphasis."""
    joined = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join("\\" + c if c in "\\`*_[]|$#" else c for c in joined)


def quoted(name: object) -> str:
    """A name that may come from the data, on one line, without control signs and in quotes.

    >>> quoted("a\\nclass")
    "'a class'"
    """
    return f"'{one_line(str(name))}'"


# Control characters that are no white space, and Unicode 15's Default_Ignorable_Code_Point: zero-width and format
# signs, variation selectors, fillers. Written out, so that another Python's Unicode moves no row.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)


def is_all_visible(text: str) -> bool:
    """Whether no sign of a text is one that nobody sees: control and format signs, fillers."""
    return _INVISIBLE.search(text) is None


def normalise(text: str) -> str:
    """NFC, casefolded, without invisible signs, every run of whitespace as one space, no space at the ends.

    "" for a text in which nothing can be seen.

    >>> normalise("  Caf\\u00e9\\n B\\u200bAR ") == normalise("cafe\\u0301 bar")
    True
    """
    if text.isascii():
        squeezed = " ".join(text.lower().split())
        return squeezed if squeezed.isprintable() else " ".join(_INVISIBLE.sub("", squeezed).split())
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).casefold().split())
