"""Batches of training: what grouping by length saves, and what it costs in mixing.

python benchmarks/batches.py [--home DIR] [--rounds N] [--json]

Four sides: `shuffled`, rows at random; `blocks of 50`, sorted by length in blocks of 50 batches whatever the size of
the table (transformers' length grouping without its cap); `capped`, that in blocks of a quarter of the rows at most
(transformers' own); `product`, `batching.epoch_batches`. Counted over 20 epochs of 3 seeds, batches of 16:

  padding     share of the tokens that go through the encoder and are none (widths in steps of 8)
  one class   share of the batches whose rows are all of one class
  met again   how often two rows of a batch are in one batch in the next epoch too, by what shuffling gives
  heaviest    largest mean weight of a row in an update, by the mean of all rows: rows of a short batch weigh more

`length_tells` is made: 320 rows of two classes, one of 10 to 40 tokens, the other of 60 to 120. --rounds: processor
seconds of one thread for an epoch of a plain fit (MiniLM, float32) on the mixed reviews, sides in turn, medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from workloads import Workload, prepare

from bertft_core.base.home import open_home
from bertft_core.data.tokens.batching import epoch_batches
from bertft_core.data.tokens.tokenization import open_split

BATCH, EPOCHS, SEEDS = 16, 20, 3
LOADS = {
    "bbc, 300 rows": Workload(source="bbc", max_length=256, train=300),
    "imdb, 600 rows": Workload(source="imdb", max_length=256, train=600),
    "reviews, 600 rows": Workload(source="reviews", max_length=256, train=600),
    "reviews, 3000 rows": Workload(source="reviews", max_length=256, train=3000),
}
TIMED = "reviews, 600 rows"
Batches = Callable[..., list[Any]]


def shuffled(lengths: Any, labels: Any, batch_size: int, seed: int, epoch: int) -> list[Any]:
    """Rows at random."""
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def sorted_blocks(lengths: Any, batch_size: int, seed: int, epoch: int, mega: int) -> list[Any]:
    """Rows sorted by length in blocks of `mega` batches, full batches shuffled, a partial one last."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    blocks = [order[i : i + mega * batch_size] for i in range(0, len(order), mega * batch_size)]
    ordered = np.concatenate([b[np.argsort(-lengths[b], kind="stable")] for b in blocks])
    found = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    full = [b for b in found if len(b) == batch_size]
    return [full[i] for i in rng.permutation(len(full))] + [b for b in found if len(b) < batch_size]


def blocks_of_50(lengths: Any, labels: Any, batch_size: int, seed: int, epoch: int) -> list[Any]:
    """Sorted in blocks of 50 batches."""
    return sorted_blocks(lengths, batch_size, seed, epoch, 50)


def capped(lengths: Any, labels: Any, batch_size: int, seed: int, epoch: int) -> list[Any]:
    """Sorted in blocks of 50 batches, or of a quarter of the rows."""
    return sorted_blocks(lengths, batch_size, seed, epoch, max(1, min(50, len(lengths) // (4 * batch_size))))


SIDES: dict[str, Batches] = {
    "shuffled": shuffled,
    "blocks of 50": blocks_of_50,
    "capped": capped,
    "product": epoch_batches,
}


def padded_share(lengths: Any, batches: list[Any]) -> float:
    """Share of padding in the tokens of an epoch."""
    padded = sum(len(rows) * (-(-int(lengths[rows].max()) // 8) * 8) for rows in batches)
    return 1.0 - int(lengths.sum()) / padded


def count(lengths: Any, labels: Any, side: Batches) -> dict[str, float]:
    """The four measures of one side on one table."""
    found: dict[str, list[float]] = {"padding": [], "one class": [], "met again": []}
    weights = np.zeros(len(lengths))
    for seed in range(SEEDS):
        before = np.full(len(lengths), -1)
        for epoch in range(EPOCHS):
            batches = side(lengths, labels, BATCH, seed, epoch)
            found["padding"].append(padded_share(lengths, batches))
            found["one class"].append(float(np.mean([len(np.unique(labels[rows])) == 1 for rows in batches])))
            now = np.empty(len(lengths), dtype=int)
            for number, rows in enumerate(batches):
                now[rows] = number
                weights[rows] += 1 / len(rows)
            if epoch:
                found["met again"].append(met_again(before, now))
            before = now
    chance = (BATCH - 1) / (len(lengths) - 1)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {**means, "met again": means["met again"] / chance, "heaviest": float(weights.max() / weights.mean())}


def met_again(before: Any, now: Any) -> float:
    """Share of the pairs of rows in one batch of `before` (batch number of each row) that are in one of `now`."""
    pairs = [pair for n in np.unique(before) for pair in itertools.combinations(np.flatnonzero(before == n), 2)]
    first, second = np.array(pairs).T
    return float(np.mean(now[first] == now[second]))


def tables(home: Path) -> dict[str, tuple[Any, Any]]:
    """Lengths and labels of each table."""
    found = {}
    for name, load in LOADS.items():
        _, prepared = prepare(load, home, {})
        train = open_split(prepared.tokens.directory, "train")
        found[name] = (train.lengths, np.asarray(train.labels))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 320)
    found["length_tells, 320 rows"] = (np.where(labels, rng.integers(60, 121, 320), rng.integers(10, 41, 320)), labels)
    return found


def times(home: Path, rounds: int) -> dict[str, float]:
    """Processor seconds of an epoch of each side, medians over rounds after an untimed one of a few rows."""
    import torch

    from bertft_core.recipe.fit import fit_spec
    from bertft_core.training import loop
    from bertft_core.training.spec import MachineSettings

    torch.set_num_threads(1)
    settings = MachineSettings(precision="float32", device="cpu", threads=1)
    config, prepared = prepare(LOADS[TIMED], home, {"unfreezing": "none", "epochs": 1, "lr": 1e-4, "batch_size": BATCH})
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(-1, rounds):
        for name, side in SIDES.items():
            loop.epoch_batches = side
            folder = home / "fits" / f"{turn}-{name.replace(' ', '-')}"
            rows = 2 * BATCH if turn < 0 else None
            spec = fit_spec(config, prepared, settings, home, folder, seed=turn + 1, rows=rows, keep_model=False)
            begun = time.process_time()
            loop.fit(spec)
            if turn >= 0:
                taken[name].append(time.process_time() - begun)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def main() -> None:
    """Count, and time on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("batches.home"), help="where rows and tokens are kept")
    parser.add_argument("--rounds", type=int, default=0, help="of timed fits (default 0: none), minutes each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    home = open_home(args.home)
    found: dict[str, Any] = {
        name: {side: count(lengths, labels, batches) for side, batches in SIDES.items()}
        for name, (lengths, labels) in tables(home).items()
    }
    seconds = times(home, args.rounds) if args.rounds else {}
    if args.json:
        print(json.dumps({"counts": found, "seconds": seconds}, indent=1))
        return
    print(f"{'':<40}{'padding':>9}{'one class':>11}{'met again':>11}{'heaviest':>10}")
    for name, sides in found.items():
        for side, row in sides.items():
            print(
                f"{name + ', ' + side:<40}{row['padding']:>9.1%}{row['one class']:>11.1%}"
                f"{row['met again']:>10.1f}x{row['heaviest']:>9.2f}x"
            )
    for side, value in seconds.items():
        print(f"{TIMED}, {side}: {value:.1f} s, {value / seconds['shuffled']:.3f} of shuffled")


if __name__ == "__main__":
    main()
