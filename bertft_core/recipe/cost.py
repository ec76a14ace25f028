"""What a run will take of this machine: seconds by stage, from the measured seconds of a training step, and disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

from bertft_core.adaptation.multi_task.lineage import MultiTask
from bertft_core.config.auto import searched, settled
from bertft_core.config.fit import number
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.model.pretrained import layer_count
from bertft_core.model.weight_files import weight_shapes
from bertft_core.recipe.fit import prefix_plan, schedule_of
from bertft_core.recipe.prepare import MadeFirst, Prepared

_FORWARD = 1 / 3  # of a training step: what comes back costs twice what goes forth
_PADDING = 1.15  # batches hold rows of like length (benchmarks/batches.py)
_PRUNED = 0.75  # of a whole trial, where trials are given up early: some of them at a quarter
_STATED = 40.0  # processor seconds of a run on no rows: imports, stores, the fresh processes that answer at the release
_EXPLAIN_PASSES = 5 * 64  # rows through the model to weigh the words behind the worst errors
_COPIES, _STATES = 3, 3  # of the weights: fit, served artefact, MLflow's; of a checkpoint: weights and two moments


@dataclass(frozen=True, kw_only=True)
class Work:
    """Rows of the three splits, classes, and tokens of a row on average once it is cut."""

    train: int
    validation: int
    test: int
    classes: int
    tokens: float

    @classmethod
    def of(cls, prepared: Prepared) -> Work:
        """Of rows that are tokenized."""
        dataset, tokens = prepared.dataset, prepared.tokens
        rows = max(1, dataset.n_train + dataset.n_validation + dataset.n_test)
        total = sum(int(open_split(tokens.path, split).offsets[-1]) for split in ("train", "validation", "test"))
        return cls(
            train=dataset.n_train,
            validation=dataset.n_validation,
            test=dataset.n_test,
            classes=len(dataset.classes),
            tokens=total / rows,
        )


def fit_seconds(
    config: RunConfig, work: Work, pretrained: Path, token_seconds: float, rows: int | None = None
) -> float:
    """Seconds of one fit on so many training rows (None: all), with its validation after each epoch.

    token_seconds: of a training step of all layers (`training.machine.token_seconds`). Layers below those that train
    cost their forward pass in the first epoch and, cached, nothing after it.
    """
    n = min(rows or work.train, work.train)
    training = settled(config, n, work.classes).training
    epochs, schedule = number(training.epochs), schedule_of(config, pretrained)
    layers = layer_count(pretrained)
    upper = sum((end - start) * min(depth, layers) / layers for start, end, depth in schedule.phases())
    lower = (1 - upper) / epochs if training.prefix_cache != "off" else 1 - upper
    steps = epochs * ceil(n / training.batch_size) * training.batch_size * (upper + _FORWARD * lower)
    return _PADDING * work.tokens * token_seconds * (steps + epochs * work.validation * _FORWARD)


def run_seconds(config: RunConfig, work: Work, pretrained: Path, token_seconds: float) -> dict[str, float]:
    """Seconds by stage of a run from its beginning: search, finetune, and the rest (start, evaluation, release)."""
    parts = {"search": 0.0, "finetune": fit_seconds(config, work, pretrained, token_seconds)}
    if config.is_searched and config.search is not None:
        search, rows = config.search, min(config.search.rows or work.train, work.train)
        trials = searched(config, rows, work.classes)
        whole = fit_seconds(trials, work, pretrained, token_seconds, rows)
        plan = search.confirm_plan
        again = plan.top * plan.seeds if plan else 0
        parts["search"] = whole * (search.trials * (_PRUNED if search.trials > 4 else 1) + again)
        if search.timeout is not None:
            parts["search"] = min(parts["search"], search.timeout)
    reviewed = min(config.evaluation.review_rows, work.train)
    passes = 3 * work.test + work.validation + reviewed + _EXPLAIN_PASSES
    parts["rest"] = _STATED + passes * work.tokens * _PADDING * _FORWARD * token_seconds
    return parts


def adapt_seconds(config: RunConfig, adaptation: MadeFirst, token_seconds: float) -> float:
    """Seconds until the encoder that is made first is there, 0 of one that is.

    Blocks of an adaptation hold no padding, held-out ones are scored beside; of several tasks all layers count.
    """
    section = config.adaptation
    if isinstance(adaptation, MultiTask):
        return 0.0 if adaptation.folder else _PADDING * adaptation.tokens_read * token_seconds
    if section is None or adaptation.folder:
        return 0.0
    share = min(1.0, 2 * adaptation.new / adaptation.corpus.documents) if adaptation.begins_with else 1.0
    if section.minutes is not None:
        return 60 * section.minutes * share
    whole = (section.epochs or 0) * adaptation.corpus.tokens or (section.steps or 0) * section.batch_size * (
        section.max_length
    )
    return whole * share * token_seconds


def disk_bytes(config: RunConfig, prepared: Prepared) -> dict[str, int]:
    """Bytes below BERTFT_HOME: what stays of a first run, and what is needed beside it while it trains."""
    pretrained = Path(prepared.pretrained)
    weights = 4 * sum(prod(shape) for shape in weight_shapes(pretrained).values())
    stored = sum(f.stat().st_size for d in (prepared.dataset.path, prepared.tokens.path) for f in d.rglob("*.*"))
    workers = config.search.workers if config.search and config.is_searched else 1
    kept = stored + prefix_plan(config, prepared, "float32", None).size + _COPIES * weights
    return {"kept": kept, "while": workers * _STATES * weights}


def minutes_text(seconds: float) -> str:
    """A time that is an estimate, for people.

    >>> [minutes_text(s) for s in (20, 100, 1500, 20_000)]
    ['under a minute', 'about 2 minutes', 'about 25 minutes', 'about 5.6 hours']
    """
    if seconds < 45:
        return "under a minute"
    if seconds < 90:
        return "about a minute"
    return f"about {round(seconds / 60)} minutes" if seconds < 2 * 3600 else f"about {seconds / 3600:.1f} hours"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
