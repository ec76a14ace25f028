"""Prefect tasks of a night: drift of its rows, the champion's answers on the new ones, what is written down."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import load_arrays, save_arrays, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.config.run import RunConfig
from bertft_core.config.store import Store
from bertft_core.data.dataset import take_rows
from bertft_core.data.splits import SPLITS
from bertft_core.evaluation.drift.domain_shift import domain_shift
from bertft_core.evaluation.drift.label_shift import LabelShift
from bertft_core.evaluation.drift.report import DriftReport, draw_drift
from bertft_core.evaluation.drift.text_figures import text_figures
from bertft_core.recipe.nights.log import FAILED, REJECTED, Night
from bertft_core.recipe.nights.rows import Rows
from bertft_core.recipe.nights.triggers import FreshScore
from bertft_core.recipe.prepare import Prepared
from bertft_core.recipe.process.client import Trainer
from bertft_core.registry import aliases, artifacts
from bertft_core.registry.answers import score_in_fresh_process
from bertft_core.tracking import store as tracking

MOST_ROWS = 1_000  # on either side of a comparison: features cost an encoder pass a row
_TRAIN = SPLITS.index("train")


@task(name="drift", cache_policy=NO_CACHE)
def measure_drift(
    config: RunConfig, prepared: Prepared, last: Path, label: LabelShift, home: Path
) -> DriftReport | None:
    """How the new training texts differ from those of the last training, by the pretrained encoder and by their words.

    last: folder of the last training's run. At most 1,000 rows a side, smallest hash first: from night to night the
    same ones, whose features are kept. None where one of the sides has no row.
    """
    before, now = Rows.require(last), Rows.of(prepared.dataset)
    is_known, in_train = now.is_in(before), now.splits == _TRAIN
    sides = [now.hashes[in_train & known][:MOST_ROWS] for known in (is_known, ~is_known)]
    if not (len(sides[0]) and len(sides[1])):
        return None
    found = _features(config, prepared, np.concatenate(sides), home)
    old, new = found[: len(sides[0])], found[len(sides[0]) :]
    report = DriftReport(
        label=label,
        domain=domain_shift(old, new, seed=config.training.seed),
        text=text_figures(*(_texts(prepared, side.tolist()) for side in sides)),
    )
    create_markdown_artifact(key="bertft-drift", markdown=report.to_markdown())
    return report


def _texts(prepared: Prepared, hashes: list[bytes]) -> list[str]:
    table = take_rows(prepared.dataset.table("train"), _places(prepared, hashes))
    texts: list[str] = table["text"].to_pylist()
    if not prepared.dataset.has_pair:
        return texts
    return [f"{text} {pair or ''}" for text, pair in zip(texts, table["text_pair"].to_pylist(), strict=True)]


def _places(prepared: Prepared, hashes: list[bytes]) -> list[int]:
    """Where these rows lie in the training split."""
    # numpy leaves the zero bytes at the end of a fixed-length string away
    found = (h.rstrip(b"\0") for h in prepared.dataset.table("train")["fingerprint"].to_pylist())
    places = {h: place for place, h in enumerate(found)}
    return [places[h] for h in hashes]


def _features(config: RunConfig, prepared: Prepared, hashes: Any, home: Path) -> Any:
    """[n, H] of training rows by the hash of their text; what is not in the store is computed and added."""
    manner = hash_json([prepared.encoder, config.tokenization.model_dump()])[:16]
    file = home / "features" / f"{config.name}-{manner}.npz"
    stored = load_arrays(file, "hashes", "values") or {"hashes": np.array([], dtype="S16"), "values": ()}
    known = dict(zip(stored["hashes"].tolist(), stored["values"], strict=True))
    missing = [h for h in hashes.tolist() if h not in known]
    if missing:
        known |= dict(zip(missing, _computed(config, prepared, missing, home), strict=True))
    values = np.stack([known[h] for h in hashes.tolist()])
    if missing:
        save_arrays(file, hashes=hashes, values=values)
    return values


def _computed(config: RunConfig, prepared: Prepared, hashes: list[bytes], home: Path) -> Any:
    with tempfile.TemporaryDirectory(dir=home, prefix=artifacts.SCRATCH) as folder, Trainer() as trainer:
        file = Path(folder) / "features.npy"
        trainer.features(
            prepared.pretrained,
            prepared.tokens.directory,
            "train",
            file,
            threads=config.training.threads,
            places=_places(prepared, hashes),
        )
        return np.load(file, allow_pickle=False)


@task(name="champion on new rows", cache_policy=NO_CACHE)
def champion_on_new(config: RunConfig, prepared: Prepared, last: Path, store: Store, home: Path) -> FreshScore | None:
    """Today's champion on rows that came after the last training (its run's folder), none of them test rows.

    None where there is no champion that answers; the release says then what is wrong with it.
    """
    import pandas as pd

    name = store.config.model_name(config.name)
    version = aliases.champion(store, name)
    if version is None:
        return None
    before, now = Rows.require(last), Rows.of(prepared.dataset)
    texts, labels = _new_rows(prepared, now.hashes[~now.is_in(before)])
    if not texts["text"]:
        return None
    with tempfile.TemporaryDirectory(dir=home, prefix=artifacts.SCRATCH) as scratch:
        folder = Path(scratch)
        pd.DataFrame({k: v for k, v in texts.items() if v}).to_parquet(folder / "rows.parquet")
        try:
            found = score_in_fresh_process(
                f"models:/{name}/{version}", folder / "rows.parquet", folder / "answers.npz", 0, store
            )
        except (ArtifactError, InputError):
            return None
        told = found.told()
    right = int((told == np.array(labels, dtype=object)).sum())
    return FreshScore(right=right, rows=len(labels))


def _new_rows(prepared: Prepared, hashes: Any) -> tuple[dict[str, list[str]], list[str]]:
    wanted = set(hashes.tolist())
    texts: dict[str, list[str]] = {"text": [], "text_pair": []}
    labels: list[str] = []
    for split in ("train", "validation"):
        table = prepared.dataset.table(split)
        places = [i for i, h in enumerate(table["fingerprint"].to_pylist()) if h.rstrip(b"\0") in wanted][:MOST_ROWS]
        part = take_rows(table, places)
        texts["text"] += part["text"].to_pylist()
        if prepared.dataset.has_pair:
            texts["text_pair"] += part["text_pair"].to_pylist()
        labels += prepared.dataset.label_texts(part)
    return texts, labels


@task(name="record", cache_policy=NO_CACHE)
def record(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None) -> None:
    """One MLflow run a night, with outcome, reason, numbers and the drift that was measured; the Prefect artifact."""
    create_markdown_artifact(key="bertft-night", markdown=as_markdown(night, name))
    log_night(night, name, store, prefect_run, drift)


def log_night(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None) -> str:
    """Write the night's MLflow run, once; its id."""
    tags = {
        "bertft.name": name,
        "bertft.night": night.night,
        "bertft.outcome": night.outcome,
        "bertft.reason": night.reason[:5000],
        "bertft.pipeline_run": night.run_id or "",
        "bertft.version": night.version or "",
        "prefect.flow_run_id": prefect_run,
        tracking.NOTE: f"{night.outcome}: {night.reason}"[:5000],
    }
    key = f"{name} {night.started}"
    run_id = tracking.find_or_create_run(store, key, "night", name=f"{name} night {night.night}", tags=tags)
    numbers = {k: float(v) for k, v in night.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    tracking.log_metrics(store, run_id, {"seconds": night.seconds, **numbers})
    if drift is not None:
        _log_drift(drift, store, run_id)
    tracking.finish_run(store, run_id, failed=night.outcome in (FAILED, REJECTED))
    return run_id


def _log_drift(drift: DriftReport, store: Store, run_id: str) -> None:
    """drift.json, drift.md and drift.png below `drift` of the run."""
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        folder = Path(scratch)
        write_json(folder / "drift.json", drift.to_json())
        (folder / "drift.md").write_text(drift.to_markdown() + "\n![](drift.png)\n", encoding="utf-8")
        draw_drift(drift).savefig(folder / "drift.png")
        tracking.log_files(store, run_id, [folder], "drift")


def as_markdown(night: Night, name: str) -> str:
    """What a person reads in Prefect."""
    trained = [] if night.version is None else [("version", night.version), ("run", night.run_id)]
    facts = [(key.replace("_", " "), _shown(value)) for key, value in night.facts.items()]
    rows = "".join(f"| {key} | {value} |\n" for key, value in [*trained, *facts, ("seconds", _shown(night.seconds))])
    return f"# {name}, night {night.night}: {night.outcome}\n\n{night.reason}\n\n| fact | value |\n|---|---:|\n{rows}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
