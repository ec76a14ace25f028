"""What does the prefix cache cost to build, how does that grow with the rows, and what is left on the second night?

python benchmarks/prefix_cache.py [--sizes 1000,4000,16000] [--rounds N] [--out FILE] [--json] [--quick]

IMDb and Rotten Tomatoes mixed (3 to 1), MiniLM (6 layers) at 256 tokens, unfreezing late (--unfreezing gradual, fast).
A night is one fresh process that does what the product does before the first training step: `recipe.prepare` (ingest
with its checks, split, tokenize), then the hidden states of training and validation rows at every cut that the schedule
reads, by the code that a fit runs (FrozenPrefix), in the number types that the product settles on here.
  growth         a first night in a new BERTFT_HOME for each size: seconds of each stage, bytes on disk, peak resident
                 memory; `exponent` is the slope of log seconds of the prefix over log tokens (1: linear)
  second_night   after the first night of the largest size, the same file with 1 % new rows: its seconds over the first
                 night's, whole processes from start to end; `hit_rate` is the share of rows found
  third start    the second night's file again: nothing is new; and how fast states are read back, verified, in batches
The second night must be the larger file's own: its rows are asserted to be the first night's plus the new ones.

About 10 minutes a round on 2 quiet cores and 8 GB of disk with float16 states; a second start with the same --out goes
on with the next part. A size's first and second night are one part: they share a home that goes when they are done.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers import in_child
from records import Records, conclude
from workloads import ENCODER, read_corpus, write_csv

from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import tokenize_splits
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.fit import prefix_plan
from bertft_core.recipe.prepare import Prepared, ingest

MAX_LENGTH = 256
NEW_SHARE = 0.01
READ_BATCH, READ_ROWS = 16, 2000


def night(job: dict[str, Any]) -> dict[str, Any]:
    """One night in this process: seconds of its stages, what was found, peak memory in bytes."""
    config, home = configuration(job), Path(job["home"])
    begun = time.monotonic()
    dataset = ingest(config, home)
    ingested = time.monotonic()
    pretrained = resolve_pretrained(config)
    tokens = tokenize_splits(dataset, pretrained, config.tokenization, home / "tokens")
    prepared = Prepared(dataset=dataset, tokens=tokens, pretrained=str(pretrained), encoder=job["encoder"])
    tokenized = time.monotonic()
    found = build_prefix(config, prepared, home, job)
    built = time.monotonic()
    found |= {"ingest": ingested - begun, "tokenize": tokenized - ingested, "prefix": built - tokenized}
    prefixes = found.pop("prefixes")
    found["read"] = read_back(prefixes) if job["reads"] else None
    return found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def configuration(job: dict[str, Any]) -> RunConfig:
    """As a user writes it: one file, split by the hash of the texts."""
    return RunConfig(
        name="prefix",
        data={"source": job["file"]},
        model={"pretrained": ENCODER},
        tokenization={"max_length": MAX_LENGTH},
        training={"device": "cpu", "unfreezing": job["unfreezing"], "prefix_cache_gb": 1000.0},
        search={"trials": 12},
    )


def build_prefix(config: RunConfig, prepared: Prepared, home: Path, job: dict[str, Any]) -> dict[str, Any]:
    """The states of training and validation rows, as a fit of the product has them built before its first step."""
    import numpy as np

    from bertft_core.recipe.process.trainer import import_libraries

    import_libraries()  # as the process does in which the product's fits run
    from bertft_core.data.tokens.tokenization import open_split
    from bertft_core.model.classifier import load_classifier
    from bertft_core.model.encoder_pass import EncoderPass
    from bertft_core.model.layers import layer_table
    from bertft_core.model.prefix.cache import PrefixCache
    from bertft_core.model.prefix.frozen import open_prefixes
    from bertft_core.training.forward import padding
    from bertft_core.training.machine import runtime
    from bertft_core.training.schedules import UnfreezeSchedule

    mode = prefix_plan(config, prepared, job["precision"], None).mode
    assert mode != "off", "a search of twelve trials reads the states more than once"
    with runtime(job["threads"]):
        model = load_classifier(prepared.pretrained, prepared.dataset.classes, config.training.seed)
        layers, passes = layer_table(model), EncoderPass.of(model)
        assert passes is not None, "the encoder has BERT-shaped layers"
        training = config.training
        cuts = UnfreezeSchedule.of(training.unfreezing, len(layers.layers), training.epochs).cuts()
        cache = PrefixCache(home / "prefix", int(config.training.prefix_cache_gb * 1e9))
        opened = [open_split(prepared.tokens.path, split) for split in ("train", "validation")]
        splits = [(arrays, np.arange(len(arrays.labels))) for arrays in opened]
        prefixes = open_prefixes(passes, layers, cuts, splits, cache, padding(model), job["precision"], mode)
        for prefix in prefixes:
            prefix.build()
    rows = sum(len(prefix.rows) for prefix in prefixes)
    return {
        "rows": rows,
        "all_rows": prepared.tokens.n_train + prepared.tokens.n_validation + prepared.tokens.n_test,
        "tokens": sum(int(prefix.arrays.offsets[-1]) for prefix in prefixes),
        "hit_rate": sum(prefix.figures.stored_before for prefix in prefixes) / rows,
        "built": sum(prefix.figures.built for prefix in prefixes),
        "reason": "; ".join(filter(None, (prefix.figures.reason for prefix in prefixes))),
        "bytes": cache.used_bytes(),
        "cuts": list(cuts),
        "dtype": mode,
        "prefixes": prefixes if job["reads"] else None,
    }


def read_back(prefixes: list[Any]) -> dict[str, float]:
    """Seconds and bytes of reading some rows of the training split at every cut, in batches of a fit's size."""
    import numpy as np

    prefix = prefixes[0]
    rows = np.random.default_rng(0).permutation(prefix.rows)[:READ_ROWS]
    before, begun = prefix.cache.figures.bytes_read, time.monotonic()
    for cut in prefix.keys:
        for start in range(0, len(rows), READ_BATCH):
            chosen = rows[start : start + READ_BATCH]
            prefix.read(cut, chosen, int(np.diff(prefix.arrays.offsets)[chosen].max()))
    seconds = time.monotonic() - begun
    return {
        "rows_per_second": len(rows) * len(prefix.keys) / seconds,
        "bytes_per_second": (prefix.cache.figures.bytes_read - before) / seconds,
        "recomputed": prefix.figures.recomputed,
    }


def in_process(job: dict[str, Any]) -> dict[str, Any]:
    """A night in a fresh process; `seconds` from its start to its end."""
    begun = time.monotonic()
    found: dict[str, Any] = in_child("prefix_cache:night", job, job["threads"])
    return {"seconds": time.monotonic() - begun, **found}


def nights(rows: list[tuple[str, str]], size: int, has_second: bool, job: dict[str, Any]) -> dict[str, Any]:
    """The first night of `size` rows in a new home; where asked for the second and a third start in the same home."""
    folder = Path(tempfile.mkdtemp(prefix="prefix-cache-"))
    try:
        open_home(folder / "home")
        plans = {"first": (size, False)}
        if has_second:
            grown = size + math.ceil(size * NEW_SHARE)
            plans |= {"second": (grown, False), "third": (grown, True)}
        found = {}
        for name, (count, reads) in plans.items():
            write_csv(folder / f"{count}.csv", rows[:count])
            asked = {**job, "home": str(folder / "home"), "file": str(folder / f"{count}.csv"), "reads": reads}
            found[name] = in_process(asked)
            assert found[name]["all_rows"] == count, "no row of the corpus is faulty or occurs twice"
        return found
    finally:
        shutil.rmtree(folder)


def resolve(records: Records, threads: int) -> dict[str, Any]:
    """The number type that the product settles on here, and the encoder's fingerprint; once for all parts."""
    found = records.get("machine")
    if found is None:
        from bertft_core.base.hashes import encoder_fingerprint
        from bertft_core.data.sources import resolve_package
        from bertft_core.recipe.process.client import Trainer

        pretrained = resolve_package(ENCODER, "model.pretrained")
        with Trainer() as trainer:
            settings = trainer.resolve(str(pretrained), "auto", "cpu", threads)
        found = records.add("machine", {**asdict(settings), "encoder": encoder_fingerprint(pretrained)})
    return found


def measure(args: argparse.Namespace, records: Records) -> None:
    """All parts that the records do not hold yet."""
    settings = resolve(records, args.threads)
    job = {name: settings[name] for name in ("precision", "encoder")}
    job |= {"threads": args.threads, "unfreezing": args.unfreezing}
    keys = [(f"round {n}, {size} rows", size) for n in range(args.rounds) for size in args.sizes]
    if all(records.get(key) for key, _ in keys):
        return
    with tempfile.TemporaryDirectory(prefix="prefix-cache-corpus-") as home:
        rows = read_corpus("reviews", open_home(home))
    for key, size in keys:
        if records.get(key) is None:
            found = records.add(key, nights(rows, size, size == max(args.sizes), job))
            shown = ", ".join(f"{name} {part['seconds']:.1f} s" for name, part in found.items())
            print(f"{key}: {shown}", file=sys.stderr, flush=True)


def summary(args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """Medians over the rounds; ratios of medians."""
    growth = [{"size": size, **middle(args, records, size, "first")} for size in args.sizes]
    largest = max(args.sizes)
    first, second, third = (middle(args, records, largest, name) for name in ("first", "second", "third"))
    found = {
        "second_night": second["seconds"] / first["seconds"],
        "second_night_by_round": [
            part["second"]["seconds"] / part["first"]["seconds"] for part in parts(args, records, largest)
        ],
        "first": first,
        "second": second,
        "third": third,
        "growth": growth,
        "rounds": args.rounds,
        "unfreezing": args.unfreezing,
        "machine": records.get("machine"),
    }
    if len(growth) > 1:
        found["exponent"] = slope([g["tokens"] for g in growth], [g["prefix"] for g in growth])
    return found


def parts(args: argparse.Namespace, records: Records, size: int) -> list[dict[str, Any]]:
    """The nights of one size in every round."""
    return [part for n in range(args.rounds) if (part := records.get(f"round {n}, {size} rows"))]


def middle(args: argparse.Namespace, records: Records, size: int, name: str) -> dict[str, Any]:
    """Each number of a night as its median over the rounds."""
    found = [part[name] for part in parts(args, records, size)]
    is_number = {k: isinstance(v, int | float) for k, v in found[0].items()}
    return {k: statistics.median(f[k] for f in found) if is_number[k] else v for k, v in found[0].items()}


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Least squares on logarithms."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(s) for s in seconds]).slope


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    first = found["first"]
    print(f"unfreezing {found['unfreezing']}: states into layers {first['cuts']} as {first['dtype']}; medians")
    print("rows     ingest  tokenize   prefix    whole      MB   MB/1k rows  peak MB   us/token")
    for g in found["growth"]:
        print(
            f"{g['size']:6} {g['ingest']:7.1f} s {g['tokenize']:7.1f} s {g['prefix']:7.1f} s {g['seconds']:7.1f} s"
            f" {g['bytes'] / 1e6:7.0f} {g['bytes'] / g['rows'] / 1e3:10.1f} {g['peak_bytes'] / 1e6:10.0f}"
            f" {1e6 * g['prefix'] / g['tokens']:9.1f}"
        )
    if "exponent" in found:
        print(f"seconds of the prefix grow as tokens to the power {found['exponent']:.2f}")
    for name in ("second", "third"):
        n = found[name]
        print(
            f"{name} start: {n['seconds']:.1f} s of {first['seconds']:.1f} s (ingest {n['ingest']:.1f}, tokenize "
            f"{n['tokenize']:.1f}, prefix {n['prefix']:.1f}); {n['hit_rate']:.2%} of {n['rows']:.0f} rows found, "
            f"{n['built']:.0f} built"
        )
    read = found["third"]["read"]
    print(
        f"read back: {read['rows_per_second']:.0f} rows/s, {read['bytes_per_second'] / 1e6:.0f} MB/s, "
        f"{read['recomputed']} recomputed"
    )
    by_round = ", ".join(f"{share:.2%}" for share in found["second_night_by_round"])
    print(f"second night: {found['second_night']:.2%} of the first (by round {by_round}; wanted: at most 5 %)")


def main() -> None:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,4000,16000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unfreezing", choices=("gradual", "late", "fast"), default="late")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="one round of 500 and 2,000 rows")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.rounds = "500,2000", 1
    args.sizes = sorted(int(size) for size in args.sizes.split(","))
    out = args.out or Path(tempfile.mkdtemp(prefix="prefix-cache-")) / "records.jsonl"
    records = Records(out, {"unfreezing": args.unfreezing, "threads": args.threads, "largest": max(args.sizes)})
    measure(args, records)
    found = summary(args, records)
    conclude(found, show, out, is_json=args.json)


if __name__ == "__main__":
    main()
