"""How well a classifier tells new rows from old ones by the features of an encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import ArtifactError

AUROC_LIMIT = 0.55  # for the low end of the interval (docs/drift.md)
FEWEST = 30  # rows a side, where the interval is 0.44 wide: fewer rows say nothing

_STRENGTH = 0.01  # C: with hundreds of features weaker penalties fit noise (measured, docs/drift.md)
_Z = 1.959964  # of a 95 % interval

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DomainShift:
    """How well a linear classifier tells new rows from old ones: AUROC and its 95 % interval, 0.5 for not at all.

    n_old, n_new: distinct rows compared. auroc is None where they were too few; then `reason` says so.
    """

    n_old: int
    n_new: int
    auroc: float | None
    low: float | None
    high: float | None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.auroc is None) == (self.low is None) == (self.high is None) == (self.reason is not None)

    def is_shifted(self, limit: float = AUROC_LIMIT) -> bool:
        """Whether the whole interval lies above the limit; False where there were too few rows."""
        return self.low is not None and self.low > limit


def domain_shift(
    old: npt.NDArray[Any], new: npt.NDArray[Any], *, seed: int, folds: int = 5, rows: int = 2000
) -> DomainShift:
    """Try to tell new rows' features [m, H] from old ones' [n, H] (Rabanser et al. 2019, arXiv 1810.11953).

    A logistic regression on standardised features, both sides weighing the same, scores each fold it was not
    trained on; the AUROC is the mean over the folds. Equal rows of a side count once and stay in one fold. At most
    `rows` rows a side are compared, chosen by `seed` and their own bytes, so that their order does not matter.

    Raises ArtifactError for features that are not finite arrays of one width.
    """
    assert 2 <= folds <= FEWEST <= rows
    sides = [_checked(old), _checked(new)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ArtifactError(f"wanted features of one width, found {sides[0].shape[1]} (old), {sides[1].shape[1]} (new)")
    a, b = (_sample(side, rows, seed) for side in sides)
    if min(len(a), len(b)) < FEWEST:
        reason = f"{FEWEST} distinct rows are needed on each side, found {len(a)} old and {len(b)} new ones"
        return DomainShift(n_old=len(a), n_new=len(b), auroc=None, low=None, high=None, reason=reason)
    area = _fold_auroc(sides[0][_arranged(a, b)], sides[1][_arranged(b, a)], folds)
    low, high = _auroc_interval(area, len(a), len(b), folds)
    return DomainShift(n_old=len(a), n_new=len(b), auroc=area, low=low, high=high)


def _checked(features: npt.NDArray[Any]) -> Features:
    x = np.ascontiguousarray(features, dtype=np.float32)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ArtifactError(f"wanted finite features of shape (rows, width), found {x.shape} or values not finite")
    return x


def _sample(features: Features, rows: int, seed: int) -> dict[bytes, int]:
    """Places of at most `rows` distinct rows by their salted digest, in the order of the digests."""
    salt = seed.to_bytes(16, "little")
    found = {hashlib.blake2b(row.tobytes(), digest_size=16, salt=salt).digest(): i for i, row in enumerate(features)}
    return {key: found[key] for key in sorted(found)[:rows]}


def _arranged(own: Mapping[bytes, int], other: Container[bytes]) -> list[int]:
    """Places of a side's rows, those of both sides first: round the folds, equal rows then meet in one fold."""
    return [own[key] for key in sorted(own, key=lambda key: key not in other)]


def _fold_auroc(old: Features, new: Features, folds: int) -> float:
    """Mean AUROC over the folds, each weighing its pairs; pooled scores would rank across classifiers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    x = np.concatenate([old, new]).astype(np.float64)
    y = np.repeat([0, 1], [len(old), len(new)])
    fold = np.concatenate([np.arange(len(old)), np.arange(len(new))]) % folds
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000))
    areas, pairs = [], []
    with threadpool_limits(1, user_api="blas"):  # many small products: on busy cores threads cost 60 times as much
        for k in range(folds):
            held = fold == k
            scores = model.fit(x[~held], y[~held]).decision_function(x[held])
            areas.append(roc_auc_score(y[held], scores))
            pairs.append(y[held].sum() * (1 - y[held]).sum())
    return float(np.average(areas, weights=pairs))


def _auroc_interval(area: float, n_old: int, n_new: int, folds: int) -> tuple[float, float]:
    """95 % score interval of a cross-validated AUROC: all values that lie within 1.96 standard deviations of it.

    Variance by Hanley & McNeil's exponential model (Newcombe 2006, Statistics in Medicine 25:559, method 5): never
    degenerate, also for a perfect ranking. It is multiplied by 1 + folds / (folds - 1) because the folds share their
    training rows (Nadeau & Bengio 2003): without that the interval holds 0.5 in 83 instead of 95 of 100 quiet nights.
    """
    from scipy.optimize import brentq

    half = (n_old + n_new) / 2 - 1
    scale = _Z**2 * (1 + folds / (folds - 1)) / (n_old * n_new)

    def excess(true: float) -> float:
        spread = true * (1 - true) * (1 + half * ((1 - true) / (2 - true) + true / (1 + true)))
        return (area - true) ** 2 - scale * spread

    inside = 1e-9  # 0 and 1 solve the equation for themselves
    low = brentq(excess, 0.0, min(area, 1 - inside)) if area > inside else 0.0
    high = brentq(excess, max(area, inside), 1.0) if area < 1 - inside else 1.0
    return float(low), float(high)
