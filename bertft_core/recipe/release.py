"""From a finished fit to a version that the gate can judge."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import DamagedFile, DataError
from bertft_core.base.files import load_array, mark_used, write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.base.locks import exclusive
from bertft_core.base.names import file_name
from bertft_core.base.records import read_record
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.config.store import MlflowConfig, Store
from bertft_core.data.dataset import DatasetSplits, fingerprints_of
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.evaluation.policy.blend import TFIDF_ALONE
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.evaluation.scores.labels import labels_of
from bertft_core.evaluation.scores.metrics import Scores
from bertft_core.recipe.adapt import Gain
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import baseline_folder, slices_of, write_markdown
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.prepare import ingest, prepare
from bertft_core.recipe.review import write_page
from bertft_core.recipe.runs import RUN_CODE
from bertft_core.registry import aliases, artifacts, entries, ledger
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.answers import Answers, score_in_fresh_process
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.registry.gate import Candidate
from bertft_core.registry.ledger import Release
from bertft_core.registry.versions import find_version, register
from bertft_core.reporting.run.page import Outcome, ReleaseFacts
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.tracking import lineage
from bertft_core.tracking.locks import model_lock
from bertft_core.tracking.store import WEIGHTS, open_store
from bertft_core.training.results import TrainingResult

_LOGGER = logging.getLogger(__name__)
STUDENT = "bertft.student"  # of a version that another one taught: what it is, in words
_LIBRARIES = ("torch", "transformers", "mlflow", "prefect", "optuna", "scikit-learn")
WAIT_SECONDS = 600.0  # for another release of the same model: scoring its champion takes minutes
_OUTCOMES: dict[str, Outcome] = {"held": "held", "awaiting approval": "awaiting"}  # as the page names them


@contextmanager
def release_lock(store: Store, name: str) -> Iterator[None]:
    """One release per registered model at a time, on all machines that share the home or a store in PostgreSQL.

    Raises BusyError naming who holds it.
    """
    file = Path(store.home) / "locks" / f"release-{file_name(name)}.lock"
    with exclusive(file, f"a release of {name}", WAIT_SECONDS), model_lock(store, "release", name, WAIT_SECONDS):
        yield


def write_gate_rows(config: RunConfig, dataset: DatasetSplits, folder: EvaluationFolder, home: Path) -> None:
    """Write what the gate works on beside the candidate's own answers: rows, labels, baseline, slices, fingerprints.

    Fingerprints, because a champion must not be judged on rows it was trained on.
    """
    import pyarrow.parquet as parquet

    from bertft_core.evaluation.baseline import class_shares

    folder.path.mkdir(parents=True, exist_ok=True)
    table = dataset.table("test")
    columns = ["text", "text_pair"] if dataset.has_pair else ["text"]
    parquet.write_table(table.select(columns), folder.test_rows)
    np.save(folder.labels, dataset.targets("test"), allow_pickle=False)
    if (weights := dataset.soft_labels("test")) is not None:
        np.save(folder.weights, weights, allow_pickle=False)
    np.save(folder.baseline, baseline_folder(config, dataset, home).probabilities("test"), allow_pickle=False)
    np.save(folder.shares, class_shares(dataset.targets("train"), len(dataset.classes)), allow_pickle=False)
    if (groups := dataset.groups("test")) is not None:
        np.save(folder.groups, groups, allow_pickle=False)
    divisions = slices_of(config, dataset).items()
    masks = {f"{division}: {name}": mask for division, slices in divisions for name, mask in slices.items()}
    np.savez(folder.slices, **masks)
    np.save(folder.test_fingerprints, row_fingerprints(table), allow_pickle=False)
    np.save(folder.train_fingerprints, np.sort(row_fingerprints(dataset.table("train"))), allow_pickle=False)


def row_fingerprints(table: Any) -> Any:
    """Keys of the rows of a split, uint64 [n], by which a version knows what it was trained on."""
    return fingerprints_of(table).view(">u8")[:, 0].astype(np.uint64)


def build_served(context: RunContext, fit: TrainingResult) -> Path:
    """The artefact of a fit, run/served: its transformers folder plus bertft.json, complete or absent."""
    config, prepared = context.config, context.prepared
    card = ArtifactCard(
        max_length=prepared.tokens.max_length,
        **{key: value for key, value in config.tokenization.cut().items() if key != "max_length"},
        classes=tuple(prepared.dataset.classes),
        text=config.data.text,
        text_pair=config.data.text_pair if prepared.dataset.has_pair else None,
        label=config.data.label if isinstance(config.data.label, str) else tuple(config.data.label),
        policy=context.run.policy,
        multi_label=prepared.dataset.multi_label,
        encoding=config.data.encoding,
        delimiter=config.data.delimiter,
        merge_labels=config.data.merge_labels,
        quoting=prepared.dataset.report.quoting if config.data.quoting == "auto" else config.data.quoting,
    )
    words = baseline_folder(config, prepared.dataset, context.home).path if card.policy.blend else None
    return build_artifact(fit.model_dir, context.run.folder.served, card, words)


def _weights(context: RunContext, fit: TrainingResult) -> str:
    """What stands for the weights that answer: an encoder is another model with a blend than without."""
    blend = context.run.policy.to_json().get("blend")
    return hash_json([fit.weights_digest, blend]) if blend else fit.weights_digest


@dataclass(frozen=True, kw_only=True)
class Student:
    """That a fit is a student: the version that taught it, what it is in words, and the rows that it trained on."""

    parent: str
    text: str
    trained_on: DatasetSplits


def register_fit(
    context: RunContext, fit: TrainingResult, tree: Tree, student: Student | None = None
) -> tuple[Candidate, RegisteredVersion]:
    """Write what the gate works on, log the served artefact with its evidence and register it, once per run."""
    config, run, dataset = context.config, context.run, context.prepared.dataset
    folder = run.folder.evaluation
    write_gate_rows(config, dataset, folder, context.home)
    if student is not None:
        trained = np.sort(row_fingerprints(student.trained_on.table("train")))
        np.save(folder.train_fingerprints, trained, allow_pickle=False)
    served, weights = build_served(context, fit), _weights(context, fit)
    evidence: dict[str, Any] = {
        "config": config.resolved(),
        "base_dir": str(config.base_dir),
        "test_rows": dataset.test_fingerprint(),
        "classes": list(dataset.classes),
        "weights": weights,
        "fault": "" if context.run.policy.blend == TFIDF_ALONE else fit.fault,
        "folder": str(folder.path),
        "size_mb": sum(file.stat().st_size for file in served.iterdir()) / 1e6,
        "rule": tree.store.config.promotion.settings(),
        "encoders": _encoders(context),
        **({"parent": student.parent} if student else {}),
    }
    write_json(folder.evidence, evidence)
    tags = {
        aliases.RUN_ID: run.run_id,
        WEIGHTS: weights,
        aliases.MACHINE: str(run.settings or ""),
        "bertft.test_rows": evidence["test_rows"],
        "bertft.rows": dataset.fingerprint,
        "bertft.run_key": run.run_key,
        **_encoders(context),
        **lineage.version_tags(config.base_dir),
        **({aliases.PARENT: student.parent, STUDENT: student.text} if student else {}),
    }
    name = tree.store.config.model_name(config.name)
    files = [folder.evidence, folder.train_fingerprints]
    version = register(tree.store, tree.final, served, name, tags, extra_files=files)
    return _candidate(name, version.version, folder, config, evidence), version


def _encoders(context: RunContext) -> dict[str, str]:
    """The chain of encoders that a version stands on: the configured one, and each adapted one from the first on."""
    prepared = context.prepared
    chain = prepared.adaptation.chain if prepared.adaptation else ()
    tags = {"bertft.encoder.base": prepared.base_encoder, "bertft.encoder.chain": " > ".join(chain)}
    return {name: value for name, value in tags.items() if value}


def _candidate(
    name: str, version: str, folder: EvaluationFolder, config: RunConfig, evidence: dict[str, Any]
) -> Candidate:
    return Candidate(
        name=name,
        version=version,
        classes=tuple(map(str, evidence["classes"])),
        folder=folder,
        metric=config.evaluation.metric,
        weights_digest=evidence["weights"],
        size_mb=evidence["size_mb"],
        fault=evidence.get("fault", ""),
        parent=evidence.get("parent", ""),
    )


def write_released_page(
    context: RunContext, fit: TrainingResult, report: EvaluationReport, release: Release, tree: Tree
) -> Path:
    """The report, page and Markdown, with what became of the model first, and the decision: on disk and in MLflow."""
    run, prepared, folder = context.run, context.prepared, context.run.folder.evaluation
    decision = _decision(folder.decision_json)
    if decision is not None:
        folder.decision_markdown.write_text(decision.to_markdown(release.title), encoding="utf-8")
    facts = ReleaseFacts(
        outcome="promoted" if release.promoted else _OUTCOMES.get(release.outcome, "kept"),
        reason=release.reason,
        model=release.registered_model,
        version=str(release.version),
        serves=release.champion_after is not None,
        decision=decision,
        champion=champion_scores(folder, report, release.champion_before or ""),
    )
    write_markdown(context.config, report, folder, (facts.headline, facts.reason))
    lineage_facts = {
        "registered model": f"{release.registered_model} version {release.version}",
        "champion before": release.champion_before or "none",
        "run": run.run_id,
        "run key": run.run_key,
        "MLflow run": tree.root,
        "Prefect flow run": tree.prefect_run,
        "git commit": tree.commit,
        "rows": prepared.dataset.fingerprint,
        "encoder": prepared.encoder,
        "adaptation": str(Gain(**gain)) if (gain := run.state().get("gain")) else "",
        **_encoders(context),
        "code": code_fingerprint(*RUN_CODE),
        "machine": str(run.settings or ""),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    page = write_page(context, fit, report, facts, {name: value for name, value in lineage_facts.items() if value})
    tree.report()
    report_uri = f"runs:/{tree.final}/evaluation/{page.name}"
    aliases.tag_version(tree.store, release.registered_model, release.version, {"bertft.report": report_uri})
    return page


def _decision(file: Path) -> PromotionDecision | None:
    """What the gate wrote, for the page; None where it was not asked, and where nobody can read it."""
    try:
        stored = read_record(file, dict[str, Any], "the page stays without it, the ledger has its numbers")
        return PromotionDecision.from_json(stored)
    except FileNotFoundError:
        return None
    except (DamagedFile, LookupError, TypeError, ValueError) as fault:
        _LOGGER.warning("%s: the report says nothing of the gate (%s)", file, fault)
        return None


def _is_whole(folder: EvaluationFolder) -> bool:
    """Whether what the gate reads lies there and can be read: else the version answers anew."""
    try:
        for file in (folder.probabilities, folder.predicted, folder.labels, folder.test_fingerprints):
            load_array(file)
    except (FileNotFoundError, DamagedFile):
        return False
    return True


def champion_scores(folder: EvaluationFolder, report: EvaluationReport, champion: str) -> Scores | None:
    """Scores of the champion that the gate compared with, on the whole test split; None where it did not answer."""
    answers = Answers.known(folder.answers(champion))
    if answers is None:
        return None
    if set(answers.classes) != set(report.classes):
        return None
    weights = load_array(folder.weights) if folder.weights.exists() else None
    labels = labels_of(load_array(folder.labels), report.classes, weights)
    return labels.scores(labels.predictions(answers.probabilities(report.classes), answers.predicted(report.classes)))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The version that a finished run has in today's store, today's champion, and what to say of it.

    is_decided: False where its process was killed before the gate had said anything of it.
    """

    registered_model: str
    version: str
    champion_before: str | None
    champion_after: str | None
    reason: str
    is_decided: bool = True

    def document(self) -> dict[str, Any]:
        """What the result document says of it."""
        return {key: value for key, value in asdict(self).items() if key != "is_decided"}


def standing_release(settings: MlflowConfig, context: RunContext, *, again: bool) -> Standing | None:
    """The version of a finished run, None when it did not finish or today's store does not hold it.

    A run whose fit this home does not have, or has with other weights, counts as finished where the registry holds its
    version: a home may be lost between two nights, or be another one. again: train it once more all the same.
    """
    run = context.run
    if run.result is None and again:
        return None
    store, name = open_store(settings, context.home), settings.model_name(context.config.name)
    registered = find_version(store, name, run.run_id)
    if registered is None:
        return None
    reason, is_decided = f"unchanged since version {registered.version}", True
    if run.result is None:
        fit = run.state().get("fit")
        if fit and registered.tags.get(WEIGHTS) in (None, _weights(context, TrainingResult.from_json(fit))):
            return None  # the command was killed in its release: it goes on from there
        is_decided = any(e.version == registered.version for e in entries.carried_out(ledger.read(store, name)))
        reason += ", as the registry has it; this home has "
        reason += "other weights of it" if fit else "no fit of it"
    now = aliases.champion(store, name)
    return Standing(
        registered_model=name,
        version=registered.version,
        champion_before=now,
        champion_after=now,
        reason=reason,
        is_decided=is_decided,
    )


def configuration_of(
    name: str, version: str, evidence: dict[str, Any], home: Path, base_dir: Path | None = None
) -> RunConfig:
    """The configuration that a version was trained with, by its evidence; base_dir as for `candidate_of_version`."""
    base = base_dir or Path(evidence["base_dir"])
    if not base.is_dir():  # moved with the home, which lies in it
        base = (home / os.path.relpath(base, Path(evidence["folder"]).parents[2])).resolve()
    return parse_config(evidence["config"], base, f"version {version} of {name}")


def candidate_of_version(
    name: str, version: str | None, store: Store, home: Path, base_dir: Path | None = None
) -> Candidate:
    """Rebuild a candidate from a registered version: re-read its rows, refuse if they no longer hash alike.

    base_dir: where the paths of its configuration begin; None: where they did when it was registered.
    """
    chosen = version or aliases.version_of_alias(store, name, store.config.aliases.challenger)
    evidence = artifacts.read_evidence(store, name, chosen)
    config = configuration_of(name, chosen, evidence, home, base_dir)
    dataset = ingest(config, home)
    now = dataset.test_fingerprint()
    if now != evidence["test_rows"]:
        raise DataError(
            f"the test rows of {name} version {chosen} have changed since its evaluation "
            f"({evidence['test_rows'][:12]} then, {now[:12]} now): run `bertft run` on today's rows"
        )
    folder = EvaluationFolder.of_run(home, evidence["folder"])
    if not _is_whole(folder):
        folder = EvaluationFolder(home / "promote" / f"{file_name(name)}-{file_name(chosen)}")
        write_gate_rows(config, prepare(config, home).dataset, folder, home)
        mark_used(folder.path)
        answers = folder.path / "answers.npz"
        scored = score_in_fresh_process(f"models:/{name}/{chosen}", folder.test_rows, answers, 0, store)
        np.save(folder.predicted, scored.predicted(evidence["classes"]), allow_pickle=False)
        np.save(folder.probabilities, scored.probabilities(evidence["classes"]), allow_pickle=False)
    elif not folder.baseline.exists():  # evaluated before the baseline took part
        write_gate_rows(config, prepare(config, home).dataset, folder, home)
    return _candidate(name, chosen, folder, config, evidence)
