"""What does further pre-training of the encoder bring, over the number of labels? Against the encoder as it is.

python benchmarks/adaptation.py --out FOLDER [--sets rt,bbc,imdb] [--rows 100,600,3000] [--seeds 5] [--steps N]
                                [--hours H] [--threads 1] [--write]

  none          the encoder as it is
  within-task   trained further on all texts of the set but those of validation and test, without their labels
  in-domain     on those, and on the reviews of the other set of films (IMDb and Rotten Tomatoes; not BBC News)

Rotten Tomatoes, BBC News and IMDb with 100, 600 and 3,000 labels (BBC News 100 and 600), a seventh as many validation
rows that choose the epoch, the same {TEST:,} test rows at every size. MiniLM-L6; fits of 64 tokens (head+tail), all
layers, lr and epochs as `auto` has them; adaptation in batches of 32 blocks of 128 tokens, as many updates as STEPS
says. Arms of a cell have the same rows and seeds; an encoder is adapted once, by seed 1, so that its own chance is not
in the intervals.

Cells run in an order in which every beginning is a table: few rows first, seed by seed through the sets. The same
command goes on where it stopped, within an adaptation too; --hours: nothing begins that would end later. FOLDER holds
a file of records, the adapted encoders, and what is needed to go on. --write makes docs/techniques/adaptation.md and
its pictures of what FOLDER holds.

An estimate for one core of an AMD EPYC with AVX2 alone: 800 to 1,000 tokens a second of adaptation, so 1 to 2 hours
for 1,000 updates; the fits of a seed through all cells about 40 minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptation_page import write_page
from records import Records
from small_data import SETS, TEST, accuracy, run, workload
from workloads import ENCODER, read_corpus

from bertft_core.adaptation.corpus import keys_of, write_documents
from bertft_core.adaptation.results import AdaptationResult, AdaptationSpec
from bertft_core.base.home import open_home
from bertft_core.config.adaptation import AdaptationConfig
from bertft_core.config.auto import auto_values
from bertft_core.config.fit import TrainingConfig
from bertft_core.data.sources import resolve_package

ROWS, SEEDS = (100, 600, 3000), 5
MOST = {"bbc": 600}
ARMS = ("none", "within-task", "in-domain")
DOMAIN = {"rt": ("rt", "imdb"), "imdb": ("imdb", "rt")}
STEPS = {("rt", "within-task"): 400, ("bbc", "within-task"): 600}  # 9 and 5 times through; the others: 1,500


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit."""

    source: str
    rows: int
    arm: str
    seed: int

    def key(self) -> str:
        """Of the fit in the records."""
        return f"{self.source}, {self.rows} rows, {self.arm}, seed {self.seed}"


def cells(sets: list[str], rows: list[int], seeds: int) -> Iterator[Cell]:
    """Few rows first; three seeds of every size before any fourth."""
    for first, last in ((1, min(3, seeds)), (4, seeds)):
        for n in rows:
            for seed in range(first, last + 1):
                for source in (s for s in sets if n <= MOST.get(s, n)):
                    for arm in ARMS if source in DOMAIN else ARMS[:2]:
                        yield Cell(source=source, rows=n, arm=arm, seed=seed)


def texts_of(source: str, arm: str, home: Path) -> tuple[list[str], list[str]]:
    """(documents, texts that judge): validation rows of the largest size are left out at every size, as test rows."""
    rows = [text for text, _ in read_corpus(source, home)]
    judging = TEST + max(workload(source, n).validation for n in ROWS if n <= MOST.get(source, n))
    others = DOMAIN[source][1:] if arm == "in-domain" else ()
    return [*rows[judging:], *(text for name in others for text, _ in read_corpus(name, home))], rows[:judging]


def adapted(source: str, arm: str, args: argparse.Namespace, records: Records, home: Path) -> str:
    """The encoder's folder of an arm, made where it is missing; "" for the encoder as it is."""
    from bertft_core.adaptation.loop import ENCODER as ADAPTED
    from bertft_core.adaptation.loop import adapt

    if arm == "none":
        return ""
    name = f"{source}-{arm}"
    folder, output, key = args.out / "corpora" / name, args.out / "adapted" / name, f"adaptation, {source}, {arm}"
    encoder = resolve_package(ENCODER, "model.pretrained")
    if not (folder / "corpus.json").exists():
        documents, judging = texts_of(source, arm, home)
        folder.mkdir(parents=True, exist_ok=True)
        print(write_documents([documents], keys_of(judging), encoder, folder), file=sys.stderr)
    steps = args.steps or STEPS.get((source, arm), 1500)
    spec = AdaptationSpec(
        config=AdaptationConfig(steps=steps),
        key=f"{name}, {steps} steps",
        pretrained=str(encoder),
        corpus=str(folder),
        output=str(output),
        seed=1,
        precision="float32",
        device="cpu",
        threads=args.threads,
        checkpoint_seconds=120.0,
    )
    begun, last = time.process_time(), [0.0]

    def say(fraction: float, facts: dict[str, Any]) -> None:
        if "held_out_loss" in facts or time.monotonic() - last[0] > 300:
            last[0] = time.monotonic()
            print(f"{name}: step {facts['step']} of {facts['total_steps']}, {facts}", file=sys.stderr, flush=True)

    result: AdaptationResult = adapt(spec, say)
    if records.get(key) is None:
        records.add(key, {**asdict(result), "cpu_seconds": time.process_time() - begun, "text": str(result)})
    return str(output / ADAPTED) if result.is_adapted else ""


def measure(args: argparse.Namespace, records: Records, home: Path) -> None:
    """What is missing, in this order."""
    import torch

    torch.set_num_threads(args.threads)
    begun, longest = time.monotonic(), 0.0
    for cell in cells(args.sets, args.rows, args.seeds):
        if records.get(cell.key()) is not None:
            continue
        start = time.monotonic()
        if args.hours is not None and start - begun + longest > 3600 * args.hours:
            print(f"{args.hours:g} hours are over: the same command goes on", file=sys.stderr)
            return
        encoder = adapted(cell.source, cell.arm, args, records, home)
        fitted = time.monotonic()
        values = dict(auto_values(TrainingConfig(), cell.rows, SETS[cell.source][1]))
        found = records.add(cell.key(), run(workload(cell.source, cell.rows), values, cell.seed, home, encoder))
        longest = max(longest, time.monotonic() - fitted)
        print(f"{cell.key()}: {accuracy(found):.3f}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    text = (__doc__ or "").replace("{TEST:,}", f"{TEST:,}")
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; a second start skips what it holds")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help=f"of {','.join(map(str, ROWS))}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="updates of every adaptation, in place of STEPS")
    parser.add_argument("--hours", type=float, help="stop before a cell that would end later than that")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="the page and its pictures, of what FOLDER holds")
    args = parser.parse_args()
    args.sets, args.rows = args.sets.split(","), [int(n) for n in args.rows.split(",")]
    if unknown := set(args.sets) - set(SETS):
        parser.error(f"--sets: {', '.join(sorted(unknown))}: known are {', '.join(SETS)}")
    return args


def main() -> None:
    """Measure, or write."""
    args = parse()
    records = Records(args.out / "records.jsonl", {"test": TEST, "steps": args.steps, "threads": args.threads})
    if args.write:
        order = list(cells(list(SETS), list(ROWS), SEEDS))
        print(write_page(records, order))
        return
    measure(args, records, open_home(args.out / "home"))


if __name__ == "__main__":
    main()
