"""A fit whose worker is killed and whose home is gone goes on, elsewhere, from what BERTFT_CACHE has."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.cache import CHECKPOINTS, VARIABLE, Cache
from bertft_core.base.errors import TrialPruned
from bertft_core.recipe.process.checkpoints import drop
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.loop import fit
from bertft_core.training.spec import FitSpec

Build = Callable[..., FitSpec]
_WORKER = """
import json, sys
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import FitSpec
with Trainer() as trainer:
    trainer.fit(FitSpec.from_json(json.load(open(sys.argv[1]))), lambda _, f: print(f.get("epoch", ""), flush=True))
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    return Cache(str(tmp_path / "shared"))


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.usefixtures("cold_processes")
def test_fit_killed_with_its_worker_goes_on_in_another_home_to_the_same_bits(
    spec: Build, shared: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = spec(epochs=12, checkpoint_seconds=20, output=str(tmp_path / "a" / "runs" / "r1" / "fit"))
    (tmp_path / "spec.json").write_text(json.dumps(first.to_json()))
    begun = subprocess.Popen(
        [sys.executable, "-P", "-c", _WORKER, str(tmp_path / "spec.json")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert begun.stdout is not None
    until(lambda: list(Path(shared.url).rglob("*.json")))  # an epoch has ended, and its checkpoint is kept
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    epochs = [int(line) for line in begun.stdout.read().split() if line]
    assert epochs and max(epochs) < 12, "it was killed in the middle"
    left = tmp_path / "a"  # its trainer dies a moment later, and may write until then
    until(lambda: shutil.rmtree(left, ignore_errors=True) or not left.exists())

    there = replace(first, output=str(tmp_path / "b" / "runs" / "r1" / "fit"))
    steps: list[int] = []
    with Trainer() as trainer, caplog.at_level(logging.WARNING):
        resumed = trainer.fit(there, lambda fraction, facts: steps.extend([facts["step"]] if "step" in facts else []))
    assert f"r1/fit goes on from a checkpoint of {shared.url}" in caplog.text and steps[0] > 0
    whole = fit(replace(first, output=str(tmp_path / "whole")))
    assert resumed.weights_digest == whole.weights_digest
    assert [h.train_loss for h in resumed.history] == [h.train_loss for h in whole.history]
    one, two = (Path(r.model_dir) / "model.safetensors" for r in (resumed, whole))
    assert one.read_bytes() == two.read_bytes()
    assert [entry.name for entry in shared.entries()] == ["r1.fit"]  # the run may yet be killed before its end
    drop(Path(there.output))
    assert shared.entries() == []


def test_checkpoint_of_another_fit_is_not_taken_up(spec: Build, shared: Cache, tmp_path: Path) -> None:
    def stop(fraction: float, facts: dict[str, Any]) -> None:
        if facts.get("epoch", 0) >= 2:
            raise KeyboardInterrupt

    with Trainer() as trainer:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(spec(epochs=9, output=str(tmp_path / "a" / "s" / "trial-0")), stop)
        assert [entry.name for entry in shared.entries()] == ["s.trial-0"]  # a worker that is told to end leaves it
        steps: list[int] = []
        other = spec(epochs=3, output=str(tmp_path / "b" / "s" / "trial-0"), keep_model=False)
        trainer.fit(other, lambda fraction, facts: steps.extend([facts["step"]] if "step" in facts else []))
    assert steps[0] == 0
    assert shared.entries() == []  # a trial's end leaves nothing


def test_trial_that_is_given_up_for_good_leaves_nothing(spec: Build, shared: Cache, tmp_path: Path) -> None:
    def stop(fraction: float, facts: dict[str, Any]) -> None:
        if shared.entries():
            raise TrialPruned("timeout: of a test")

    trial = spec(epochs=400, output=str(tmp_path / "a" / "s" / "trial-1"), keep_model=False, checkpoint_seconds=0)
    with Trainer() as trainer, pytest.raises(TrialPruned, match="timeout"):
        trainer.fit(trial, stop)
    assert shared.entries() == []


def test_cache_that_is_away_costs_a_fit_nothing_but_a_line(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "/proc/nowhere/of/this/test")
    with Trainer() as trainer, caplog.at_level(logging.WARNING):
        found = trainer.fit(spec(output=str(tmp_path / "fit")))
    assert found.state == "complete" and caplog.text.count(VARIABLE) <= 1


def test_damaged_checkpoint_in_the_cache_is_passed_over(
    spec: Build, shared: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "a" / "r2" / "fit"
    output.mkdir(parents=True)
    (output / "checkpoint.safetensors").write_bytes(b"rubbish, and its digest is right")
    shared.push(CHECKPOINTS, "r2.fit", {"checkpoint.safetensors": output / "checkpoint.safetensors"})
    shutil.rmtree(output)
    with Trainer() as trainer:
        found = trainer.fit(spec(output=str(output)))
    assert found.weights_digest == fit(spec(output=str(tmp_path / "whole"))).weights_digest
