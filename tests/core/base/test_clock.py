"""Clocks that jump: what is believed, what is named, and that nothing is freed or stands still for it."""

from __future__ import annotations

import subprocess
import time

import pytest

from bertft_core.base.clock import DAY, Stamp, believed, in_order

NOON = 1_800_000_000.0  # seconds since 1970, some day of 2027


def at(days: float, *, off: float = 0.0, boot: str = "a") -> Stamp:
    """A stamp so many days after NOON, on a machine that was started at NOON, by a clock that is `off` days ahead."""
    return Stamp(NOON + (days + off) * DAY, days * DAY, boot)


def told(now: Stamp, *past: Stamp) -> tuple[float, str]:
    """What is believed of a clock after it was believed as it was at each moment before; days after NOON."""
    known: list[tuple[float, Stamp | None]] = []
    for stamp in past:
        known.append((believed(stamp, known)[0], stamp))
    moment, odd = believed(now, known)
    return (moment - NOON) / DAY, odd


def test_stamp_of_this_machine_is_read_back_and_runs_on() -> None:
    first = Stamp.now()
    time.sleep(0.05)
    second = Stamp.now()
    assert Stamp.read(str(first)) == Stamp(round(first.wall), round(first.ran), first.boot) and first.boot
    assert 0.04 < second.ran - first.ran < 5 and second.boot == first.boot
    other = subprocess.run(["cat", "/proc/sys/kernel/random/boot_id"], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first.boot


@pytest.mark.parametrize("text", ["", "x", "1 2", "now then here", "nan"])
def test_a_stamp_that_is_none_is_no_evidence(text: str) -> None:
    assert Stamp.read(text) is None


def test_a_clock_that_goes_right_is_believed() -> None:
    assert told(at(3), at(1), at(2)) == (3, "")
    assert told(at(3, off=0.9), at(1)) == (3.9, "")  # zones and corrections of hours are no jump
    assert told(Stamp(NOON + 40 * DAY, 5.0, "b"), at(1)) == (40, "")  # a machine that was off for weeks


def test_a_jump_forward_is_named_and_not_believed_however_long_it_lasts() -> None:
    days, odd = told(at(2, off=400), at(1))
    assert days == 2 and "400 days more than the time it has been running tells" in odd and "set the clock" in odd
    assert told(at(9, off=400), at(1), at(2, off=400), at(8, off=400))[0] == 9


def test_a_jump_back_is_named_and_not_believed() -> None:
    days, odd = told(at(2, off=-30), at(1))
    assert days == 2 and "30 days less" in odd


@pytest.mark.parametrize("off", [400, -30])
def test_a_clock_that_was_put_right_again_is_believed_at_once(off: float) -> None:
    assert told(at(3), at(1), at(2, off=off)) == (3, "")


def test_a_clock_of_1970_before_its_first_correction_is_no_evidence_afterwards() -> None:
    flat = Stamp(100.0, 100.0, "b")
    assert "earlier than what was written last" in told(flat, at(1))[1]
    assert told(Stamp(NOON + 3 * DAY, 2_000.0, "b"), at(1), flat) == (3, "")
    assert told(Stamp(NOON + 3 * DAY, 2_000.0, "b"), flat) == (3, "")  # not even where nothing was written before


def test_after_a_restart_an_earlier_clock_is_named_and_believed_since_nothing_contradicts_it_for_ever() -> None:
    days, odd = told(Stamp(NOON + 2 * DAY, 9.0, "b"), at(1, off=400))
    assert days == 2 and "earlier than what was written last" in odd


def test_another_machines_run_is_no_evidence() -> None:
    assert told(Stamp(NOON + 50 * DAY, 10.0, "b"), at(1)) == (50, "")


@pytest.mark.parametrize(
    ("times", "latest"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 900, 3], [1, 3, 3]),
        ([1, 2, 900], [1, 2, 10]),
        ([900, 901], [10, 10]),
        ([5, -700, 6], [5, 5, 6]),
        ([], []),
    ],
)
def test_things_in_order_have_times_in_order(times: list[float], latest: list[float]) -> None:
    assert in_order([t * DAY for t in times], 10 * DAY) == [t * DAY for t in latest]
