"""The sides of finetune_speed.py: one fit of the product or of the peer, each in a fresh process."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from batches import padded_share, shuffled
from peers import in_child, require_accelerate, variants
from records import Records
from workloads import Workload, prepare

from bertft_core.base.files import read_json
from bertft_core.data.tokens.batching import epoch_batches
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import FitSpec, MachineSettings

BATCH = 16
WARM_ROWS = 2 * BATCH
EPOCHS = 3
PLAIN = {"plain_256": ("bbc", 256), "plain_512": ("bbc", 512), "mixed_256": ("reviews", 256)}
PRODUCT = {"GOMP_SPINCOUNT": "10000"}  # as training.client starts the trainer process


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured: counted steps of the plain cases, rows of the schedules' fits, and quality's."""

    steps: dict[str, int]
    fit_rows: int = 400
    seeds: int = 5
    validation_rows: int = 100
    test_rows: int = 600


FULL = Sizes(steps={"plain_256": 9, "plain_512": 4, "mixed_256": 16, "peak_share": 8})
QUICK = Sizes(
    steps={"plain_256": 4, "plain_512": 2, "mixed_256": 6, "peak_share": 4},
    fit_rows=64,
    seeds=2,
    validation_rows=20,
    test_rows=60,
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every part needs. settings: the machine's, as `auto` resolves."""

    sizes: Sizes
    rounds: int
    records: Records
    home: Path
    settings: MachineSettings
    rates: dict[str, float]  # learning rate: ours, theirs
    quality_peer: str

    def kept(self, key: str, measured: Any) -> dict[str, Any]:
        """The record, measured now where it is missing, and told."""
        if self.records.get(key) is None:
            found = self.records.add(key, measured())
            told = f", {found['rows'] / found['seconds']:.1f} rows/s" if "seconds" in found else ""
            print(f"{key}{told}", file=sys.stderr, flush=True)
        return self.records.get(key) or {}


def plain_load(bench: Bench, case: str) -> Workload:
    """Rows of a plain case: one epoch of them is the wanted number of steps."""
    source, max_length = PLAIN[case]
    return Workload(source=source, max_length=max_length, train=bench.sizes.steps[case] * BATCH)


def quality_load(bench: Bench) -> Workload:
    """Rows of the quality comparison."""
    s = bench.sizes
    return Workload(source="bbc", max_length=256, train=s.fit_rows, validation=s.validation_rows, test=s.test_rows)


def specs(bench: Bench, load: Workload, precision: str, folder: Path, **training: Any) -> tuple[FitSpec, FitSpec]:
    """(warm-up fit of a few rows, the fit) with folders and a prefix cache of their own."""
    wanted = {"lr": bench.rates["ours"], "batch_size": BATCH, "epochs": 1, "seed": 1, **training}
    config, prepared = prepare(load, bench.home, wanted)
    settings = replace(bench.settings, precision=precision)
    made = [
        fit_spec(
            config,
            prepared,
            settings,
            folder / name,
            folder / name / "fit",
            seed=wanted["seed"],
            rows=rows,
            keep_model=False,
        )
        for name, rows in (("warm", WARM_ROWS), ("counted", None))
    ]
    warm, counted = (replace(spec, checkpoint_seconds=3600.0) for spec in made)
    return warm, counted


def run_ours(bench: Bench, load: Workload, precision: str, **training: Any) -> dict[str, Any]:
    """A fit of the product in a fresh trainer process."""
    with tempfile.TemporaryDirectory(dir=bench.home) as folder, Trainer() as trainer:
        warm, spec = specs(bench, load, precision, Path(folder), **training)
        trainer.fit(warm)
        return told(trainer.fit(spec), spec, load)


def told(result: Any, spec: FitSpec, load: Workload) -> dict[str, Any]:
    """What is kept of a fit of the product."""
    last = result.history[-1]
    found = {
        "seconds": last.seconds,
        "steps": last.step,
        "rows": load.train * spec.training.epochs,
        "padding": padding(spec),
    }
    return {
        **found,
        "precision": spec.training.precision,
        "prefix_cache": spec.training.prefix_cache,
        "prefix": result.prefix,
    }


def padding(spec: FitSpec) -> float:
    """Share of padding in the tokens of a fit's first epoch."""
    train = open_split(spec.tokens, "train")
    return padded_share(
        train.lengths, epoch_batches(train.lengths, train.labels, spec.training.batch_size, spec.training.seed, 0)
    )


def run_schedule(bench: Bench, schedule: str) -> dict[str, Any]:
    """Three epochs twice over one prefix cache: empty at first, then full (another seed, so another fit)."""
    load = Workload(source="bbc", max_length=256, train=bench.sizes.fit_rows)
    with tempfile.TemporaryDirectory(dir=bench.home) as folder, Trainer() as trainer:
        wanted = {"unfreezing": schedule, "epochs": EPOCHS}
        warm, spec = specs(bench, load, bench.settings.precision, Path(folder), **wanted)
        trainer.fit(warm)
        cold = told(trainer.fit(spec), spec, load)
        again = replace(spec, training=spec.training.model_copy(update={"seed": 2}), output=f"{spec.output}-2")
        hot = told(trainer.fit(again), again, load)
    return {"cold": cold, "warm": hot}


def run_peer(bench: Bench, load: Workload, variant: str, **job: Any) -> dict[str, Any]:
    """The Trainer of transformers in a fresh process."""
    require_accelerate()
    _, prepared = prepare(load, bench.home, {})
    common = {
        "encoder": prepared.pretrained,
        "tokens": prepared.tokens.directory,
        "classes": len(prepared.dataset.classes),
        "variant": variant,
        "batch_size": BATCH,
        "epochs": 1,
        "lr": bench.rates["theirs"],
        "seed": 1,
        "warm_rows": WARM_ROWS,
        "answers": False,
    }
    found = in_child("peers:train", common | job, bench.settings.threads)
    assert job.get("answers") or found["steps"] * BATCH == found["rows"], "the steps that both sides count"
    return dict(found)


def our_precisions(bench: Bench) -> dict[str, str]:
    """Our sides: as `auto` resolves, and float32 beside it where that is another."""
    auto = bench.settings.precision
    return {"ours": auto} if auto == "float32" else {"ours": auto, "ours_float32": "float32"}


def run_peak(bench: Bench) -> dict[str, Any]:
    """`machine_limit.measure` in a fresh process."""
    load = Workload(source="bbc", max_length=256, train=bench.sizes.steps["peak_share"] * BATCH, is_full_length=True)
    _, prepared = prepare(load, bench.home, {})
    lengths = open_split(prepared.tokens.directory, "train").lengths
    assert lengths.min() == lengths.max() == load.max_length, "every token is counted as real"
    encoder = read_json(Path(prepared.pretrained) / "config.json")
    sizes = {"layers": "num_hidden_layers", "width": "hidden_size", "inner": "intermediate_size"}
    config = {name: encoder[key] for name, key in sizes.items()} | {"classes": len(prepared.dataset.classes)}
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        pairs = {
            precision: [s.to_json() for s in specs(bench, load, precision, Path(folder) / precision, unfreezing="none")]
            for precision in ("float32", "bfloat16")[: len(variants()) - 1]  # as the peer's best settings
        }
        job = {"specs": pairs, "config": config, "batch_size": BATCH, "tokens": load.max_length}
        return dict(in_child("machine_limit:measure", job, bench.settings.threads, PRODUCT))


def run_without(bench: Bench, load: Workload, name: str) -> dict[str, Any]:
    """A plain fit with one trick off, in a fresh process (`ablated`)."""
    precision = "float32" if name == "bfloat16" else bench.settings.precision
    dropout = 0.1 if name == "attention_dropout" else 0.0
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        pair = specs(bench, load, precision, Path(folder), unfreezing="none", attention_dropout=dropout)
        job = {"specs": [spec.to_json() for spec in pair], "without": name}
        last = in_child("finetune_sides:ablated", job, bench.settings.threads, PRODUCT)
    return {"seconds": last["seconds"], "steps": last["step"], "rows": load.train}


def ablated(job: dict[str, Any]) -> dict[str, Any]:
    """Last epoch of the second of two fits in this process, with one trick replaced by what it stands in for."""
    import torch

    from bertft_core.model import encoder_pass
    from bertft_core.training import loop

    name = job["without"]
    if name in asdict(encoder_pass.TRICKS):
        encoder_pass.TRICKS = replace(encoder_pass.TRICKS, **{name: False})
    elif name == "grouping":
        loop.epoch_batches = shuffled
    elif name == "fused":
        loop.build_optimizer = lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    results = [loop.fit(FitSpec.from_json(spec)) for spec in job["specs"]]
    return asdict(results[-1].history[-1])


def quality_ours(bench: Bench, load: Workload, schedule: str, seed: int) -> dict[str, Any]:
    """Seconds and answers on the test rows of one fit of the product; all seeds share a prefix cache, as a search's."""
    with tempfile.TemporaryDirectory(dir=bench.home) as folder, Trainer() as trainer:
        wanted = {"unfreezing": schedule, "epochs": EPOCHS, "seed": seed}
        _, spec = specs(bench, load, bench.settings.precision, Path(folder), **wanted)
        spec = replace(spec, keep_model=True, metric="accuracy", prefix_root=str(bench.home / "prefix"))
        result = trainer.fit(spec)
        file = trainer.score(
            result.model_dir, spec.tokens, "test", Path(folder) / "test.npy", threads=spec.training.threads
        )
        return {**told(result, spec, load), "answers": np.load(file).argmax(axis=1).tolist()}
