from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.fit import UNFREEZING
from bertft_core.model.layers import layer_rates
from bertft_core.training.schedules import UnfreezeSchedule, first_step, rates_table


@pytest.mark.parametrize(("layers", "depth"), [(1, 1), (2, 2), (3, 2), (6, 4), (12, 8), (24, 16)])
def test_gradual_trains_the_top_two_thirds_from_the_first_step(layers: int, depth: int) -> None:
    assert UnfreezeSchedule.gradual(layers).phases() == ((0.0, 1.0, depth),)


def test_late_six_layers_thaws_in_quarters() -> None:
    assert UnfreezeSchedule.late(6).starts == ((0.0, 1), (0.25, 2), (0.5, 4), (0.75, 7))


@pytest.mark.parametrize(("layers", "depths"), [(1, [1, 2]), (2, [1, 2, 3]), (3, [1, 2, 4]), (12, [1, 2, 8, 13])])
def test_late_few_layers_leaves_out_idle_stages(layers: int, depths: list[int]) -> None:
    assert [depth for _, depth in UnfreezeSchedule.late(layers).starts] == depths


def test_depth_at_start_of_a_phase_is_its_depth() -> None:
    schedule = UnfreezeSchedule.late(6)
    assert [schedule.depth_at(step / 12) for step in (0, 2, 3, 6, 9, 11)] == [1, 1, 2, 4, 7, 7]


def test_none_trains_everything_from_the_start() -> None:
    assert UnfreezeSchedule.none(6).phases() == ((0.0, 1.0, 7),)


SCHEDULES: dict[str, Callable[[], UnfreezeSchedule]] = {
    "gradual": lambda: UnfreezeSchedule.gradual(4),
    "late": lambda: UnfreezeSchedule.late(4),
    "fast": lambda: UnfreezeSchedule.fast(4),
    "head_first": lambda: UnfreezeSchedule.head_first(4),
    "ulmfit, 7 epochs": lambda: UnfreezeSchedule.ulmfit(4, 7),
    "ulmfit, 3 epochs": lambda: UnfreezeSchedule.ulmfit(4, 3),
    "phases": lambda: UnfreezeSchedule(n_layers=4, starts=((0.0, 0), (0.07, 2), (0.57, 4))),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_thaw_steps_agree_with_depth_at(name: str) -> None:
    schedule = SCHEDULES[name]()
    for total in (1, 2, 7, 12, 21, 100):
        for level, thaw in enumerate(schedule.thaw_steps(total)):
            trains = [step for step in range(total) if schedule.depth_at(step / total) >= level]
            assert trains == ([] if thaw is None else list(range(thaw, total)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_spans_are_the_steps_of_one_depth(name: str) -> None:
    schedule = SCHEDULES[name]()
    for total in (1, 2, 7, 12, 21, 100):
        depths = [schedule.depth_at(step / total) for step in range(total)]
        for step, depth in enumerate(depths):
            first, end = schedule.span(step, total)
            same = [s for s in range(total) if depths[s] == depth]
            assert (first, end) == (same[0], same[-1] + 1)


def test_first_step_whose_product_is_rounded_up_is_not_late() -> None:
    assert 0.07 * 100 > 7 and first_step(0.07, 100) == 7


def test_ulmfit_adds_one_level_an_epoch_from_the_head_down() -> None:
    depths = [UnfreezeSchedule.ulmfit(3, 7).depth_at(epoch / 7) for epoch in range(7)]
    assert depths == [0, 1, 2, 3, 4, 4, 4]


def test_ulmfit_thaws_with_an_epochs_first_step() -> None:
    for epochs in (3, 7, 10, 14, 49):
        schedule = UnfreezeSchedule.ulmfit(12, epochs)
        for per_epoch in (1, 3, 61):
            found = [schedule.depth_at(step / (epochs * per_epoch)) for step in range(epochs * per_epoch)]
            wanted = [*range(min(13, epochs - 1)), *[13] * max(1, epochs - 13)]
            assert found == [depth for depth in wanted for _ in range(per_epoch)]


@pytest.mark.parametrize(("epochs", "depths"), [(1, [7]), (2, [0, 7]), (4, [0, 1, 2, 7])])
def test_ulmfit_with_fewer_epochs_than_levels_trains_everything_in_the_last(epochs: int, depths: list[int]) -> None:
    assert [depth for _, depth in UnfreezeSchedule.ulmfit(6, epochs).starts] == depths


def test_head_first_trains_the_head_alone_for_a_quarter() -> None:
    assert UnfreezeSchedule.head_first(6).phases() == ((0.0, 0.25, 0), (0.25, 1.0, 7))


def test_every_name_is_a_schedule() -> None:
    found = {name: UnfreezeSchedule.of(name, 6, 4).starts for name in UNFREEZING}
    assert len(set(found.values())) == len(UNFREEZING)


def test_phases_are_taken_as_they_are() -> None:
    assert UnfreezeSchedule.of(((0.0, 1), (0.5, 7)), 6, 3).phases() == ((0.0, 0.5, 1), (0.5, 1.0, 7))


@pytest.mark.parametrize(
    ("phases", "wanted"),
    [
        ((), "must hold a"),
        (((0.1, 1),), "must start at 0, starts at 0.1"),
        (((0.0, 1), (0.5, 2), (0.5, 3)), "starts that rise"),
        (((0.0, 1), (1.0, 2)), "stay below 1"),
        (((0.0, 1), (float("nan"), 2)), "starts that rise"),
        (((0.0, -1),), "depths that rise"),
        (((0.0, 2), (0.5, 2)), "depths that rise"),
        (((0.0, 1), (0.5, 8)), r"must not go deeper than 7 .* with 6 layers, was \[\[0.0, 1\], \[0.5, 8\]\]"),
    ],
)
def test_impossible_phases_are_named(phases: tuple[tuple[float, int], ...], wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"^training\.unfreezing .*{wanted}"):
        UnfreezeSchedule.of(phases, 6, 3)


@pytest.mark.parametrize(
    ("schedule", "cuts"),
    [
        (UnfreezeSchedule.gradual(6), (2,)),
        (UnfreezeSchedule.gradual(2), ()),  # both layers train, only the embeddings do not
        (UnfreezeSchedule.late(6), (2, 4, 5)),
        (UnfreezeSchedule.none(6), ()),
        (UnfreezeSchedule.head_first(6), (5,)),  # the head alone reads what the top layer reads
        (UnfreezeSchedule.ulmfit(6, 4), (4, 5)),
        (UnfreezeSchedule.ulmfit(3, 9), (1, 2)),  # 0 is the embeddings' output: nothing is gained by keeping it
        (UnfreezeSchedule.head_first(1), ()),
    ],
)
def test_cuts_are_where_frozen_layers_end(schedule: UnfreezeSchedule, cuts: tuple[int, ...]) -> None:
    assert schedule.cuts() == cuts


def test_schedule_falling_depths_is_refused() -> None:
    with pytest.raises(ConfigError, match="rise"):
        UnfreezeSchedule(n_layers=4, starts=((0.0, 3), (0.5, 2)))


def test_rates_table_minilm_has_the_contracts_rates() -> None:
    rows = {row.name: row for row in rates_table(UnfreezeSchedule.late(6), layer_rates(6, 1.0, 0.95), 0.01)}
    assert rows["head"].lr == rows["layer 5"].lr == 1.0
    assert rows["layer 4"].lr == pytest.approx(0.95)
    assert rows["layer 0"].lr == pytest.approx(0.774, abs=5e-4)
    assert rows["embeddings"].lr == pytest.approx(0.735, abs=5e-4)
    assert [row.thaws_at for row in rows.values()] == [0, 0, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75]


def test_rates_table_imports_no_torch() -> None:
    code = "import sys; import bertft_core.training.schedules, bertft_core.recipe.process.client"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
