"""What do unfreezing schedules cost in accuracy, and what do they save? Each against training everything (`none`).

python benchmarks/unfreezing.py --out FOLDER [--sets imdb,bbc,rt] [--rates 1e-4,2e-4] [--arms 'none; late']
                                [--seeds 5] [--threads 1] [--precision float32] [--write]

  imdb  600 reviews of IMDb       bbc  400 articles of BBC News       rt  2,000 sentences of Rotten Tomatoes

MiniLM-L6, 64 tokens, 3 epochs, batches of 16, alpha 1, 200 validation rows that choose the epoch, {TEST} test rows (bbc
{TEST_BBC}). All arms of a set see the same rows and the same seeds, and are computed by the same code: answers of
another code are no pair. Differences are paired by seed and row (paired.py). Cost: processor seconds of the trainer in
a fit, scoring of validation included, over those of `none`, the lowest of the seeds on both sides; a fit that had to
fill the prefix cache first counts only where there is no other.

Seed by seed through the sets and arms, so that whenever it stops all have the same seeds but for the last; the same
command goes on. FOLDER holds a file a set, and what is needed to go on. --write makes docs/techniques/unfreezing.md and
its picture of what FOLDER holds (kept in docs/techniques/unfreezing). Arms that this version has no keys for are not
run, what FOLDER holds of them is shown.

A pair of fits takes 3 to 5 minutes of one core of an AMD EPYC with AVX2 alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paper_arms import Arm, short
from paper_fits import MACHINE, open_bench, run_fit
from records import Records
from unfreezing_page import write_page
from workloads import Workload

from bertft_core.base.home import open_home
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import MachineSettings

TEST, TEST_BBC = 2000, 1000
SETS = {
    "imdb": Workload(source="imdb", max_length=64, train=600, validation=200, test=TEST),
    "bbc": Workload(source="bbc", max_length=64, train=400, validation=200, test=TEST_BBC),
    "rt": Workload(source="rt", max_length=64, train=2000, validation=200, test=TEST),
}
RATES = (1e-4, 2e-4)
# phases are written out: what a name means may change, these do not
ARMS: dict[str, dict[str, Any]] = {
    "none": {"unfreezing": "none"},
    "top two thirds": {"unfreezing": [[0.0, 4]]},
    "top two thirds, head fitted": {"unfreezing": [[0.0, 4]], "head_start": "fitted"},
    "two, then two thirds": {"unfreezing": [[0.0, 2], [0.25, 4]]},
    "two, then two thirds, restarts": {"unfreezing": [[0.0, 2], [0.25, 4]], "phase_restart": True},
    "two, then two thirds, head fitted": {"unfreezing": [[0.0, 2], [0.25, 4]], "head_start": "fitted"},
    "late": {"unfreezing": [[0.0, 1], [0.25, 2], [0.5, 4], [0.75, 7]]},
    "head first": {"unfreezing": [[0.0, 0], [0.25, 7]]},
}


def arm_of(name: str, lr: float) -> Arm:
    """A schedule at a rate."""
    against = "" if name == "none" else f"lr {short(lr)}, none"
    return Arm(table="unfreezing", name=f"lr {short(lr)}, {name}", values={"lr": lr, **ARMS[name]}, against=against)


def records_of(args: argparse.Namespace, name: str) -> Records:
    """The measurements of one set."""
    settings = {**asdict(SETS[name]), "threads": args.threads, "precision": args.precision}
    return Records(args.out / f"{name}.jsonl", settings)


def run(args: argparse.Namespace) -> None:
    """Measure what is missing."""
    arms = {lr: [arm_of(name, lr) for name in args.arms] for lr in args.rates}
    for arm in (arm for own in arms.values() for arm in own if arm.fault()):
        print(f"{arm.name}: left out, {arm.fault()}", file=sys.stderr)
    with Trainer() as trainer:
        benches = {}
        for name in args.sets:
            records = records_of(args, name)
            if records.get(MACHINE) is None:
                settings = MachineSettings(precision=args.precision, device="cpu", threads=args.threads)
                records.add(MACHINE, asdict(settings))
            benches[name] = open_bench(SETS[name], records, open_home(args.out / "home"), trainer, args.threads)
        cells = [
            (name, arm, seed)
            for lr in args.rates
            for seed in range(1, args.seeds + 1)
            for name in args.sets
            for arm in arms[lr]
            if not arm.fault() and benches[name].records.get(arm.key(seed)) is None
        ]
        for name, arm, seed in cells:
            begun = time.monotonic()
            benches[name].records.add(arm.key(seed), run_fit(benches[name], arm, seed))
            print(f"{name}, {arm.name}, seed {seed}: {time.monotonic() - begun:.0f} s", file=sys.stderr)


def parse() -> argparse.Namespace:
    """The command line."""
    text = (__doc__ or "").replace("{TEST_BBC}", str(TEST_BBC)).replace("{TEST}", str(TEST))
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; a second start skips what it holds")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--rates", default=",".join(map(short, RATES)))
    parser.add_argument("--arms", default="; ".join(ARMS), help=f"with ; between them (default: {'; '.join(ARMS)})")
    parser.add_argument("--seeds", type=int, default=5, help="1, 2, ... are used (default: 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--write", action="store_true", help="the page and its picture, of what FOLDER holds")
    args = parser.parse_args()
    args.sets, args.rates = args.sets.split(","), [float(rate) for rate in args.rates.split(",")]
    args.arms = [name.strip() for name in args.arms.split(";")]
    for given, known in ((args.sets, SETS), (args.arms, ARMS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return args


def main() -> None:
    """Measure or write."""
    args = parse()
    if not args.write:
        run(args)
        return
    arms = {lr: [arm_of(name, lr) for name in ARMS] for lr in RATES}
    found = {name: records_of(args, name) for name in SETS if (args.out / f"{name}.jsonl").is_file()}
    print(write_page(found, arms))


if __name__ == "__main__":
    main()
