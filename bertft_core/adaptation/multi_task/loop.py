"""One encoder trained on several tasks: each batch is of one of them, under a head of its own; bitwise resumable.

Everything random depends on (seed, step) or (seed, epoch): killed anywhere and started again it ends in the same bits.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bertft_core.adaptation.multi_task.model import levels_together, save_encoder, share_encoder
from bertft_core.adaptation.multi_task.proportions import batches_per_epoch, epoch_order
from bertft_core.adaptation.multi_task.results import FinishedMultiTask, MultiTaskResult, MultiTaskSpec, TaskScore
from bertft_core.base.errors import ConfigError
from bertft_core.base.files import write_json
from bertft_core.base.records import read_or_set_aside
from bertft_core.config.fit import number
from bertft_core.data.tokens.batching import epoch_batches
from bertft_core.data.tokens.tokenization import TokenArrays, open_split
from bertft_core.model.classifier import load_classifier
from bertft_core.model.features import Classifier, level_map
from bertft_core.model.layers import LayerMap, set_depth
from bertft_core.training.checkpoint import load_checkpoint, next_checkpoint, remove_checkpoint, save_checkpoint
from bertft_core.training.forward import FeatureForward, Forward, open_forward
from bertft_core.training.losses import TrainingLoss, validation_scores
from bertft_core.training.machine import pick_device, runtime
from bertft_core.training.optimizer import (
    batch_gradient,
    build_optimizer,
    memory_faults,
    parameter_groups,
    set_rates,
    take_step,
)
from bertft_core.training.schedules import RateCurve, RatePlan, UnfreezeSchedule, peak_rates
from bertft_core.training.spec import FitSpec

ENCODER = "encoder"  # the shared encoder's folder in the output
_BEAT_SECONDS = 1.0
OnProgress = Callable[[float, dict[str, Any]], None]


@dataclass(kw_only=True)
class MultiTaskState:
    """What is remembered besides tensors. micro_batch: rows at a time, of tasks whose batches memory does not hold."""

    step: int = 0
    seconds: float = 0.0
    depth: int = -1
    micro_batch: dict[str, int] = field(default_factory=dict)
    curve: list[TaskScore] = field(default_factory=list)


@dataclass(kw_only=True)
class _Task:
    """A task's classifier on the shared encoder, and its rows."""

    spec: FitSpec
    model: Classifier
    levels: LayerMap
    forward: Forward | FeatureForward
    train: TokenArrays
    validation: TokenArrays
    rows: NDArray[np.int64]
    loss: TrainingLoss
    laid: tuple[int, list[NDArray[np.int64]]] = (-1, [])  # an epoch and its batches

    def batch(self, count: int) -> NDArray[np.int64]:
        """The rows of its batch number `count` since the beginning: its own epochs follow each other."""
        training = self.spec.training
        epoch, place = divmod(count, math.ceil(len(self.rows) / training.batch_size))
        if self.laid[0] != epoch:
            lengths, labels = self.train.lengths[self.rows], self.train.labels[self.rows]
            self.laid = epoch, epoch_batches(lengths, labels, training.batch_size, training.seed, epoch)
        return self.rows[self.laid[1][place]]


@dataclass(kw_only=True)
class _Run:
    spec: MultiTaskSpec
    tasks: dict[str, _Task]
    together: nn.ModuleList
    optimizer: torch.optim.AdamW
    schedule: UnfreezeSchedule
    batches: dict[str, int]
    on_progress: OnProgress | None
    state: MultiTaskState = field(default_factory=MultiTaskState)
    started: float = field(default_factory=time.monotonic)
    last_beat: float = 0.0
    next_checkpoint: float = 0.0

    @property
    def per_epoch(self) -> int:
        return sum(self.batches.values())

    @property
    def total(self) -> int:
        return self.per_epoch * number(self.spec.training.epochs)

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started


def fit_together(spec: MultiTaskSpec, on_progress: OnProgress | None = None) -> MultiTaskResult:
    """Train one encoder on all tasks; `spec.output`/encoder is what it has become, after the last epoch.

    Validation rows of a task are scored under its head after each epoch; they choose nothing. ``on_progress(fraction,
    facts)`` about once a second. Goes on from a checkpoint of the same key in `spec.output`; a finished result there is
    returned at once.

    Raises: TrialPruned when loss or gradient are not finite ("nonfinite ...") or memory does not hold one row
    ("oom ..."); ModelError when the encoder cannot be used; ConfigError where tasks compute different layers of it.
    """
    output = Path(spec.output)
    output.mkdir(parents=True, exist_ok=True)
    stored = read_or_set_aside(output / "result.json", FinishedMultiTask, "the shared training is made again")
    if stored is not None and stored.key == spec.key and (output / ENCODER).is_dir():
        return stored.result
    training = spec.training
    with memory_faults(), runtime(training.threads, training.device):
        run = _prepare(spec, on_progress)
        _train(run)
        result = _finish(run)
    write_json(output / "result.json", asdict(FinishedMultiTask(key=spec.key, result=result)))
    remove_checkpoint(output)
    return result


def _prepare(spec: MultiTaskSpec, on_progress: OnProgress | None) -> _Run:
    training, models, levels = spec.training, [], []
    device = pick_device(training.device)
    for one in spec.tasks.values():
        model = load_classifier(
            one.pretrained,
            one.classes,
            training.seed,
            training.dropout,
            attention_dropout=training.attention_dropout,
            multi_label=one.multi_label,
            plan=one.features,
        )
        models.append(model.to(device))  # type: ignore[arg-type]
        levels.append(level_map(model))
    depths = {name: len(own.layers) for name, own in zip(spec.tasks, levels, strict=True)}
    if len(set(depths.values())) > 1:
        raise ConfigError(
            f"model.layers: tasks that share an encoder must compute as many of its layers, were {depths}"
        )
    share_encoder(models)
    together = nn.ModuleList(models)
    n_layers = len(levels[0].layers)
    groups = parameter_groups(
        together, levels_together(models, levels), peak_rates(training, n_layers), training.weight_decay
    )
    tasks = {
        name: _open_task(one, model, own, np.load(spec.rows[name], allow_pickle=False))
        for (name, one), model, own in zip(spec.tasks.items(), models, levels, strict=True)
    }
    rows = {name: len(task.rows) for name, task in tasks.items()}
    run = _Run(
        spec=spec,
        tasks=tasks,
        together=together,
        optimizer=build_optimizer(groups),
        schedule=UnfreezeSchedule.of(training.unfreezing, n_layers, number(training.epochs)),
        batches=batches_per_epoch(rows, training.batch_size, spec.temperature),
        on_progress=on_progress,
    )
    restored = load_checkpoint(Path(spec.output), spec.key, together, run.optimizer, MultiTaskState)
    if restored is not None:
        run.state = restored
        _set_depth(run, restored.depth)
    run.next_checkpoint = time.monotonic() + spec.checkpoint_seconds
    return run


def _open_task(spec: FitSpec, model: Classifier, levels: LayerMap, rows: NDArray[np.int64]) -> _Task:
    train, validation = (open_split(Path(spec.tokens), split) for split in ("train", "validation"))
    device = pick_device(spec.training.device)
    return _Task(
        spec=spec,
        model=model,
        levels=levels,
        forward=open_forward(model, device, spec.training.precision),
        train=train,
        validation=validation,
        rows=rows,
        loss=TrainingLoss.of(
            spec.training,
            spec.classes,
            train.labels[rows] if train.weights is None else train.weights[rows],
            device,
            multi_label=spec.multi_label,
        ),
    )


def _set_depth(run: _Run, depth: int) -> None:
    run.state.depth = depth
    for task in run.tasks.values():
        set_depth(task.model, task.levels, depth)


def _train(run: _Run) -> None:
    state, training = run.state, run.spec.training
    curve = RateCurve.of(training)
    plan = RatePlan(curve=curve, unfreezing=run.schedule, total=run.total, phase_restart=training.phase_restart)
    while state.step < run.total:
        epoch, done = divmod(state.step, run.per_epoch)
        order = epoch_order(run.batches, training.seed, epoch)
        counts = {name: epoch * each + order[:done].count(name) for name, each in run.batches.items()}
        for name in order[done:]:
            depth = run.schedule.depth_at(state.step / run.total)
            if depth != state.depth:
                run.optimizer.zero_grad(set_to_none=True)
                _set_depth(run, depth)
            set_rates(run.optimizer, plan.factors(state.step))
            _step(run, name, run.tasks[name].batch(counts[name]))
            counts[name] += 1
            is_epoch_end = state.step % run.per_epoch == 0
            if is_epoch_end:
                _score(run)
            _checkpoint(run, is_forced=is_epoch_end)


def _step(run: _Run, name: str, rows: NDArray[np.int64]) -> None:
    """One update on these rows of one task: its head and the encoder, no other head."""
    task, state, training = run.tasks[name], run.state, run.spec.training
    size = state.micro_batch.get(name, training.batch_size)
    value, held = batch_gradient(
        lambda part: task.loss(*task.forward.logits(task.train, part, state.depth)),
        rows,
        size,
        run.optimizer,
        (training.seed << 32) + state.step,
        task.forward.device,
    )
    if held != size:
        state.micro_batch[name] = held
    state.step += 1
    take_step(run.together, run.optimizer, value, training.max_grad_norm, f"step {state.step}: lower training.lr")
    _beat(run, {"task": name, "loss": value})


def _score(run: _Run) -> None:
    """Every task's validation rows under its head."""
    for name, task in run.tasks.items():
        logits = task.forward.predict(
            task.validation, run.state.depth, lambda fraction: _beat(run, {"scoring": fraction})
        )
        weights = task.validation.weights
        scores = validation_scores(logits, task.validation.labels, weights, multi_label=task.spec.multi_label)
        metric = task.spec.metric
        run.state.curve.append(
            TaskScore(step=run.state.step, task=name, metric=metric, score=scores[metric], log_loss=scores["log_loss"])
        )
    _set_depth(run, run.state.depth)
    _beat(run, {"scores": {one.task: one.score for one in run.state.curve[-len(run.tasks) :]}}, is_forced=True)


def _beat(run: _Run, facts: dict[str, Any], *, is_forced: bool = False) -> None:
    now = time.monotonic()
    if run.on_progress and (is_forced or now - run.last_beat >= _BEAT_SECONDS):
        run.last_beat = now
        common = {"step": run.state.step, "total_steps": run.total, "seconds": run.seconds()}
        run.on_progress(run.state.step / run.total, {**common, **facts})


def _checkpoint(run: _Run, *, is_forced: bool) -> None:
    begun = time.monotonic()
    if run.state.step == run.total or (not is_forced and begun < run.next_checkpoint):
        return
    run.state.seconds, run.started = run.seconds(), begun
    save_checkpoint(Path(run.spec.output), run.spec.key, run.state, run.together, run.optimizer)
    run.next_checkpoint = next_checkpoint(begun, run.spec.checkpoint_seconds)


def _finish(run: _Run) -> MultiTaskResult:
    target = Path(run.spec.output) / ENCODER
    shutil.rmtree(target, ignore_errors=True)
    first = next(iter(run.spec.tasks.values()))
    save_encoder([task.model for task in run.tasks.values()], Path(first.pretrained), target)
    return MultiTaskResult(
        steps=run.state.step,
        epochs=number(run.spec.training.epochs),
        seconds=run.seconds(),
        batches=run.batches,
        curve=tuple(run.state.curve),
        micro_batch=run.state.micro_batch,
    )
