"""A checkpoint or result that is no longer what was written: the fit begins anew, and nothing false is restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bertft_core.base.files import write_json
from bertft_core.training.checkpoint import FitState, load_checkpoint, save_checkpoint
from bertft_core.training.loop import finished_fit
from bertft_core.training.spec import FitSpec

KEY = "k"


def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = FitState(step=3, best=(1, 0.5, 0.7, "digest"), rungs=[(0.25, 0.4)])
    save_checkpoint(tmp_path, KEY, state, *model_and_optimizer())
    return tmp_path / "checkpoint.safetensors"


def test_checkpoint_is_restored_as_it_was_written(saved: Path) -> None:
    torch.manual_seed(1)
    model, optimizer = model_and_optimizer()
    state = load_checkpoint(saved.parent, KEY, model, optimizer, FitState)
    assert state == FitState(step=3, best=(1, 0.5, 0.7, "digest"), rungs=[(0.25, 0.4)])
    torch.manual_seed(0)
    assert torch.equal(model.weight, model_and_optimizer()[0].weight)


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\0" * len(content),
        lambda content: _flipped(content, 3),  # of the header's length
        lambda content: _flipped(content, len(content) - 5),  # of a tensor: safetensors itself does not see it
        lambda content: content.replace(b'\\"step\\": 3', b'\\"step\\": x'),
    ],
    ids=["empty", "cut off", "NUL bytes", "header flipped", "tensor flipped", "state broken"],
)
def test_damaged_checkpoint_is_moved_aside_and_restores_nothing(saved: Path, change, caplog) -> None:
    content = saved.read_bytes()
    assert change(content) != content
    saved.write_bytes(change(content))
    torch.manual_seed(1)
    model, optimizer = model_and_optimizer()
    before = model.weight.clone()
    assert load_checkpoint(saved.parent, KEY, model, optimizer, FitState) is None
    assert torch.equal(model.weight, before)
    assert [p.name for p in saved.parent.iterdir()] == ["checkpoint.safetensors.broken"]
    assert "the fit begins anew" in caplog.text


@pytest.mark.parametrize("stored", [[], None, {"key": KEY}, {"key": KEY, "result": {"state": "complete"}}])
def test_result_that_cannot_be_read_is_moved_aside(spec: Callable[..., FitSpec], stored: object) -> None:
    broken = spec()
    output = Path(broken.output)
    output.mkdir(exist_ok=True)
    write_json(output / "result.json", stored)
    assert finished_fit(broken) is None
    assert [p.name for p in output.iterdir() if p.name.startswith("result")] == ["result.json.broken"]
