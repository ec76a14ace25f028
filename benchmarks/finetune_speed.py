"""How fast does the product fine-tune, against transformers' Trainer on the same rows and the same machine?

python benchmarks/finetune_speed.py [--cases plain_256,gradual,...] [--rounds N] [--out FILE] [--json] [--quick]

MiniLM (6 layers), batches of 16 rows, texts cut to the first 256 (512) tokens on both sides, the same token ids. Cases:
  plain_256, plain_512   all layers, BBC News          mixed_256   all layers, IMDb and Rotten Tomatoes, 3 to 1
  gradual, late, fast    three epochs of the unfreezing schedule on BBC News at 256 tokens, prefix cache cold and warm
  quality                accuracy over seeds of these three and of the peer's whole fine-tuning on the same rows
  peak_share             the step's floating-point work over the machine's matmul peak (machine_limit.py)
  ablation               what each trick is worth: one off at a time, and what a user could set instead
Peer: `default`, a Trainer as its users write it (attention dropout 0.1, random batches); `best`, attention dropout 0,
fused AdamW (which transformers 5 takes anyway), grouped by length; `best_bf16`, that with bf16=True. vs_best is against
the faster of the two best.
Ours: `Trainer().fit` of bertft_core.recipe.process, precision as `auto` resolves here (`ours`), and float32 beside it.

A side runs in a fresh process with the same number of threads; a few warm-up steps come first. A plain case counts one
epoch of an exact number of steps, so that both sides read the same rows once, whatever their order. Peer: from the
first batch to the end of the last step, nothing else. Ours: all of the fit from its first step on, with checksums of
the weights, the 2 validation rows and the checkpoint of each epoch: against us. Neither saves a model. The schedules
compare rows a second (epochs x rows over seconds, building the prefix cache included where it is cold) with the peer's
in plain_256. Sides alternate over the rounds; ratios are of medians.

Quality: seeds 1 to 5, both sides keep the best epoch by accuracy on 100 validation rows, both with lr {LR:g} unless
--lr or --peer-lr say otherwise; the peer is `best_bf16` (below: `best`) unless --quality-peer says otherwise. On a
processor without bfloat16 instructions `best_bf16` is left out: it runs at a tenth of float32's speed there.

Minutes on 2 quiet cores (3 rounds, 5 seeds; estimates): plain_256 5, plain_512 6, mixed_256 5, the schedules 6,
peak_share 2, quality 11, ablation 6; --quick, one round of few steps, 9 in all. A second start with the same --out goes
on.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_sides import (
    EPOCHS,
    FULL,
    PLAIN,
    QUICK,
    Bench,
    our_precisions,
    plain_load,
    quality_load,
    quality_ours,
    run_ours,
    run_peak,
    run_peer,
    run_schedule,
    run_without,
)
from paired import accuracy_difference
from peers import VARIANTS, variants
from records import Records, conclude
from workloads import Workload, prepare

from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import MachineSettings

LR = 5e-5
SCHEDULES = ("gradual", "late", "fast")
CASES = (*PLAIN, *SCHEDULES, "peak_share", "quality", "ablation")
ABLATIONS = {
    "attention": "attention in chunks (bfloat16)",
    "dropout": "cheap random numbers for dropout",
    "first_only": "last layer at [CLS] alone",
    "grouping": "batches grouped by length",
    "fused": "fused AdamW",
    "attention_dropout": "no dropout of attention probabilities (off: 0.1)",
    "bfloat16": "bfloat16 products (off: float32)",
}
CACHE_ABLATION = "prefix_cache"


def plain_round(bench: Bench, case: str, number: int) -> None:
    """All sides of a plain case, in an order that turns round with every round."""
    load = plain_load(bench, case)
    sides: dict[str, Any] = {v: lambda v=v: run_peer(bench, load, v) for v in variants()}
    for side, precision in our_precisions(bench).items():
        sides[side] = lambda p=precision: run_ours(bench, load, p, unfreezing="none")
    for side in sorted(sides, reverse=bool(number % 2)):
        bench.kept(f"{case}, round {number}, {side}", sides[side])


def schedule_round(bench: Bench, case: str, number: int) -> None:
    """One schedule, and the peer's steps at 256 tokens where plain_256 has not taken them in this round."""
    ours = (f"{case}, round {number}", lambda: run_schedule(bench, case))
    load = plain_load(bench, "plain_256")
    theirs = [(f"plain_256, round {number}, {v}", lambda v=v: run_peer(bench, load, v)) for v in variants()]
    for key, measured in [*theirs, ours] if number % 2 else [ours, *theirs]:
        bench.kept(key, measured)


def peak_round(bench: Bench, case: str, number: int) -> None:
    """The share of the peak in float32 and bfloat16, all rows at full length."""
    bench.kept(f"{case}, round {number}", lambda: run_peak(bench))


def ablation_round(bench: Bench, case: str, number: int) -> None:
    """Each trick off alone, and everything on; the mixed rows, since grouping matters there."""
    load = plain_load(bench, "mixed_256")
    off = [name for name in ABLATIONS if name != "bfloat16" or bench.settings.precision == "bfloat16"]
    parts: dict[str, Any] = {name: lambda n=name: run_without(bench, load, n) for name in ("nothing", *off)}
    fit_load = Workload(source="bbc", max_length=256, train=bench.sizes.fit_rows)
    parts[CACHE_ABLATION] = lambda: run_ours(
        bench, fit_load, bench.settings.precision, unfreezing="gradual", epochs=EPOCHS, prefix_cache="off"
    )
    for name in sorted(parts, reverse=bool(number % 2)):
        bench.kept(f"{case}, round {number}, without {name}", parts[name])


def measure_quality(bench: Bench) -> None:
    """Answers on the test rows of every seed of every side."""
    load = quality_load(bench)
    for seed in range(1, bench.sizes.seeds + 1):
        for schedule in SCHEDULES:
            bench.kept(f"quality, {schedule}, seed {seed}", lambda s=schedule, n=seed: quality_ours(bench, load, s, n))
        wanted = {"epochs": EPOCHS, "seed": seed, "warm_rows": 0, "answers": True}
        bench.kept(f"quality, peer, seed {seed}", lambda w=wanted: run_peer(bench, load, bench.quality_peer, **w))


ROUNDS = {
    **dict.fromkeys(PLAIN, plain_round),
    **dict.fromkeys(SCHEDULES, schedule_round),
    "peak_share": peak_round,
    "ablation": ablation_round,
}


def rate(bench: Bench, key: str, part: str | None = None) -> float:
    """Rows a second, median over the rounds. key: with {} for the round."""
    found = [bench.records.get(key.format(number)) or {} for number in range(bench.rounds)]
    runs = [run[part] if part else run for run in found]
    return statistics.median(run["rows"] / run["seconds"] for run in runs)


def peer_rates(bench: Bench, case: str) -> dict[str, float]:
    """Rows a second of the peer's variants."""
    return {v: rate(bench, f"{case}, round {{}}, {v}") for v in variants()}


def over_peers(ours: float, theirs: dict[str, float], prefix: str = "") -> dict[str, float]:
    """Ratios of rows a second against the defaults and the faster of the best settings."""
    best = max(theirs["best"], theirs.get("best_bf16", 0.0))
    return {f"{prefix}vs_default": ours / theirs["default"], f"{prefix}vs_best": ours / best}


def plain_ratios(bench: Bench, case: str) -> dict[str, Any]:
    """One plain case."""
    theirs = peer_rates(bench, case)
    ours = {side: rate(bench, f"{case}, round {{}}, {side}") for side in our_precisions(bench)}
    found: dict[str, Any] = over_peers(ours["ours"], theirs)
    if "ours_float32" in ours:
        found |= over_peers(ours["ours_float32"], theirs, "float32_")
    facts = {
        "precision": bench.settings.precision,
        "padding": (bench.records.get(f"{case}, round 0, ours") or {})["padding"],
    }
    return {**found, "rows_per_second": {**ours, **theirs}, **facts}


def schedule_ratios(bench: Bench, case: str) -> dict[str, Any]:
    """One schedule: vs_* with a warm cache, cold_vs_* with the building of it."""
    theirs = peer_rates(bench, "plain_256")
    ours = {part: rate(bench, f"{case}, round {{}}", part) for part in ("warm", "cold")}
    last = bench.records.get(f"{case}, round {bench.rounds - 1}") or {}
    facts = {"prefix_cache": last["warm"]["prefix_cache"], "prefix": last["warm"]["prefix"]}
    ratios = over_peers(ours["warm"], theirs) | over_peers(ours["cold"], theirs, "cold_")
    return {**ratios, "rows_per_second": {**ours, **theirs}, **facts}


def peak_shares(bench: Bench, case: str) -> dict[str, Any]:
    """Medians over the rounds, by precision."""
    runs = [bench.records.get(f"{case}, round {number}") or {} for number in range(bench.rounds)]
    return {p: {name: statistics.median(run[p][name] for run in runs) for name in runs[0][p]} for p in runs[0]}


def ablation_rates(bench: Bench, case: str) -> dict[str, Any]:
    """Rows a second with each trick off, and what it is worth: all on over it off."""
    names = ["nothing", *(n for n in ABLATIONS if bench.records.get(f"{case}, round 0, without {n}"))]
    rates = {name: rate(bench, f"{case}, round {{}}, without {name}") for name in names}
    rows = {name: {"rows_per_second": rates[name], "worth": rates["nothing"] / rates[name]} for name in names}
    without_cache = rate(bench, f"{case}, round {{}}, without {CACHE_ABLATION}")
    rows[CACHE_ABLATION] = {"rows_per_second": without_cache}
    if bench.records.get(f"gradual, round {bench.rounds - 1}"):
        rows[CACHE_ABLATION]["worth"] = rate(bench, "gradual, round {}", "warm") / without_cache
    return rows


def quality_table(bench: Bench) -> dict[str, Any]:
    """Paired differences to the peer, by schedule."""
    _, prepared = prepare(quality_load(bench), bench.home, {})
    labels = open_split(prepared.tokens.directory, "test").labels
    seeds = range(1, bench.sizes.seeds + 1)

    def answers(side: str) -> list[list[int]]:
        return [(bench.records.get(f"quality, {side}, seed {seed}") or {})["answers"] for seed in seeds]

    theirs = answers("peer")
    facts = {"peer": bench.quality_peer, "lr": bench.rates, "train_rows": bench.sizes.fit_rows}
    return {s: {**accuracy_difference(answers(s), theirs, labels), **facts} for s in SCHEDULES}


def document(bench: Bench, cases: list[str]) -> dict[str, Any]:
    """One JSON document, ratios by the names of the cases; peak_share is that of the precision `auto` chose."""
    found: dict[str, Any] = {"settings": asdict(bench.settings), "rounds": bench.rounds, "sizes": asdict(bench.sizes)}
    for case in cases:
        if case in PLAIN:
            found[case] = plain_ratios(bench, case)
        elif case in SCHEDULES:
            found[case] = schedule_ratios(bench, case)
        elif case == "peak_share":
            shares = peak_shares(bench, case)
            found |= {case: shares[bench.settings.precision]["share"], "peak_share_by_precision": shares}
        elif case == "ablation":
            found[case] = ablation_rates(bench, case)
    if "quality" in cases:
        for schedule, quality in quality_table(bench).items():
            found.setdefault(schedule, {})["accuracy"] = quality
    return found


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    print(f"{MachineSettings(**found['settings'])}; {found['rounds']} rounds")
    show_speeds({c: found[c] for c in (*PLAIN, *SCHEDULES) if "rows_per_second" in found.get(c, {})})
    for precision, own in found.get("peak_share_by_precision", {}).items():
        print(
            f"share of the peak, {precision}: {own['share']:.1%} ({own['step_gflops']:.0f} of "
            f"{own['peak_gflops']:.0f} GFLOP/s; {own['share_with_recomputation']:.1%} with recomputation)"
        )
    show_quality(found)
    if "ablation" in found:
        show_ablation(found["ablation"])


def show_speeds(cases: dict[str, Any]) -> None:
    """Rows a second of every side, and the two ratios; a schedule has a second line for the cold cache."""
    columns = ("ours", "ours_float32", "cold", *VARIANTS)
    heads = ("ours", "ours f32", "ours cold", "default", "best", "best bf16", "vs default", "vs best")
    if cases:
        print(f"{'rows a second':<14}" + "".join(f"{head:>11}" for head in heads))
    for case, own in cases.items():
        rates = {"ours": own["rows_per_second"].get("warm"), **own["rows_per_second"]}
        cells = "".join(f"{rates[c]:>11.1f}" if c in rates else f"{'':>11}" for c in columns)
        print(f"{case:<14}{cells}" + _ratios(own, ""))
        if "cold_vs_default" in own:
            print(f"{'  cold cache':<14}" + " " * 11 * len(columns) + _ratios(own, "cold_"))


def _ratios(own: dict[str, Any], prefix: str) -> str:
    return "".join(f"{own[f'{prefix}{name}']:>10.2f}x" for name in ("vs_default", "vs_best"))


def show_quality(found: dict[str, Any]) -> None:
    """Accuracy of the schedules beside the peer's."""
    for schedule in SCHEDULES:
        own = found.get(schedule, {}).get("accuracy")
        if own is None:
            continue
        spans = [", ".join(f"{100 * v:+.2f}" for v in own[f"interval_{name}"]) for name in ("seeds", "rows_and_seeds")]
        print(
            f"accuracy of {schedule}: {own['ours']:.4f} against {own['theirs']:.4f} of the peer ({own['peer']}), "
            f"{100 * own['difference']:+.2f} points [{spans[0]}] over {own['seeds']} seeds, "
            f"[{spans[1]}] over {own['rows']} rows and seeds"
        )


def show_ablation(rows: dict[str, Any]) -> None:
    """What each trick is worth."""
    print(f"{'without':<52}{'rows/s':>9}{'worth':>9}")
    names = {"nothing": "nothing (all on)", **ABLATIONS, CACHE_ABLATION: "prefix cache (gradual, three epochs)"}
    for name, own in rows.items():
        worth = f"{own['worth']:>8.2f}x" if "worth" in own else ""
        print(f"{names[name]:<52}{own['rows_per_second']:>9.1f}{worth}")


def settle(records: Records, home: Path, precision: str, threads: int) -> MachineSettings:
    """The machine's settings, resolved once for all rounds as the product does."""
    known = records.get("settings of the machine")
    if known is None:
        _, prepared = prepare(Workload(source="bbc", max_length=256, train=48), home, {})
        with Trainer() as trainer:
            known = asdict(trainer.resolve(prepared.pretrained, precision, "cpu", threads))
        records.add("settings of the machine", known)
    return MachineSettings(**known)


def parse() -> argparse.Namespace:
    """The command line."""
    text = (__doc__ or "").replace("{LR:g}", f"{LR:g}")
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="of our side: auto, float32 or bfloat16")
    parser.add_argument("--lr", type=float, default=LR, help="ours")
    parser.add_argument("--peer-lr", type=float, default=LR)
    parser.add_argument("--quality-peer", choices=VARIANTS)
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="one round of few steps: does it work?")
    args = parser.parse_args()
    args.cases, args.quality_peer = args.cases.split(","), args.quality_peer or variants()[-1]
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))}: known are {', '.join(CASES)}")
    return args


def main() -> None:
    """Measure round by round, print the ratios."""
    args = parse()
    sizes, rounds = (QUICK, 1) if args.quick else (FULL, args.rounds)
    out = args.out or Path(tempfile.mkdtemp(prefix="finetune-speed-")) / "records.jsonl"
    kept = {k: getattr(args, k) for k in ("threads", "precision", "lr", "peer_lr", "quality_peer")}
    records = Records(out, {**kept, **asdict(sizes)})
    home = Path(tempfile.mkdtemp(prefix="finetune-speed-home-"))
    try:
        bench = Bench(
            sizes=sizes,
            rounds=rounds,
            records=records,
            home=home,
            quality_peer=args.quality_peer,
            settings=settle(records, home, args.precision, args.threads),
            rates={"ours": args.lr, "theirs": args.peer_lr},
        )
        for number in range(rounds):
            for case in (c for c in CASES if c in args.cases and c in ROUNDS):
                ROUNDS[case](bench, case, number)
        if "quality" in args.cases:
            measure_quality(bench)
        found = document(bench, [c for c in CASES if c in args.cases])
    finally:
        shutil.rmtree(home, ignore_errors=True)
    conclude(found, show, out, is_json=args.json)


if __name__ == "__main__":
    main()
