"""Fits of a run: machine settings, what each fit needs to know, the final fit, over the trainer process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bertft_core.base.errors import InputError
from bertft_core.base.files import write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.records import read_or_set_aside
from bertft_core.base.text import counted, size_text
from bertft_core.config.auto import LEAST_EPOCHS, searched, settled
from bertft_core.config.fit import AUTO, PROBE, TrainingConfig
from bertft_core.config.knobs import SEARCHED_SECTIONS
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.model.pretrained import features_of, hidden_size, layers_computed
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.prepare import Prepared, at_hand
from bertft_core.recipe.runs import Run
from bertft_core.training.results import TrainingResult
from bertft_core.training.schedules import UnfreezeSchedule, usable_cuts
from bertft_core.training.spec import PREFIX_BYTES, FitSpec, MachineSettings


def machine_settings(context: RunContext, doing: Callable[[str], None] = lambda text: None) -> MachineSettings:
    """Threads, precision, device and processes: resolved once, stored with the run and reused on resume.

    What was measured for an encoder on this machine is kept in home/machine.json, so that one busy minute
    does not change the numbers from one night to the next; delete the file to measure again, as is done where it is
    damaged. doing: is told where it has to be measured, which takes minutes on a busy machine.
    """
    if stored := context.run.settings:
        return stored
    file, prepared, training = context.home / "machine.json", context.prepared, context.config.training
    known = read_or_set_aside(file, dict[str, MachineSettings], "it is measured again") or {}
    wanted = (training.precision, training.device, training.threads)
    key = hash_json([platform.node(), version("torch"), os.cpu_count(), prepared.base_encoder, *wanted])[:16]
    if key not in known:
        doing("settling threads and precision for this encoder and machine, once")
        known[key] = context.trainer.resolve(prepared.pretrained, *wanted)
        write_json(file, {name: asdict(settings) for name, settings in known.items()})
    gpus = known[key].gpus
    processes = max(1, gpus) if training.processes == AUTO else training.processes
    settings = replace(known[key], processes=processes)
    context.run.update(settings=asdict(settings))
    return settings


def fit_spec(
    config: RunConfig,
    prepared: Prepared,
    settings: MachineSettings,
    home: Path,
    output: Path,
    *,
    seed: int,
    rows: int | None,
    keep_model: bool,
) -> FitSpec:
    """One fit as the trainer process reads it, with lr and epochs settled for the rows that it trains on."""
    config, prepared = settled_for(config, prepared, rows), at_hand(config, prepared, home)
    own: dict[str, Any] = {"precision": settings.precision, "device": settings.device, "seed": seed}
    own["processes"] = settings.processes
    own["threads"] = max(1, settings.threads // settings.processes)
    own["prefix_cache"] = prefix_plan(config, prepared, settings.precision, rows).mode
    return FitSpec(
        training=TrainingConfig(**{**dict(config.training), **own}),
        pretrained=prepared.pretrained,
        tokens=prepared.tokens.directory,
        output=str(output),
        classes=prepared.dataset.classes,
        features=features_of(config, Path(prepared.pretrained)),
        multi_label=prepared.dataset.multi_label,
        metric=config.evaluation.metric,
        rows=rows,
        keep_model=keep_model,
        prefix_root=str(home / "prefix"),
    )


def settled_for(config: RunConfig, prepared: Prepared, rows: int | None = None) -> RunConfig:
    """The configuration with numbers in place of `auto`, for a fit on all training rows or on so many of them."""
    n_train = prepared.dataset.n_train
    return settled(config, min(rows or n_train, n_train), len(prepared.dataset.classes))


def auto_line(config: RunConfig, prepared: Prepared) -> str:
    """What `auto` stands for in a fit on all training rows, for people; "" where the configuration has no `auto`."""
    now = settled_for(config, prepared).training
    if now.unfreezing == PROBE:
        return ""
    values = [f"{key} {getattr(now, key):g}" for key in ("lr", "epochs") if getattr(config.training, key) == AUTO]
    where = (
        f"{counted(prepared.dataset.n_train, 'row')} of {counted(len(prepared.dataset.classes), 'class', 'classes')}"
    )
    return f"{' and '.join(values)} by auto, for {where}" if values else ""


def searched_on(config: RunConfig, prepared: Prepared) -> RunConfig:
    """The configuration with a search space, for trials on the rows that they get."""
    n_train, rows = prepared.dataset.n_train, config.search.rows if config.search else None
    return searched(config, min(rows or n_train, n_train), len(prepared.dataset.classes))


def schedule_of(config: RunConfig, pretrained: Path) -> UnfreezeSchedule:
    """When the layers that are computed train. Raises ConfigError for phases deeper than they are."""
    layers, epochs = layers_computed(config, pretrained), config.training.epochs
    return UnfreezeSchedule.of(config.training.unfreezing, layers, LEAST_EPOCHS if epochs == AUTO else epochs)


@dataclass(frozen=True, kw_only=True)
class PrefixPlan:
    """What a fit does about the layers below those that train. mode: FitSpec's prefix_cache; why: for people.

    size: bytes of all rows' hidden states, 0 where none are kept.
    """

    mode: str
    why: str
    size: int = 0

    def __str__(self) -> str:
        kept = "prefix cache off" if self.mode == "off" else f"prefix cache {self.mode}"
        return f"{kept}: {self.why}"


def prefix_plan(config: RunConfig, prepared: Prepared, precision: str, rows: int | None) -> PrefixPlan:
    """Whether keeping the hidden states of the frozen layers pays, by the configuration and the rows alone.

    A number type in training.prefix_cache is taken as it is. auto: off where nothing is frozen, where each row is read
    once (one epoch, no search), and above training.prefix_cache_gb; else float16 beside bfloat16 products, which are
    coarser, and float32 beside float32.
    """
    training, pretrained = config.training, Path(prepared.pretrained)
    schedule, features = schedule_of(config, pretrained), features_of(config, pretrained)
    cuts = usable_cuts(schedule, features)
    if not schedule.cuts():
        return PrefixPlan(mode="off", why=f"training.unfreezing {training.unfreezing} freezes no layers")
    if not cuts:
        return PrefixPlan(mode="off", why=f"{features}: the head reads below the layers that train")
    if training.prefix_cache == "off":
        return PrefixPlan(mode="off", why="training.prefix_cache says so")
    if training.prefix_cache != "auto":
        return PrefixPlan(mode=training.prefix_cache, why="training.prefix_cache says so")
    trials = config.search.trials if config.search else 0
    if training.epochs == 1 and trials < 2:
        return PrefixPlan(mode="off", why="one epoch of one fit reads each row at most once")
    mode = "float16" if precision == "bfloat16" else "float32"
    size = _tokens_read(prepared, rows) * hidden_size(pretrained) * len(cuts) * PREFIX_BYTES[mode]
    where = f"{size_text(size)} at {counted(len(cuts), 'cut')}"
    if size > training.prefix_cache_gb * 1e9:
        limit = f"above training.prefix_cache_gb {training.prefix_cache_gb:g}"
        return PrefixPlan(mode="off", why=f"{where} would be {limit}: frozen layers are computed in every step")
    return PrefixPlan(mode=mode, why=where, size=size)


def _tokens_read(prepared: Prepared, rows: int | None) -> int:
    """Tokens of the training rows that are used (about, where `rows` are sampled) and of the validation rows."""
    totals = {s: int(open_split(prepared.tokens.path, s).offsets[-1]) for s in ("train", "validation")}
    share = min(1.0, rows / prepared.tokens.n_train) if rows else 1.0
    return round(totals["train"] * share) + totals["validation"]


def finetune(context: RunContext, on_progress: Callable[[float, dict[str, Any]], None] | None = None) -> TrainingResult:
    """The final fit on all training rows, under run/fit; a finished one of this configuration is read back."""
    config, run = context.config, context.run
    stored = run.state().get("fit")
    if stored and fitted_config(config, run) == config:
        return TrainingResult.from_json(stored)
    settings, seed = machine_settings(context), config.training.seed
    spec = fit_spec(
        config, context.prepared, settings, context.home, run.folder.fit, seed=seed, rows=None, keep_model=True
    )
    result = context.trainer.fit(spec, on_progress)
    if result.state != "complete":
        raise InputError(f"the final fit ended early ({result.reason}): lower training.lr or training.batch_size")
    run.update(fit=asdict(result), fitted={name: getattr(config, name).model_dump() for name in SEARCHED_SECTIONS})
    return result


def fitted_config(config: RunConfig, run: Run) -> RunConfig | None:
    """The configuration with the values of the run's finished fit, None where there is none.

    What is judged and served afterwards must cut as that fit did: the study may name another winner by now.
    """
    state = run.state()
    if "fitted" not in state or not (Path(state["fit"]["model_dir"]) / "model.safetensors").exists():
        return None
    return RunConfig(**{**dict(config), **state["fitted"]})
