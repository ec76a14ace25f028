"""How often a draw of the splits misses a class or the shares, before and after the salt that the data gate names.

python benchmarks/split_draws.py [--draws 4000] [--group-draws 300]

Rows are random hashes, as those of distinct texts are; shares are the defaults, 10 % validation and 20 % test. Classes:
`rows` rows of one class, each draw a class of its own. Groups: one value of data.group holds `share` of 1,000 rows, the
others hold 4 rows each. After: the salt of `Draw.remedy` or `Draw.warnings`, if it names one.
"""

from __future__ import annotations

import argparse
import json
import re

import numpy as np

from bertft_core.config.run import SplitConfig
from bertft_core.data.draws import Draw
from bertft_core.data.splits import SPLITS, drawn, sides_of

SPLIT = SplitConfig()
ROWS, SHARES = (3, 5, 10, 20, 50), (0.05, 0.2, 0.4, 0.6)


def classes(rows: int, draws: int, rng: np.random.Generator) -> str:
    """Shares of draws in which a class of so many rows misses train, validation, test; then with the salt named."""
    missed, after, unmended = np.zeros(3), np.zeros(3), 0
    for _ in range(draws):
        u = rng.integers(0, 2**64, rows, dtype=np.uint64)
        zeros = np.zeros(rows, dtype=np.int32)
        absent = np.bincount(sides_of(u, SPLIT), minlength=3) == 0
        missed += absent
        if not absent.any():
            continue
        sizes = [0, 0, 0]
        draw = Draw(
            split=SPLIT,
            classes=["c"],
            u=u,
            rows=np.arange(rows),
            codes=zeros,
            sizes=sizes,
            group_of=None,
            one_class=True,
        )
        if found := re.match(r"data\.split\.class_salt: (\{.*\})", draw.remedy([0], 1)):
            split = SPLIT.model_copy(update={"class_salt": json.loads(found[1])})
            after += np.bincount(sides_of(drawn(u, split, ["c"], zeros), SPLIT), minlength=3) == 0
        else:
            unmended += 1
    return " | ".join(
        [f"| {rows}", *(f"{share:.1%}" for share in missed / draws), f"{(after.sum() + unmended) / draws:.2%} |"]
    )


def groups(share: float, draws: int, rng: np.random.Generator) -> str:
    """Shares of draws in which the splits are far from what was asked for; then with the salt named."""
    large, far, after, largest = round(1000 * share), 0, 0, 0.0
    for _ in range(draws):
        units = rng.integers(0, 2**64, 1 + (1000 - large) // 4, dtype=np.uint64)
        u = np.repeat(units, [large, *[4] * (len(units) - 1)])
        sizes = np.bincount(sides_of(u, SPLIT), minlength=3)
        draw = Draw(
            split=SPLIT,
            classes=["c"],
            u=u,
            rows=np.arange(len(u)),
            codes=np.zeros(len(u), dtype=np.int32),
            sizes=sizes.tolist(),
            group_of=str,
            one_class=True,
        )
        asked = np.array([0.7, 0.1, 0.2]) * len(u)
        line = next((text for text in draw.warnings() if "far from their shares" in text), None)
        far += line is not None
        named = line and re.search(
            r"data\.split\.salt: \S+ \(draws all rows anew: (\d+) train, (\d+) v\S+, (\d+) test", line
        )
        if line:
            final = np.array([int(n) for n in named.groups()]) if named else sizes
            off = float((np.abs(final - asked) / asked).max())
            after += off > 0.5
            largest = max(largest, off)
    return f"| {share:.0%} | {far / draws:.1%} | {after / draws:.1%} | {largest:.2f} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4_000)
    parser.add_argument("--group-draws", type=int, default=300)
    options = parser.parse_args()
    rng = np.random.default_rng(2026)
    print(
        f"rows of the class | {' | '.join(f'absent from {name}' for name in SPLITS)} | absent from any, with the salt"
    )
    for rows in ROWS:
        print(classes(rows, options.draws, rng), flush=True)
    print("largest group | far from the shares | with the salt | largest relative error of a share, with the salt")
    for share in SHARES:
        print(groups(share, options.group_draws, rng), flush=True)


if __name__ == "__main__":
    main()
