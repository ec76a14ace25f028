"""The arithmetic behind benchmarks/finetune_speed.py: floating-point work of a step, paired accuracies."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bertft_core.model import encoder_pass
from bertft_core.model.classifier import load_classifier
from bertft_core.model.encoder_pass import EncoderPass
from bertft_core.testing.encoders import tiny_encoder

ROWS, TOKENS, CLASSES = 3, 16, ("a", "b", "c")


def load(name: str) -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("first_only", [False, True])
def test_step_flops_are_what_torch_counts_of_the_linear_layers(
    first_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_pass, "TRICKS", replace(encoder_pass.TRICKS, first_only=first_only))
    model = load_classifier(str(tiny_encoder(tmp_path / "encoder")), CLASSES, seed=0)
    passes, config = EncoderPass.of(model), model.config
    assert passes is not None
    ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS) % config.vocab_size
    with FlopCounterMode(display=False) as counter:  # it leaves out the CPU's attention kernel
        passes.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).sum().backward()
    layers, width = config.num_hidden_layers, config.hidden_size
    sizes = {"layers": layers, "width": width, "inner": config.intermediate_size, "classes": len(CLASSES)}
    queries = (layers - 1) * TOKENS + (1 if first_only else TOKENS)
    linears = (
        load("machine_limit").step_flops(ROWS, TOKENS, sizes, first_only=first_only, recomputation=False)
        - ROWS * queries * 12 * TOKENS * width
    )
    assert linears == pytest.approx(counter.get_total_flops(), rel=1e-12)


def test_accuracy_difference_of_two_seeds_on_four_rows() -> None:
    found = load("paired").accuracy_difference([[0, 1, 0, 0], [0, 1, 1, 0]], [[0, 1, 1, 1], [0, 1, 1, 1]], [0, 1, 0, 0])
    assert (found["ours"], found["theirs"], found["difference"]) == (0.875, 0.5, 0.375)
    # differences 0.5 and 0.25: mean 0.375, deviation 0.17678, t(0.975, 1) = 12.7062
    assert found["interval_seeds"] == pytest.approx([0.375 - 1.58828, 0.375 + 1.58828], abs=1e-4)


def test_bootstrap_of_equal_answers_is_zero_everywhere() -> None:
    found = load("paired").accuracy_difference([[0, 1], [0, 1]], [[0, 1], [0, 1]], [0, 0])
    assert found["interval_rows_and_seeds"] == [0.0, 0.0]
