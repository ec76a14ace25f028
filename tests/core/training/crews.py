"""Fits in several processes, each a `worker` as torchrun starts it, forked from one that has imported the libraries.

As a program: reads one fit per line of stdin as JSON, answers with the exit codes of its processes, by rank.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.config.fit import number
from bertft_core.training.results import TrainingResult
from bertft_core.training.scoring import score
from bertft_core.training.spec import FitSpec

_ROOT = Path(__file__).parents[3]
_LONGEST = 240  # seconds that a fit may take, on a machine with much else to do


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of the processes, by rank: exit codes as `subprocess` counts them, and what they said."""

    codes: list[int]
    said: list[str]


class Crews:
    """Starts the program with the first fit."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def fit(self, spec: FitSpec, folder: Path, *, before: str = "", world: int | None = None) -> Ended:
        """Fit; before: code that each process runs first and that knows its `rank`. world: how many are started."""
        if self._process is None:
            own = {"PYTHONPATH": str(_ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                env={**os.environ, **own},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        (folder / "fit.json").write_text(json.dumps(spec.to_json()))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        world = world or number(spec.training.processes)
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"folder": str(folder), "world": world, "port": port, "before": before}),
            file=self._process.stdin,
            flush=True,
        )
        codes = json.loads(self._process.stdout.readline())
        return Ended(codes=codes, said=[(folder / f"rank-{rank}.txt").read_text() for rank in range(world)])

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


def assert_equal_to_rounding(one: TrainingResult, two: TrainingResult, tokens: str) -> None:
    """Weights are compared by what they answer: a key's bias has no effect, and its gradient is rounding alone."""
    for alone, shared in zip(one.history, two.history, strict=True):
        assert shared.train_loss == pytest.approx(alone.train_loss, abs=1e-6)
        assert shared.validation_loss == pytest.approx(alone.validation_loss, abs=1e-6)
        assert (shared.macro_f1, shared.micro_f1) == (alone.macro_f1, alone.micro_f1)
    answers = [score(result.model_dir, tokens, "test") for result in (one, two)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


def _be(rank: int, asked: dict[str, Any]) -> None:
    signal.alarm(_LONGEST)
    said = os.open(f"{asked['folder']}/rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": asked["world"], "MASTER_PORT": asked["port"]}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
    sys.argv = ["worker", f"{asked['folder']}/fit.json"]
    from bertft_core.recipe.process.worker import main

    exec(asked["before"], {"rank": rank})
    main()


def _serve() -> None:
    import bertft_core.recipe.process.worker  # noqa: F401 (for what it imports)

    gc.freeze()
    for line in sys.stdin:
        asked, pids = json.loads(line), []
        for rank in range(asked["world"]):
            if (pid := os.fork()) == 0:
                try:
                    _be(rank, asked)
                except BaseException as fault:
                    print(f"{type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
                os._exit(1)
            pids.append(pid)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    _serve()
