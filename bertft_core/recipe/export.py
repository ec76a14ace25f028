"""A registered version once more in a cheaper form: the same answers from an ONNX file, as a version of its own."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertft_core.base.errors import InputError
from bertft_core.base.files import load_array, staged_folder, write_json
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.config.store import Store
from bertft_core.evaluation.scores.intervals import PairedDifference, paired_difference
from bertft_core.evaluation.scores.labels import Labels, labels_of
from bertft_core.recipe.release import candidate_of_version
from bertft_core.registry import aliases, artifacts, ledger
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.entries import rolled_back
from bertft_core.registry.evaluation_folder import EVIDENCE, TRAIN_ROWS
from bertft_core.registry.gate import Candidate
from bertft_core.registry.versions import find_version, register
from bertft_core.serving.artifact import CARD, ONNX_FILE, read_card
from bertft_core.tracking import store as tracking

if TYPE_CHECKING:
    from bertft_core.serving.predictor import Predictor

_SHARED_TAGS = (aliases.MACHINE, "bertft.test_rows", "bertft.rows", "bertft.git_commit")  # true of both forms
ROWS, ROUNDS = 512, 3  # of the test split, both forms in turn: rows a second, and how far their answers differ


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a version takes. latency_ms: median of one row at a time; rows_per_second: in batches, in this process."""

    version: str
    size_mb: float
    latency_ms: float
    rows_per_second: float


def export(
    store: Store, name: str, version: str | None, *, int8: bool, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Register the ONNX form of a version (None: the champion), once, and measure it beside the version itself.

    Nothing is promoted: the gate judges it when it is asked, by non-inferiority (`registry.gate.Candidate.rule`).
    int8: weights of 8 bits. Raises InputError where the version is no torch model with a stock head, was rolled back,
    or the libraries are missing.
    """
    wanted = version or aliases.champion(store, name)
    if wanted is None:
        raise InputError(f"{name} has no champion: name the version to export")
    parent = aliases.get_version(store, name, wanted)
    if wanted in rolled_back(ledger.read(store, name)):
        raise InputError(f"{parent} was rolled back: export another version")
    runtime = "onnx-int8" if int8 else "onnx"
    made = find_version(store, name, _run_id(parent, runtime))
    if made is None:
        say(f"exporting {parent}")
        made = _registered(store, parent, runtime)
    say(f"answering the test rows with {parent} and {made}")
    old, new = (candidate_of_version(name, one, store, Path(store.home)) for one in (wanted, made.version))
    return _document(store, parent, made, old, new)


def _run_id(parent: RegisteredVersion, runtime: str) -> str:
    """What stands for the run of an export; one a version and form."""
    return f"{parent.tags.get(aliases.RUN_ID, parent.model_id)}-{parent.version}-{runtime}"


def _registered(store: Store, parent: RegisteredVersion, runtime: str) -> RegisteredVersion:
    """Export, log and register; a kill in between leaves nothing that the same command does not finish."""
    from bertft_core.serving.onnx_export import export_onnx

    name, version = parent.name, parent.version
    source = artifacts.resolve_model(store, parent.model_uri).folder
    card = read_card(source)
    if card.runtime != "torch":
        raise InputError(f"{parent} answers by {card.runtime} already: export the version that it was made of")
    evidence = artifacts.read_evidence(store, name, version)
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        folder, run_id = Path(scratch) / "served", _run_id(parent, runtime)
        with staged_folder(folder) as staging:
            for file in source.iterdir():
                if file.is_file() and not (file.name.startswith("model") or file.name in (CARD, "manifest.json")):
                    shutil.copyfile(file, staging / file.name)
            export_onnx(source, staging / ONNX_FILE, int8=runtime == "onnx-int8")
            write_json(staging / CARD, replace(card, runtime=runtime).to_json())
        blend = evidence["weights"] if card.policy.blend else ""
        weights = hash_json([hash_file(folder / ONNX_FILE), blend])
        evidence |= {"weights": weights, "parent": version}
        evidence["folder"] = str(Path(evidence["folder"]).parents[1] / run_id / "evaluation")
        evidence["size_mb"] = _megabytes(folder)
        write_json(Path(scratch) / EVIDENCE, evidence)
        train = artifacts.download_evidence(store, name, version, TRAIN_ROWS)
        tags = {key: parent.tags[key] for key in _SHARED_TAGS if key in parent.tags}
        tags |= {aliases.RUN_ID: run_id, tracking.WEIGHTS: weights, aliases.PARENT: version}
        run = tracking.find_or_create_run(store, run_id, "export", parent.run_id or None, f"{name} {runtime}")
        made = register(store, run, folder, name, tags, extra_files=[Path(scratch) / EVIDENCE, train])
        tracking.finish_run(store, run)
    return made


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _document(
    store: Store, parent: RegisteredVersion, made: RegisteredVersion, old: Candidate, new: Candidate
) -> dict[str, Any]:
    """Both forms side by side: what they take, and how their answers to the test rows compare."""
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
