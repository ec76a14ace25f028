"""The rate of each level at each update, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import Schedule
from bertft_core.training.schedules import (
    RateCurve,
    RatePlan,
    UnfreezeSchedule,
    slanted_triangular,
    warm_in,
    warm_in_steps,
)

from .specs import configured

NAMES = get_args(Schedule)
NONE = UnfreezeSchedule.none(2)


# 10 updates, 2 of warm-up: steps 0, 1, the peak, the middle of the fall, T-1, T
@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", (1 / 3, 2 / 3, 1, 1 / 2, 1 / 8, 0)),
        ("cosine", (1 / 3, 2 / 3, 1, 1 / 2, (1 - math.cos(math.pi / 8)) / 2, 0)),
        ("constant", (1 / 3, 2 / 3, 1, 1, 1, 1)),
    ],
)
def test_curve_with_warm_up_has_the_values_by_hand(schedule: str, wanted: tuple[float, ...]) -> None:
    curve = RateCurve(schedule=schedule, warmup_fraction=0.2)
    assert [curve.factor(step, 10) for step in (0, 1, 2, 6, 9, 10)] == pytest.approx(wanted, abs=1e-15)


def test_cosine_is_above_the_line_first_and_below_it_later() -> None:
    line, wave = (RateCurve(schedule=name, warmup_fraction=0.0) for name in ("linear", "cosine"))
    assert [wave.factor(s, 4) for s in (1, 3)] == pytest.approx([(2 + 2**0.5) / 4, (2 - 2**0.5) / 4])
    assert wave.factor(1, 4) > line.factor(1, 4) and wave.factor(3, 4) < line.factor(3, 4)


def test_slanted_triangular_has_the_papers_values() -> None:
    """T 20, cut_frac 0.1, ratio 32: cut 2. p is 0, 1/2, 1, 1/2, 1/18, 0; the factor (1 + 31 p) / 32."""
    curve = RateCurve(schedule="slanted_triangular")
    wanted = [1 / 32, 33 / 64, 1, 33 / 64, 49 / 576, 1 / 32]
    assert [curve.factor(step, 20) for step in (0, 1, 2, 11, 19, 20)] == pytest.approx(wanted, abs=1e-15)


def test_slanted_triangular_ends_at_its_floor_where_the_cut_is_no_whole_number() -> None:
    """T 15: cut 1. The printed equation divides by cut (1 / cut_frac - 1) = 9 and has p = -4 / 9 at step 14."""
    assert slanted_triangular(15, 15, 0.1, 32) == pytest.approx(1 / 32)
    assert slanted_triangular(14, 15, 0.1, 32) == pytest.approx((1 + 31 / 14) / 32)


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.97])
def test_no_update_has_rate_zero_and_none_exceeds_the_peak(schedule: str, fraction: float) -> None:
    curve = RateCurve(schedule=schedule, warmup_fraction=fraction, cut_fraction=max(fraction, 0.01))
    for total in (1, 2, 3, 10, 101):
        assert all(0 < curve.factor(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize("schedule", NAMES)
def test_the_peak_is_reached(schedule: str) -> None:
    assert max(RateCurve(schedule=schedule).factor(step, 50) for step in range(50)) == 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"schedule": "triangular"}, r"training\.schedule: .*'linear'.*, was 'triangular'"),
        ({"warmup_fraction": 1.0}, r"training\.warmup_fraction: input should be less than 1, was 1.0"),
        ({"cut_fraction": 0.0}, r"training\.cut_fraction: input should be greater than 0, was 0.0"),
        ({"ratio": 1.0}, r"training\.ratio: input should be greater than 1, was 1.0"),
    ],
)
def test_impossible_curve_names_its_key(values: dict[str, float], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        configured(**values)


def test_warm_in_late_level_starts_far_below_its_peak() -> None:
    assert warm_in(100, 100, 20) == pytest.approx(1 / 20)
    assert warm_in(130, 100, 20) == 1.0


def test_warm_in_from_the_start_is_one() -> None:
    assert warm_in(0, 0, 20) == 1.0


def test_warm_in_steps_are_a_tenth_at_least_eleven_and_end_with_the_phase() -> None:
    assert [warm_in_steps(total, 1000) for total in (1, 40, 110, 120, 500, 10_000)] == [11, 11, 11, 12, 50, 1000]
    assert [warm_in_steps(400, phase) for phase in (1, 6, 100)] == [1, 6, 40]


@pytest.mark.parametrize("phase_restart", [False, True])
@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("unfreezing", ["late", "ulmfit", "head_first", "fast"])
@pytest.mark.parametrize("total", [44, 60, 114, 1000])
def test_no_level_jumps_in(total: int, unfreezing: str, schedule: str, phase_restart: bool) -> None:
    """The first update of a level that thaws late is less than a tenth of its peak, or the first of a short phase."""
    levels = UnfreezeSchedule.of(unfreezing, 6, 4)
    found = RatePlan(curve=RateCurve(schedule=schedule), unfreezing=levels, total=total, phase_restart=phase_restart)
    thaws = [(level, thaw) for level, thaw in enumerate(levels.thaw_steps(total)) if thaw]
    assert thaws
    for level, thaw in thaws:
        first, end = levels.span(thaw, total)
        assert found.factors(thaw)[level] <= max(1 / 11, 1 / (end - first)) + 1e-12
        assert found.factors(end - 1)[level] == found.factors(end - 1)[0] > 0, "as the head, at the end of the phase"


def test_triangle_of_a_short_phase_rises_too() -> None:
    assert [slanted_triangular(step, 6, 0.1, 32) for step in (0, 1)] == [1 / 32, 1]
    assert slanted_triangular(0, 1, 0.1, 32) == 1


def test_the_peak_is_where_the_fraction_says_whatever_its_binary_digits() -> None:
    assert slanted_triangular(29, 100, 0.29, 32) == 1
    assert max(RateCurve(warmup_fraction=0.97).factor(step, 10) for step in range(10)) == 1


# Two layers; depth 1, 2, 3 from step 0, 10, 20 of 40; levels: head, layer 1, layer 0, embeddings.
THREE = UnfreezeSchedule(n_layers=2, starts=((0.0, 1), (0.25, 2), (0.5, 3)))


def plan(*, phase_restart: bool, schedule: str = "linear") -> RatePlan:
    return RatePlan(curve=RateCurve(schedule=schedule), unfreezing=THREE, total=40, phase_restart=phase_restart)


def test_one_curve_over_the_fit_and_warm_in_of_what_thaws() -> None:
    """Warm-up 4 of 40 updates, warm-in 10 (the phase) and 11."""
    found = plan(phase_restart=False)
    assert found.factors(0) == pytest.approx((1 / 5, 1 / 5, 0, 0))
    assert found.factors(9) == pytest.approx((31 / 36, 31 / 36, 0, 0))
    assert found.factors(10) == pytest.approx((30 / 36, 30 / 36, 30 / 36 / 10, 0))
    assert found.factors(22) == pytest.approx((18 / 36, 18 / 36, 18 / 36, 18 / 36 * 3 / 11))
    assert found.factors(39) == pytest.approx((1 / 36,) * 4)


def test_phase_restart_runs_through_the_curve_in_each_phase() -> None:
    """Phases of 10, 10 and 20 updates: warm-up 1, 1 and 2, warm-in 10 (the phase) and 11 updates."""
    found = plan(phase_restart=True)
    assert found.factors(0) == pytest.approx((1 / 2, 1 / 2, 0, 0))
    assert found.factors(9) == pytest.approx((1 / 9, 1 / 9, 0, 0))
    assert found.factors(10) == pytest.approx((1 / 2, 1 / 2, 1 / 2 / 10, 0))
    assert found.factors(11) == pytest.approx((1, 1, 2 / 10, 0))
    assert found.factors(20) == pytest.approx((1 / 3, 1 / 3, 1 / 3, 1 / 3 / 11))
    assert found.factors(22) == pytest.approx((1, 1, 1, 3 / 11))
    assert found.factors(39) == pytest.approx((1 / 18,) * 4)


def test_phase_restart_of_the_triangle_begins_each_phase_at_its_floor() -> None:
    found = plan(phase_restart=True, schedule="slanted_triangular")
    assert [found.factors(step)[0] for step in (0, 10, 20)] == pytest.approx([1 / 32] * 3)
    assert [found.factors(step)[0] for step in (1, 11, 22)] == pytest.approx([1] * 3)


@pytest.mark.parametrize("schedule", NAMES)
def test_phase_restart_with_one_phase_changes_nothing(schedule: str) -> None:
    once, anew = (
        RatePlan(curve=RateCurve(schedule=schedule), unfreezing=NONE, total=30, phase_restart=restart)
        for restart in (False, True)
    )
    assert [once.factors(step) for step in range(30)] == [anew.factors(step) for step in range(30)]


@pytest.mark.parametrize("phase_restart", [False, True])
@pytest.mark.parametrize("schedule", NAMES)
def test_exactly_the_thawed_levels_have_a_rate(schedule: str, phase_restart: bool) -> None:
    for unfreezing in (UnfreezeSchedule.ulmfit(3, 7), UnfreezeSchedule.head_first(3), UnfreezeSchedule.fast(3)):
        found = RatePlan(
            curve=RateCurve(schedule=schedule), unfreezing=unfreezing, total=21, phase_restart=phase_restart
        )
        for step in range(21):
            depth = unfreezing.depth_at(step / 21)
            assert [factor > 0 for factor in found.factors(step)] == [level <= depth for level in range(5)]
