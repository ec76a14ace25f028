"""What may be wrong with the files of a home. A check reads; what it would change stands in its findings."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bertft_core.base.errors import BertftError, DamagedFile, InputError
from bertft_core.base.files import MANIFEST, is_complete, load_array, replacing, write_json
from bertft_core.base.hashes import hash_file
from bertft_core.base.home import LEAST_FREE, STATE_FORMAT, HomeFormat, read_format
from bertft_core.base.locks import holders
from bertft_core.base.records import BROKEN, read_record, set_aside
from bertft_core.base.sqlite_files import open_to_read
from bertft_core.base.text import counted
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.model.prefix.segments import SUFFIX, Segment
from bertft_core.recipe.cleanup import leftovers
from bertft_core.recipe.doctor.finding import ERROR, NOTE, WARNING, Finding
from bertft_core.recipe.nights.log import LAST_TRAINING, NightLog, OpenNight
from bertft_core.recipe.nights.rows import Rows
from bertft_core.recipe.runs import Run, RunFolder, mend_state, run_at
from bertft_core.registry.answers import Answers
from bertft_core.registry.artifacts import evidence_in
from bertft_core.registry.remembered import FOLDER as CHAMPIONS
from bertft_core.registry.remembered import KnownChampion
from bertft_core.training.results import FinishedFit
from bertft_core.training.spec import MachineSettings

CACHES = ("data", "tokens", "floors", "features")  # folders by content: what is gone or damaged is made again
_DATABASES = {
    "mlflow.db": "put a backup in its place; without one `bertft adopt NAME` goes on with a registry that is made anew",
    "search/studies.db": "put a backup in its place; without one move it away, and the searches begin anew",
    "prefect/prefect.db": "move it away: Prefect makes it anew, without the runs that it showed",
}


def stamp(home: Path) -> Iterator[Finding]:
    """format.json, who may enter, room on the disk."""
    file = home / "format.json"

    def write(fault: Exception | None = None) -> str:
        aside = f"; the old one is kept as {set_aside(file, fault).name}" if fault else ""
        write_json(file, asdict(HomeFormat(format=STATE_FORMAT)))
        return f"written anew as format {STATE_FORMAT}{aside}"

    try:
        found = read_format(home).format
        if found != STATE_FORMAT:
            remedy = f"install the matching bertft release: this one reads format {STATE_FORMAT}"
            yield Finding(severity=ERROR, where=str(file), found=f"format {found}", remedy=remedy)
    except FileNotFoundError:
        yield Finding(severity=WARNING, where=str(file), found="is missing", remedy="write it anew", repair=write)
    except DamagedFile as fault:
        yield Finding(
            severity=ERROR,
            where=str(file),
            found=_told(fault, file),
            remedy="write it anew",
            repair=partial(write, fault),
        )
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:

        def close() -> str:
            home.chmod(0o700)
            return "mode 0700"

        yield Finding(
            severity=WARNING,
            where=str(home),
            found=f"others may enter it (mode {mode:04o})",
            remedy="mode 0700",
            repair=close,
        )
    if not os.access(home, os.W_OK):
        yield Finding(severity=WARNING, where=str(home), found="cannot be written", remedy="nothing but reading works")
    if (free := shutil.disk_usage(home).free) < LEAST_FREE:
        remedy = "`bertft gc` lists what can go"
        yield Finding(severity=WARNING, where=str(home), found=f"{free / 1e6:.0f} MB free on its disk", remedy=remedy)


def _state_aside(run: Run, _: DamagedFile) -> str:
    return f"kept as {mend_state(run)}"


def small_files(home: Path) -> Iterator[Finding]:
    """Every small file that is read back, by its own reader."""
    for path in sorted((home / "runs").glob("[!.]*/")):
        run, folder = run_at(path), RunFolder(path)
        remedy = "move it aside; the next command goes on from the fit and the registry"
        yield from _read(folder.state, run.state, remedy, partial(_state_aside, run))
        yield from _read(folder.fit / "result.json", partial(_finished, folder.fit / "result.json"), "move it aside")
        evaluation = folder.evaluation
        copy = "move it aside; the version has its own copy"
        yield from _read(evaluation.evidence, partial(evidence_in, evaluation.evidence), copy)
        yield from _read(evaluation.decision_json, partial(_decision, evaluation.decision_json), "move it aside")
        for file in sorted(evaluation.path.glob("version-*.npz")):
            yield from _read(file, partial(Answers.read, file), "move it aside; the version answers again")
        for file in sorted(evaluation.path.glob("*.npy")):
            yield from _read(file, partial(load_array, file), "move it aside; `bertft promote` makes it again")
        if folder.rows.exists() and Rows.load(path) is None:
            yield Finding(
                severity=ERROR,
                where=str(folder.rows),
                found="cannot be read: the next night cannot compare its rows with these",
                remedy="move it aside; the next night trains and writes its own",
                repair=partial(_aside, folder.rows, DamagedFile(f"{folder.rows} is damaged")),
            )
    for file in sorted((home / "search").glob("*/trial-*/result.json")):
        yield from _read(file, partial(_finished, file), "move it aside; the trial is fitted again")
    machine = home / "machine.json"
    settings = partial(read_record, machine, dict[str, MachineSettings], "it is measured again")
    yield from _read(machine, settings, "move it aside; the machine is measured again")
    for file in sorted((home / CHAMPIONS).glob("*.json")):
        known = partial(read_record, file, KnownChampion, "runs and nights tell in its place")
        yield from _read(file, known, "move it aside; runs and nights tell in its place")


def nights(home: Path) -> Iterator[Finding]:
    """What the nights of each model remember."""
    folder = home / "nights"
    for file in sorted(folder.glob(f"*{LAST_TRAINING}")):
        log = NightLog(home, file.name.removesuffix(LAST_TRAINING))

        def remake(fault: DamagedFile, log: NightLog = log) -> str:
            last = log.remake_last_training(fault)
            if last is None:
                return "moved aside; no run tells what it was, so that the next night trains"
            log.remember_training(last)
            return f"made again from run {last.run_id}; the next night trains, as its settings are not known"

        yield from _read(
            file, partial(getattr, log, "last_training"), "make it again from the runs that there are", remake
        )
    for file in sorted(folder.glob("*.open.json")):
        log = NightLog(home, file.name.removesuffix(".open.json"))

        def reopen(fault: DamagedFile, log: NightLog = log) -> str:
            if left := log.left_open():  # moves it aside
                log.begin(left)
            return "moved aside; a record without its plan stands in its place, for the next night to say so"

        yield from _read(file, partial(read_record, file, OpenNight, ""), "write it anew without its plan", reopen)
    for file in sorted(folder.glob("*.jsonl")):
        log = NightLog(home, file.stem)
        if told := log.faults():

            def mend(log: NightLog = log) -> str:
                log.mend()
                return f"written anew from its other lines; the old one is {log.file.name}{BROKEN}"

            remedy = "write it anew from the lines that can be read"
            yield Finding(
                severity=WARNING,
                where=str(file),
                found=f"{counted(len(told), 'line')} cannot be read; the first: {told[0].removeprefix(f'{file}:')}",
                remedy=remedy,
                repair=mend,
            )


def contents(home: Path) -> Iterator[Finding]:
    """Digests of what is stored by content, of weights and of hidden states, against what was recorded."""
    for path in (p for cache in CACHES for p in sorted((home / cache).glob("[!.]*/"))):
        if not is_complete(path):
            yield Finding(
                severity=WARNING,
                where=str(path),
                found="does not hold what its manifest says",
                remedy="remove it; it is made again when needed",
                repair=partial(_remove, path),
            )
    for folder in map(RunFolder, sorted((home / "runs").glob("[!.]*/"))):
        served, weights = folder.served, folder.fit / "model" / "model.safetensors"
        if served.exists() and not is_complete(served):
            yield Finding(
                severity=ERROR,
                where=str(served),
                found="does not hold what its manifest says",
                remedy="move it aside; the registered version has its own copy",
                repair=partial(_aside, served, DamagedFile(f"{served} is damaged")),
            )
        elif served.exists() and weights.exists():
            recorded = json.loads((served / MANIFEST).read_bytes())["digests"].get(weights.name)
            if recorded != hash_file(weights):
                yield Finding(
                    severity=ERROR,
                    where=str(weights),
                    found="other weights than those that were served",
                    remedy=f"copy {served / weights.name} in its place",
                    repair=partial(_copy_weights, served / weights.name, weights),
                )
    for file in sorted((home / "prefix").glob(f"*/*{SUFFIX}")):
        try:
            bad = Segment(file, file.parent.name).damaged()
            found = f"{bad} rows of hidden states are not as they were written" if bad else ""
        except (InputError, OSError, ValueError) as fault:
            found = str(fault)
        if found:
            yield Finding(
                severity=WARNING,
                where=str(file),
                found=found,
                remedy="remove it; hidden states are computed again",
                repair=partial(_remove, file),
            )


def databases(home: Path) -> Iterator[Finding]:
    """PRAGMA quick_check of the sqlite files of MLflow, Optuna and Prefect."""
    for name, remedy in _DATABASES.items():
        file = home / name
        if file.exists() and (fault := damage(file)):
            yield Finding(severity=ERROR, where=str(file), found=fault, remedy=remedy)


def damage(file: Path) -> str:
    """What sqlite finds wrong with a database that it may only read; "" where it is sound."""
    try:
        with closing(open_to_read(file, 30.0)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as fault:
        return f"it cannot be read ({fault})"
    return "" if found == "ok" else " ".join(found.split())


def studies(home: Path) -> Iterator[Finding]:
    """Trials of search/studies.db that a process holds which has ended."""
    file = home / "search" / "studies.db"
    if not file.exists() or not file.stat().st_size or damage(file):  # damage is told by the check of databases
        return
    from bertft_core.search.abandoned import find_abandoned, free  # Optuna, 0.5 s
    from bertft_core.search.storage import open_storage

    for found in find_abandoned(file):
        what = f"{'trial' if len(found.slots) == 1 else 'trials'} {', '.join(map(str, found.slots))}"

        def release(study: str = found.study, what: str = what) -> str:
            free(open_storage(None, home), study)
            return f"{what} given free; the next search of it goes on with {'it' if ',' not in what else 'them'}"

        yield Finding(
            severity=WARNING,
            where=str(file),
            found=f"study {found.study}: {what} held by {', '.join(found.owners)}, which has ended",
            remedy="give free; the next search of it does so by itself",
            repair=release,
        )


def left_behind(home: Path) -> Iterator[Finding]:
    """What killed processes left, what was moved aside, what is held at this moment."""
    for path, why in leftovers(home):
        yield Finding(severity=WARNING, where=str(path), found=why, remedy="remove it", repair=partial(_remove, path))
    for path in sorted(home.rglob(f"*{BROKEN}")):
        yield Finding(severity=NOTE, where=str(path), found="was moved aside", remedy="look at it, then delete it")
    for lock in sorted([*(home / "locks").glob("*.lock"), *(home / "runs").glob("*/.lock")]):
        if by := holders(lock) - {os.getpid()}:
            yield Finding(severity=NOTE, where=str(lock), found=f"held by process {', '.join(map(str, sorted(by)))}")


def _read(
    file: Path, read: Callable[[], Any], remedy: str, repair: Callable[[DamagedFile], str] | None = None
) -> Iterator[Finding]:
    """A finding where a file is there and its reader refuses it; `repair`: else it is moved aside."""
    if not file.exists():
        return
    try:
        read()
    except DamagedFile as fault:
        mend = partial(repair, fault) if repair else partial(_aside, file, fault)
        yield Finding(severity=ERROR, where=str(file), found=_told(fault, file), remedy=remedy, repair=mend)
    except (BertftError, OSError) as fault:
        yield Finding(severity=ERROR, where=str(file), found=str(fault), remedy=remedy)


def _told(fault: DamagedFile, file: Path) -> str:
    """What a fault says beside the file's name and the remedy, which stand by themselves."""
    return str(fault).removeprefix(f"{file} is damaged: ").rpartition("; ")[0]


def _finished(file: Path) -> FinishedFit:
    return read_record(file, FinishedFit, "the fit is made again")


def _decision(file: Path) -> PromotionDecision:
    stored = read_record(file, dict[str, Any], "the page stays without it")
    try:
        return PromotionDecision.from_json(stored)
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise DamagedFile(f"{file} is damaged: {type(fault).__name__}: {fault}; the page stays without it") from None


def _aside(path: Path, fault: Exception) -> str:
    if (earlier := path.with_name(path.name + BROKEN)).is_dir():  # a folder takes no folder's name that holds files
        shutil.rmtree(earlier)
    return f"kept as {set_aside(path, fault).name}"


def _copy_weights(source: Path, target: Path) -> str:
    aside = _aside(target, DamagedFile(f"{target} holds other weights than were served"))
    with replacing(target) as part:
        shutil.copyfile(source, part)
    return f"copied from {source}; the old file is {aside}"


def _remove(path: Path) -> str:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return "removed"
