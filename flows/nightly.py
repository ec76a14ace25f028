"""A night: read the rows, decide whether to train, then the chain. It ends in one named outcome with a reason."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import deployment, flow_run

from bertft_core.base.errors import BertftError, BusyError, ConfigError, DataError
from bertft_core.base.hashes import code_fingerprint, encoder_fingerprint, hash_json
from bertft_core.base.home import open_home
from bertft_core.base.locks import exclusive
from bertft_core.config.run import RunConfig, load_config
from bertft_core.config.store import MlflowConfig, load_mlflow_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.nights import triggers
from bertft_core.recipe.nights.log import AWAITING, FAILED, KEPT, PROMOTED, REJECTED, SKIPPED, Basis, Night, NightLog
from bertft_core.recipe.nights.plan import Plan, make_plan
from bertft_core.recipe.nights.rows import Changes, Rows, changes
from bertft_core.recipe.nights.triggers import Decision
from bertft_core.recipe.runs import RUN_CODE
from bertft_core.tracking.store import open_store
from flows.notify import notify
from flows.pipeline import pipeline
from flows.signals import ends_when_told, is_told, time_limit
from flows.terminal.progress import Reporter
from tasks.data import ingest_rows, tokenize_rows
from tasks.nights import champion_on_new, measure_drift, record

_OUTCOMES = {"promoted": PROMOTED, "awaiting approval": AWAITING, "unchanged": SKIPPED}  # of a release; else: kept
_told: list[tuple[dict[str, Any], int]] = []  # documents and exit codes of this process's nights
REPLAY = "-replay"  # the name of a model that `--as-of` trains


class BadNight(BertftError):
    """A night that failed or whose data were rejected; `document` is what `--json` prints."""

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        super().__init__(f"{document['outcome']}: {document['reason']}")
        self.document = document
        self.exit_code = exit_code


def _run_name() -> str:
    given = flow_run.parameters
    return f"{Path(given['config_path']).stem} night {given.get('as_of') or dt.date.today().isoformat()}"


@flow(name="bertft-nightly", flow_run_name=_run_name)
def nightly(
    config_path: str,
    overrides: list[str] | None = None,
    home: str = ".bertft",
    mlflow_file: str | None = None,
    as_of: str | None = None,
    force: bool = False,
    live: bool = False,
) -> dict[str, Any]:
    """Train if there is reason to, and release if the result is better; returns outcome, reason, run_id, version.

    as_of: the date whose night is replayed, on rows up to it (data.date), under a registered model of its own
    unless `live`. force: train whatever the triggers say. Raises BadNight after everything is written down.
    """
    ends_when_told()
    _require_absolute(config_path, home, mlflow_file)
    config, changed = _night_config(config_path, overrides or [], as_of, live)
    store = load_mlflow_config(mlflow_file, config.base_dir, Path.cwd())
    if as_of and not live and store.model_name(config.name) == store.model_name(config.name.removesuffix(REPLAY)):
        raise ConfigError(
            f"mlflow.yaml: registered_model {store.registered_model!r} does not hold {{name}}: a replay would move the "
            "live aliases; put {name} into it, or say --live"
        )
    work = _Night(
        config=config,
        config_path=config_path,
        overrides=changed,
        home=Path(home),
        mlflow_file=mlflow_file,
        settings=store,
        is_forced=force,
        night=as_of or dt.date.today().isoformat(),
    )
    ended = work.through()
    document = {**asdict(ended), "name": config.name}
    _told.append((document, work.exit_code))
    if ended.outcome in (REJECTED, FAILED):
        raise BadNight(document, work.exit_code)
    return document


def what_ended(home: Path, name: str, night: str | None, fault: Exception) -> dict[str, Any]:
    """The night of this process where Prefect failed with `fault`: as it was written down, else as not begun.

    A server that goes away in the night raises its own fault after the night has ended. Raises BadNight.
    """
    if not _told:
        raise _not_begun(home, name, night, fault) from fault
    document, exit_code = _told[-1]
    if document["outcome"] in (REJECTED, FAILED):
        raise BadNight(document, exit_code) from fault
    return document


def _not_begun(home: Path, name: str, night: str | None, fault: Exception) -> BadNight:
    """Write down a night that Prefect could not even begin (its server is away, say); what to raise."""
    now = dt.datetime.now(dt.UTC)
    ended = Night(
        night=night or now.date().isoformat(),
        started=now.isoformat(timespec="seconds"),
        outcome=FAILED,
        reason=f"the flow did not begin: {type(fault).__name__}: {fault}"[:2000],
        seconds=0.0,
    )
    NightLog(home, name).add(ended)
    return BadNight({**asdict(ended), "name": name}, getattr(fault, "exit_code", 1))


def _require_absolute(config_path: str, home: str, mlflow_file: str | None) -> None:
    """A worker's process runs in a temporary folder that is deleted afterwards."""
    given = {"config_path": config_path, "home": home, "mlflow_file": mlflow_file or "/"}
    relative = [name for name, value in given.items() if not Path(value).is_absolute()]
    if deployment.id and relative:
        raise ConfigError(f"{relative[0]}: {given[relative[0]]!r} is relative: a deployment needs absolute paths")


def _night_config(path: str, overrides: list[str], as_of: str | None, live: bool) -> tuple[RunConfig, list[str]]:
    """The night's configuration, and the overrides that lead to it."""
    config = load_config(path, overrides)
    if as_of is None:
        return config, overrides
    if config.data.date is None:
        raise ConfigError("--as-of needs data.date, the column that holds each row's date")
    changed = [*overrides, f"data.until={as_of}", *([] if live else [f"name={config.name}{REPLAY}"])]
    return load_config(path, changed), changed


@dataclass(kw_only=True)
class _Night:
    """One night at work."""

    config: RunConfig
    config_path: str
    overrides: list[str]
    home: Path
    mlflow_file: str | None
    settings: MlflowConfig
    is_forced: bool
    night: str
    began: float = field(default_factory=time.monotonic)
    started: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    report: Reporter = field(default_factory=Reporter)
    facts: dict[str, Any] = field(default_factory=dict)
    drift: DriftReport | None = None
    exit_code: int = 0

    @property
    def log(self) -> NightLog:
        """The log of this model's nights."""
        return NightLog(self.home, self.config.name)

    def through(self) -> Night:
        """Run the night and write down how it ended, whatever happens short of a kill."""
        lock = self.home / "locks" / f"nightly-{self.config.name}.lock"
        try:
            with exclusive(lock, f"a night of {self.config.name}"):
                try:
                    with time_limit("nightly.timeout", self.config.nightly.timeout):
                        ended = self._work()
                except Exception as fault:
                    if is_told():  # a library swallowed the signal and fell over it: killed, as the next night tells
                        raise
                    said = str(fault) if isinstance(fault, BertftError) else f"{type(fault).__name__}: {fault}"
                    ended = self._ended(REJECTED if isinstance(fault, DataError) else FAILED, said)
                    self.exit_code = getattr(fault, "exit_code", 1)
                self.log.end(ended)
        except BusyError as busy:
            ended = self._ended(SKIPPED, str(busy))
            self.log.add(ended)
        self._tell(ended)
        return ended

    def _ended(self, outcome: str, reason: str, **more: Any) -> Night:
        seconds = round(time.monotonic() - self.began, 2)
        stages = {f"seconds_{name}": value for name, value in self.report.seconds.items()}
        return Night(
            night=self.night,
            started=self._now(),
            outcome=outcome,
            reason=reason[:2000],
            seconds=seconds,
            facts={**self.facts, **stages},
            **more,
        )

    def _work(self) -> Night:
        open_home(self.home)  # raises where the disk is nearly full
        log = self.log
        left = log.left_open()
        if left is not None:
            log.add(_killed(left))
            self.report.say(f"the night of {left.get('night')} was killed; this one goes on from what it left")
        basis = log.basis
        log.begin(night=self.night, started=self._now(), plan=(left or {}).get("plan"))
        before = Rows.load(Path(basis.run)) if basis else None
        self._fix_classes(before)
        with self.report.stage("ingest"):
            dataset = ingest_rows(self.config, self.home, self.report)
        asked = self._asked()
        found, now = self._compare(before, dataset)
        decision = self._decide(basis, asked, dataset, found)
        if not decision.trains:
            return self._ended(SKIPPED, decision.reason)
        self.report.say(f"training: {decision.reason}")
        # a killed night's plan goes on while it stands for the same rows: its trials and its fit are resumed
        plan = Plan(**left["plan"]) if left and left["plan"] else None
        is_same = plan is not None and (plan.rows, plan.asked) == (dataset.fingerprint, asked)
        if plan is None or not is_same:
            plan = make_plan(self.config, basis, dataset.fingerprint, asked, self._moment)
        log.begin(night=self.night, started=self._now(), plan=asdict(plan))
        result = self._train(plan, again=self.is_forced and not is_same)
        self._remember(basis, plan, now, result)
        outcome = _OUTCOMES.get(result["outcome"], KEPT)
        reason = f"{result['reason'].removeprefix(f'{outcome}: ')} (trained: {decision.reason})"
        return self._ended(outcome, reason, run_id=result["run_id"], version=result["version"])

    @property
    def _moment(self) -> dt.datetime:
        """What ages are counted to: now, or the end of the day that is replayed."""
        if self.night == self.started.date().isoformat():
            return self.started
        return dt.datetime.fromisoformat(self.night).replace(hour=23, minute=59, tzinfo=dt.UTC)

    def _now(self) -> str:
        return self.started.isoformat(timespec="seconds")

    def _fix_classes(self, known: Rows | None) -> None:
        """nightly.new_class: warn leaves rows of a class out that the last training did not know."""
        if self.config.nightly.new_class == "warn" and known is not None and self.config.data.classes is None:
            names = json.dumps(known.classes)  # JSON is YAML
            self.overrides = [*self.overrides, f"data.classes={names}", "data.unknown_class=drop"]
            self.config = load_config(self.config_path, self.overrides)

    def _asked(self) -> str:
        """What is asked of a training, besides its rows."""
        tree = self.config.identity()
        for key in ("classes", "unknown_class"):  # set by a night itself
            del tree["data"][key]
        return hash_json([tree, encoder_fingerprint(resolve_pretrained(self.config)), code_fingerprint(*RUN_CODE)])

    def _compare(self, before: Rows | None, dataset: DatasetSplits) -> tuple[Changes | None, Rows]:
        """What changed since the last training; None before the first. Raises DataError by the nightly section."""
        now = Rows.of(dataset)
        self.facts |= {"rows": len(now.hashes), "rows_left_out": dataset.report.rows_filtered}
        self.facts["rows_faulty"] = dataset.report.rows_quarantined
        if before is None:
            return None, now
        found = changes(before, now)
        self.facts |= {"new": found.new, "deleted": found.deleted, "relabelled": found.relabelled}
        for text in triggers.require_sound(found, self.config.nightly):
            self.report.say(f"warning: {text}")
            self.facts.setdefault("warnings", []).append(text)
        return found, now

    def _decide(self, basis: Basis | None, asked: str, dataset: DatasetSplits, found: Changes | None) -> Decision:
        if basis is None or found is None:
            return triggers.decide([], None, is_forced=self.is_forced)
        is_same = basis.rows == dataset.fingerprint and basis.asked == asked
        fired = [] if is_same else self._fired(basis, asked, dataset, found)
        return triggers.decide(fired, found, is_forced=self.is_forced)

    def _fired(self, basis: Basis, asked: str, dataset: DatasetSplits, found: Changes) -> list[str]:
        nightly = self.config.nightly
        label = None
        if found.new >= triggers.LEAST_ROWS:
            label = label_shift(found.counts_before, found.new_by_class)
            self.facts["label_distance"] = round(label.total_variation, 4)
        fired = triggers.cheap_triggers(
            found, nightly, age_days=basis.age_days(self._moment), is_asked_anew=basis.asked != asked, label=label
        )
        if fired or label is None or (nightly.text_drift is None and nightly.score_drop is None):
            return fired
        with self.report.stage("drift"):
            prepared = tokenize_rows(self.config, dataset, self.home, self.report)
            self.drift = measure_drift(self.config, prepared, Path(basis.run), label, self.home)
            store = open_store(self.settings, self.home)
            score = champion_on_new(self.config, prepared, Path(basis.run), store, self.home)
        both = [] if self.drift is None else [triggers.drift_trigger(self.drift.domain, nightly)]
        if self.drift is not None and self.drift.domain.auroc is not None:
            self.facts["text_auroc"] = round(self.drift.domain.auroc, 4)
        if score is not None:
            self.facts["champion_on_new"] = round(score.right / score.rows, 4)
            both.append(triggers.drop_trigger(score, basis.accuracy, nightly))
        return [text for text in both if text]

    def _train(self, plan: Plan, *, again: bool) -> dict[str, Any]:
        """The chain's result document."""
        result: dict[str, Any] = pipeline(
            config_path=self.config_path,
            overrides=[*self.overrides, *plan.overrides],
            home=str(self.home),
            mlflow_file=self.mlflow_file,
            again=again,
            last="promote",
        )
        for stage, value in result["seconds"].items():
            self.report.seconds[stage] = self.report.seconds.get(stage, 0.0) + value
        self.facts |= {"accuracy": result["test"]["accuracy"]} if "test" in result else {}
        return result

    def _remember(self, basis: Basis | None, plan: Plan, now: Rows, result: dict[str, Any]) -> None:
        """What the next nights are compared with."""
        folder = self.home / "runs" / result["run_id"]
        now.save(folder)
        at, test = self._moment.isoformat(timespec="seconds"), result.get("test", {})
        self.log.train_on(
            Basis(
                rows=plan.rows,
                asked=plan.asked,
                run=str(folder),
                run_id=result["run_id"],
                version=result["version"],
                params=result.get("best_params", {}),
                trained=at,
                searched=at if plan.is_searched or basis is None else basis.searched,
                accuracy=test.get("accuracy"),
                test_rows=test.get("n", 0),
            )
        )

    def _tell(self, ended: Night) -> None:
        """MLflow, Prefect, the people; none of them may change how the night ended."""
        self.report.say(str(ended))
        try:
            store = open_store(self.settings, self.home)
            record(ended, self.config.name, store, str(flow_run.id or ""), self.drift)
        except Exception as fault:  # whatever the store's client raises
            self.report.say(f"the night is not written to MLflow ({type(fault).__name__}: {str(fault)[:200]})")
        if ended.outcome in (REJECTED, FAILED):
            for failure in notify(self.config.nightly.notify, f"bertft {self.config.name}", str(ended)):
                self.report.say(f"not notified: {failure}")


def _killed(left: dict[str, Any]) -> Night:
    """The line of a night that never wrote its own."""
    return Night(
        night=left["night"],
        started=left["started"],
        outcome=FAILED,
        seconds=0.0,
        reason="its process was killed or its run cancelled; the next night goes on from what it left",
    )
