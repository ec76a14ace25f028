"""Does one encoder for two tasks, before each is fitted alone, help them? Against each fitted alone from MiniLM.

python benchmarks/multi_task.py --out FILE [--rows 400] [--test 1000] [--seeds 3] [--temperature 1] [--hours H]
                                [--write]

Rotten Tomatoes and IMDb, so many training rows each, a seventh as many validation rows (20 at least) that choose the
epoch of the fits. MiniLM, 64 tokens (head+tail), all layers, batches of 16, float32, one thread. alone: lr and epochs
as `auto` has them. after: the shared training by the same rule for all rows, then fits at half the rate, the same
epochs. Both have the same rows and seeds; the shared training has the seed of its fits, so that its own chance is in
the intervals.

The same command goes on where it stopped, within a shared training too; --hours: nothing begins that would
end later. --write makes the table of docs/techniques/multi_task.md of what FILE holds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paired import accuracy_difference
from records import Records
from small_data import BATCH, MAX_LENGTH, SETS, accuracy, digits, run
from workloads import Workload, prepare

from bertft_core.adaptation.multi_task.lineage import Task, carry_out_together, plan_multi_task
from bertft_core.base.home import open_home
from bertft_core.config.auto import SHARED_SHARE, auto_values
from bertft_core.config.fit import TrainingConfig
from bertft_core.config.multi_task import MultiTaskConfig
from bertft_core.recipe.prepare import prepare_for

TASKS, ARMS = ("rt", "imdb"), ("alone", "after")
PAGE = Path(__file__).parent.parent / "docs" / "techniques" / "multi_task.md"
BEGIN, END = "<!-- measured: benchmarks/multi_task.py --write -->", "<!-- end of what was measured -->"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit."""

    source: str
    arm: str
    seed: int

    def key(self) -> str:
        """Of the fit in the records."""
        return f"{self.source}, {self.arm}, seed {self.seed}"


def cells(seeds: int) -> Iterator[Cell]:
    """Seed by seed, so that every beginning is a table."""
    for seed in range(1, seeds + 1):
        yield from (Cell(source=source, arm=arm, seed=seed) for arm in ARMS for source in TASKS)


def load_of(source: str, args: argparse.Namespace) -> Workload:
    """The rows of a set."""
    validation = max(20, args.rows // 7)
    return Workload(source=source, max_length=MAX_LENGTH, train=args.rows, validation=validation, test=args.test)


def shared(seed: int, args: argparse.Namespace, records: Records, home: Path) -> str:
    """The folder of the encoder that both tasks train, made where it is missing."""
    from bertft_core.adaptation.multi_task.loop import fit_together

    tasks, base = {}, (Path(), "")
    for source in TASKS:
        config, prepared = prepare(load_of(source, args), home, {"unfreezing": "none", "batch_size": BATCH})
        chosen = config.with_values({"tokenization.truncation": "head+tail"})
        prepared = prepare_for(config, chosen, prepared, home)
        tasks[source] = Task(config=chosen, dataset=prepared.dataset, tokens=prepared.tokens)
        base = (Path(prepared.pretrained), prepared.encoder)
    multi = MultiTaskConfig(
        name="films",
        tasks={source: f"{source}.yaml" for source in TASKS},
        temperature=args.temperature,
        training=TrainingConfig(unfreezing="none", batch_size=BATCH, seed=seed),
    )
    planned = plan_multi_task(multi, tasks, tasks[TASKS[0]].dataset, base, home)
    begun, key = time.process_time(), f"shared, seed {seed}"
    found = carry_out_together(planned, home, ("float32", "cpu", 1), fit_together)
    if records.get(key) is None:
        cost = {"cpu_seconds": time.process_time() - begun, "rows": found.rows, "left_out": found.left_out}
        records.add(key, {**asdict(found.result), **cost, "text": str(found.result)})
    return planned.with_folder(home).folder


def measure(args: argparse.Namespace, records: Records, home: Path) -> None:
    """What is missing, in this order."""
    import torch

    torch.set_num_threads(1)
    begun, longest = time.monotonic(), 0.0
    for cell in cells(args.seeds):
        if records.get(cell.key()) is not None:
            continue
        start = time.monotonic()
        if args.hours is not None and start - begun + longest > 3600 * args.hours:
            print(f"{args.hours:g} hours are over: the same command goes on", file=sys.stderr)
            return
        values = dict(auto_values(TrainingConfig(batch_size=BATCH), args.rows, SETS[cell.source][1]))
        encoder = ""
        if cell.arm == "after":
            encoder, values["lr"] = shared(cell.seed, args, records, home), SHARED_SHARE * values["lr"]
        found = records.add(cell.key(), run(load_of(cell.source, args), values, cell.seed, home, encoder))
        longest = max(longest, time.monotonic() - start)
        print(f"{cell.key()}: {accuracy(found):.3f}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def rows_of_table(records: Records, seeds: int) -> list[str]:
    """A row a task, over the seeds that have both sides."""
    lines = []
    for source in TASKS:
        pairs = []
        for seed in range(1, seeds + 1):
            both = [records.get(Cell(source=source, arm=arm, seed=seed).key()) for arm in ARMS]
            if all(found and "answers" in found for found in both):
                pairs.append(both)
        if not pairs:
            lines.append(f"| {SETS[source][0]} | not measured | | | |")
            continue
        alone, after = ([digits(pair[side]["answers"]) for pair in pairs] for side in (0, 1))
        gain = accuracy_difference(after, alone, digits(pairs[0][0]["labels"]))
        low, high = (100 * end for end in gain["interval_rows_and_seeds"])
        cpu = [sum(pair[side]["cpu_seconds"] for pair in pairs) / len(pairs) for side in (0, 1)]
        cells_of: list[Any] = [
            SETS[source][0],
            f"{100 * gain['ours']:.1f} / {100 * gain['theirs']:.1f}",
            f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
            f"{cpu[1]:.0f} / {cpu[0]:.0f}",
            len(pairs),
        ]
        lines.append(f"| {' | '.join(map(str, cells_of))} |")
    return lines


def write_page(records: Records, args: argparse.Namespace) -> Path:
    """The measured part of docs/techniques/multi_task.md, by the records alone."""
    costs = [found["cpu_seconds"] for found in records.matching("shared, ").values()]
    cost = f" The shared training itself: {sum(costs) / len(costs):.0f} s." if costs else ""
    text = (
        f"{args.rows} training rows each, {args.test:,} test rows, temperature {args.temperature:g}; the same rows and "
        "seeds for both sides, intervals of 95 % over rows and seeds (one seed: over rows). Seconds are processor "
        "seconds of a fit, 2 cores of an AMD EPYC, AVX2 alone (no AVX-512, no bfloat16), shared with other work."
        f"{cost}\n\n| set | accuracy in %, after / alone | difference in points | seconds | seeds |\n"
        "|---|---|---|---|---|\n"
    )
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(rows_of_table(records, args.seeds))
    PAGE.write_text(f"{before}{BEGIN}\n{text}{table}\n{END}{after}", encoding="utf-8")
    return PAGE


def main() -> None:
    """Measure, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a second start skips what it holds")
    parser.add_argument("--rows", type=int, default=400, help="to train on, of each set")
    parser.add_argument("--test", type=int, default=1000, help="rows to judge by, of each set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--hours", type=float, help="stop before a fit that would end later than that")
    parser.add_argument("--write", action="store_true", help="the table, of what FILE holds")
    args = parser.parse_args()
    settings = {"rows": args.rows, "test": args.test, "temperature": args.temperature}
    records = Records(args.out, settings)
    if args.write:
        print(write_page(records, args))
        return
    measure(args, records, open_home(args.out.with_suffix(".home")))


if __name__ == "__main__":
    main()
