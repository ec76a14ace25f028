"""What the nights of a model remember in the registry, so that a home may vanish between two of them.

The record of the last training and the files of its run that nights read lie as artefacts of the MLflow run of the
night that trained (last_training/DIGEST/); a tag of the registered model points at them. What lies below BERTFT_HOME
is a copy, held to the digests before each night: what is missing, damaged or another one's is fetched again. The log of
the nights is in their MLflow runs; what one side lacks of it is written there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertft_core.base.clock import DAY
from bertft_core.base.errors import ArtifactError, BertftError, DamagedFile
from bertft_core.base.files import replacing
from bertft_core.base.hashes import hash_file
from bertft_core.base.names import file_name
from bertft_core.base.records import parse_record, read_record, set_aside
from bertft_core.config.store import Store
from bertft_core.recipe.nights.log import LastTraining, NightLog
from bertft_core.recipe.nights.record import (
    cancel_night,
    end_killed_nights,
    log_night,
    night_run,
    night_runs,
    nights_of,
)
from bertft_core.recipe.runs import RunFolder
from bertft_core.registry import aliases, artifacts
from bertft_core.tracking import store as tracking
from bertft_core.tracking.lineage import SOURCE

FORMER = "bertft.last_training."  # as an earlier release has it
POINTER = f"{tracking.HIDDEN}{FORMER}"  # and the name of the configuration: a tag of the registered model
_FOLDER, _RECORD = "last_training", "basis.json"
_OVERLAP_DAYS = 2.0  # so much before this home's last night its log is compared with MLflow's: clocks differ


@dataclass(frozen=True, kw_only=True)
class _Pointer:
    """The MLflow run that holds the record of the last training, the sha256 of the record, when it trained."""

    run: str
    digest: str
    trained: str


@dataclass(frozen=True, kw_only=True)
class ChampionEvidence:
    """What a champion's own evidence says of its training, for where no record of the last training is left.

    rows: keys of its training rows (uint64, as `release.row_fingerprints`), None where its evidence has none; classes:
    None where it says nothing of them.
    """

    version: str
    rows: Any = None
    classes: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"version {self.version}{'' if self.classes else ', whose evidence cannot be read'}"


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """What a night learns from the registry. said: for people; losses: what was damaged, for the night's reason.

    champion: where no record of the last training is left, but there is one.
    """

    said: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    champion: ChampionEvidence | None = None


class Memory:
    """The nights of the configuration `name`, which trains the registered model `model`, in a home and a store."""

    def __init__(self, open_store: Callable[[], Store], model: str, name: str, home: Path) -> None:
        self._open, self._model, self._name, self._home = open_store, model, name, home
        self._log = NightLog(home, name)
        self._run: str | None = None

    def begin(self, night: str, started: str, config_path: str, prefect_run: str) -> str:
        """The MLflow run of tonight, which trains: what is trained lies below it. night, started: as `recall`."""
        tags = {SOURCE: Path(config_path).name, "prefect.flow_run_id": prefect_run}
        self._run = night_run(self._open(), self._name, night, started, tags)
        return self._run

    def cancel(self) -> None:
        """End the run of tonight as killed, where there is one; a store that is away changes nothing."""
        if self._run is not None:
            with suppress(Exception):  # whatever its client raises, or the time that is left
                cancel_night(self._open(), self._run)

    def recall(self, night: str, started: str) -> Recalled:
        """Bring the home's copies up to what the registry has. night, started: of the night that asks.

        Raises RegistryError and StorageError where the store does not answer.
        """
        store = self._open()
        self._compare_logs(store, started)
        tags, held = aliases.tags_and_aliases(store, self._model)
        if {FORMER + self._name, POINTER + self._name} <= set(tags):
            tracking.client(store).delete_registered_model_tag(self._model, FORMER + self._name)
        said: list[str] = []
        losses: list[str] = []
        try:
            pointer = self._pointer(tags)
        except DamagedFile as fault:
            pointer = None
            losses.append(str(fault))
        mine, fault_here = self._own()
        if mine and not fault_here and (pointer is None or mine.trained > pointer.trained) and self._is_of(store, mine):
            self.remember(night, started)  # of an earlier release, or MLflow was away at the end of that night
        elif pointer and (mine is None or fault_here or hash_file(self._log.record) != pointer.digest):
            fault_here = fault_here or (
                f"the record of the last training was another one's, {mine.run_id}" if mine else ""
            )
            try:
                mine = self._fetch(store, pointer)
                told = f"the last training, run {mine.run_id}, was fetched from the registry"
                (losses if fault_here else said).append(f"{fault_here}: {told}" if fault_here else told)
            except (ArtifactError, DamagedFile) as fault:
                losses.append(f"the record of the last training in the registry is lost ({fault})")
        champion = held.get(store.config.aliases.champion)
        evidence = self._evidence(store, champion) if champion and mine is None else None
        return Recalled(said=tuple(said), losses=tuple(losses), champion=evidence)

    def remember(self, night: str, started: str) -> None:
        """Write this home's record of the last training to the registry, with the files of its run that nights read."""
        store, last = self._open(), self._log.last_training
        assert last is not None, "the caller has written it"
        folder = RunFolder(Path(last.run))
        files = {name: hash_file(folder.path / name) for name in _kept(folder)}
        if files != last.files:
            self._log.remember_training(replace(last, files=files))
        digest, run = hash_file(self._log.record), night_run(store, self._name, night, started)
        with tempfile.TemporaryDirectory(dir=self._home, prefix=artifacts.SCRATCH) as scratch:
            _copy(folder.path, Path(scratch), files)
            shutil.copyfile(self._log.record, Path(scratch) / _RECORD)
            tracking.log_files(store, run, [scratch], f"{_FOLDER}/{digest[:12]}")
        pointer = _Pointer(run=run, digest=digest, trained=last.trained)
        aliases.tag_model(store, self._model, {POINTER + self._name: json.dumps(asdict(pointer))})

    def _pointer(self, tags: dict[str, str]) -> _Pointer | None:
        key = next((k for k in (POINTER + self._name, FORMER + self._name) if k in tags), POINTER)
        where = f"the tag {key} of registered model {self._model}"
        return parse_record(tags[key], _Pointer, where, "the next training writes it anew") if key in tags else None

    def _own(self) -> tuple[LastTraining | None, str]:
        """This home's record, None where there is none that can be read, and what is wrong with it or its files."""
        try:
            last = self._log.last_training
        except DamagedFile:
            return None, "the record of the last training was damaged"
        if last is None:
            return None, ""
        wrong = sorted(name for name, digest in last.files.items() if _digest(Path(last.run) / name) != digest)
        return last, f"{', '.join(wrong)} of run {last.run_id} was missing or damaged" if wrong else ""

    def _is_of(self, store: Store, last: LastTraining) -> bool:
        """Whether the version of that training is in this registry."""
        version = aliases.find(store, self._model, last.version or "")
        return version is not None and version.tags.get(aliases.RUN_ID) == last.run_id

    def _fetch(self, store: Store, pointer: _Pointer) -> LastTraining:
        """Put what the registry has in the place of this home's copy. Raises ArtifactError and DamagedFile."""
        with tempfile.TemporaryDirectory(dir=self._home, prefix=artifacts.SCRATCH) as scratch:
            place = f"{_FOLDER}/{pointer.digest[:12]}"
            found = tracking.download_run_files(store, pointer.run, place, scratch)
            record = found / _RECORD
            if _digest(record) != pointer.digest:
                raise ArtifactError(f"{place} of MLflow run {pointer.run} is not what was written there")
            last = read_record(record, LastTraining, "the next training writes it anew")
            for name, digest in last.files.items():
                if not _is_plain(f"{last.run_id}/{name}") or _digest(found / name) != digest:
                    raise ArtifactError(f"{place}/{name} of MLflow run {pointer.run} is not what was written there")
            folder = self._home / "runs" / last.run_id
            try:
                _ = self._log.last_training
            except DamagedFile as fault:
                set_aside(self._log.record, fault)
            _copy(found, folder, last.files)
            self._log.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._log.record) as part:
                shutil.copyfile(record, part)
        return replace(last, run=str(folder))

    def _compare_logs(self, store: Store, tonight: str) -> None:
        """Write each night that this home's log or MLflow lacks there; end what killed ones left running in MLflow."""
        own = self._log.nights()
        since = max(0.0, max((night.began for night in own), default=0.0) - _OVERLAP_DAYS * DAY)
        runs = night_runs(store, self._name, since)
        ends = end_killed_nights(store, runs, self._name, tonight)
        theirs = {night.started: night for night in nights_of(runs, self._name)}
        for night in theirs.values():
            if all(night.started != one.started for one in own):
                self._log.folder.mkdir(parents=True, exist_ok=True)
                self._log.add(night)
        for night in own:
            if night.began >= since and night.began and night.started not in theirs:
                seconds = max(night.seconds, ends.get(night.started, 0.0) - night.began)
                log_night(replace(night, seconds=seconds), self._name, store, "", None)

    def _evidence(self, store: Store, version: str) -> ChampionEvidence | None:
        """None where another configuration trained that champion, on rows of its own."""
        try:
            evidence = artifacts.read_evidence(store, self._model, version)
            rows = artifacts.trained_on(store, self._model, version)
        except BertftError:
            return ChampionEvidence(version=version)
        if evidence["config"].get("name") != self._name:
            return None
        return ChampionEvidence(version=version, rows=rows, classes=tuple(map(str, evidence["classes"])))


def _kept(folder: RunFolder) -> Iterator[str]:
    """The files of a run that later nights read, as far as they are there, by their names below its folder."""
    tested = folder.evaluation
    files = [folder.rows, tested.evidence, tested.test_fingerprints, tested.labels, tested.groups]
    for file in [*files, *sorted(tested.path.glob("version-*"))]:
        if file.is_file():
            yield str(file.relative_to(folder.path))


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(target / name) as part:
            shutil.copyfile(source / name, part)


def _digest(file: Path) -> str:
    return hash_file(file) if file.is_file() else ""


def _is_plain(path: str) -> bool:
    return all(part == file_name(part) for part in path.split("/"))
