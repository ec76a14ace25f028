"""Prefect tasks over the registry: a version that carries its evidence, checked in fresh processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bertft_core import recipe
from bertft_core.config import RunConfig, parse_config
from bertft_core.data.prepare import DatasetSplits
from bertft_core.errors import ArtifactError, DataError, InputError
from bertft_core.evaluation.promotion import decide
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.recipe import Prepared
from bertft_core.runs import Run
from bertft_core.state import read_json, write_json
from bertft_core.training.spec import TrainingResult
from tasks import registry, tracking
from tasks.tree import Tree

PARITY = 1e-5
_PARITY_BATCH = 7


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and where its test rows, probabilities and evidence lie."""

    name: str
    version: str
    classes: tuple[str, ...]
    folder: str
    metric: str
    weights_digest: str
    test_fingerprint: str

    @property
    def path(self) -> Path:
        """Folder with test_rows.parquet, labels.npy, probabilities.npy."""
        return Path(self.folder)


def write_test_rows(dataset: DatasetSplits, folder: Path) -> None:
    """test_rows.parquet (text, text_pair) and labels.npy: what a fresh process scores."""
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    table = dataset.table("test")
    columns = ["text", "text_pair"] if dataset.has_pair else ["text"]
    parquet.write_table(table.select(columns), folder / "test_rows.parquet")
    np.save(folder / "labels.npy", table["label"].to_numpy(), allow_pickle=False)


@task(name="register", cache_policy=NO_CACHE)
def register_model(
    config: RunConfig, prepared: Prepared, run: Run, fit: TrainingResult, evaluation: EvaluationReport, tree: Tree
) -> Candidate:
    """Log the served artefact and register it, once per run; found again by its run tag after a kill."""
    folder = run.path / "evaluation"
    write_test_rows(prepared.dataset, folder)
    fingerprint = recipe.test_fingerprint(prepared.dataset)
    write_json(folder / "evidence.json", {
        "config": config.resolved(), "base_dir": str(config.base_dir), "test_fingerprint": fingerprint,
        "classes": list(prepared.dataset.classes), "weights_digest": fit.weights_digest, "folder": str(folder),
    })  # fmt: skip
    tags = {
        "bertft.run_id": run.run_id, "bertft.run_key": run.run_key, "bertft.weights": fit.weights_digest,
        "bertft.test_rows": fingerprint, "bertft.rows": prepared.dataset.fingerprint,
    }  # fmt: skip
    served = registry.build_model_folder(config, prepared, Path(fit.model_dir), run.path / "served")
    version = registry.register(
        tree.store, tree.final, served, tree.store.config.model_name(config.name), tags,
        extra_files=[folder / "evidence.json"],
    )  # fmt: skip
    create_link_artifact(key="bertft-model", link=version.model_uri, description=f"{version.name} {version.version}")
    return Candidate(
        name=version.name, version=version.version, classes=prepared.dataset.classes, folder=str(folder),
        metric=config.evaluation.metric, weights_digest=fit.weights_digest, test_fingerprint=fingerprint,
    )  # fmt: skip


@task(name="parity", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2)
def check_version(candidate: Candidate, store: tracking.Store) -> float:
    """Fresh process, downloaded artefact, another batch size: predictions must equal the evaluation's to 1e-5."""
    folder = candidate.path
    out = folder / f"served-{candidate.version}.npy"
    uri = f"models:/{candidate.name}/{candidate.version}"
    registry.score_in_fresh_process(uri, folder / "test_rows.parquet", out, _PARITY_BATCH, store)
    ours = np.load(folder / "probabilities.npy", allow_pickle=False)
    gap = float(np.abs(np.load(out, allow_pickle=False) - ours).max())
    if not gap <= PARITY:
        raise ArtifactError(
            f"{uri} predicts other probabilities than its evaluation (largest difference {gap:.2e}, wanted <= {PARITY:g})"
            ": not promoted; look at the served folder and library versions"
        )
    registry.set_alias(store, candidate.name, store.config.aliases.challenger, candidate.version)
    return gap


@task(name="promote", cache_policy=NO_CACHE)
def decide_promotion(candidate: Candidate, store: tracking.Store) -> dict[str, Any]:
    """Score the champion on the same rows in a fresh process, apply the rule, move the alias or say why not."""
    champion = registry.champion(store, candidate.name)
    labels = np.load(candidate.path / "labels.npy", allow_pickle=False)
    challenger = np.load(candidate.path / "probabilities.npy", allow_pickle=False)
    theirs = None if champion is None or champion == candidate.version else _champion_scores(candidate, champion, store)
    same = champion is not None and registry.version_tags(store, candidate.name, champion).get("bertft.weights") == (
        candidate.weights_digest
    )
    decision = decide(
        store.config.promotion_rule(candidate.metric), labels, challenger, theirs, candidate.classes,
        identical_weights=same, challenger_name=f"version {candidate.version}",
        champion_name=f"version {champion}" if champion else "none",
    )  # fmt: skip
    if decision.promote and champion != candidate.version:
        registry.move_champion(store, candidate.name, candidate.version, decision.reason)
    reason = "already the champion" if champion == candidate.version else decision.reason
    registry.tag_decision(store, candidate.name, candidate.version, decision.promote, reason)
    write_json(candidate.path / "decision.json", decision.to_json())
    create_markdown_artifact(key="bertft-decision", markdown=f"**{candidate.name} {candidate.version}**: {reason}")
    return {
        "registered_model": candidate.name, "version": candidate.version, "promoted": bool(decision.promote),
        "reason": reason, "champion_before": champion,
        "look": [f"mlflow ui --backend-store-uri {store.shown_uri}", f"report: {candidate.path / 'report.md'}"],
    }  # fmt: skip


def _champion_scores(candidate: Candidate, champion: str, store: tracking.Store) -> np.ndarray:
    """The champion's probabilities [n, classes] on the candidate's test rows, in the candidate's class order."""
    out = candidate.path / f"champion-{champion}.npy"
    uri = f"models:/{candidate.name}/{champion}"
    names = registry.score_in_fresh_process(uri, candidate.path / "test_rows.parquet", out, _PARITY_BATCH, store)
    scores = np.load(out, allow_pickle=False)
    if set(names) != set(candidate.classes):
        raise InputError(
            f"{uri} knows the classes {sorted(names)}, version {candidate.version} {sorted(candidate.classes)}: "
            "not comparable; promote by moving the alias yourself, or keep the label set"
        )
    return scores[:, [list(names).index(c) for c in candidate.classes]]


def candidate_of_version(
    name: str, version: str | None, config: Any, home: Path
) -> tuple[Candidate, tracking.Store]:
    """Rebuild a candidate from a registered version: re-read its rows, refuse if they no longer hash alike."""
    store = tracking.open_store(config, home)
    chosen = version or registry.version_of_alias(store, name, config.aliases.challenger)
    evidence = read_json(registry.download_evidence(store, name, chosen))
    run_config = parse_config(evidence["config"], Path(evidence["base_dir"]), f"version {chosen} of {name}")
    dataset = recipe.ingest(run_config, home)
    found = recipe.test_fingerprint(dataset)
    if found != evidence["test_fingerprint"]:
        raise DataError(
            f"the test rows of {name} version {chosen} have changed since its evaluation "
            f"({evidence['test_fingerprint'][:12]} then, {found[:12]} now): run `bertft run` on today's rows"
        )
    folder = Path(evidence["folder"])
    if not (folder / "probabilities.npy").exists():
        folder = home / "promote" / f"{name}-{chosen}"
        write_test_rows(dataset, folder)
        uri = f"models:/{name}/{chosen}"
        registry.score_in_fresh_process(uri, folder / "test_rows.parquet", folder / "probabilities.npy", 32, store)
    candidate = Candidate(
        name=name, version=str(chosen), classes=tuple(evidence["classes"]), folder=str(folder),
        metric=run_config.evaluation.metric, weights_digest=evidence["weights_digest"], test_fingerprint=found,
    )  # fmt: skip
    return candidate, store


__all__ = ["Candidate", "candidate_of_version", "check_version", "decide_promotion", "register_model"]
