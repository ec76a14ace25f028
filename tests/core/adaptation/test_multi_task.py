"""One encoder for several tasks: shares of batches, what is left out, that both learn, resume, what runs make of it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertft_core.adaptation.multi_task.lineage import MultiTask, SharedEncoder, carry_out_together
from bertft_core.adaptation.multi_task.loop import ENCODER, fit_together
from bertft_core.adaptation.multi_task.proportions import batches_per_epoch, epoch_order
from bertft_core.adaptation.multi_task.results import MultiTaskSpec
from bertft_core.base.errors import ConfigError, TrainerDied
from bertft_core.config.multi_task import load_multi_task
from bertft_core.config.run import load_config
from bertft_core.model.classifier import load_classifier
from bertft_core.model.features import level_map
from bertft_core.model.weights import survey
from bertft_core.recipe.adapt import adapt as make_encoder
from bertft_core.recipe.chain import complete
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.fit import settled_for
from bertft_core.recipe.prepare import planned, prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify
from bertft_core.testing.encoders import tiny_encoder

from ..training.kills import Killed, killer
from .conftest import rows_of, write_task, write_tasks

CPU = ("float32", "cpu", 1)


def plan_of(folder: Path, task: str, *overrides: str) -> MultiTask:
    config = load_config(folder / f"{task}.yaml", ["multi_task=both.yaml", *overrides])
    found = planned(config, prepare(config, folder / "home"), folder / "home").adaptation
    assert isinstance(found, MultiTask)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks and a home that has their rows."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def made(place: Path) -> tuple[SharedEncoder, MultiTaskSpec]:
    """The shared encoder in the home, and how it was asked for."""
    asked: list[MultiTaskSpec] = []

    def train(spec: MultiTaskSpec) -> Any:
        asked.append(spec)
        return fit_together(spec)

    found = carry_out_together(plan_of(place, "play"), place / "home", CPU, train)
    for name, file in asked[0].rows.items():  # the folder that held them is gone
        assert not Path(file).exists()
        np.save(place / f"{name}.npy", np.arange(found.rows[name]))
    return found, replace(asked[0], rows={name: str(place / f"{name}.npy") for name in asked[0].tasks})


@pytest.mark.parametrize(("temperature", "wanted"), [(1, (90, 9, 1)), (2, (70, 22, 8)), (1000, (34, 33, 33))])
def test_batches_are_in_proportion_to_the_root_of_the_rows(temperature: float, wanted: tuple[int, ...]) -> None:
    rows = {"a": 9_000, "b": 900, "c": 100}
    found = batches_per_epoch(rows, 100, temperature)
    assert tuple(found.values()) == wanted and sum(wanted) == 100
    orders = [epoch_order(found, 1, epoch) for epoch in (0, 1)]
    assert Counter(orders[0]) == Counter(orders[1]) == found and orders[0] != orders[1]
    assert epoch_order(found, 1, 0) == orders[0]


def test_the_smallest_task_has_a_batch_in_every_epoch() -> None:
    assert batches_per_epoch({"a": 100_000, "b": 3}, 10, 1)["b"] == 1


def test_both_tasks_learn_under_heads_of_their_own(made: tuple[SharedEncoder, MultiTaskSpec]) -> None:
    result = made[0].result
    assert result.batches == batches_per_epoch(made[0].rows, 16, 2) and result.steps == 3 * sum(result.batches.values())
    assert [one.task for one in result.curve] == ["play", "trade"] * 3
    last = {one.task: one for one in result.curve if one.step == result.steps}
    assert all(one.score > 0.9 and one.log_loss < 0.4 for one in last.values()), last


def test_the_shared_folder_is_an_ordinary_encoder_that_has_moved(
    place: Path, made: tuple[SharedEncoder, MultiTaskSpec]
) -> None:
    base, shared = place / "encoder", place / "home" / "adapted" / made[0].key / ENCODER
    before, after = survey(base), survey(shared)
    assert (after.wanted, after.loaded, after.drawn) == (before.wanted, before.loaded, before.drawn)
    models = [load_classifier(folder, ("a", "b"), seed=1) for folder in (base, shared)]
    old, new = (dict(model.named_parameters()) for model in models)
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert same <= set(level_map(models[0]).head) and not any("pooler" in name for name in same)


@pytest.mark.parametrize("step", [5, 41])
def test_killed_and_started_again_it_ends_in_the_same_bits(
    place: Path, made: tuple[SharedEncoder, MultiTaskSpec], tmp_path: Path, step: int
) -> None:
    spec = replace(made[1], output=str(tmp_path / "again"), checkpoint_seconds=0.0)
    with pytest.raises(Killed):
        fit_together(spec, killer(step))
    seen: list[int] = []
    resumed = fit_together(MultiTaskSpec.from_json(spec.to_json()), lambda fraction, facts: seen.append(facts["step"]))
    assert min(seen) >= step - 1 and resumed.curve == made[0].result.curve
    whole = place / "home" / "adapted" / made[0].key / ENCODER / "model.safetensors"
    assert (tmp_path / "again" / ENCODER / "model.safetensors").read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_kill_9_of_the_trainer_loses_nothing(
    place: Path, made: tuple[SharedEncoder, MultiTaskSpec], tmp_path: Path
) -> None:
    config, home = load_config(place / "trade.yaml", ["multi_task=both.yaml"]), tmp_path / "home"
    prepared = planned(config, prepare(config, home), home)
    with Trainer() as trainer:
        run = identify(config, prepared, home)
        context = RunContext(config=config, prepared=prepared, run=run, home=home, trainer=trainer)

        def kill(fraction: float, facts: dict[str, Any]) -> None:
            if facts.get("step", 0) >= 20:
                assert trainer.pid is not None
                os.kill(trainer.pid, signal.SIGKILL)

        with pytest.raises(TrainerDied, match="run the command again to resume"):
            make_encoder(context, kill)
        steps: list[int] = []
        found = make_encoder(context, lambda fraction, facts: steps.append(facts.get("step", 99)))
    assert found is not None and max(steps) > 20
    weights = [h / "adapted" / made[0].key / ENCODER / "model.safetensors" for h in (home, place / "home")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (home / "adapting" / made[0].key).exists()


def test_the_same_rows_are_done_at_once_from_every_task(place: Path, made: tuple[SharedEncoder, MultiTaskSpec]) -> None:
    def never(spec: MultiTaskSpec) -> Any:
        raise AssertionError("nothing is trained")

    for task in ("play", "trade"):
        again = plan_of(place, task)
        assert (again.key, again.why) == (made[0].key, "made before, of the same rows and settings")
        assert carry_out_together(again, place / "home", CPU, never) == made[0]


def test_rows_that_judge_anywhere_do_not_train(place: Path, tmp_path: Path) -> None:
    """A task's training row that another validates or tests on, or nearly, is left out; with another split too."""
    write_tasks(tmp_path)
    mine = prepare(load_config(place / "play.yaml"), place / "home").dataset
    held = [text for split in ("validation", "test") for text in mine.table(split)["text"].to_pylist()]
    near = [f"{text.upper()} !" for text in held]
    write_task(
        tmp_path, "trade", [*rows_of((2, 3), 120, 2), *((text, "bank") for text in near)], split="{salt: another}"
    )
    plan = plan_of(tmp_path, "play")
    theirs = plan.tasks["trade"].dataset.table("train")["text"].to_pylist()
    assert plan.left_out == {"play": 0, "trade": len(set(theirs) & set(near))} and plan.left_out["trade"] > 20
    moved = plan_of(tmp_path, "play", "data.split.salt=another")
    own, rows = moved.own, set(mine.table("train")["text"].to_pylist())
    judging = {text for split in ("validation", "test") for text in own.table(split)["text"].to_pylist()}
    assert moved.key != plan.key and moved.left_out["play"] == len(rows & judging) > 20


def test_a_run_begins_with_the_shared_encoder_at_half_the_rate(
    place: Path, made: tuple[SharedEncoder, MultiTaskSpec]
) -> None:
    alone, shared = (load_config(place / "play.yaml", given) for given in ([], ["multi_task=both.yaml"]))
    finished = complete(shared, place / "home")
    context = finished.context
    assert context.prepared.encoder == made[0].key and context.prepared.adaptation is not None
    assert context.prepared.adaptation.chain == (made[0].key,)
    rates = [settled_for(config, context.prepared).training.lr for config in (alone, shared)]
    assert context.config.training.lr == rates[1] == rates[0] / 2
    key = identify(alone, prepare(alone, place / "home"), place / "home").run_key
    assert context.run.run_key != key
    assert complete(shared, place / "home").fit == finished.fit


def test_what_does_not_go_together_is_told_by_its_key(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    tiny_encoder(tmp_path / "other", layers=1, hidden=32)
    config = load_config(tmp_path / "play.yaml", ["multi_task=both.yaml", "model.pretrained=other"])
    with pytest.raises(ConfigError, match=r"tasks\.play: model\.pretrained is 'encoder', this run has 'other'"):
        planned(config, prepare(config, tmp_path / "home"), tmp_path / "home")
    for change, said in (
        ({"training": "{loss: focal}"}, r"training\.loss: has no effect here"),
        ({"training": "{device: cpu}"}, r"training\.device: has no effect here"),
        ({"temperatur": "2"}, r"did you mean temperature\?"),
        ({"tasks": "{play: play.yaml}"}, "tasks"),
        ({"tasks": "{play: play.yaml, trade: nowhere.yaml}"}, r"tasks\.trade: .*nowhere\.yaml: no such"),
    ):
        lines = {"name": "x", "tasks": "{play: play.yaml, trade: trade.yaml}", **change}
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        (tmp_path / "faulty.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            load_multi_task(tmp_path / "faulty.yaml").configurations()
    with pytest.raises(ConfigError, match="multi_task: both.yaml"):
        load_config(tmp_path / "both.yaml")
    search = "search={trials: 2, space: {model.pretrained: [encoder, other]}}"
    with pytest.raises(ConfigError, match="has no effect with multi_task, which makes one encoder"):
        load_config(tmp_path / "play.yaml", ["multi_task=both.yaml", search])
    with pytest.raises(ConfigError, match="multi_task: the encoder is trained further by adaptation"):
        load_config(tmp_path / "play.yaml", ["multi_task=both.yaml", "adaptation={steps: 3}"])
