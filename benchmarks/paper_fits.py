"""The fits of paper_tables.py: one arm and seed at a time, with what is kept of each in the records."""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from paper_arms import MAX_LENGTH, Arm
from paper_plan import Cost, Encoder, Texts, cost_of
from records import Records
from workloads import Workload, prepare

from bertft_core.base.errors import TrialPruned
from bertft_core.base.files import read_json
from bertft_core.base.hashes import code_fingerprint
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import TokenArrays, open_split
from bertft_core.model.pretrained import layer_count
from bertft_core.recipe import prepare as preparing
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared, prepare_for
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.schedules import RUNGS
from bertft_core.training.spec import FitSpec, MachineSettings

MACHINE, ROWS, CUT = "settings of the machine", "test rows", "training rows that are cut"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every fit needs. followed: as prepared, but its validation rows are prepared's test rows and vice versa."""

    config: RunConfig
    prepared: Prepared
    followed: Prepared
    settings: MachineSettings
    records: Records
    home: Path
    trainer: Trainer

    @property
    def encoder(self) -> Encoder:
        """Sizes of the encoder."""
        folder = Path(self.prepared.pretrained)
        sizes = read_json(folder / "config.json")
        return Encoder(layers=layer_count(folder), width=sizes["hidden_size"], inner=sizes["intermediate_size"])

    def told(self, arm: Arm, prepared: Prepared) -> tuple[RunConfig, Prepared]:
        """The configuration of an arm, and the rows cut as it wants them."""
        chosen = self.config.with_values(arm.settings())
        return chosen, prepare_for(self.config, chosen, prepared, self.home)

    def cost(self, arm: Arm) -> Cost:
        """FLOPs of one seed."""
        directory = self.told(arm, self.prepared)[1].tokens.directory
        splits = {s: sequence_lengths(open_split(directory, s)) for s in ("train", "validation", "test")}
        return cost_of(arm, Texts(**splits), self.encoder, scorings=arm.settings()["epochs"] + len(RUNGS))

    def right(self, arm: Arm) -> dict[int, Any]:
        """{seed: [rows] of whether the answer is right} of the finished fits of an arm."""
        labels = digits((self.records.get(ROWS) or {})["labels"])
        found = self.records.matching(arm.key(0).removesuffix("0"))
        return {int(seed): digits(r["answers"]) == labels for seed, r in found.items() if "answers" in r}


def sequence_lengths(arrays: TokenArrays) -> Any:
    """Tokens of all that goes through the encoder: of each text, or of each chunk."""
    return getattr(arrays, "units", arrays).lengths


def digits(text: str) -> Any:
    """Class numbers that were kept as a string, one digit a row."""
    return np.frombuffer(text.encode(), dtype=np.uint8) - ord("0")


def open_bench(load: Workload, records: Records, home: Path, trainer: Trainer, threads: int) -> Bench:
    """Rows, the machine's settings, labels of the test rows. Ends the program when the records are of other rows."""
    assert load.max_length == MAX_LENGTH, "the arms' own"
    config, prepared = prepare(load, home, {"threads": threads})
    data = config.data.model_copy(update={"validation": config.data.test, "test": config.data.validation})
    followed = config.model_copy(update={"data": data})
    labels = "".join(map(str, open_split(prepared.tokens.directory, "test").labels))
    rows = {"fingerprint": prepared.dataset.fingerprint, "labels": labels, "classes": list(prepared.dataset.classes)}
    if (records.get(ROWS) or records.add(ROWS, rows)) != rows:
        raise SystemExit(f"{records.path} was measured on other rows: name another file with --out")
    if records.get(CUT) is None:
        records.add(CUT, {"share": prepared.tokens.rows_cut["train"] / prepared.tokens.n_train})
    known = records.get(MACHINE)
    if known is None:
        known = records.add(MACHINE, asdict(trainer.resolve(prepared.pretrained, "auto", "cpu", threads)))
    return Bench(
        config=config,
        prepared=prepared,
        followed=preparing.prepare(followed, home),
        records=records,
        home=home,
        settings=MachineSettings(**known),
        trainer=trainer,
    )


def run_fit(bench: Bench, arm: Arm, seed: int) -> dict[str, Any]:
    """One fit and its answers on the test rows, by the epoch that validation liked best."""
    config, prepared = bench.told(arm, bench.prepared)
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        spec = make_spec(bench, config, prepared, Path(folder), seed, keep_model=True)
        warm(bench, spec)
        begun = processor_seconds(bench.trainer)
        try:
            result = bench.trainer.fit(spec)
        except TrialPruned as fault:
            return {"diverged": str(fault), **stamp()}
        seconds = {"fit_cpu": processor_seconds(bench.trainer) - begun}
        begun = time.process_time()
        answers = "".join(map(str, classes_of(result.model_dir, spec)))
        seconds["test_cpu"] = time.process_time() - begun
        return {
            "answers": answers,
            "history": [asdict(epoch) for epoch in result.history],
            "seconds": result.seconds,
            "best_epoch": result.best_epoch,
            "prefix": result.prefix,
            **seconds,
            **stamp(),
        }


def classes_of(model_dir: Path | str, spec: FitSpec) -> Any:
    """[test rows] classes that a model answers, in the precision of training: float32 would cost as much as the fit."""
    from bertft_core.training.scoring import score

    return score(
        model_dir, spec.tokens, "test", spec.training.device, spec.training.threads, precision=spec.training.precision
    ).argmax(axis=1)


def run_curve(bench: Bench, arm: Arm, seed: int) -> dict[str, Any]:
    """The same fit once more, scored on the test rows at every epoch and rung; nothing is chosen by these scores."""
    config, prepared = bench.told(arm, bench.followed)
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        spec = make_spec(bench, config, prepared, Path(folder), seed, keep_model=False)
        try:
            result = bench.trainer.fit(spec, None, lambda *_: False)
        except TrialPruned as fault:
            return {"diverged": str(fault), **stamp()}
    epochs = [(epoch.epoch / spec.training.epochs, epoch.accuracy) for epoch in result.history]
    losses = [(epoch.epoch / spec.training.epochs, epoch.train_loss) for epoch in result.history]
    return {"accuracy": sorted([*epochs, *result.rungs]), "train_loss": losses, **stamp()}


def make_spec(
    bench: Bench, config: RunConfig, prepared: Prepared, folder: Path, seed: int, *, keep_model: bool
) -> FitSpec:
    """A fit in a folder of its own; all fits share the prefix cache, as those of a search do."""
    spec = fit_spec(
        config, prepared, bench.settings, bench.home, folder / "fit", seed=seed, rows=None, keep_model=keep_model
    )
    return replace(spec, metric="accuracy", checkpoint_seconds=3600.0)


def warm(bench: Bench, spec: FitSpec) -> None:
    """Start the trainer and its imports, so that they are not counted."""
    if bench.trainer.pid is None:
        bench.trainer.fit(
            replace(
                spec,
                rows=2 * spec.training.batch_size,
                training=spec.training.model_copy(update={"epochs": 1}),
                output=f"{spec.output}-warm",
            )
        )


def processor_seconds(trainer: Trainer) -> float:
    """User and system seconds of the trainer process so far, all threads (Linux)."""
    fields = Path(f"/proc/{trainer.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stamp() -> dict[str, str]:
    """When, and by which code."""
    return {"at": datetime.datetime.now(datetime.UTC).date().isoformat(), "code": code_fingerprint()[:12]}
