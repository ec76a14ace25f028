"""A search of 12 trials: how long does it take us, transformers' hyperparameter_search, and bertuner?

python benchmarks/search_speed.py [--sides A,B] [--rounds N] [--out FILE] [--json] [--quick]

BBC News at 256 tokens, MiniLM (6 layers), the same training, validation and test rows, the same space (lr, batch size,
epochs; alpha too for ours) and the same number of trials, all threads. Every side is one command in a fresh process,
measured from its start to its end: for ours that holds the start of Prefect's server and of MLflow's store, ingest,
tokenizing, the measuring of the precision and the building of the prefix cache (BERTFT_HOME is new in every round).
  gradual     `bertft search` with the product's defaults; successive halving prunes
  fast        the same with training.unfreezing fast: the lower two thirds of the layers never train
  default     Trainer.hyperparameter_search with Optuna (TPE) and its median pruner, otherwise as it comes: dynamic
              padding, attention dropout 0.1. It reads ready token ids and saves nothing
  best        the same with attention dropout 0, fused AdamW, length grouping, and bf16 where that is faster here
              (timed beforehand, not part of the search)
  bertuner    its `optimize`; it has no epochs in its space, 6 are fixed in its code, and no pruner. Other names of its
              space have one value. `vs_bertuner` is what a user waits; `vs_bertuner_equal_epochs` scales its time
              down to the mean number of epochs of the space, as if it could search them
stop_early and confirm are off for ours: all 12 trials are run, and nothing is run again.

Then the winners of the first round are fitted again with 5 seeds, each by its own side's code, and their accuracies on
the test rows are compared, paired by seed and row, with 95 % intervals.

Sizes of the full form: 120 training rows, 1 to 3 epochs. About 25 minutes on 2 quiet cores for one round without
bertuner, 35 more with it (--sides takes it out or alone); a second start with the same --out goes on.
`search` in the JSON compares the preset of --preset; the other one is beside it where it was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from paired import accuracy_difference
from peers import in_child, variants
from records import Records, conclude
from search_peers import site_folder
from workloads import ENCODER, Workload, prepare

from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import MachineSettings

OURS = ("gradual", "late", "fast")
THEIRS = ("default", "best", "bertuner")
MAX_LENGTH, EVAL_BATCH, BERTUNER_EPOCHS = 256, 16, 6
BERTFT = "import sys; from flows.cli import main; sys.exit(main())"  # `python -m` would find a local tasks/ folder


@dataclass(frozen=True, kw_only=True)
class Place:
    """The rows of all sides, where the parts are kept, and how much of everything."""

    args: argparse.Namespace
    records: Records
    home: Path
    config: RunConfig
    prepared: Prepared
    peers: dict[str, str]  # environment of a child that finds the peers' packages

    @property
    def space(self) -> dict[str, Any]:
        """lr ends, batch sizes, epochs: what every side searches."""
        return {"lr": self.args.lr, "batch_size": [16, 32], "epochs": self.args.epochs}

    def job(self, seed: int, **more: Any) -> dict[str, Any]:
        """What a side that is not ours is told."""
        return {
            "encoder": self.prepared.pretrained,
            "tokens": self.prepared.tokens.directory,
            "seed": seed,
            "classes": len(self.prepared.dataset.classes),
            "class_names": list(self.prepared.dataset.classes),
            "space": self.space,
            "trials": self.args.trials,
            "eval_batch_size": EVAL_BATCH,
            "max_length": MAX_LENGTH,
            "files": {split: getattr(self.config.data, split) for split in ("train", "validation", "test")},
            **more,
        }

    def child(self, function: str, job: dict[str, Any]) -> Any:
        """A peer's function in a fresh process."""
        return in_child(function, job, self.args.threads, self.peers)


def search_ours(place: Place, preset: str, seed: int) -> dict[str, Any]:
    """`bertft search CONFIG --json` in a new BERTFT_HOME; seconds from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="search-speed-home-") as folder:
        file = Path(folder) / "search.yaml"
        file.write_text(yaml.safe_dump(our_tree(place, preset, seed)), encoding="utf-8")
        command = [sys.executable, "-c", BERTFT, "search", str(file), "--json"]
        environment = {**os.environ, "BERTFT_HOME": f"{folder}/home", "OMP_NUM_THREADS": str(place.args.threads)}
        begun = time.monotonic()
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        if done.returncode:
            raise SystemExit(f"bertft search failed:\n{done.stderr[-3000:]}")
        stages = [line for line in done.stderr.splitlines() if line.strip()]
    found = json.loads(done.stdout)
    return {"seconds": seconds, "params": found["best_params"], "score": found["search"]["score"], "log": stages}


def our_tree(place: Place, preset: str, seed: int) -> dict[str, Any]:
    """The configuration as a user writes it."""
    data = place.config.data
    space = {
        "lr": {"low": place.space["lr"][0], "high": place.space["lr"][1], "log": True},
        "batch_size": place.space["batch_size"],
        "epochs": place.space["epochs"],
        "alpha": {"low": 0.8, "high": 1.0},
    }
    return {
        "name": "search-speed",
        "data": {split: getattr(data, split) for split in ("train", "validation", "test")} | {"min_class_rows": 1},
        "model": {"pretrained": ENCODER},
        "tokenization": {"max_length": MAX_LENGTH, "truncation": "head"},
        "training": {"device": "cpu", "seed": seed, "unfreezing": preset, "threads": place.args.threads},
        "evaluation": {"metric": "accuracy"},
        "search": {"trials": place.args.trials, "space": space, "stop_early": False, "confirm": False},
    }


def search_theirs(place: Place, side: str, seed: int) -> dict[str, Any]:
    """A peer's search in a fresh process; seconds from its start to its end."""
    if side == "bertuner":
        function, job = "search_peers:bertuner_search", place.job(seed)
    else:
        # before the clock runs: it may time steps
        function, job = "search_peers:trainer_search", place.job(seed, variant=variant(place, side))
    begun = time.monotonic()
    found = place.child(function, job)
    return {"seconds": time.monotonic() - begun, **found}


def variant(place: Place, side: str) -> str:
    """The Trainer's settings of a side; best: bf16 or not, by timing one epoch of each where there is a choice."""
    if side == "default":
        return side
    found = place.records.get("which best")
    if found is None:
        names, steps = variants()[1:], {}
        for name in names if len(names) > 1 else ():
            job = place.job(1, variant=name, batch_size=16, lr=5e-5, epochs=1, warm_rows=16, answers=False)
            told = place.child("peers:train", job)
            steps[name] = told["seconds"] / told["steps"]
        chosen = {"step_seconds": steps, "variant": min(names, key=lambda n: steps.get(n, 0.0))}
        found = place.records.add("which best", chosen)
    return str(found["variant"])


def refit(place: Place, side: str, seed: int) -> dict[str, Any]:
    """The winner of the side's first search with another seed: the class of each test row."""
    params = (place.records.get(f"round 0, {side}") or {})["params"]
    if side in OURS:
        return refit_ours(place, side, params, seed)
    if side == "bertuner":
        return dict(place.child("search_peers:bertuner_refit", place.job(seed, params=params)))
    job = place.job(seed, variant=variant(place, side), warm_rows=0, answers=True, **params)
    return {"answers": place.child("peers:train", job)["answers"]}


def refit_ours(place: Place, preset: str, params: dict[str, Any], seed: int) -> dict[str, Any]:
    """By the product's trainer; the best epoch on validation gives the answers, as on the other sides."""
    config = place.config.with_values({**params, "unfreezing": preset})
    folder = place.home / "refit"
    shutil.rmtree(folder, ignore_errors=True)
    with Trainer() as trainer:
        settings = machine(place, trainer)
        spec = fit_spec(config, place.prepared, settings, place.home, folder, seed=seed, rows=None, keep_model=True)
        result = trainer.fit(spec)
        tokens, file = place.prepared.tokens.directory, folder / "test.npy"
        trainer.score(result.model_dir, tokens, "test", file, threads=place.args.threads)
    return {"answers": np.load(file).argmax(axis=1).tolist()}


def machine(place: Place, trainer: Trainer) -> MachineSettings:
    """What the product settles on here, once for all refits."""
    found = place.records.get("machine")
    if found is None:
        settings = trainer.resolve(place.prepared.pretrained, "auto", "cpu", place.args.threads)
        found = place.records.add("machine", asdict(settings))
    return MachineSettings(**found)


def measure(place: Place) -> None:
    """All parts that the records do not hold yet: searches in turn, the order reversed in every second round."""
    for number in range(place.args.rounds):
        for side in place.args.sides[:: -1 if number % 2 else 1]:
            keep(place, f"round {number}, {side}", lambda s=side, n=number: search(place, s, place.args.seed + n))
    for seed in range(place.args.seeds):
        for side in place.args.sides:
            keep(place, f"refit {seed}, {side}", lambda s=side, n=seed: refit(place, s, 1000 + n))


def search(place: Place, side: str, seed: int) -> dict[str, Any]:
    """One side's search."""
    return search_ours(place, side, seed) if side in OURS else search_theirs(place, side, seed)


def keep(place: Place, key: str, work: Any) -> None:
    """Measure a part unless it is there; say so on stderr."""
    if place.records.get(key) is None:
        found = place.records.add(key, work())
        shown = f"{found['seconds']:.1f} s, {found['params']}, {found['score']:.4f}" if "seconds" in found else "done"
        print(f"{key}: {shown}", file=sys.stderr, flush=True)


def summary(place: Place) -> dict[str, Any]:
    """Medians over the rounds, their ratios, and the paired accuracies of the winners."""
    sides: dict[str, Any] = {}
    for side in (*OURS, *THEIRS):
        found = [r for n in range(place.args.rounds) if (r := place.records.get(f"round {n}, {side}"))]
        if found:
            sides[side] = {
                "seconds": statistics.median(r["seconds"] for r in found),
                "all_seconds": [r["seconds"] for r in found],
                "winner": found[0]["params"],
                "score": found[0]["score"],
                "trials": found[0].get("states"),
            }
    labels = open_split(place.prepared.tokens.path, "test").labels
    return {
        "search": ratios(place, sides, place.args.preset, labels),
        **{f"search_{preset}": ratios(place, sides, preset, labels) for preset in OURS if preset in sides},
        "sides": sides,
        "best_variant": (place.records.get("which best") or {}).get("variant"),
        "rows": {s: len(open_split(place.prepared.tokens.path, s).labels) for s in ("train", "validation", "test")},
        "trials": place.args.trials,
        "rounds": place.args.rounds,
        "space": place.space,
    }


def ratios(place: Place, sides: dict[str, Any], preset: str, labels: Any) -> dict[str, Any]:
    """Their seconds over ours, above 1: ours is faster; and `accuracy`, ours minus theirs."""
    found: dict[str, Any] = {"preset": preset}
    if preset not in sides:
        return found
    for side in THEIRS:
        if side in sides:
            found[f"vs_{side}"] = sides[side]["seconds"] / sides[preset]["seconds"]
    if "bertuner" in sides:
        share = statistics.mean(place.args.epochs) / BERTUNER_EPOCHS
        found["vs_bertuner_equal_epochs"] = found["vs_bertuner"] * share
    answers = {side: refits(place, side) for side in (preset, *THEIRS)}
    found["accuracy"] = {
        side: accuracy_difference(answers[preset], answers[side], labels)
        for side in THEIRS
        if answers[preset] and len(answers[side]) == len(answers[preset])
    }
    return found


def refits(place: Place, side: str) -> list[list[int]]:
    """The answers of the refits that are there, one list a seed."""
    found = [place.records.get(f"refit {seed}, {side}") for seed in range(place.args.seeds)]
    return [part["answers"] for part in found if part]


def show(found: dict[str, Any]) -> None:
    """One table for people."""
    rows = found["rows"]
    print(f"search of {found['trials']} trials on {rows['train']} rows, {rows['validation']} validation rows,")
    print(f"space {found['space']}, {found['rounds']} round(s); best: {found['best_variant']}")
    for side, own in found["sides"].items():
        winner = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in own["winner"].items())
        print(f"  {side:9} {own['seconds']:8.1f} s   winner {own['score']:.4f} ({winner})")
    for preset in OURS:
        own = found.get(f"search_{preset}", {})
        for side in THEIRS:
            if f"vs_{side}" in own:
                print(f"  {preset} is {own[f'vs_{side}']:.2f} times as fast as {side}" + accuracy_line(own, side))
        if "vs_bertuner_equal_epochs" in own:
            print(f"  {preset}, bertuner scaled to the mean epochs of the space: {own['vs_bertuner_equal_epochs']:.2f}")


def accuracy_line(own: dict[str, Any], side: str) -> str:
    """The winners on the test rows."""
    found = own.get("accuracy", {}).get(side)
    if not found:
        return ""
    low, high = found["interval_rows_and_seeds"]
    return (
        f"; test accuracy {found['ours']:.4f} - {found['theirs']:.4f} = {found['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] over {found['seeds']} seeds x {found['rows']} rows"
    )


def parse() -> argparse.Namespace:
    """Options; --quick makes everything small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="gradual,fast,default,best", help="also bertuner; each alone if wanted")
    parser.add_argument("--preset", choices=OURS, default="gradual", help="which of ours `search` in the JSON compares")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5, help="refits of each winner; 0: none")
    parser.add_argument("--train", type=int, default=120, help="training rows")
    parser.add_argument("--validation", type=int, default=100)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", type=Path, help="folder for the peers' packages (installed there once)")
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="2 trials of 1 or 2 epochs on 40 rows, 1 refit")
    args = parser.parse_args()
    args.lr, args.epochs, args.seed = [5e-5, 5e-4], [1, 2, 3], 21
    if args.quick:
        args.trials, args.seeds, args.train, args.validation, args.test = 2, 1, 40, 20, 40
        args.epochs, args.rounds = [1, 2], 1
    args.sides = args.sides.split(",")
    if unknown := set(args.sides) - {*OURS, *THEIRS}:
        parser.error(f"--sides: unknown {', '.join(sorted(unknown))}; known: {', '.join((*OURS, *THEIRS))}")
    return args


def main() -> None:
    """Measure what is missing, print the ratios."""
    args = parse()
    out = args.out or Path(tempfile.mkdtemp(prefix="search-speed-")) / "records.jsonl"
    names = ("trials", "train", "validation", "test", "threads", "lr", "epochs")
    records = Records(out, {name: getattr(args, name) for name in names})
    with tempfile.TemporaryDirectory(prefix="search-speed-") as folder:
        home = open_home(Path(folder) / "home")
        load = Workload(
            source="bbc", max_length=MAX_LENGTH, train=args.train, validation=args.validation, test=args.test
        )
        config, prepared = prepare(load, home, {"threads": args.threads})
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"metric": "accuracy"})})
        peers = site_folder(args.peers or Path(folder) / "peers") if {*args.sides} & {*THEIRS} else {}
        place = Place(args=args, records=records, home=home, config=config, prepared=prepared, peers=peers)
        measure(place)
        found = summary(place)
    conclude(found, show, out, is_json=args.json)


if __name__ == "__main__":
    main()
