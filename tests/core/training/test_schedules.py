"""Fits under each schedule: what trains when, bitwise resume in the middle of every kind of phase, the prefix cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.training import loop
from bertft_core.training.loop import fit
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec

from .kills import Killed, killer
from .specs import configured

Build = Callable[..., FitSpec]


def numbers(result: TrainingResult) -> TrainingResult:
    """The result without what depends on clock, place and cache."""
    return replace(
        result, seconds=0.0, model_dir="", prefix=None, history=tuple(replace(h, seconds=0.0) for h in result.history)
    )


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    return load_file(Path(result.model_dir) / "model.safetensors")


CACHE = {"prefix_cache": "float32"}
# 6 steps an epoch; the steps lie in the middle of each phase
KINDS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "ulmfit, a triangle a phase": (
        {**CACHE, "unfreezing": "ulmfit", "epochs": 5, "schedule": "slanted_triangular", "phase_restart": True},
        [4, 10, 15, 21, 28],
    ),
    "head first, cosine": ({**CACHE, "unfreezing": "head_first", "epochs": 2, "schedule": "cosine"}, [2, 7]),
    "phases, constant": (
        {"unfreezing": ((0.0, 0), (0.3, 2), (0.6, 4)), "epochs": 2, "schedule": "constant", "phase_restart": True},
        [3, 6, 10],
    ),
    "late, a line a phase": ({"epochs": 3, "phase_restart": True}, [3, 9, 16]),
    "fast, a triangle": ({"unfreezing": "fast", "epochs": 2, "schedule": "slanted_triangular"}, [2, 8]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fit_killed_in_every_phase_equals_an_uninterrupted_one(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    values, steps = KINDS[kind]
    values = {**values, "dropout": 0.2, "checkpoint_seconds": 0}
    whole = fit(spec(**values, output=str(tmp_path / "whole"), prefix_root=str(tmp_path / "one")))
    broken = spec(**values, output=str(tmp_path / "broken"), prefix_root=str(tmp_path / "two"))
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    for step in steps:
        with pytest.raises(Killed):
            fit(broken, killer(step))
    began: list[int] = []
    resumed = fit(broken, lambda fraction, facts: began.append(facts["step"]))
    assert began[0] == steps[-1] - 1 and numbers(resumed) == numbers(whole)
    one, two = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_ulmfit_thaws_a_level_an_epoch(spec: Build) -> None:
    assert [h.depth for h in fit(spec(unfreezing="ulmfit", epochs=6)).history] == [0, 1, 2, 3, 4, 4]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_head_alone_moves_nothing_but_the_head(spec: Build) -> None:
    encoder = load_file(Path(spec().pretrained) / "model.safetensors")
    found = weights(fit(spec(unfreezing=((0.0, 0),), epochs=1)))
    kept = {name: found[f"bert.{name}"] for name in encoder if f"bert.{name}" in found}
    assert len(kept) == len(encoder)
    assert moved(encoder, kept) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_frozen_top_layer_that_moves_with_the_head_alone_is_an_error(
    spec: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._step

    def tampered(run: Any, rows: Any) -> None:
        real(run, rows)
        with torch.no_grad():
            run.model.get_parameter("bert.encoder.layer.2.output.dense.weight").mul_(1.01)

    monkeypatch.setattr(loop, "_step", tampered)
    with pytest.raises(ModelError, match=r"layer 2 was frozen but moved in steps 0\.\.3 at depth 0"):
        fit(spec(unfreezing="head_first"))


@pytest.mark.parametrize("unfreezing", ["ulmfit", "head_first", ((0.0, 0), (0.5, 2))])
def test_thawed_level_that_does_not_move_is_an_error(spec: Build, unfreezing: Any) -> None:
    with pytest.raises(ModelError, match=r"head was thawed but did not move .* at depth 0"):
        fit(spec(unfreezing=unfreezing, lr=1e-60))


def test_head_alone_has_dropout_nowhere_below(spec: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = loop._step, []

    def spied(run: Any, rows: Any) -> None:
        real(run, rows)
        bert = run.model.bert
        seen.append([m.training for m in (run.model.dropout, bert.encoder.layer[2].output.dropout, bert.embeddings)])

    monkeypatch.setattr(loop, "_step", spied)
    fit(spec(unfreezing="head_first"))
    assert seen[0] == [True, False, False] and seen[-1] == [True, True, True]


@pytest.mark.parametrize("unfreezing", ["head_first", "ulmfit"])
def test_head_alone_reads_the_cache_and_trains_as_without_it(spec: Build, tmp_path: Path, unfreezing: str) -> None:
    values = {"unfreezing": unfreezing, "epochs": 5, "lr": 1e-4, "dropout": 0.2}
    plain = fit(spec(**values, output=str(tmp_path / "plain")))
    values |= {"prefix_cache": "float32", "prefix_root": str(tmp_path / "prefix")}
    cached, again = (fit(spec(**values, output=str(tmp_path / name))) for name in ("first", "again"))
    one, two = weights(plain), weights(cached)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    assert cached.prefix is not None and again.prefix is not None
    assert cached.prefix["built"] == 128 and again.prefix["built"] == again.prefix["recomputed"] == 0
    assert cached.prefix["bytes_read"] > 0 and again.weights_digest == cached.weights_digest


def test_head_alone_computes_no_layer_below_the_top_from_the_cache(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertft_core.model.encoder_pass import EncoderPass

    values = {"unfreezing": ((0.0, 0),), "epochs": 1, "prefix_cache": "float32", "prefix_root": str(tmp_path / "p")}
    fit(spec(**values, output=str(tmp_path / "fills")))
    ran: list[tuple[int, int]] = []
    real = EncoderPass.run

    def spied(self: Any, hidden: Any, bias: Any, start: int, stop: int) -> Any:
        ran.append((start, stop))
        return real(self, hidden, bias, start, stop)

    monkeypatch.setattr(EncoderPass, "run", spied)
    fit(spec(**values, output=str(tmp_path / "reads"), keep_model=False))
    # `of` tries the whole pass once on 2 rows; after that nothing runs below the top layer
    assert ran[0] == (0, 2) and set(ran[1:]) == {(2, 2)}


@pytest.mark.parametrize("schedule", ["linear", "slanted_triangular", "cosine", "constant"])
def test_rates_of_a_fit_are_those_of_the_plan(spec: Build, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    real, seen = loop._step, []

    def spied(run: Any, rows: Any) -> None:
        step, plan = run.state.step, run.rates
        real(run, rows)
        rates = {group["level"]: group["lr"] for group in run.optimizer.param_groups}
        seen.append([rates[level] for level in sorted(rates)])
        wanted = [2e-3 * 0.5**below * f for below, f in zip((0, 0, 1, 2, 3), plan.factors(step), strict=True)]
        assert seen[-1] == pytest.approx(wanted, rel=1e-12)

    monkeypatch.setattr(loop, "_step", spied)
    fit(spec(alpha=0.5, schedule=schedule, unfreezing="none"))
    first = {"linear": 1 / 2, "slanted_triangular": 1 / 32, "cosine": 1 / 2, "constant": 1 / 2}[schedule]
    assert len(seen) == 12 and seen[0][0] == pytest.approx(2e-3 * first)


def test_phases_survive_json(spec: Build) -> None:
    import json

    found = spec(unfreezing=[[0.0, 1], [0.5, 4]])
    again = FitSpec.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found and again.training.unfreezing == ((0.0, 1), (0.5, 4)) and again.key() == found.key()


@pytest.mark.parametrize(
    ("key", "value"), [("unfreezing", "slow"), ("unfreezing", [[0.5, 1]]), ("schedule", "steps"), ("ratio", 0.5)]
)
def test_impossible_schedule_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"training.{key}"):
        configured(**{key: value})
