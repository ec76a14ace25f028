"""Dates of rows: one reading for a whole table, and none that a value leaves in doubt."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any

from bertft_core.base.errors import DataError
from bertft_core.data.labels import FaultyRow

ISO, YEAR, DAY = "ISO 8601", "a year", "YYYYMMDD"
_YEARS = range(1900, 2200)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND = 1_000_000  # microseconds
# reading: units of 1e8 seconds to 1e10 seconds, which are dates from 1973 to 2286; a number between two is none
_UNITS = {
    "seconds since 1970": 1,
    "milliseconds since 1970": 1_000,
    "microseconds since 1970": 1_000_000,
    "nanoseconds since 1970": 1_000_000_000,
}
_WANTED = (
    "wanted ISO 8601 such as 2026-01-31, YYYYMMDD, a year, or seconds, milliseconds, microseconds or nanoseconds since "
    "1970 between 1973 and 2286"
)


def read_date(value: Any) -> tuple[int, str]:
    """Microseconds since 1970 (UTC where no zone is given), and how the value was read.

    A number is read by its size and digits; text of digits as the number, so that a table reads alike in every format.
    Raises FaultyRow for a missing date, and for a value that is none of these or could be several.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise FaultyRow("missing date")
    try:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.\d*)?(e\+?\d+)?\s*", value, re.I):
            value = int(value) if value.strip().isdigit() else float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _number(value)
        if isinstance(value, str):
            value = dt.datetime.fromisoformat(value.strip())
        if isinstance(value, dt.datetime):
            return _moment(value), ISO
        if isinstance(value, dt.date):
            return _moment(dt.datetime(value.year, value.month, value.day)), ISO
    except (ValueError, OverflowError):
        pass
    raise FaultyRow(f"unreadable date: {str(value)[:60]!r}, {_WANTED}")


def _moment(value: dt.datetime) -> int:
    aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // dt.timedelta(microseconds=1)


def _number(value: int | float) -> tuple[int, str]:
    """As `read_date`. Raises ValueError for a number that is no date."""
    if value == int(value):
        whole = int(value)
        if whole in _YEARS:
            return _moment(dt.datetime(whole, 1, 1)), YEAR
        if whole // 10_000 in _YEARS:
            return _moment(dt.datetime(whole // 10_000, whole // 100 % 100, whole % 100)), DAY
        value = whole
    for reading, units in _UNITS.items():
        if 10**8 * units <= value < 10**10 * units:
            return int(value * _SECOND // units), reading
    raise ValueError


class DateColumn:
    """The dates of one table (all files of a run), every one in the reading of the first."""

    def __init__(self) -> None:
        self._first: tuple[str, Any] | None = None

    def read(self, value: Any) -> int:
        """Microseconds since 1970. Raises FaultyRow as `read_date`, DataError for a second reading."""
        moment, reading = read_date(value)
        if self._first is None:
            self._first = reading, value
        if reading != self._first[0]:
            raise DataError(
                f"data.date: {str(self._first[1])[:60]!r} is {self._first[0]}, {str(value)[:60]!r} is {reading}; one "
                "table wants one: write all dates as ISO 8601 such as 2026-01-31"
            )
        return moment


def end_of(until: str) -> int:
    """Microseconds since 1970 of the first moment after `until`: a date counts to its end, a time includes itself."""
    try:
        day = dt.date.fromisoformat(until)
    except ValueError:
        return _moment(dt.datetime.fromisoformat(until)) + 1
    return _moment(dt.datetime(day.year, day.month, day.day)) + 86_400 * _SECOND
