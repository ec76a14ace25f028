"""Which task each batch is of: shares by rows^(1/T), the same in every epoch, in an order drawn anew. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def batches_per_epoch(rows: Mapping[str, int], batch_size: int, temperature: float) -> dict[str, int]:
    """How many batches of each task an epoch has, at least one; together as many as hold all rows once.

    In proportion to rows^(1/T), by largest remainder: T 1 as many as hold the task's own rows, a large T the same for
    all (Aharoni et al. 2019, arXiv 1903.00089, name the temperature; Sun et al. 2019 have T 1).

    >>> batches_per_epoch({"a": 900, "b": 100}, 10, 1), batches_per_epoch({"a": 900, "b": 100}, 10, 2)
    ({'a': 90, 'b': 10}, {'a': 75, 'b': 25})
    """
    total = sum(-(-n // batch_size) for n in rows.values())
    sizes = np.array([float(n) for n in rows.values()]) ** (1 / temperature)
    wanted = sizes / sizes.sum() * total
    found = np.maximum(1, np.floor(wanted)).astype(int)
    for place in np.argsort(found - wanted, kind="stable")[: max(0, total - found.sum())]:
        found[place] += 1
    return dict(zip(rows, found.tolist(), strict=True))


def epoch_order(batches: Mapping[str, int], seed: int, epoch: int) -> list[str]:
    """The task of each batch of an epoch; a pure function of its arguments."""
    names = [name for name, count in batches.items() for _ in range(count)]
    return [names[i] for i in np.random.default_rng([seed, epoch, len(names)]).permutation(len(names))]
