"""Memory that does not hold a whole batch: a real limit on the address space of a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bertft_core.base.files import staged_folder
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.optimizer import accumulate, is_memory_fault
from bertft_core.training.results import TrainingResult
from bertft_core.training.scoring import score

from .specs import fit_spec

# Fits one after the other in one process: a small one loads all that a fit needs, then each may take so many MB more.
_LIMITED = """
import json, os, resource, sys
from pathlib import Path
from bertft_core.base.errors import TrialPruned
from bertft_core.training.loop import fit
from bertft_core.training.spec import FitSpec
class Killed(Exception): pass
endless = resource.getrlimit(resource.RLIMIT_AS)
answers = []
for spec, megabytes, is_killed in json.loads(sys.stdin.read()):
    said = []
    def follow(fraction, facts):
        if "micro_batch" in facts:
            said.append(facts["micro_batch"])
        if is_killed and "epoch" in facts:  # the checkpoint before it stays
            raise Killed
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 10**6, endless[1]) if megabytes else endless)
    try:
        answer = fit(FitSpec.from_json(spec), follow).to_json()
    except (TrialPruned, Killed) as stop:
        answer = str(stop)
    resource.setrlimit(resource.RLIMIT_AS, endless)
    answers.append({"answer": answer, "said": said})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and rows of 256 tokens: a step on 128 of them needs some 300 MB, on one a few."""
    root, rng = tmp_path_factory.mktemp("memory"), np.random.default_rng(0)
    tiny_encoder(root / "encoder", layers=2, hidden=64)
    with staged_folder(root / "tokens") as staging:
        for split, n in (("train", 256), ("validation", 16), ("test", 16)):
            labels = rng.integers(0, 2, n)
            ids = [[2, *rng.integers(60, 90, 254 - i % 9).tolist(), 100 + int(label)] for i, label in enumerate(labels)]
            columns = {"input_ids": pa.array(ids, pa.list_(pa.int32())), "label": pa.array(labels, pa.int32())}
            table = pa.table({**columns, "pair_start": pa.array([len(i) for i in ids], pa.int32())})
            with pa.OSFile(str(staging / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
    return root


def test_fit_in_micro_batches_equals_the_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "pretrained": str(folder / "encoder"),
        "tokens": str(folder / "tokens"),
        "classes": ("a", "b"),
        "lr": 1e-3,
        "batch_size": 128,
        "epochs": 2,
        "unfreezing": "none",
        "dropout": 0.0,
        "threads": 1,
        "checkpoint_seconds": 0,
    }
    warm, small, broken, whole = (
        fit_spec(**{**common, "output": str(tmp_path / name), **changes}).to_json()
        for name, changes in (("warm", {"batch_size": 1, "rows": 4}), ("small", {}), ("broken", {}), ("whole", {}))
    )
    order = [(warm, 0, 0), (small, 150, 0), (broken, 150, 1), (broken, 0, 0), (whole, 0, 0)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LIMITED],
        capture_output=True,
        text=True,
        timeout=540,
        input=json.dumps(order),
        # no 64 MB of addresses for the arena of a new thread, and what is freed goes back at once
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, small, killed, resumed, whole = json.loads(done.stdout.splitlines()[-1])
    assert whole["said"] == resumed["said"] == []  # memory is there again; what the checkpoint says is kept
    assert all(isinstance(found["answer"], dict) for found in (whole, small, resumed)), (whole, small, resumed)
    first, second, third = (TrainingResult.from_json(found["answer"]) for found in (whole, small, resumed))
    for found, said in ((second, small["said"]), (third, killed["said"])):
        sizes = [h.micro_batch for h in found.history]
        assert None not in sizes and said[0] >= sizes[0] >= sizes[1] >= 1 and said[0] < 128
    assert [h.micro_batch for h in first.history] == [None, None]
    expected = score(first.model_dir, folder / "tokens", "test")
    for result in (second, third):
        for one, two in zip(first.history, result.history, strict=True):
            assert two.train_loss == pytest.approx(one.train_loss, abs=1e-5)
            assert two.validation_loss == pytest.approx(one.validation_loss, abs=1e-5)
        assert np.abs(score(result.model_dir, folder / "tokens", "test") - expected).max() < 1e-5


def test_parts_of_a_batch_add_up_to_its_gradient() -> None:
    values, targets = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    gradients = []
    for size in (7, 3, 1):
        weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
        loss = accumulate(lambda r, w=weights: ((values[r] @ w - targets[r]) ** 2).mean(), np.arange(7), size, 7)
        gradients.append((loss, weights.grad))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0]) and torch.allclose(gradient, gradients[0][1])


def test_what_counts_as_memory_running_out() -> None:
    assert is_memory_fault(MemoryError()) and is_memory_fault(torch.OutOfMemoryError("x"))
    assert is_memory_fault(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"))
    assert not is_memory_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
