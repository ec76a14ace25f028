"""The order of a night: read the rows, decide whether to train, train, remember. It ends in one named outcome."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bertft_core.base.clock import DAY, Stamp, believed
from bertft_core.base.errors import BusyError, DamagedFile, DataError, fault_text
from bertft_core.base.hashes import code_fingerprint, encoder_fingerprint, hash_json
from bertft_core.base.home import open_home
from bertft_core.base.locks import exclusive
from bertft_core.config.run import RunConfig, load_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.evaluation.drift.label_shift import LabelShift, label_shift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.nights import triggers
from bertft_core.recipe.nights.log import (
    AWAITING,
    CANCELLED,
    FAILED,
    HUNG,
    KEPT,
    PROMOTED,
    REJECTED,
    SKIPPED,
    LastTraining,
    Night,
    NightLog,
    OpenNight,
    TrainingPlan,
)
from bertft_core.recipe.nights.memory import ChampionEvidence, Recalled
from bertft_core.recipe.nights.plan import plan_training
from bertft_core.recipe.nights.rows import Changes, Rows, changes, changes_of_champion
from bertft_core.recipe.nights.triggers import NewRowsScore, TrainingDecision
from bertft_core.recipe.prepare import Prepared
from bertft_core.recipe.runs import RUN_CODE, run_at

_OUTCOMES = {"promoted": PROMOTED, "awaiting approval": AWAITING, "unchanged": SKIPPED}  # of a release; else: kept

_HUNG_SECONDS = 43_200.0  # without history and nightly.timeout: half a day


class Report(Protocol):
    """Where a night says what it does. seconds: what its stages took, by name."""

    seconds: dict[str, float]

    def say(self, text: str) -> None:
        """One line for people."""

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Times what happens within."""


@dataclass(frozen=True, kw_only=True)
class NightSteps:
    """The steps of a night as functions; an orchestrator wraps each of them in a task.

    drift, champion_on_new: given the configuration, tonight's rows and the folder of the last training's run.
    train(overrides, again=…): the chain up to the release under further overrides; its result document.
    require_comparable(): raises where the registry lost the champion, so that nothing could be released.
    recall(night, started): brings the home's memory up to the registry's; remember(night, started): writes it there.
    Both may stay as they are where there is no registry.
    """

    ingest: Callable[[RunConfig], DatasetSplits]
    tokenize: Callable[[RunConfig, DatasetSplits], Prepared]
    drift: Callable[[RunConfig, Prepared, Path, LabelShift], DriftReport | None]
    champion_on_new: Callable[[RunConfig, Prepared, Path], NewRowsScore | None]
    train: Callable[..., dict[str, Any]]
    require_comparable: Callable[[], None]
    recall: Callable[[str, str], Recalled] = lambda night, started: Recalled()
    remember: Callable[[str, str], None] = lambda night, started: None


@dataclass(kw_only=True)
class NightRun:
    """One night of a model, from its configuration to its line in the log.

    night: the date it stands for. is_forced: train whatever the triggers say. limit: ends the night when it takes too
    long. alone: held for as long as the night works; raises BusyError where another machine is at one. is_cancelled:
    whether this process was told to end. clock: as it begins; started: what is believed of it.
    facts, mended (losses that it found and went on from), drift, champion (where no record of the last training is
    left), exit_code: what it finds out on its way.
    """

    config: RunConfig
    config_path: str
    overrides: list[str]
    home: Path
    night: str
    steps: NightSteps
    report: Report
    is_forced: bool = False
    limit: AbstractContextManager[Any] = field(default_factory=nullcontext)
    alone: AbstractContextManager[Any] = field(default_factory=nullcontext)
    is_cancelled: Callable[[], bool] = lambda: False
    began: float = field(default_factory=time.monotonic)
    clock: Stamp = field(default_factory=Stamp.now)
    started: dt.datetime = field(init=False)
    facts: dict[str, Any] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)
    drift: DriftReport | None = None
    champion: ChampionEvidence | None = None
    exit_code: int = 0

    def run(self) -> Night:
        """Run the night and write down how it ended, whatever happens short of a kill."""
        name = self.config.name
        log = NightLog(self.home, name)
        self._set_clock(log)
        try:
            with exclusive(self.home / "locks" / f"nightly-{name}.lock", f"a night of {name}"):
                write = log.end
                try:
                    with ExitStack() as held:
                        try:
                            held.enter_context(self.alone)
                        except BusyError as busy:  # elsewhere: what a killed night left here stays for the next one
                            ended, write = self._end(SKIPPED, str(busy)), log.add
                        else:
                            with self.limit:
                                ended = self._work(log)
                except Exception as fault:
                    if self.is_cancelled():  # a library swallowed the signal and fell over it: the next night says so
                        raise
                    ended = self._end(REJECTED if isinstance(fault, DataError) else FAILED, fault_text(fault))
                    self.exit_code = getattr(fault, "exit_code", 1)
                self._write_down(ended, write)
        except BusyError as busy:
            ended = self._end(SKIPPED, self._other(log, str(busy)))
            self._write_down(ended, log.add)
        self.report.say(str(ended))
        return ended

    def _write_down(self, ended: Night, write: Callable[[Night], None]) -> None:
        try:
            write(ended)
        except OSError as fault:  # it is still said, notified and written to MLflow
            self.report.say(f"the night is not in its log ({fault}): make room, `bertft gc` lists what can go")

    def _set_clock(self, log: NightLog) -> None:
        """Believe the clock as far as the nights before and the time that this machine has run bear it out."""
        moment, odd = believed(self.clock, [(night.began, Stamp.read(night.clock)) for night in log.nights()])
        self.started = dt.datetime.fromtimestamp(moment, dt.UTC)
        if not odd:
            return
        self.mended.append(odd)
        said, asked = dt.datetime.fromtimestamp(self.clock.wall, dt.UTC), dt.datetime.fromisoformat(self.night)
        if abs((asked.date() - said.date()).days) <= 1:  # tonight, by a wrong clock; else a replay
            self.night = self.started.date().isoformat()

    def _other(self, log: NightLog, reason: str) -> str:
        """Why this night is skipped; where the one at work takes twice what nights take, people are told, once."""
        found = log.at_work(self.clock)
        usual = log.usual_seconds()
        wanted = 2 * usual if usual else self.config.nightly.timeout or _HUNG_SECONDS
        if found is None or found[1] <= wanted:
            return reason
        night, seconds = found
        than = f"twice the {_hours(usual)} that nights take" if usual else f"{_hours(wanted)}, with no night before"
        if not any(one.facts.get(HUNG) == night.started for one in log.nights()):
            self.facts[HUNG] = night.started
        return (
            f"{reason}. The night of {night.night} is at work for {_hours(seconds)}, longer than {than}: if it hangs, "
            "end its process; the next night goes on from its checkpoints"
        )

    def _work(self, log: NightLog) -> Night:
        open_home(self.home)  # raises where the disk is nearly full
        killed = log.left_open()
        left = killed.plan if killed else None
        if killed is not None:
            log.add(  # the line that it never wrote itself
                Night(night=killed.night, started=killed.started, outcome=FAILED, seconds=0.0, reason=CANCELLED)
            )
            self.report.say(f"the night of {killed.night} was killed; this one goes on from what it left")
        self._begin(log, left)
        self.steps.require_comparable()
        last = self._dated(log, self._recall(log))
        rows_before = Rows.load(Path(last.run)) if last else None
        if last is not None and rows_before is None:
            self.mended.append(f"the rows of the last training, run {last.run_id}, are missing or damaged")
        self._fix_classes(rows_before)
        with self.report.stage("ingest"):
            dataset = self.steps.ingest(self.config)
        settings = self._settings()
        rows = Rows.of(dataset)
        change = self._changes(rows_before, rows, dataset)
        decision = self._decide(last, settings, dataset, change)
        if not decision.trains:
            return self._end(SKIPPED, decision.reason)
        self.report.say(f"training: {decision.reason}")
        plan, goes_on = left, left is not None and (left.rows, left.settings) == (dataset.fingerprint, settings)
        if plan is None or not goes_on:  # a plan for the same rows goes on: its trials and its fit are resumed
            plan = plan_training(self.config, last, dataset.fingerprint, settings, self._moment)
        self._begin(log, plan)
        result = self.steps.train([*self.overrides, *plan.overrides], again=self.is_forced and not goes_on)
        for stage, seconds in result["seconds"].items():
            self.report.seconds[stage] = self.report.seconds.get(stage, 0.0) + seconds
        self.facts |= {"accuracy": result["test"]["accuracy"]} if "test" in result else {}
        self._remember(log, last, plan, rows, result)
        outcome = _OUTCOMES.get(result["outcome"], KEPT)
        if outcome == KEPT and result["champion_after"] is None:
            self.facts["no_champion"] = True
        reason = result["reason"].removeprefix(f"{outcome}: ")
        reason += "" if outcome == SKIPPED else f" (trained: {decision.reason})"
        return self._end(outcome, reason, run_id=result["run_id"], version=result["version"])

    def _begin(self, log: NightLog, plan: TrainingPlan | None) -> None:
        log.begin(OpenNight(night=self.night, started=self.began_at, plan=plan, clock=str(self.clock)))

    def _recall(self, log: NightLog) -> LastTraining | None:
        """The last training, as the registry has it where this home has not."""
        recalled = self.steps.recall(self.night, self.began_at)
        for text in recalled.said:
            self.report.say(text)
        self.mended += recalled.losses
        self.champion = recalled.champion
        try:
            return log.last_training
        except DamagedFile as fault:
            last = log.remake_last_training(fault)
            made = "no run tells what it was" if last is None else f"made again from run {last.run_id}"
            self.mended.append(f"the record of the last training was damaged: {made}")
            return last

    def _dated(self, log: NightLog, last: LastTraining | None) -> LastTraining | None:
        """The last training, not later than now: where a wrong clock dated it, by the nights since, one a day."""
        if last is None or self._moment != self.started:  # a replay counts to its own date
            return last
        nights = log.nights()
        place = next((i for i, night in enumerate(nights) if night.run_id == last.run_id), len(nights) - 1)
        latest = self.started - dt.timedelta(days=len({night.night for night in nights[place + 1 :]}))
        times: dict[str, Any] = {
            key: latest.isoformat(timespec="seconds")
            for key in ("trained", "searched")
            if dt.datetime.fromisoformat(getattr(last, key)) > self.started + dt.timedelta(seconds=DAY)
        }
        if times:
            self.mended.append(
                f"the last training is dated {last.trained}, which is to come: taken for {latest:%Y-%m-%d}"
            )
        return replace(last, **times)

    def _end(self, outcome: str, reason: str, **more: Any) -> Night:
        stages = {f"seconds_{name}": value for name, value in self.report.seconds.items()}
        return Night(
            night=self.night,
            started=self.began_at,
            outcome=outcome,
            reason="; ".join([reason, *self.mended])[:2000],
            seconds=round(time.monotonic() - self.began, 2),
            facts={**self.facts, **stages},
            clock=str(self.clock),
            **more,
        )

    @property
    def began_at(self) -> str:
        """When it began, ISO 8601: its log and its MLflow run know it by this."""
        return self.started.isoformat(timespec="seconds")

    @property
    def _moment(self) -> dt.datetime:
        """What ages are counted to: now, or the end of the day that is replayed."""
        if self.night == self.started.date().isoformat():
            return self.started
        return dt.datetime.fromisoformat(self.night).replace(hour=23, minute=59, tzinfo=dt.UTC)

    def _fix_classes(self, rows_before: Rows | None) -> None:
        """nightly.new_class: warn leaves rows of a class out that the last training did not know."""
        known = rows_before.classes if rows_before else self.champion.classes if self.champion else None
        if self.config.nightly.new_class == "warn" and known and self.config.data.classes is None:
            names = json.dumps(known)  # JSON is YAML
            self.overrides = [*self.overrides, f"data.classes={names}", "data.unknown_class=drop"]
            self.config = load_config(self.config_path, self.overrides)

    def _settings(self) -> str:
        """Hash of all that a training depends on besides its rows: configuration, encoder and code."""
        tree = self.config.identity()
        for key in ("classes", "unknown_class"):  # set by a night itself
            del tree["data"][key]
        return hash_json([tree, encoder_fingerprint(resolve_pretrained(self.config)), code_fingerprint(*RUN_CODE)])

    def _changes(self, rows_before: Rows | None, rows: Rows, dataset: DatasetSplits) -> Changes | None:
        """What changed since the last training, or the champion's; None before the first.

        Raises DataError by the nightly section.
        """
        self.facts |= {"rows": len(rows.hashes), "rows_left_out": dataset.report.rows_filtered}
        self.facts["rows_faulty"] = dataset.report.rows_quarantined
        if rows_before is not None:
            change = changes(rows_before, rows)
        elif self.champion is not None:
            classes = None if dataset.multi_label else self.champion.classes
            change = changes_of_champion(self.champion.rows, classes, rows)
        else:
            return None
        self.facts |= {"new": change.new, "deleted": change.deleted, "relabelled": change.relabelled}
        for text in triggers.require_sound(change, self.config.nightly):
            self.report.say(f"warning: {text}")
            self.facts.setdefault("warnings", []).append(text)
        return change

    def _decide(
        self, last: LastTraining | None, settings: str, dataset: DatasetSplits, change: Changes | None
    ) -> TrainingDecision:
        if self.champion is not None:
            fired = [f"there is no record of a last training; compared with that of champion {self.champion}"]
            return triggers.decide_training(fired, change, is_forced=self.is_forced)
        if last is None or change is None:
            return triggers.decide_training([], None, is_forced=self.is_forced)
        if not last.settings:
            fired = ["what the last training rested on is no longer known"]
            return triggers.decide_training(fired, change, is_forced=self.is_forced)
        if last.rows == dataset.fingerprint and last.settings == settings:
            since = f" since version {last.version}" if last.version else ""
            return triggers.decide_training([], change, is_forced=self.is_forced, since=since)
        nightly, label = self.config.nightly, None
        if change.new >= triggers.LEAST_ROWS:
            label = label_shift(change.counts_before, change.new_by_class)
            self.facts["label_distance"] = round(label.total_variation, 4)
        fired = triggers.cheap_triggers(
            change,
            nightly,
            age_days=last.age_days(self._moment),
            settings_changed=last.settings != settings,
            label=label,
        )
        if not fired and label is not None and triggers.needs_encoder(nightly):
            with self.report.stage("drift"):
                fired = self._encoder_triggers(last, dataset, label)
        return triggers.decide_training(fired, change, is_forced=self.is_forced)

    def _encoder_triggers(self, last: LastTraining, dataset: DatasetSplits, label: LabelShift) -> list[str]:
        """Drift of the texts and the champion's answers on new rows: they cost an encoder pass a row."""
        nightly = self.config.nightly
        prepared = self.steps.tokenize(self.config, dataset)
        self.drift = self.steps.drift(self.config, prepared, Path(last.run), label)
        score = self.steps.champion_on_new(self.config, prepared, Path(last.run))
        fired = [] if self.drift is None else [triggers.drift_trigger(self.drift.domain, nightly)]
        if self.drift is not None and self.drift.domain.auroc is not None:
            self.facts["text_auroc"] = round(self.drift.domain.auroc, 4)
        if score is not None:
            self.facts["champion_on_new"] = round(score.right / score.rows, 4)
            fired.append(triggers.drop_trigger(score, nightly))
            if score.test_accuracy is None and nightly.score_drop is not None:
                self.report.say(
                    "nightly.score_drop waits for the next training: the last one has no answers of the champion to "
                    "test rows that it was not trained on"
                )
        return [text for text in fired if text]

    def _remember(
        self, log: NightLog, last: LastTraining | None, plan: TrainingPlan, rows: Rows, result: dict[str, Any]
    ) -> None:
        """What the next nights are compared with."""
        folder = self.home / "runs" / result["run_id"]
        rows.save(folder)
        trained, test = self._moment.isoformat(timespec="seconds"), result.get("test", {})
        log.remember_training(
            LastTraining(
                rows=plan.rows,
                settings=plan.settings,
                run=str(folder),
                run_id=result["run_id"],
                version=result["version"],
                params=result.get("best_params", {}),
                trained=trained,
                searched=trained if plan.is_searched or last is None else last.searched,
                accuracy=test.get("accuracy"),
                test_rows=test.get("n", 0),
                machine=str(run_at(folder).settings or ""),
            )
        )
        try:
            self.steps.remember(self.night, self.began_at)
        except Exception as fault:  # whatever the store's client raises: the night is trained and released all the same
            self.mended.append(
                f"the registry does not know of this training yet ({fault_text(fault)[:200]}): the next night writes it"
            )


def _hours(seconds: float) -> str:
    """A duration for people: seconds below a minute, else hours."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 3600:.1f} h"
