"""What time it must be: the machine's clock, held against what it said before and how long the machine has run since.

A clock may be set wrong, be put right, or begin in 1970 where a battery is flat. What is counted by it (a budget, an
age) shall then neither begin anew nor stand still: a difference of more than a day is named and not believed.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DAY = 86_400.0  # seconds; zones and daylight saving time are less
_FIRST = 1_767_225_600.0  # 2026-01-01, seconds since 1970: there was no bertft before


@dataclass(frozen=True)
class Stamp:
    """What a machine's clocks say at one moment.

    wall: seconds since 1970, as somebody set them. ran: seconds since the machine was started, asleep or not, which
    nobody sets. boot: the name of that start, "" where the machine gives none.
    """

    wall: float
    ran: float
    boot: str

    @classmethod
    def now(cls) -> Stamp:
        """This moment on this machine."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot)
        except (OSError, AttributeError):  # not Linux
            return cls(time.time(), 0.0, "")

    @classmethod
    def read(cls, text: str) -> Stamp | None:
        """Inverse of `str`; None for another text."""
        parts = text.split(" ")
        try:
            return cls(float(parts[0]), float(parts[1]), parts[2])
        except (ValueError, IndexError):
            return None

    def __str__(self) -> str:
        return f"{self.wall:.0f} {self.ran:.0f} {self.boot}"


def believed(now: Stamp, past: Iterable[tuple[float, Stamp | None]]) -> tuple[float, str]:
    """The time that it must be (seconds since 1970), and in words how the clock differs from it; "" where it does not.

    past: what was believed before, the oldest first, each with its stamp where there is one. A stamp of the same start
    of this machine tells how long ago it was, unless the clock was not believed then, or said less than before. The
    earliest reading counts: a budget that was spent is not freed. Without such a stamp the clock itself is believed.
    """
    latest, readings = _FIRST, []
    for when, stamp in past:
        if stamp and stamp.boot and stamp.boot == now.boot and abs(stamp.wall - when) <= DAY and when >= latest - DAY:
            readings.append(when + now.ran - stamp.ran)
        latest = max(latest, when)
    said = f"the clock of this machine says {_shown(now.wall)}"
    if readings and abs(now.wall - (reading := min(readings))) > DAY:
        days = (now.wall - reading) / DAY
        return reading, (
            f"{said}, {abs(days):.0f} days {'more' if days > 0 else 'less'} than the time it has been running tells: "
            f"taken for {_shown(reading)}; set the clock, or restart this machine where the clock is right"
        )
    if not readings and now.wall < latest - DAY:
        return now.wall, f"{said}, earlier than what was written last, {_shown(latest)}: one of both clocks is wrong"
    return now.wall, ""


def in_order(times: Iterable[float], now: float) -> list[float]:
    """When things that happened one after the other may have happened at the latest, by the times written for them.

    A time of more than a day after `now` is none: the next one that is, else `now`, bounds it. One before an earlier
    one is lifted to that.

    >>> in_order([10.0, 5.0, 900_000.0, 30.0], 40.0)
    [10.0, 10.0, 30.0, 30.0]
    """
    found, next_one = list(times), now
    for i in reversed(range(len(found))):
        if found[i] > now + DAY:
            found[i] = next_one
        next_one = min(found[i], now)
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1])
    return found


def _shown(moment: float) -> str:
    return dt.datetime.fromtimestamp(max(0.0, min(moment, 1e11)), dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
