"""A fit in several processes as the trainer leads it: who decides, what a death does, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import TrainerDied
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import FitSpec

pytestmark = pytest.mark.slow

Build = Callable[..., FitSpec]


def children(pid: int | None) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.usefixtures("cold_processes")  # whose children are told by their parent
def test_killed_process_ends_the_fit_with_its_reason_and_the_next_goes_on(spec: Build) -> None:
    long, beside, at = spec(epochs=20, processes=2, checkpoint_seconds=0), set[int](), 0.0
    why = "process 2 of 2 of the fit: the trainer process ended by signal 9"
    with Trainer() as trainer:

        def kill(fraction: float, facts: dict[str, Any]) -> None:
            nonlocal at
            if facts.get("step", 0) >= 6 and not at:
                beside.update(children(trainer.pid))
                at = time.monotonic()
                os.kill(min(beside), signal.SIGKILL)

        with pytest.raises(TrainerDied, match=why) as death:
            trainer.fit(long, kill)
        assert death.value.signal == signal.SIGKILL and time.monotonic() - at < 30
        steps, rungs = list[int](), list[float]()

        def follow(fraction: float, facts: dict[str, Any]) -> None:
            steps.append(facts.get("step", 0))
            beside.update(children(trainer.pid))

        def stop(fraction: float, score: float) -> bool:
            rungs.append(fraction)
            return True

        stopped = trainer.fit(long, follow, stop)
        assert min(step for step in steps if step) >= 5  # a step is told before its checkpoint is written
        assert rungs == [0.25] and stopped.state == "pruned" and (stopped.steps, stopped.processes) == (30, 2)
        assert trainer.fit(long) == stopped
    assert len(beside) == 2  # one in each of two fits, and neither is left
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in beside):
        assert time.monotonic() < deadline
        time.sleep(0.1)
