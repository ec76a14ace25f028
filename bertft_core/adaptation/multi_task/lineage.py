"""Which shared encoder a run begins with: named by rows and settings before it is made, made once. No torch here.

home/adapted/<key> holds each, as it holds adapted ones: encoder/, multi_task.json.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertft_core.adaptation.corpus import Ints, Keys, keys_of, text_key
from bertft_core.adaptation.lineage import ADAPTED, UNFINISHED, encoder_folder
from bertft_core.adaptation.multi_task.proportions import batches_per_epoch
from bertft_core.adaptation.multi_task.results import MULTI_TASK_VERSION, MultiTaskResult, MultiTaskSpec
from bertft_core.base.errors import DataError
from bertft_core.base.files import is_complete, is_reusable, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.records import read_record
from bertft_core.base.text import counted
from bertft_core.config.auto import auto_values
from bertft_core.config.fit import TrainingConfig, number
from bertft_core.config.multi_task import OF_THE_MACHINE, OF_THE_TASK, MultiTaskConfig
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.splits import SPLITS
from bertft_core.data.tokens.tokenization import TokenizedSplits
from bertft_core.model.pretrained import features_of
from bertft_core.training.spec import FitSpec

_ENCODER, _RECORD = "encoder", "multi_task.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task's configuration, and the rows and tokens that its own runs have."""

    config: RunConfig
    dataset: DatasetSplits
    tokens: TokenizedSplits


@dataclass(frozen=True, kw_only=True)
class SharedEncoder:
    """multi_task.json. rows: training rows of each task; left_out: those of them that judge another task."""

    key: str
    base_encoder: str
    chain: tuple[str, ...]
    rows: dict[str, int]
    left_out: dict[str, int]
    made: float
    result: MultiTaskResult

    def facts(self) -> dict[str, Any]:
        """What the result document says beside the result."""
        return {"rows": self.rows, "left_out": self.left_out}


@dataclass(frozen=True, kw_only=True)
class MultiTask:
    """The encoder that several tasks leave, named before it is made; what `lineage.Adaptation` is for text.

    training: with numbers in place of `auto`; judging: texts of this run's own validation and test are among those
    left out. folder: the encoder to begin fits with, "" as long as it is not made.
    """

    config: MultiTaskConfig
    training: TrainingConfig
    tasks: dict[str, Task]
    own: DatasetSplits
    key: str
    base: str
    base_encoder: str
    rows: dict[str, int]
    left_out: dict[str, int]
    why: str
    folder: str = ""

    @property
    def chain(self) -> tuple[str, ...]:
        """The encoders that are made on the way: this one."""
        return (self.key,)

    def with_folder(self, home: Path) -> Self:
        """The same once it is made."""
        return replace(self, folder=str(encoder_folder(home, self.key, self.base)))

    @property
    def tokens_read(self) -> float:
        """Tokens that the training reads, about."""
        batches = batches_per_epoch(self.rows, self.training.batch_size, self.config.temperature)
        epochs, size = number(self.training.epochs), self.training.batch_size
        return sum(epochs * batches[n] * size * _mean_tokens(task.tokens) for n, task in self.tasks.items())

    def __str__(self) -> str:
        parts = []
        for name, count in self.rows.items():
            left = self.left_out[name]
            parts.append(
                f"{name} {counted(count, 'row')}" + (f" ({left} that judge elsewhere left out)" if left else "")
            )
        return f"{self.config.name} on {', '.join(parts)}"


def _mean_tokens(tokens: TokenizedSplits) -> float:
    return min(tokens.max_length, tokens.percentiles["train"]["p50"])


def plan_multi_task(
    config: MultiTaskConfig, tasks: Mapping[str, Task], own: DatasetSplits, base: tuple[Path, str], home: Path
) -> MultiTask:
    """Name the encoder that a multi-task configuration leaves of `base` (folder, fingerprint); trains nothing.

    own: the rows of the run that asks for it. The same rows, settings and code: the encoder that is there.

    Raises DataError where a task is left without training rows.
    """
    pretrained, fingerprint = base
    places = kept_rows(tasks, own)
    found: dict[str, list[Any]] = {}
    for name, task in tasks.items():
        if not len(places[name]):
            raise DataError(f"tasks.{name}: all its training rows are validation or test rows of another task")
        rows_and_loss = [task.tokens.fingerprint, hash_json(places[name].tolist()), _loss_of(task.config)]
        plan = features_of(task.config, pretrained)
        head = [list(task.dataset.classes), task.dataset.multi_label, plan.to_json() if plan else None]
        found[name] = [*rows_and_loss, *head]
    rows = {name: len(chosen) for name, chosen in places.items()}
    settled = auto_values(
        config.training, sum(rows.values()), max(len(task.dataset.classes) for task in tasks.values())
    )
    training = TrainingConfig(**{**dict(config.training), **settled})
    settings = training.model_dump(mode="json", exclude={*OF_THE_TASK, *OF_THE_MACHINE, "patience"})
    key = hash_json([MULTI_TASK_VERSION, fingerprint, settings, config.temperature, found])[:32]
    is_made = is_complete(home / ADAPTED / key)
    planned = MultiTask(
        config=config,
        training=training,
        tasks=dict(tasks),
        own=own,
        key=key,
        base=str(pretrained),
        base_encoder=fingerprint,
        rows=rows,
        left_out={name: task.dataset.n_train - rows[name] for name, task in tasks.items()},
        why="made before, of the same rows and settings" if is_made else "begins with the encoder itself",
    )
    return planned.with_folder(home) if is_made else planned


def kept_rows(tasks: Mapping[str, Task], own: DatasetSplits) -> dict[str, Ints]:
    """The places of each task's training rows without those that judge another: int64, rising.

    A row is left out where its text, or the second one of a pair, is a validation or test text of other data, or
    differs from one by spaces, punctuation, accents or case alone. Within its own data the split has seen to that.
    """
    data = {one.fingerprint: one for one in (own, *(task.dataset for task in tasks.values()))}
    judging = {name: _judging(one) for name, one in data.items()}
    found = {}
    for name, task in tasks.items():
        others = [keys for fingerprint, keys in judging.items() if fingerprint != task.dataset.fingerprint]
        left = set(np.concatenate([np.zeros(0, dtype=np.uint64), *others]).tolist())
        is_kept = np.ones(task.dataset.n_train, dtype=bool)
        for column in _columns(task.dataset) if left else ():
            texts = task.dataset.table(SPLITS[0])[column].to_pylist()
            is_kept &= np.array([text_key(text) not in left for text in texts], dtype=bool)
        found[name] = np.flatnonzero(is_kept)
    return found


def _judging(dataset: DatasetSplits) -> Keys:
    return keys_of(
        text
        for split in SPLITS[1:]
        for column in _columns(dataset)
        for text in dataset.table(split)[column].to_pylist()
    )


def _columns(dataset: DatasetSplits) -> tuple[str, ...]:
    return ("text", "text_pair") if dataset.has_pair else ("text",)


def _loss_of(config: RunConfig) -> dict[str, Any]:
    return config.training.model_dump(mode="json", include=set(OF_THE_TASK))


def carry_out_together(
    planned: MultiTask, home: Path, machine: tuple[str, str, int], train: Callable[[MultiTaskSpec], MultiTaskResult]
) -> SharedEncoder:
    """Make a planned encoder, or read back the one that is there; machine: precision, device, threads."""
    target = home / ADAPTED / planned.key
    lock = home / "locks" / f"adapt-{planned.key[:12]}.lock"
    with exclusive(lock, f"shared training {planned.key}", FOREVER):
        if is_reusable(target):
            return read_record(target / _RECORD, SharedEncoder, "delete its folder, it is made again")
        work = home / UNFINISHED / planned.key
        work.mkdir(parents=True, exist_ok=True)
        result = train(_spec(planned, work, machine))
        found = SharedEncoder(
            key=planned.key,
            base_encoder=planned.base_encoder,
            chain=planned.chain,
            rows=planned.rows,
            left_out=planned.left_out,
            made=time.time(),
            result=result,
        )
        with staged_folder(target) as staging:
            shutil.copytree(work / _ENCODER, staging / _ENCODER)
            write_json(staging / _RECORD, asdict(found))
        shutil.rmtree(work, ignore_errors=True)
        return found


def _spec(planned: MultiTask, work: Path, machine: tuple[str, str, int]) -> MultiTaskSpec:
    precision, device, threads = machine
    here = {"precision": precision, "device": device, "threads": threads, "processes": 1, "prefix_cache": "off"}
    specs: dict[str, FitSpec] = {}
    files: dict[str, str] = {}
    for name, places in kept_rows(planned.tasks, planned.own).items():
        task, file = planned.tasks[name], work / f"rows-{len(files)}.npy"
        np.save(file, places, allow_pickle=False)
        files[name] = str(file)
        specs[name] = FitSpec(
            training=TrainingConfig(**{**dict(planned.training), **_loss_of(task.config), **here}),
            pretrained=planned.base,
            tokens=task.tokens.directory,
            output=str(work),
            classes=task.dataset.classes,
            features=features_of(task.config, Path(planned.base)),
            multi_label=task.dataset.multi_label,
            metric=task.config.evaluation.metric,
        )
    return MultiTaskSpec(
        key=planned.key, tasks=specs, rows=files, temperature=planned.config.temperature, output=str(work)
    )
