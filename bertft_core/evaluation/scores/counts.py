"""Scores that follow from counts by class alone: rows decided rightly, rows decided as it, rows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-12
Counts = tuple[Floats, Floats]  # hits and decided rows by class, [..., C] each


def class_f1(hits: Any, decided: Any, support: Any) -> Any:
    """F1 of each class from counts [..., C] as in `count_scores`; 0 for a class that neither occurs nor is decided."""
    return _share(2 * hits, support + decided)


def count_scores(hits: Any, decided: Any, support: Any) -> dict[str, Any]:
    """The scores of decisions, one class a row, each [...]; MCC is nan where undefined.

    hits, decided and support [..., C]: rows, or their weights, decided rightly by class, decided as each class, and of
    each class. Leading axes are resamples. MCC: Gorodkin 2004, equation 8.
    """
    seen = (support > 0).reshape(-1, support.shape[-1]).any(axis=0)
    h, p, s = hits[..., seen], decided[..., seen], support[..., seen]
    n, right = s.sum(axis=-1), h.sum(axis=-1)
    f1, precision = class_f1(h, p, s), _share(h, p)
    spread = (n**2 - (np.asarray(decided, dtype=np.float64) ** 2).sum(axis=-1)) * (n**2 - (s**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mcc = np.where(spread > _ROUNDING * n**4, (right * n - (p * s).sum(axis=-1)) / np.sqrt(spread), np.nan)
    return {
        "accuracy": right / n,
        "balanced_accuracy": _share(h, s).mean(axis=-1),
        "macro_f1": f1.mean(axis=-1),
        "weighted_f1": (f1 * s).sum(axis=-1) / n,
        "macro_precision": precision.mean(axis=-1),
        "weighted_precision": (precision * s).sum(axis=-1) / n,
        "mcc": mcc,
    }


def _share(part: Any, whole: Any) -> Any:
    """part / whole, 0 where whole is 0."""
    return part / np.where(whole > 0, whole, 1)


def multi_label_f1(hits: Any, decided: Any, support: Any) -> dict[str, Any]:
    """Macro and micro F1 [...] from counts [..., C] of multi-label rows, of which a resample may lack a class.

    Macro over the classes with rows, 0 where there is no label at all.
    """
    seen = support > 0
    f1 = np.where(seen, class_f1(hits, decided, support), 0.0)
    return {
        "macro_f1": f1.sum(axis=-1) / np.maximum(1, seen.sum(axis=-1)),
        "micro_f1": class_f1(hits.sum(axis=-1), decided.sum(axis=-1), support.sum(axis=-1)),
    }


def counts(y: Ints, decided: Ints, n_classes: int) -> Counts:
    """Rows decided rightly, by class, and rows decided as each class, [C] each."""
    hits = np.bincount(y[decided == y], minlength=n_classes)
    return hits.astype(np.float64), np.bincount(decided, minlength=n_classes).astype(np.float64)


def confusion(y: Ints, decided: Ints, n_classes: int) -> Ints:
    """Counts [C, C]: true class by row, decided class by column."""
    flat = np.bincount(y * n_classes + decided, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)
