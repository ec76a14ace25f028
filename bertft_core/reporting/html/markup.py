"""Elements that escape by construction: a str is text and is escaped, only Markup passes as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

_NAME, _VALUE = 100, 300  # characters
_ENTRIES = 60
_VOID = {"meta", "br", "hr", "img", "path", "line", "rect", "circle", "polyline"}
# neither HTML nor XML may hold control characters and lone surrogates
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Markup(str):
    """Text that already is markup."""

    __slots__ = ()


Child = str | None


def text(value: str) -> Markup:
    """Escaped text; characters that no page may hold become U+FFFD.

    >>> text("<b> & \\x00")
    '&lt;b&gt; &amp; �'
    """
    return value if isinstance(value, Markup) else Markup(escape(_UNPRINTABLE.sub("\ufffd", value), quote=False))


def el(tag: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """One element; None children and None attributes are left out. `class_` is class, `aria_label` aria-label.

    >>> el("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_quoted(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{named}/>")
    return Markup(f"<{tag}{named}>{join(children)}</{tag}>")


def _quoted(value: str | float) -> str:
    return escape(_UNPRINTABLE.sub("\ufffd", str(value)), quote=True)


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Children side by side, text escaped."""
    return Markup(between.join(text(child) for child in children if child is not None))


def data(value: str, **attributes: str | None) -> Markup:
    """Text from the data, kept apart from the direction of the text around it."""
    return el("bdi", value, **attributes)


def clipped(value: str, most: int) -> str:
    """Text of one line and at most `most` characters, the last an ellipsis where something was cut."""
    joined = " ".join(value[: 8 * most].split())
    return joined if len(joined) <= most else joined[: most - 1].rstrip() + "…"


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """A number with a true minus sign; an en dash for None.

    >>> number(-0.25, 2, signed=True)
    '−0.25'
    """
    if value is None:
        return "–"
    shown = f"{value:{'+' if signed else ''},.{digits}f}"
    zero = not any(c in "123456789" for c in shown)
    return (shown.lstrip("+-") if zero else shown).replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.9254)
    '92.5 %'
    """
    return f"{100 * share:.{digits}f} %"


def span_of(interval: tuple[float, float] | None, digits: int = 4, signed: bool = False) -> str | None:
    """An interval as text, None for none.

    >>> span_of((0.5, 0.75), 2)
    '0.50 to 0.75'
    """
    if interval is None:
        return None
    return f"{number(interval[0], digits, signed)} to {number(interval[1], digits, signed)}"


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str | None = None) -> Markup:
    """A table in a box that scrolls by itself; the first cell of a row is its header, the others are numbers."""
    top = el("thead", el("tr", *(el("th", cell, scope="col") for cell in head)))
    lines = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    name = None if caption is None else el("caption", caption)
    return scroll(el("table", name, top, el("tbody", *lines)))


def scroll(content: Markup) -> Markup:
    """A box that scrolls sideways, reachable by keyboard."""
    return el("div", content, class_="scroll", tabindex="0")


def pairs(entries: Iterable[tuple[str, str]]) -> Markup:
    """Names and values as a definition list; both are cut where they are too long to be read."""
    found = [el("div", el("dt", data(name[:_NAME])), el("dd", data(value[:_VALUE]))) for name, value in entries]
    return el("dl", *found[:_ENTRIES])


def folded(summary: str, *content: Child) -> Markup:
    """Content behind a line that opens it."""
    return el("details", el("summary", summary), *content)
