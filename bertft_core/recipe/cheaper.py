"""A version and a cheaper form of it side by side: size, speed, and how their answers to the test rows compare."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertft_core.base.errors import InputError
from bertft_core.base.files import load_array
from bertft_core.config.store import Store
from bertft_core.evaluation.scores.intervals import PairedDifference, paired_difference
from bertft_core.evaluation.scores.labels import Labels, labels_of
from bertft_core.registry import aliases, artifacts, ledger
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.entries import rolled_back
from bertft_core.registry.gate import Candidate

if TYPE_CHECKING:
    from bertft_core.serving.predictor import Predictor

ROWS, ROUNDS = 512, 3  # of the test split, both forms in turn: rows a second, and how far their answers differ


def origin(store: Store, name: str, version: str | None, verb: str) -> RegisteredVersion:
    """The version that a cheaper form is made of: the one that is named, else the champion.

    verb: what is to be done with it. Raises InputError where there is none, or it was rolled back.
    """
    wanted = version or aliases.champion(store, name)
    if wanted is None:
        raise InputError(f"{name} has no champion: name the version to {verb}")
    found = aliases.get_version(store, name, wanted)
    if wanted in rolled_back(ledger.read(store, name)):
        raise InputError(f"{found} was rolled back: {verb} another version")
    return found


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a version takes. latency_ms: median of one row at a time; rows_per_second: in batches, in this process."""

    version: str
    size_mb: float
    latency_ms: float
    rows_per_second: float


def side_by_side(
    store: Store, parent: RegisteredVersion, made: RegisteredVersion, old: Candidate, new: Candidate
) -> dict[str, Any]:
    """What both versions take, and how their answers to the test rows compare."""
    from bertft_core.serving.predictor import Predictor

    predictors = [Predictor.load(artifacts.resolve_model(store, one.model_uri).folder) for one in (parent, made)]
    rows_per_second = _rates(predictors, new)
    forms = [
        Form(version=c.version, size_mb=c.size_mb, latency_ms=_latency(p, c), rows_per_second=rate)
        for c, p, rate in zip((old, new), predictors, rows_per_second, strict=True)
    ]
    weights = load_array(new.folder.weights) if new.folder.weights.exists() else None
    groups = load_array(new.folder.groups) if new.folder.groups.exists() else None
    labels = labels_of(load_array(new.folder.labels), new.classes, weights, groups)
    paired = _paired(labels, new, old)
    answers = [load_array(c.folder.predicted) for c in (old, new)]
    differing = answers[0] != answers[1]
    gap = np.abs(load_array(old.folder.probabilities) - load_array(new.folder.probabilities)).max()
    return {
        "model": parent.name,
        "version": made.version,
        "runtime": predictors[1].card.runtime,
        "was_found": made.was_found,
        "forms": [asdict(form) for form in forms],
        "metric": new.metric,
        "difference": paired.difference,
        "interval": [paired.low, paired.high],
        "n": paired.n,
        "different_answers": int((differing.any(axis=1) if differing.ndim > 1 else differing).sum()),
        "largest_gap": float(gap),
    }


def _paired(labels: Labels, new: Candidate, old: Candidate) -> PairedDifference:
    def said(candidate: Candidate) -> Any:
        return labels.predictions(load_array(candidate.folder.probabilities), load_array(candidate.folder.predicted))

    return paired_difference(labels, said(new), said(old), new.metric)


def _texts(candidate: Candidate, rows: int) -> tuple[list[str], list[str] | None]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(candidate.folder.test_rows).slice(0, rows)
    pairs = table["text_pair"].to_pylist() if "text_pair" in table.column_names else None
    return table["text"].to_pylist(), pairs


def _rates(predictors: list[Predictor], candidate: Candidate) -> list[float]:
    """Rows a second of each, in turn; the median of the rounds, after one that warms up."""
    texts, pairs = _texts(candidate, ROWS)
    taken: list[list[float]] = [[] for _ in predictors]
    for _ in range(1 + ROUNDS):
        for predictor, seconds in zip(predictors, taken, strict=True):
            begun = time.perf_counter()
            predictor.probabilities(texts, pairs)
            seconds.append(time.perf_counter() - begun)
    return [len(texts) / statistics.median(seconds[1:]) for seconds in taken]


def _latency(predictor: Predictor, candidate: Candidate) -> float:
    """Milliseconds of one row at a time, the median of 64 after 16."""
    texts, pairs = _texts(candidate, 80)
    seconds = []
    for i, text in enumerate(texts):
        begun = time.perf_counter()
        predictor.probabilities([text], None if pairs is None else [pairs[i]])
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[len(seconds) // 5 :])
