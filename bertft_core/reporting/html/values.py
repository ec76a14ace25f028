"""How numbers, shares, intervals and long texts are written on a page."""

from __future__ import annotations


def clipped(value: str, most: int) -> str:
    """Text of one line and at most `most` characters, the last an ellipsis where something was cut."""
    joined = " ".join(value[: 8 * most].split())
    return joined if len(joined) <= most else joined[: most - 1].rstrip() + "…"


def number(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """A number with a true minus sign; an en dash for None.

    >>> number(-0.25, 2, signed=True)
    '−0.25'
    """
    if value is None:
        return "–"
    written = f"{value:{'+' if signed else ''},.{digits}f}"
    is_zero = not any(c in "123456789" for c in written)
    return (written.lstrip("+-") if is_zero else written).replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.9254)
    '92.5 %'
    """
    return f"{100 * share:.{digits}f} %"


def interval_text(interval: tuple[float, float] | None, digits: int = 4, *, signed: bool = False) -> str | None:
    """An interval as text, None for none.

    >>> interval_text((0.5, 0.75), 2)
    '0.50 to 0.75'
    """
    if interval is None:
        return None
    return f"{number(interval[0], digits, signed=signed)} to {number(interval[1], digits, signed=signed)}"


def counted(n: int, singular: str, plural: str = "") -> str:
    """A number of things, the noun in its right form.

    >>> counted(1, "row"), counted(2400, "class", "classes")
    ('1 row', '2,400 classes')
    """
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """A span of time in the unit that suits it.

    >>> duration(4000), duration(5820)
    ('67 min', '1 h 37 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
