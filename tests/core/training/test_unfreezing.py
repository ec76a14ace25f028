from __future__ import annotations

import subprocess
import sys

import pytest

from bertft_core.errors import ConfigError
from bertft_core.training.unfreezing import UnfreezeSchedule, rates_table


def test_gradual_six_layers_thaws_as_in_the_contract() -> None:
    assert UnfreezeSchedule.gradual(6).starts == ((0.0, 1), (0.25, 2), (0.5, 4), (0.75, 7))


@pytest.mark.parametrize(("layers", "depths"), [(1, [1, 2]), (2, [1, 2, 3]), (3, [1, 2, 4]), (12, [1, 2, 8, 13])])
def test_gradual_few_layers_leaves_out_idle_stages(layers: int, depths: list[int]) -> None:
    assert [depth for _, depth in UnfreezeSchedule.gradual(layers).starts] == depths


def test_depth_at_start_of_a_phase_is_its_depth() -> None:
    schedule = UnfreezeSchedule.gradual(6)
    assert [schedule.depth_at(step / 12) for step in (0, 2, 3, 6, 9, 11)] == [1, 1, 2, 4, 7, 7]


def test_none_trains_everything_from_the_start() -> None:
    assert UnfreezeSchedule.none(6).phases() == ((0.0, 1.0, 7),)


def test_thaw_steps_agree_with_depth_at() -> None:
    schedule = UnfreezeSchedule.gradual(4)
    for total in (1, 2, 7, 12, 99):
        for level, thaw in enumerate(schedule.thaw_steps(total)):
            assert thaw is not None
            trains = [step for step in range(total) if schedule.depth_at(step / total) >= level]
            assert trains == list(range(thaw, total))


def test_schedule_falling_depths_is_refused() -> None:
    with pytest.raises(ConfigError, match="rise"):
        UnfreezeSchedule(n_layers=4, starts=((0.0, 3), (0.5, 2)))


def test_rates_table_minilm_has_the_contracts_rates() -> None:
    rows = {row.name: row for row in rates_table(6, 1.0, 0.95, 0.01)}
    assert rows["head"].lr == rows["layer 5"].lr == 1.0
    assert rows["layer 4"].lr == pytest.approx(0.95)
    assert rows["layer 0"].lr == pytest.approx(0.774, abs=5e-4)
    assert rows["embeddings"].lr == pytest.approx(0.735, abs=5e-4)
    assert [row.thaws_at for row in rows.values()] == [0, 0, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75]


def test_rates_table_imports_no_torch() -> None:
    code = "import sys; import bertft_core.training.unfreezing, bertft_core.training.client"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
