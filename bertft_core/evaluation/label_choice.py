"""Which rows to label next: those that a model is unsure of, and that differ from each other.

BADGE (Ash et al. 2020, arXiv 1906.03671): a row stands where the gradient of the output layer would be if the model's
own answer were right, (probabilities - that answer) x features, which is long where the model is unsure; k-means++
seeding then draws rows far from those it has. The gradients are never written out: products of them are products of
their two parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def choose_rows(probabilities: Any, features: Any, count: int, seed: int, *, multi_label: bool = False) -> list[int]:
    """Places of `count` rows (or all, where there are fewer), in the order in which they were drawn.

    probabilities [n, C]; features [n, F], centred here; multi_label: each class is decided by itself.
    The first is the row of the longest gradient, each further one is drawn by its squared distance to the nearest one
    that is chosen. Rows at no distance from a chosen one come last, in order.
    """
    p, x = np.asarray(probabilities, dtype=np.float64), np.asarray(features, dtype=np.float64)
    answers = p >= 0.5 if multi_label else np.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
    doubt, x = p - answers, x - x.mean(axis=0)
    lengths = np.square(doubt).sum(axis=1) * np.square(x).sum(axis=1)
    rng, chosen = np.random.default_rng(seed), list[int]()
    far: Floats = lengths.copy()
    while len(chosen) < min(count, len(p)):
        left = np.where(np.isin(np.arange(len(p)), chosen), 0.0, far)
        if left.max() <= 0:
            rest = [i for i in range(len(p)) if i not in set(chosen)]
            return [*chosen, *rest[: count - len(chosen)]]
        row = int(rng.choice(len(p), p=left / left.sum())) if chosen else int(left.argmax())
        chosen.append(row)
        distance = lengths + lengths[row] - 2 * (doubt @ doubt[row]) * (x @ x[row])
        far = np.minimum(far if len(chosen) > 1 else np.inf, np.maximum(distance, 0.0))
    return chosen
