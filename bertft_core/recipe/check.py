"""`bertft check`: what a run would do, without training. Imports neither prefect nor mlflow."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertft_core.adaptation.multi_task.lineage import MultiTask
from bertft_core.base.display import masked
from bertft_core.base.text import counted
from bertft_core.config.fit import AUTO, PROBE, number
from bertft_core.config.presets import PRESETS
from bertft_core.config.run import RunConfig
from bertft_core.config.store import MlflowConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.tokens.encoder_fit import fitting_layout, tokens_line
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.evaluation.policy.calibration import BLEND_ROWS, MIN_GROUPS
from bertft_core.model.layers import layer_table
from bertft_core.model.pretrained import features_of, layer_count, resolve_pretrained
from bertft_core.model.structures import describe, reference_classifier
from bertft_core.recipe.cost import Work, adapt_seconds, cores, disk_bytes, minutes_text, run_seconds
from bertft_core.recipe.fit import auto_line, schedule_of, searched_on, settled_for
from bertft_core.recipe.prepare import Prepared, planned, prepare


def plan(config: RunConfig, home: Path, store: MlflowConfig) -> dict[str, Any]:
    """Rows per split and class, token lengths, rows cut, rate and phase per layer, steps, minutes, disk, what is
    registered. Times some training steps, about 2 s with MiniLM on 2 cores.
    """
    from bertft_core.training.schedules import RateCurve, peak_rates, rates_table

    pretrained = resolve_pretrained(config)
    tokenizer = load_tokenizer(pretrained)
    fitting_layout(tokenizer, pretrained)
    from bertft_core.model.weights import survey  # torch: 8 seconds that no fault of the files above has to wait for

    origin = survey(pretrained)
    # reads rows: after whatever can be wrong with the encoder
    prepared = planned(config, prepare(config, home), home)
    dataset, tokens = prepared.dataset, prepared.tokens
    counts = {s: getattr(dataset, f"n_{s}") for s in ("train", "validation", "test")}
    searched = _search(searched_on(config, prepared), prepared, home, counts["train"])
    asked = config
    by_rows, config = auto_line(config, prepared), settled_for(config, prepared)
    training, is_probe = config.training, config.training.unfreezing == PROBE
    encoder = reference_classifier(pretrained)
    layer_table(encoder)  # a structure that is not known ends here
    schedule = schedule_of(config, pretrained)
    peaks = peak_rates(training, schedule.n_layers)
    head, count = features_of(config, pretrained), layer_count(pretrained)  # None: the stock head
    features = None if head is None else str(head)
    if head is not None and head.depth_used and head.depth_used < count:
        features = f"{head}; layers from {head.depth_used} on are neither computed nor trained"
    return {
        "name": config.name,
        "data": f"{counted(dataset.report.rows_read, 'row')} read, {dataset.report.rows_used} used, "
        f"{counted(dataset.report.duplicates_dropped, 'duplicate')} dropped, "
        f"{dataset.report.rows_quarantined} quarantined",
        "classes": list(dataset.classes),
        "splits": [
            {"split": s, "rows": n, "cut": tokens.rows_cut[s], **tokens.percentiles[s]} for s, n in counts.items()
        ],
        "rows_by_class": dataset.report.class_counts,
        **_needs(asked, prepared, home, pretrained),
        "preset": _preset(config),
        "features": features,
        "encoder": describe(encoder),
        "weights": str(origin),
        "tokenizer": tokens_line(tokenizer, pretrained),
        "layers": [asdict(row) for row in rates_table(schedule, peaks, training.weight_decay)],
        "rates": f"{RateCurve.of(training)}, {'anew in each phase' if training.phase_restart else 'once over the fit'}",
        "fit": "a logistic regression on the encoder as it is, C by cross-validation"
        if is_probe
        else f"{counted(number(training.epochs), 'epoch')} in batches of {training.batch_size}{_processes(config)}",
        "auto": by_rows,
        "adaptation": _adaptation(config, prepared),
        "steps": 1 if is_probe else number(training.epochs) * math.ceil(counts["train"] / training.batch_size),
        "search": searched,
        "blend": _blend(config, dataset),
        "register": f"{store.model_name(config.name)} at {masked(store.store(home).tracking_uri)}, "
        f"experiment {store.of(config.name).experiment}; alias {store.aliases.champion} if the rule holds",
        "warnings": list(dataset.warnings),
    }


def _needs(config: RunConfig, prepared: Prepared, home: Path, pretrained: Path) -> dict[str, Any]:
    """What a run from its beginning takes of this machine; times some training steps."""
    from bertft_core.training.machine import token_seconds

    token = token_seconds(pretrained)
    seconds = run_seconds(config, Work.of(prepared), pretrained, token)
    if (adaptation := prepared.adaptation) is not None:
        seconds = {"adapt": adapt_seconds(config, adaptation, token), **seconds}
    parts = ", ".join(f"{stage} {minutes_text(needed)}" for stage, needed in seconds.items() if needed)
    total = minutes_text(sum(seconds.values()))
    disk = {what: f"{size / 1e6:.0f} MB" for what, size in disk_bytes(config, prepared).items()}
    return {
        "seconds": seconds,
        "minutes": f"{total} on {counted(cores(), 'core')} where nothing else runs: {parts}",
        "disk": f"{disk['kept']} below {home}, {disk['while']} more while it trains; "
        f"{shutil.disk_usage(home).free / 1e9:.1f} GB are free",
    }


def _processes(config: RunConfig) -> str:
    """In how many processes a fit runs, where it is not one."""
    count = config.training.processes
    if count == AUTO:
        return ", in one process a GPU (on a CPU in one)"
    return f", in {count} processes that share out the rows of a batch" if count > 1 else ""


def _blend(config: RunConfig, dataset: DatasetSplits) -> str:
    """Whose answers would be served."""
    rows, groups = dataset.n_validation, dataset.groups("validation")
    if config.decision.blend == "off":
        return "off: the encoder answers alone"
    if config.decision.blend == "only":
        return "only: the TF-IDF baseline answers alone"
    if rows < BLEND_ROWS:
        return f"stays off: {counted(rows, 'validation row')}, {BLEND_ROWS} are wanted"
    if groups is not None and (n := len(set(groups.tolist()))) < MIN_GROUPS:
        return f"stays off: {counted(n, 'group')} of validation rows, {MIN_GROUPS} are wanted"
    return f"of encoder and TF-IDF baseline, if {rows} validation rows show that it helps"


def _adaptation(config: RunConfig, prepared: Prepared) -> str | None:
    """On what the encoder would be trained first, and from where."""
    section, adaptation = config.adaptation, prepared.adaptation
    if isinstance(adaptation, MultiTask):
        training = adaptation.training
        length = f"{counted(number(training.epochs), 'epoch')} at {training.lr:g} in batches of {training.batch_size}"
        return f"{adaptation}: {length}; {adaptation.why}"
    if adaptation is None or section is None:
        return None
    lengths = {"epochs": "epoch", "steps": "step", "minutes": "minute"}
    length = next(counted(n, one) for key, one in lengths.items() if (n := getattr(section, key)) is not None)
    return f"{section.objective}, {length} on {', '.join(section.corpus)}: {adaptation.corpus}; {adaptation.why}"


def _preset(config: RunConfig) -> dict[str, Any] | None:
    """The preset in full, and which of its values the configuration replaces."""
    if config.preset is None:
        return None
    preset = PRESETS[config.preset]
    replaced = {key: config.value_of(key) for key, value in preset.values.items() if config.value_of(key) != value}
    return {"name": config.preset, "source": preset.source, "values": dict(preset.values), "replaced": replaced}


def _search(config: RunConfig, prepared: Prepared, home: Path, rows: int) -> str:
    """What would be searched. Raises what the search would raise before its first trial."""
    search = config.search
    if search is None or not search.trials:
        return "none: the training values are used"
    from bertft_core.recipe.trials import require_possible
    from bertft_core.search.space import first_values, in_words, probe_values
    from bertft_core.search.strategies import grid_points, pruner_for, pruner_name, sampler_for

    require_possible(config, prepared, home)
    sampler_for(search, 0), pruner_for(search)
    if search.sampler.name == "grid":
        grid_points(search, 0)
    name = pruner_name(search)
    pruning = {"halving": "pruned by successive halving", "median": "pruned by the median rule"}.get(
        name, f"pruned by {name}"
    )
    parts = [
        f"{counted(search.trials, 'trial')} on {counted(min(search.rows or rows, rows), 'row')} each by "
        f"{counted(search.workers, 'worker')}, {'unpruned' if search.second or name == 'none' else pruning}",
        *([f"proposed by {search.sampler.name}"] if search.sampler.name != "auto" else []),
        *(f"{key} {choice}" for key, choice in in_words(search).items()),
    ]
    moved = {k: v for k, v in first_values(search, config).items() if v != config.value_of(k)}
    if moved:
        said = ", ".join(f"{key} {value} for {config.value_of(key)}" for key, value in moved.items())
        parts.append(f"first the configured values, with {said}, which the space does not hold")
    if search.trials > 1 and probe_values(search, config):
        parts.append("one of them the head alone, by logistic regression on the encoder as it is")
    if search.confirm_plan:
        parts.append(
            f"then the {search.confirm_plan.top} best with {counted(search.confirm_plan.seeds, 'further seed')} each"
        )
    return "; ".join(parts)
