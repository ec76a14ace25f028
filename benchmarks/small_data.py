"""Do `training.lr: auto` and `training.epochs: auto` help on few rows? Against the defaults before: 5e-5, 3 epochs.

python benchmarks/small_data.py --out FILE [--hours H] [--rows 100,300] [--seeds 5] [--write]

BBC News (5 classes), IMDb and Rotten Tomatoes (2 classes) at 100, 300, 1,000 and 3,000 training rows, a seventh as many
validation rows (20 at least) that choose the epoch, the same {TEST:,} test rows at every size. MiniLM, all layers train
from the first step, batches of 16, 64 tokens (head+tail), float32, one thread. Both sides have the same rows and seeds.

Cells run in an order in which every beginning is a table: few rows first, seed by seed through the sets. The same
command goes on where it stopped; --hours: no fit begins that would end later. --write makes
docs/techniques/small_data.md of what FILE holds, and names what is missing.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from paired import accuracy_difference
from records import Records
from workloads import Workload, prepare

from bertft_core.base.errors import TrialPruned
from bertft_core.base.home import open_home
from bertft_core.config.auto import auto_values
from bertft_core.config.fit import TrainingConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import prepare_for
from bertft_core.training.spec import MachineSettings

SETS = {"rt": ("Rotten Tomatoes", 2), "bbc": ("BBC News", 5), "imdb": ("IMDb", 2)}  # the cheapest first
ROWS, SEEDS, TEST, MAX_LENGTH, BATCH = (100, 300, 1000, 3000), 5, 1000, 64, 16
MOST = {"bbc": 1000}  # rows of a set that holds no more
FIXED = {"lr": 5e-5, "epochs": 3}
PAGE = Path(__file__).parent.parent / "docs" / "techniques" / "small_data.md"
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit."""

    source: str
    rows: int
    is_rule: bool
    seed: int

    def values(self) -> dict[str, Any]:
        """lr and epochs."""
        return dict(auto_values(TrainingConfig(), self.rows, SETS[self.source][1]) if self.is_rule else FIXED)

    def key(self) -> str:
        """Of the fit in the records: where rule and defaults say the same, it is one fit."""
        values = self.values()
        return f"{self.source}, {self.rows} rows, lr {values['lr']:g}, {values['epochs']} epochs, seed {self.seed}"


def cells(rows: list[int], seeds: int) -> Iterator[Cell]:
    """Few rows first; three seeds of every size before any fourth."""
    for first, last in ((1, min(3, seeds)), (4, seeds)):
        for n in rows:
            for seed in range(first, last + 1):
                for source in SETS:
                    if n <= MOST.get(source, n):
                        yield from (Cell(source=source, rows=n, is_rule=rule, seed=seed) for rule in (False, True))


def workload(source: str, rows: int) -> Workload:
    """So many training rows of a set, and a seventh as many validation rows."""
    return Workload(source=source, max_length=MAX_LENGTH, train=rows, validation=max(20, rows // 7), test=TEST)


def run(load: Workload, values: dict[str, Any], seed: int, home: Path, pretrained: str = "") -> dict[str, Any]:
    """Fit with these lr and epochs, and answer the test rows; pretrained: an encoder in place of MiniLM itself."""
    from bertft_core.training import loop
    from bertft_core.training.scoring import score

    config, prepared = prepare(load, home, {"unfreezing": "none", "batch_size": BATCH, **values})
    chosen = config.with_values({"tokenization.truncation": "head+tail"})
    prepared = prepare_for(config, chosen, prepared, home)
    settings = MachineSettings(precision="float32", device="cpu", threads=1)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        output = Path(folder) / "fit"
        spec = fit_spec(chosen, prepared, settings, home, output, seed=seed, rows=None, keep_model=True)
        spec = replace(spec, pretrained=pretrained or spec.pretrained)
        begun = time.process_time()
        try:
            result = loop.fit(spec)
        except TrialPruned as fault:
            return {"diverged": str(fault)}
        seconds = time.process_time() - begun
        answers = score(result.model_dir, spec.tokens, "test", "cpu", 1, precision="float32").argmax(axis=1)
        labels = open_split(spec.tokens, "test").labels
    return {
        "answers": "".join(map(str, answers)),
        "labels": "".join(map(str, labels)),
        "history": [asdict(epoch) for epoch in result.history],
        "best_epoch": result.best_epoch,
        "updates": result.steps,
        "cpu_seconds": seconds,
        "fault": result.fault,
        "at": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def measure(records: Records, order: list[Cell], home: Path, hours: float | None) -> None:
    """What is missing, in this order."""
    import torch

    torch.set_num_threads(1)
    begun, longest = time.monotonic(), 0.0
    for cell in order:
        if records.get(cell.key()) is not None:
            continue
        start = time.monotonic()
        if hours is not None and start - begun + longest > 3600 * hours:
            print(f"{hours:g} hours are over: the same command goes on", file=sys.stderr)
            return
        load = workload(cell.source, cell.rows)
        found = records.add(cell.key(), run(load, cell.values(), cell.seed, home))
        longest = max(longest, time.monotonic() - start)
        print(f"{cell.key()}: {accuracy(found):.3f}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def digits(text: str) -> Any:
    """Class numbers that were kept as a string."""
    return np.frombuffer(text.encode(), dtype=np.uint8) - ord("0")


def accuracy(found: dict[str, Any]) -> float:
    """Of one record, NaN where the fit diverged."""
    return float((digits(found["answers"]) == digits(found["labels"])).mean()) if "answers" in found else float("nan")


def macro_f1(answers: Any, labels: Any, weights: Any) -> Any:
    """[resamples] macro F1 of answers [rows], each row counted by weights [resamples, rows]."""
    scores = []
    for label in np.unique(labels):
        hits, said, is_so = (
            weights @ flags.astype(float)
            for flags in ((answers == label) & (labels == label), answers == label, labels == label)
        )
        scores.append(2 * hits / np.maximum(said + is_so, 1e-12))
    return np.mean(scores, axis=0)


def f1_difference(ours: Any, theirs: Any, labels: Any) -> tuple[float, float, float]:
    """(difference of macro F1, low, high) of answers [seeds, rows]; 95 %, rows and seeds drawn anew together."""
    rng, n = np.random.default_rng(0), len(labels)
    drawn = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)])
    gains = np.stack(
        [macro_f1(a, labels, drawn) - macro_f1(b, labels, drawn) for a, b in zip(ours, theirs, strict=True)]
    )
    seeds = len(ours)
    weights = np.concatenate([np.ones((1, seeds)), rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)])
    means = np.einsum("sr,rs->r", gains, weights) / seeds
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return float(means[0]), float(low), float(high)


def compared(records: Records, source: str, rows: int) -> dict[str, Any] | None:
    """Rule against the defaults of one set and size, over the seeds that both have; None without any."""
    pairs = []
    for seed in range(1, SEEDS + 1):
        both = [records.get(Cell(source=source, rows=rows, is_rule=r, seed=seed).key()) for r in (True, False)]
        if all(found and "answers" in found for found in both):
            pairs.append(both)
    if not pairs:
        return None
    rule, fixed = ([digits(pair[side]["answers"]) for pair in pairs] for side in (0, 1))
    labels = digits(pairs[0][0]["labels"])
    return {
        "seeds": len(pairs),
        "accuracy": accuracy_difference(rule, fixed, labels),
        "macro_f1": f1_difference(rule, fixed, labels),
        "f1": [
            float(np.mean([macro_f1(a, labels, np.ones((1, len(labels)))) for a in side])) for side in (rule, fixed)
        ],
        "untrained": [sum(bool(pair[side]["fault"]) for pair in pairs) for side in (0, 1)],
        "updates": [pairs[0][side]["updates"] for side in (0, 1)],
        "cpu": [float(np.mean([pair[side]["cpu_seconds"] for pair in pairs])) for side in (0, 1)],
    }


def table_row(name: str, rows: int, cell: Cell, found: dict[str, Any]) -> str:
    """One line of the page."""
    values, gain = cell.values(), found["accuracy"]
    low, high = (100 * end for end in gain["interval_rows_and_seeds"])
    f1, f1_low, f1_high = (100 * value for value in found["macro_f1"])
    names = ("rule", "defaults")
    stuck = ", ".join(f"{n} of {found['seeds']} ({w})" for n, w in zip(found["untrained"], names, strict=True) if n)
    cells = [
        f"{rows:,}",
        name,
        f"{values['lr']:g} x {values['epochs']}",
        f"{found['updates'][0]} / {found['updates'][1]}",
        f"{100 * gain['ours']:.1f} / {100 * gain['theirs']:.1f}",
        f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{100 * found['f1'][0]:.1f} / {100 * found['f1'][1]:.1f}",
        f"{f1:+.1f} [{f1_low:+.1f}, {f1_high:+.1f}]",
        f"{found['cpu'][0]:.0f} / {found['cpu'][1]:.0f}",
        f"{found['seeds']}",
        stuck or "none",
    ]
    return f"| {' | '.join(cells)} |"


def write_page(records: Records, page: Path) -> Path:
    """docs/techniques/small_data.md by the records alone."""
    lines, missing = [], []
    for rows in ROWS:
        for source, (name, _) in SETS.items():
            cell = Cell(source=source, rows=rows, is_rule=True, seed=1)
            if rows > MOST.get(source, rows):
                missing.append(f"{name} at {rows:,} rows: the set has too few rows")
            elif cell.values() == FIXED:
                missing.append(f"{name} at {rows:,} rows: the rule says what the defaults said, nothing to compare")
            elif (found := compared(records, source, rows)) is None:
                missing.append(f"{name} at {rows:,} rows: not run yet")
            else:
                lines.append(table_row(name, rows, cell, found))
                if found["seeds"] < SEEDS:
                    missing.append(f"{name} at {rows:,} rows: {found['seeds']} of {SEEDS} seeds")
    text = TEXT.replace("{TEST}", f"{TEST:,}").replace("{TABLE}", "\n".join(lines) or "nothing measured yet")
    page.write_text(text.replace("{MISSING}", "\n".join(f"- {line}" for line in missing)), encoding="utf-8")
    return page


TEXT = """\
# Few rows: `training.lr: auto` and `training.epochs: auto`

The defaults. Sun et al. 2019 fine-tune for 2 to 4 epochs, on 25,000 rows; on a few hundred rows that is a few dozen \
updates, and a fit ends before the encoder has learnt. In [evidence.md](evidence.md) 2e-5 had not learnt in 114 \
updates (28.6 % error, 21.2 % at 1e-4), and the last epoch was the best one in 4 to 5 of 5 seeds. Mosbach et al. \
(arXiv 2006.04884) and Zhang et al. (arXiv 2006.05987) train small sets for up to 20 epochs for that reason.

The rule (`bertft_core/config/auto.py`):

- A fit wants 300 updates, or 50 for each class where that is more.
- `epochs: auto`: as many as that takes, at least 3 and at most 20. From about 1,600 rows in batches of 16 on (2 \
classes) it is 3.
- `lr: auto`: 5e-5. Where the fit has fewer updates than wanted (below about 240 rows, or with few epochs of your \
own), as much higher, so that rate times updates stays; at most 2e-4.
- A search without a `space` of its own takes lr from 0.4 to 4 times that value (or the one you wrote), batches of \
16 or 32 and alpha from 0.8 to 1; its trials settle epochs for their own rows (`search.rows`) and batches.

A value that you write stays as it is; a preset's too. `bertft check` says what `auto` is for your rows, a run records \
the values it used. The numbers 300, 50 and 20 were chosen before the measurement below.

## Measured

`python benchmarks/small_data.py --out small_data.jsonl`; the page by `--write`. MiniLM, `unfreezing: none`, \
batches of 16, 64 tokens, float32, {TEST} test rows, the best epoch by validation rows (a seventh as many as \
training rows). Rule / the defaults before (5e-5, 3 epochs), in %; differences in points, with 95 % intervals \
over rows and seeds (one seed: over rows). Seconds are processor seconds of one fit, 2 cores of an AMD EPYC, \
AVX2 alone (no AVX-512, no bfloat16), shared with other work.

| rows | set | rule: lr x epochs | updates | accuracy | difference | macro F1 | difference | seconds | seeds | \
did not train |
|---|---|---|---|---|---|---|---|---|---|---|
{TABLE}

What is missing:

{MISSING}
"""


def main() -> None:
    """Measure, or write."""
    text = (__doc__ or "").replace("{TEST:,}", f"{TEST:,}")
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a second start skips what it holds")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help=f"of {','.join(map(str, ROWS))}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--hours", type=float, help="stop before a fit that would end later than that")
    parser.add_argument("--page", type=Path, default=PAGE, help="where --write writes")
    parser.add_argument("--write", action="store_true", help="the page, of what FILE holds")
    args = parser.parse_args()
    records = Records(args.out, {"test": TEST, "max_length": MAX_LENGTH, "batch_size": BATCH})
    if args.write:
        print(write_page(records, args.page))
        return
    measure(
        records,
        list(cells([int(n) for n in args.rows.split(",")], args.seeds)),
        open_home(args.out.with_suffix(".home")),
        args.hours,
    )


if __name__ == "__main__":
    main()
