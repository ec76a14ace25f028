"""What a shared training is told and what it gives back: values that cross the border to the trainer process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from bertft_core.base.text import counted
from bertft_core.config.fit import TrainingConfig
from bertft_core.config.metrics import metric_title
from bertft_core.training.spec import FitSpec

MULTI_TASK_VERSION = 1  # stands in the key of a shared encoder: raise it where equal settings give other weights


@dataclass(frozen=True, kw_only=True)
class MultiTaskSpec:
    """One shared training as the trainer process reads it.

    tasks: by name what a fit of each alone would read; `training` differs by the loss alone. rows: a file of the places
    of the training rows of each. temperature: of the batches' shares. output: a folder of this training alone.
    """

    key: str
    tasks: dict[str, FitSpec]
    rows: dict[str, str]
    temperature: float
    output: str
    checkpoint_seconds: float = 20.0

    @property
    def training(self) -> TrainingConfig:
        """The settings that all tasks have in common: all but the loss."""
        return next(iter(self.tasks.values())).training

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "tasks": {name: spec.to_json() for name, spec in self.tasks.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**{**value, "tasks": {name: FitSpec.from_json(spec) for name, spec in value["tasks"].items()}})


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A task's validation rows after an epoch of the shared training, under the head that it has there."""

    step: int
    task: str
    metric: str
    score: float
    log_loss: float


@dataclass(frozen=True, kw_only=True)
class MultiTaskResult:
    """What a shared training did. curve: scores of each task after each epoch; batches: of each task in an epoch."""

    steps: int
    epochs: int
    seconds: float
    batches: dict[str, int]
    curve: tuple[TaskScore, ...]
    micro_batch: dict[str, int]

    def __str__(self) -> str:
        last = [one for one in self.curve if one.step == self.steps]
        scores = ", ".join(f"{one.task} {metric_title(one.metric)} {one.score:.4f}" for one in last)
        batches = ", ".join(f"{count} of {name}" for name, count in self.batches.items())
        return (
            f"{counted(self.epochs, 'epoch')} of batches {batches} in {self.seconds:.0f} s; on validation rows, before "
            f"each is fitted alone: {scores}"
        )

    def points(self) -> list[tuple[str, float, int]]:
        """(name, value, step) of all that was measured."""
        curve = [
            point
            for one in self.curve
            for point in (
                (f"{one.task}.validation_{one.metric}", one.score, one.step),
                (f"{one.task}.validation_loss", one.log_loss, one.step),
            )
        ]
        return [*curve, ("steps", float(self.steps), 0), ("seconds", self.seconds, 0)]

    def table(self) -> list[dict[str, Any]]:
        """The curve, a row a task and epoch."""
        return [asdict(one) for one in self.curve]


@dataclass(frozen=True, kw_only=True)
class FinishedMultiTask:
    """result.json of a shared training."""

    key: str
    result: MultiTaskResult
