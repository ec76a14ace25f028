"""Rows whose label is probably wrong, ranked for a person to look at. Nothing is changed and nothing deleted.

Confident learning (Northcutt et al. 2021, arXiv 1911.00068; cleanlab) on out-of-sample probabilities. About half of
what it flags is truly wrong (arXiv 2103.14749: 51 % over ten test sets), so this is a list to read, not to apply.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.cells import cell
from bertft_core.base.errors import ArtifactError, DataError

FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1)  # C on standardised features; weaker penalties fit the wrong labels too (measured)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A row (0-based place in the arrays) whose label is doubted, out-of-sample probabilities in [0, 1].

    self_confidence: of its own label; probability: of the suggested one.
    """

    row: int
    label: str
    suggested: str
    self_confidence: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class LabelReview:
    """Suspects, the most doubtful first; rows: those judged; notes: what was left out, and why."""

    suspects: tuple[Suspect, ...]
    rows: int
    notes: tuple[str, ...] = ()

    def to_csv(self, source_rows: Sequence[str], texts: Sequence[str]) -> str:
        """The list as CSV, one line per suspect, formulas as text.

        `source_rows` and `texts` belong to the arrays' rows.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["row", "label", "suggested", "self_confidence", "probability", "text"])
        for s in self.suspects:
            numbers = (f"{s.self_confidence:.4f}", f"{s.probability:.4f}")
            names = (cell(s.label), cell(s.suggested))
            writer.writerow([cell(str(source_rows[s.row])), *names, *numbers, cell(texts[s.row])])
        return out.getvalue()


def suspect_labels(features: Any, labels: Any, classes: Sequence[str], seed: int) -> LabelReview:
    """Judge labels [n] (class indices) by frozen features [n, d] with five stratified logistic regressions.

    Each row's probabilities come from a regression that did not see it; the penalty is the one of least
    out-of-sample log loss. Classes with fewer than 5 rows cannot be in every fold: they are left out with a note.

    Raises DataError for labels out of range, ArtifactError for features that are no finite [n, d] array.
    """
    from cleanlab.filter import find_label_issues

    x, y = np.asarray(features), np.asarray(labels, dtype=np.int64)
    if x.ndim != 2 or len(x) != len(y) or not np.isfinite(x).all():
        raise ArtifactError(f"wanted finite features of shape ({len(y)}, d), found {x.shape}")
    if len(y) and not 0 <= y.min() <= y.max() < len(classes):
        raise DataError(f"labels must lie in 0..{len(classes) - 1}, found {y.min()}..{y.max()}")
    support = np.bincount(y, minlength=len(classes))
    judged = np.flatnonzero(support >= FOLDS)
    small = [f"{name} ({n})" for name, n in zip(classes, support, strict=True) if 0 < n < FOLDS]
    notes = (f"classes with fewer than {FOLDS} rows are left out: {', '.join(small)}",) if small else ()
    if len(judged) < 2:
        reason = f"label errors were not looked for: fewer than two classes have {FOLDS} rows"
        return LabelReview(suspects=(), rows=0, notes=(*notes, reason))
    rows = np.flatnonzero(np.isin(y, judged))
    own = np.searchsorted(judged, y[rows])
    p = _out_of_sample(x[rows], own, seed)
    # rows that confident learning flags; one process: cleanlab's pool would start as many as there are CPUs
    flagged = find_label_issues(own, p, return_indices_ranked_by="self_confidence", n_jobs=1)
    suspects = tuple(
        Suspect(
            row=int(rows[i]),
            label=str(classes[judged[own[i]]]),
            suggested=str(classes[judged[p[i].argmax()]]),
            self_confidence=float(p[i, own[i]]),
            probability=float(p[i].max()),
        )
        for i in map(int, flagged)
    )
    return LabelReview(suspects=suspects, rows=len(rows), notes=notes)


def _out_of_sample(x: npt.NDArray[Any], y: Ints, seed: int) -> Floats:
    """Probabilities [n, C], each row's from the fold it was held out of."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    fits: list[tuple[float, Floats]] = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        p: Floats = cross_val_predict(model, x, y, cv=folds, method="predict_proba").astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)  # float32 rows sum to 1 only nearly
        fits.append((float(log_loss(y, p)), p))
    return min(fits, key=lambda pair: pair[0])[1]
