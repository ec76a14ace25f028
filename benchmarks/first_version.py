"""How often a first version is refused for the TF-IDF baseline, and how often one that knows nothing is promoted.

python benchmarks/first_version.py [--versions 1000] [--json]

Simulated as in gate_errors.py (5 classes, slightly unbalanced, labels fixed, answers drawn), judged by the production
checks under the rule as it is by default, macro F1, 1,000 resamples for the baseline and 3,000 for what knows nothing.
Refused: versions that are as good as the baseline, or worse by 2, 5 or 10 points of accuracy, on 100 to 1,000 test
rows. Nothing known: answers drawn without a look at the row, uniformly or by the classes' shares; the baseline knows
nothing either, and only the checks against chance and majority class stand between them and a promotion.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from gate_errors import CLASSES, FEW, SHARES, Array, Design, draw_challenger, draw_champion, probabilities

from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.baseline import class_shares
from bertft_core.evaluation.gate.comparison import GateRows, Model
from bertft_core.evaluation.gate.first import against_baseline, first_checks
from bertft_core.evaluation.scores.intervals import wilson

ROWS = (100, 300, 1_000)
DELTAS = {0.85: (0.0, -0.02, -0.05, -0.10), 0.95: (0.0, -0.02)}  # to the baseline, by the version's accuracy


def rows_of(labels: Array, baseline: Array) -> GateRows:
    """The rows with the baseline's answers and the classes' shares."""
    return GateRows(labels=labels, classes=CLASSES, baseline=baseline, shares=class_shares(labels, len(SHARES)))


def refused(design: Design, versions: int) -> int:
    """How many of the versions are shown worse than the baseline."""
    rng = np.random.default_rng([design.n, round(100 * design.base), round(-100 * design.delta)])
    rule, found = PromotionRule(resamples=FEW["night"], per="night"), 0
    for _ in range(versions):
        baseline = draw_champion(rng, design)
        version = Model(name="version 1", p=probabilities(rng, draw_challenger(rng, design, baseline)))
        pair = against_baseline(rule, rows_of(design.labels, probabilities(rng, baseline)), version)
        found += pair is not None and pair.is_shown_worse()
    return found


def promoted(n: int, shares: Array, versions: int) -> int:
    """How many versions that know nothing pass every check of a first version."""
    rng, labels = np.random.default_rng([n, round(100 * shares[0])]), Design(n=n, base=0.85, delta=0.0).labels
    rule, found = PromotionRule(resamples=FEW["month"]), 0
    for _ in range(versions):
        both = [probabilities(rng, rng.choice(len(SHARES), n, p=shares)) for _ in range(2)]
        checks = first_checks(rule, rows_of(labels, both[0]), Model(name="version 1", p=both[1]))
        found += all(one.check.passed for one in checks)
    return found


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1_000, help="a cell (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cells = []
    for base, deltas in DELTAS.items():
        for n in ROWS:
            for delta in deltas:
                count = refused(Design(n=n, base=base, delta=delta), args.versions)
                cells.append(("refused", f"accuracy {base:.2f}, {delta:+.2f} to the baseline", n, count))
    for name, shares in (("uniformly", np.full(len(SHARES), 1 / len(SHARES))), ("by the classes' shares", SHARES)):
        for n in ROWS:
            cells.append(("promoted", f"guessing {name}", n, promoted(n, shares, args.versions)))
    found = [
        {
            "kind": kind,
            "case": case,
            "rows": n,
            "count": count,
            "of": args.versions,
            "interval": wilson(count, args.versions),
        }
        for kind, case, n, count in cells
    ]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for cell in found:
        low, high = cell["interval"]
        share = f"{cell['count'] / cell['of']:6.1%} [{low:5.1%}, {high:6.1%}]"
        print(f"{cell['kind']:<9}{cell['rows']:>6} rows  {cell['case']:<38}{share}")


if __name__ == "__main__":
    main()
