"""The MLflow tree of one run: pipeline run -> search run -> trial runs, and the final run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertft_core.adaptation.multi_task.lineage import MultiTask
from bertft_core.base.addresses import is_elsewhere
from bertft_core.base.display import masked
from bertft_core.base.errors import DamagedFile
from bertft_core.base.files import write_json
from bertft_core.base.records import parse_record
from bertft_core.base.text import plain
from bertft_core.config.fit import Part
from bertft_core.config.run import RunConfig
from bertft_core.config.store import MlflowConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.sources import resolve_source
from bertft_core.data.splits import SPLITS
from bertft_core.evaluation.report import EvaluationReport, with_floor_keys
from bertft_core.recipe.adapt import Adapted
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.fit import machine_settings
from bertft_core.search.results import TrialResult
from bertft_core.search.winner import SearchWinner
from bertft_core.tracking import lineage, store
from bertft_core.tracking.inputs import SplitRecord, log_datasets
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import MachineSettings

_FORMER = "bertft.settings"  # as an earlier release has it
_SETTINGS = f"{store.HIDDEN}{_FORMER}"  # of a pipeline run: precision, device and threads of its fits, as JSON


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the runs of a command come from.

    source: the configuration's file; began: the command, seconds since 1970, None for now; night: the MLflow run of the
    night that it is part of; prefect_run: the flow run.
    """

    source: str = ""
    began: float | None = None
    night: str | None = None
    prefect_run: str = ""


class Tree:
    """Every method is idempotent: runs are found again by their tags, so a resumed command adds nothing twice."""

    def __init__(self, settings: MlflowConfig, context: RunContext, origin: Origin = Origin()) -> None:
        self.store = store.open_store(settings, context.home)
        config, run, prepared = context.config, context.run, context.prepared
        self._config, self._run = config, run
        self.prefect_run = origin.prefect_run
        source = {lineage.SOURCE: Path(origin.source).name} if origin.source else {}
        self._marks = {store.NAME: config.name, **source, **lineage.git_tags(config.base_dir)}  # of every run
        self.commit = self._marks.get(lineage.COMMIT, "")
        tags = {
            "bertft.rows": prepared.dataset.fingerprint,
            "bertft.encoder": prepared.encoder,
            "prefect.flow_run_id": self.prefect_run,
        }
        self.root = self._open("pipeline", origin.night, config.name, tags, started=origin.began)
        known = config.identity()  # the rest may differ between two commands of one run, MLflow's parameters may not
        store.log_params(self.store, self.root, {k: v for k, v in parameters(config).items() if _is_in(known, k)})
        self._splits = split_records(config, prepared.dataset)
        log_datasets(self.store, self.root, self._splits)
        write_json(run.folder.config, config.resolved())
        run.folder.environment.write_text(lineage.environment_text(), encoding="utf-8")
        store.log_files(self.store, self.root, [run.folder.config, run.folder.environment])
        self._search: str | None = None
        self._mirrored: dict[str, set[tuple[int, int]]] = {}
        self.final = ""

    def settle(self, context: RunContext) -> str:
        """Give the run the settings of a machine that it has in MLflow, where its home was lost or is another.

        Else those of this machine, which MLflow keeps from then on: a run's fits are alike wherever it goes on. Returns
        what was taken over, for people; "" where nothing was.
        """
        run, said = context.run, ""
        tags = store.run_tags(self.store, self.root)
        told = _settings_in(tags.get(_SETTINGS, tags.get(_FORMER, "")))
        if told is not None and run.settings is None:
            here = replace(told, threads=min(told.threads, os.cpu_count() or 1), gpus=0)
            if told.device != "cpu":
                training = context.config.training
                wanted = (told.precision, training.device, training.threads)
                resolved = context.trainer.resolve(context.prepared.pretrained, *wanted)
                here = replace(resolved, processes=told.processes)
            run.update(settings=asdict(here))
            said = f"run {run.run_id} goes on in {here}, as it was begun"
        settings = machine_settings(context)
        if told is None:
            store.set_tags(self.store, self.root, {_SETTINGS: json.dumps(asdict(settings))})
        return said

    def adaptation(self, adapted: Adapted) -> None:
        """The run of an encoder that was made first: settings, what it learnt by step, the encoders it stands on."""
        encoder = adapted.encoder
        tags = {"bertft.encoder": encoder.key, "bertft.encoder.base": encoder.base_encoder}
        tags |= {"bertft.encoder.chain": " > ".join(encoder.chain)}
        if isinstance(adapted.adaptation, MultiTask):
            settings = parameters(adapted.adaptation.config, "multi_task.")
        else:
            assert self._config.adaptation is not None, "what is adapted has a section"
            settings = parameters(self._config.adaptation, "adaptation.")
        points = [store.MetricPoint(key=key, value=value, step=step) for key, value, step in encoder.result.points()]
        tags["bertft.reason"] = getattr(encoder.result, "reason", "")
        began = encoder.made - encoder.result.seconds
        run_id = self._open("adapt", self.root, f"{self._config.name} adaptation", tags, started=began)
        store.log_params(self.store, run_id, {**settings, **encoder.facts()})
        store.log_metrics(self.store, run_id, points)
        store.finish_run(self.store, run_id, ended=encoder.made)

    def search_run(self, study: str, storage: str) -> None:
        """Open the search run. storage: its address, masked."""
        tags = {"bertft.study": study, "bertft.storage": storage}
        self._search = self._open("search", self.root, f"{self._config.name} search", tags)

    @property
    def search_address(self) -> str:
        """Where the search run is, for people: its store, masked, and its id."""
        return f"MLflow run {self._search} in {masked(self.store.tracking_uri)}"

    def trials(self, results: Sequence[TrialResult]) -> None:
        """Mirror finished trials as children of the search run; Optuna's storage stays the truth."""
        self._mirror("trial", results)

    def confirmations(self, results: Sequence[TrialResult]) -> None:
        """Mirror the finished fits of the best trials with further seeds."""
        self._mirror("confirm", results)

    def _mirror(self, role: str, results: Sequence[TrialResult]) -> None:
        """Write the trials that MLflow does not hold as ended yet: ending is the last write, so a torn one comes again.

        A slot's trial is known by its start: with another storage (which is no part of what a run is), or where the
        study was lost with its home, it is another one, and what MLflow holds stays.
        """
        if role not in self._mirrored:
            self._mirrored[role] = store.ended_slots(self.store, self._run.run_id, role)
        for result in results:
            trial = (result.slot, store.milliseconds(result.started))
            if trial in self._mirrored[role]:
                continue
            tags = {
                "bertft.state": result.state,
                "bertft.reason": result.reason,
                "bertft.phase": "" if result.depth is None else f"depth {result.depth}",
                "bertft.host": result.host,
                "bertft.trial_number": str(result.number),
                "bertft.seed": str(result.seed),
            }
            run_id = self._open(role, self._search, f"{role} {result.slot}", tags, result.slot, result.started)
            store.log_params(self.store, run_id, result.params)
            fit = result.fit
            numbers = {"seconds": result.seconds, "validation_score": result.score}
            numbers |= {"validation_log_loss": result.log_loss}
            numbers |= {"latency_ms": result.latency_ms, "size_bytes": result.size_bytes}
            points = [store.MetricPoint(key=k, value=float(v)) for k, v in numbers.items() if v is not None]
            for part, score in fit.rungs if fit else ():
                points.append(store.MetricPoint(key="validation_rung_score", value=score, step=round(100 * part)))
            points += store.history_points([asdict(epoch) for epoch in fit.history] if fit else [])
            store.log_metrics(self.store, run_id, points)
            store.finish_run(self.store, run_id, failed=result.state == "fail", ended=result.finished)
            self._mirrored[role].add(trial)

    def search_done(self, winner: SearchWinner, files: Sequence[Path]) -> None:
        """Close the search run with its winner, pictures and page."""
        assert self._search is not None, "search_run comes first"
        best = winner.best
        tags = {"bertft.best_slot": str(best.slot), "bertft.chosen": winner.how}
        store.set_tags(self.store, self._search, tags)
        store.set_tags(self.store, self._search, {f"bertft.best.{k}": str(v) for k, v in best.params.items()})
        numbers = {"best_score": best.score, "optimism": winner.optimism}
        store.log_metrics(self.store, self._search, numbers)
        store.log_files(self.store, self._search, files, "search")
        store.finish_run(self.store, self._search)

    def final_run(self, fit: TrainingResult, config: RunConfig) -> None:
        """The final fit's run: parameters (config: with the winner's values) and per-epoch metrics."""
        weights, began = {store.WEIGHTS: fit.weights_digest}, time.time() - fit.seconds
        self.final = self._open("final", self.root, f"{self._config.name} final fit", weights, started=began)
        log_datasets(self.store, self.final, self._splits)
        sections = {**parameters(config.tokenization, "tokenization."), **parameters(config.model, "model.")}
        store.log_params(self.store, self.final, {**parameters(config.training), **sections})
        store.log_history(self.store, self.final, [asdict(h) for h in fit.history])
        store.log_metrics(self.store, self.final, {"validation_score": fit.score, "seconds": fit.seconds})

    def evaluation(self, report: EvaluationReport) -> None:
        """Test scores, report and pictures on the final run."""
        numbers: dict[str, float | None] = {
            k: v for k, v in asdict(report.scores).items() if isinstance(v, int | float)
        }
        baseline = ("accuracy", "macro_f1", "score", "score_difference")
        numbers |= with_floor_keys({f"baseline_{name}": getattr(report, f"baseline_{name}") for name in baseline})
        if (blend := report.blend) is not None:
            numbers |= {k: v for k, v in asdict(blend).items() if isinstance(v, float)}
        numbers |= {score.name: score.value for score in report.extra if score.name not in numbers}
        store.log_metrics(self.store, self.final, {f"test_{name}": value for name, value in numbers.items()})
        folder = self._run.folder.evaluation
        self._log_evaluation(folder.report_json, folder.report_markdown, folder.confusion, folder.learning)

    def report(self) -> None:
        """The report with its verdict, the gate's decision and the list of doubtful labels on the final run."""
        folder = self._run.folder.evaluation
        self._log_evaluation(
            folder.page, folder.report_markdown, folder.decision_markdown, folder.decision_json, folder.doubtful_labels
        )

    def _log_evaluation(self, *files: Path) -> None:
        """Files of the evaluation folder, as far as they are there: multi-label runs have no confusion picture."""
        store.log_files(self.store, self.final, [file for file in files if file.exists()], "evaluation")

    def finish(self, result: dict[str, Any]) -> None:
        """Keep the result document, say on the root how it ended; close final and pipeline run."""
        write_json(self._run.folder.result, result)
        store.log_files(self.store, self.root, [self._run.folder.result])
        note = f"version {result['version']}: {result['outcome']}. {plain(result['reason'])}"
        store.set_tags(self.store, self.root, {store.NOTE: note[:5000], "bertft.outcome": result["outcome"]})
        scores = {f"test_{key}": result["test"][key] for key in ("accuracy", "macro_f1", "log_loss")}
        store.log_metrics(self.store, self.root, scores)
        self.close()

    def close(self) -> None:
        """End final and pipeline run: nothing of a command that ended well is left running, however far it went."""
        for run_id in filter(None, (self.final, self.root)):
            store.finish_run(self.store, run_id)

    def fail(self, *, killed: bool = False) -> None:
        """End as failed, or as killed, what still runs. The same command takes it up again."""
        for run_id in filter(None, (self._search, self.final, self.root)):
            if store.run_status(self.store, run_id) == "RUNNING":
                store.finish_run(self.store, run_id, failed=True, killed=killed)

    def _open(
        self,
        role: str,
        parent: str | None,
        name: str,
        tags: dict[str, str],
        slot: int | None = None,
        started: float | None = None,
    ) -> str:
        marks = {**self._marks, **tags}
        return store.find_or_create_run(self.store, self._run.run_id, role, parent, name, marks, slot, started)


def split_records(config: RunConfig, dataset: DatasetSplits) -> list[SplitRecord]:
    """What MLflow is told of the rows of each split that has any; each digest is over its rows, in whatever order."""
    data = config.data
    labels = data.label if isinstance(data.label, list) else [data.label]
    found = []
    for split in SPLITS:
        text = data.source or str(getattr(data, split))
        kind, source = _source(text, config.base_dir, f"data.{split}")
        table = dataset.table(split)
        labelled = table["weights"].to_pylist() if dataset.is_soft else dataset.label_texts(table)
        rows = sorted(zip(table["fingerprint"].to_pylist(), map(str, labelled), strict=True))
        if not rows:
            continue
        digest = hashlib.sha256()
        for key, label in rows:
            digest.update(key + label.encode() + b"\n")
        found.append(
            SplitRecord(
                split=split,
                name=f"{config.name}-{split}",
                digest=digest.hexdigest(),
                rows=len(rows),
                source_type=kind,
                source=source,
                columns=[data.text, *([data.text_pair] if data.text_pair and dataset.has_pair else []), *labels],
                classes=dataset.classes,
            )
        )
    return found


def _source(text: str, base_dir: Path, key: str) -> tuple[str, dict[str, Any]]:
    """A place of rows as MLflow writes it: the type of the source, and its fields. It loads no database's rows."""
    if is_elsewhere(text):
        scheme = text.partition("://")[0]
        shown = masked(text)
        return (scheme, {"uri": shown}) if scheme in ("s3", "gs") else ("code", {"tags": {"mlflow.source.name": shown}})
    place = resolve_source(text, base_dir, key)
    if isinstance(place, Path) or place.folder is not None:
        return "local", {"uri": masked(str(place if isinstance(place, Path) else place.folder))}
    return "hugging_face", {"path": place.name, "split": place.split}


def _settings_in(text: str) -> MachineSettings | None:
    """What the tag of a run says; None without one, and where nobody can read it: then they are settled anew."""
    try:
        return parse_record(text, MachineSettings, _SETTINGS, "") if text else None
    except DamagedFile:
        return None


def _is_in(tree: Any, key: str) -> bool:
    """Whether a resolved configuration has this dotted key."""
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def parameters(section: Part, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of what is set. A mapping is one value: its keys are the user's, and MLflow refuses many."""
    values = section.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for key in values:
        part = getattr(section, key)
        if isinstance(part, Part):
            flat |= parameters(part, f"{prefix}{key}.")
        elif values[key] is not None:
            flat[prefix + key] = values[key]
    return flat
