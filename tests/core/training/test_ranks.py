"""Fits in several processes: one process's numbers, to rounding; their own, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.model.ranks import Ranks
from bertft_core.recipe.trials import share
from bertft_core.training.loop import finished_fit, fit
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec, MachineSettings

from .crews import Crews, assert_equal_to_rounding

Build = Callable[..., FitSpec]
# 96 rows are 6 steps an epoch, of 10 and 9 rows in two processes; the last has one row, and the second process none
UNEVEN = {"batch_size": 19, "epochs": 4, "dropout": 0.0}
_AT_STEP_9 = """
from bertft_core.training import loop
real = loop._step
def struck(run, rows):
    if rank == 1 and run.state.step == 9:
        {what}
    real(run, rows)
loop._step = struck
"""
KILLED = _AT_STEP_9.format(what="import os; os.kill(os.getpid(), 9)")
NEVER_ADDED_UP = """
from bertft_core.model.ranks import Ranks
from bertft_core.recipe.trials import share
Ranks.add_up = lambda self, parameters, loss, is_short: (loss, is_short)
"""
SHORT_OF_MEMORY = """
from bertft_core.training import optimizer
real = optimizer.accumulate
def short(mean_loss, rows, size, whole):
    if rank == 1 and size > 4:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return real(mean_loss, rows, size, whole)
optimizer.accumulate = short
"""


def in_two(crews: Crews, spec: FitSpec, folder: Path, **how: Any) -> TrainingResult:
    """The result of a fit in two processes that comes to its end."""
    ended = crews.fit(spec, folder, **how)
    assert ended.codes == [0, 0], ended.said
    result = finished_fit(spec)
    assert result is not None and result.processes == 2 and "in 2 processes" in ended.said[0]
    return result


@pytest.mark.parametrize(
    ("split", "changes"),
    [
        ("tokens", {"unfreezing": "none"}),
        ("tokens", {"unfreezing": "gradual", "prefix_cache": "float32"}),
        ("tokens", {"loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1}),
        ("set_tokens", {"multi_label": True, "metric": "micro_f1", "class_weights": "balanced"}),
    ],
    ids=["none", "gradual", "focal with class weights", "multi-label"],
)
def test_two_processes_come_to_what_one_does(
    spec: Build, crews: Crews, tmp_path: Path, request: pytest.FixtureRequest, split: str, changes: dict[str, Any]
) -> None:
    tokens = str(request.getfixturevalue(split))
    one, two = (
        spec(
            **{**UNEVEN, "tokens": tokens, **changes},
            processes=count,
            output=str(tmp_path / f"fit-{count}"),
            prefix_root=str(tmp_path / f"prefix-{count}"),
        )
        for count in (1, 2)
    )
    alone, together = fit(one), in_two(crews, two, tmp_path)
    assert together.steps == 24
    assert_equal_to_rounding(alone, together, tokens)
    if changes.get("prefix_cache"):
        for result in (alone, together):
            assert result.prefix is not None and (result.prefix["built"], result.prefix["recomputed"]) == (128, 0)


def test_fit_whose_process_is_killed_goes_on_to_the_same_bits(spec: Build, crews: Crews, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": 0.2, "processes": 2, "checkpoint_seconds": 0}
    whole = in_two(crews, spec(**settings, output=str(tmp_path / "whole")), tmp_path)
    broken = spec(**settings, output=str(tmp_path / "broken"))
    ended = crews.fit(broken, tmp_path, before=KILLED)
    assert ended.codes == [1, -9] and "another process of this fit is gone" in ended.said[0]
    with pytest.raises(ConfigError, match=r"checkpoint\.safetensors was written by 2 processes, this fit has 1"):
        fit(spec(**{**settings, "processes": 1}, output=str(tmp_path / "broken")))
    resumed = in_two(crews, broken, tmp_path)
    assert resumed.weights_digest == whole.weights_digest and resumed.best_epoch == whole.best_epoch
    assert [h.train_loss for h in resumed.history] == [h.train_loss for h in whole.history]


def test_processes_that_come_apart_end_the_fit(spec: Build, crews: Crews, tmp_path: Path) -> None:
    ended = crews.fit(spec(processes=2), tmp_path, before=NEVER_ADDED_UP)
    assert ended.codes == [1, 1]
    for said in ended.said:  # `late` begins with the top layer: at the end of its first phase
        assert "the 2 processes of this fit hold different weights after step 3: head, layer 2;" in said


def test_memory_that_runs_out_in_one_process_makes_all_take_smaller_parts(
    spec: Build, crews: Crews, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"dropout": 0.0}
    alone = fit(spec(**settings, output=str(tmp_path / "one")))
    short = in_two(crews, spec(**settings, processes=2, output=str(tmp_path / "two")), tmp_path, before=SHORT_OF_MEMORY)
    assert [h.micro_batch for h in short.history] == [4, 4]
    assert_equal_to_rounding(alone, short, spec().tokens)


def test_torchrun_that_starts_another_number_is_refused(spec: Build, crews: Crews, tmp_path: Path) -> None:
    ended = crews.fit(spec(processes=2), tmp_path, world=1)
    assert ended.codes == [1] and "is a fit on 2 processes, torchrun started 1" in ended.said[0]
    with pytest.raises(ConfigError, match=r"training\.processes is 2, but this fit was started in 1 process"):
        fit(spec(processes=2))


def test_rows_are_dealt_once_each_and_seeds_differ() -> None:
    ranks = [Ranks(rank=rank, world=3) for rank in range(3)]
    shares = [r.share(np.arange(7)).tolist() for r in ranks]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]] and ranks[0].largest_share(7) == 3
    assert len({r.seed(5) for r in ranks}) == 3 and ranks[0].seed(5) == 5


def test_trials_side_by_side_are_one_process_each() -> None:
    settings = MachineSettings(precision="float32", device="cpu", threads=4, processes=2)
    assert str(settings) == "float32 on cpu, 4 threads, fits in 2 processes"
    assert share(settings, 1) == settings
    assert (share(settings, 2).threads, share(settings, 2).processes) == (2, 1)
