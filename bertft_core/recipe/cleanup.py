"""What may go: downloads, caches, folders of old runs, versions that nobody needs. A plan first, then one by one.

Nothing goes that an alias points at, that a rollback could return to, that awaits approval, or that an unfinished run
works with; nothing at all while a command works in this home. Ages count from the last use. What cannot be read stays,
with all that may rest on it, and is said. Every removal may be killed and repeated, and none wants room on the disk:
folders go before versions, whose database does.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertft_core.adaptation.corpus import CORPORA
from bertft_core.adaptation.lineage import ADAPTED, UNFINISHED
from bertft_core.base.cache import VARIABLE, cache
from bertft_core.base.errors import BertftError, DamagedFile, RegistryError, fault_text
from bertft_core.base.files import is_abandoned, is_quiet
from bertft_core.base.locks import COMMON_LOCKS, alone_in, exclusive
from bertft_core.base.records import BROKEN
from bertft_core.config.store import Store
from bertft_core.recipe.distill import STUDENTS
from bertft_core.recipe.nights.log import LAST_TRAINING, NightLog, time_now
from bertft_core.recipe.runs import RunFolder, run_at
from bertft_core.registry import aliases, entries, ledger, remembered, versions
from bertft_core.registry.aliases import RUN_ID, RegisteredVersion
from bertft_core.registry.artifacts import EVIDENCE_FOLDER, SCRATCH

KEEP, DAYS = 3, 30.0  # a quarter of weekly promotions, a month of nights
_CACHES = ("data", "tokens", "floors", CORPORA, ADAPTED, UNFINISHED, STUDENTS)
_COPIES = {"served": "served copy", EVIDENCE_FOLDER: "evidence copy", "promote": "copy of test rows"}
_NOT_WALKED = {"artifacts", "prefect", "logs"}  # of others: MLflow's, Prefect's, the services'
_DOOMED = ".removed"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One thing that may go. size: bytes on this machine, None when the artefacts lie elsewhere."""

    kind: str
    name: str
    why: str
    size: int | None
    path: str = ""
    model: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class _Policy:
    keep: int
    oldest: float  # seconds since 1970: what is younger stays


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the registry and the home say is needed. notes: what could not be read, and what stays for it.

    everything: the versions of every registered model; needed: why a version of ours stays, by model and version.
    runs: state of each run. rests: runs that a version or a night rests on. is_whole: all states could be read.
    """

    everything: dict[str, tuple[RegisteredVersion, ...]]
    needed: dict[str, dict[str, str]]
    runs: list[tuple[Path, dict[str, Any]]]
    rests: set[str]
    notes: tuple[str, ...]
    is_whole: bool


def clean_up(
    store: Store, keep: int, days: float, say: Callable[[str], None] = lambda line: None, *, apply: bool
) -> dict[str, Any]:
    """List what may go (and, with `apply`, remove it, one line each through `say`).

    keep: last champions of each ledger that stay with their runs, >= 1. days: what is younger stays, >= 0.
    Raises BusyError when a command works in this BERTFT_HOME, with `apply` only.
    """
    assert keep >= 1 and days >= 0, (keep, days)
    now, odd = time_now(Path(store.home))
    policy = _Policy(keep=keep, oldest=now - days * 86400)
    with ExitStack() as stack:
        if apply:
            stack.enter_context(alone_in(store.home))
            for lock in sorted((Path(store.home) / "locks").glob("*.lock")):  # all that an earlier bertft holds
                if lock.name not in COMMON_LOCKS:  # which cleaning up takes itself, as it needs them
                    stack.enter_context(exclusive(lock, f"a command that uses {lock.name.removesuffix('.lock')}"))
        known = _known(store, policy, settle=apply)
        notes = [*filter(None, [odd]), *known.notes]
        removals = [*_shared(policy, notes), *sorted(_plan(store, policy, known), key=lambda r: bool(r.version))]
        for removal in removals if apply else ():
            try:
                _remove(store, removal, policy)
            except (BertftError, OSError) as fault:
                notes.append(f"{removal.kind} {removal.name} stays: {fault}")
                continue
            say(f"removed {removal.kind} {removal.name}")
    for note in notes:
        say(note)
    return {
        "applied": apply,
        "keep": keep,
        "days": days,
        "bytes": sum(r.size or 0 for r in removals),
        "removals": [asdict(r) for r in removals],
        "notes": notes,
    }


def needed_versions(store: Store, name: str, keep: int) -> dict[str, str]:
    """version -> why it stays: an alias, one of the last `keep` champions never rolled back, or approval awaited."""
    known = ledger.read(store, name)
    existing = {v.version for v in aliases.versions(store, name)}
    reasons = {v: "past champion" for v in [v for v in entries.past_champions(known) if v in existing][:keep]}
    current = aliases.champion(store, name)
    if target := entries.rollback_target(known, current, existing):
        reasons[target] = "rollback target"
    last = {e.version: e.action for e in entries.carried_out(known)}
    reasons |= {v: "awaits approval" for v, action in last.items() if action == entries.AWAITING}
    return reasons | {version: f"alias {alias}" for alias, version in aliases.aliases(store, name).items()}


def _our_models(store: Store) -> list[str]:
    """Registered models with a version that bertft made: nothing of anybody else's is touched."""
    names = aliases.model_names(store)
    return [n for n in names if any(RUN_ID in v.tags for v in aliases.versions(store, n))]


def _known(store: Store, policy: _Policy, *, settle: bool) -> _Known:
    home, notes = Path(store.home), list[str]()
    everything = {name: aliases.versions(store, name) for name in aliases.model_names(store)}
    needed, rests = dict[str, dict[str, str]](), set[str]()
    for name in _our_models(store):
        try:
            if settle:
                ledger.settle(store, name)
            needed[name] = needed_versions(store, name, policy.keep)
        except BertftError as fault:
            notes.append(f"everything of {name} stays: {fault}")
            needed[name] = {v.version: "nobody knows what rests on it" for v in everything[name]}
        rests |= {v.tags.get(RUN_ID, "") for v in everything[name] if v.version in needed[name]}
    runs, is_whole = list[tuple[Path, dict[str, Any]]](), True
    for folder in map(RunFolder, sorted((home / "runs").glob("[!.]*/"))):
        try:
            if folder.state.exists():
                runs.append((folder.path, run_at(folder.path).state()))
        except (DamagedFile, OSError) as fault:
            notes.append(f"run {folder.path.name} and every search folder stay: {fault}")
            runs.append((folder.path, {}))
            is_whole = False
    made = {(str(run.get("registered_model")), path.name) for path, state in runs if (run := state.get("result") or {})}
    for name in sorted({name for name, _ in made} - needed.keys()):  # no version left: are they lost, or cleaned up?
        try:
            remembered.require_explained(store, name, ledger.read(store, name))
        except BertftError as fault:
            notes.append(f"the runs of {name} stay: {fault}")
            rests |= {run_id for model, run_id in made if model == name}
    for file in sorted((home / "nights").glob(f"*{LAST_TRAINING}")):
        try:
            if training := NightLog(home, file.name.removesuffix(LAST_TRAINING)).last_training:
                rests.add(training.run_id)
        except (DamagedFile, OSError) as fault:
            notes.append(f"every run folder stays: {fault}")
            rests |= {path.name for path, _ in runs}
    return _Known(everything=everything, needed=needed, runs=runs, rests=rests, notes=tuple(notes), is_whole=is_whole)


def leftovers(home: Path) -> Iterator[tuple[Path, str]]:
    """What killed processes left in a home, and why it is that."""
    for path in sorted(home.glob(f"*/.*{_DOOMED}")):
        yield path, "a removal was killed"
    for path in sorted(home.glob(f"{SCRATCH}*")):
        if is_quiet(path):
            yield path, "a command was killed"
    for folder, names, files in os.walk(home):
        names[:] = sorted(
            n for n in names if not n.endswith(_DOOMED) and (Path(folder) != home or n not in _NOT_WALKED)
        )
        for name in [*names, *sorted(files)]:
            if is_abandoned(Path(folder) / name):
                yield Path(folder) / name, "the command that wrote it was killed"
        names[:] = [name for name in names if not name.startswith(".")]


def _plan(store: Store, policy: _Policy, known: _Known) -> Iterator[Removal]:
    home, everything, needed, runs = Path(store.home), known.everything, known.needed, known.runs
    ours = {name: everything[name] for name in needed}
    yield from (_folder("leftover", path, why) for path, why in leftovers(home))
    for path in sorted(home.rglob(f"*{BROKEN}")):
        if _age(path) < policy.oldest:
            yield _folder("leftover", path, "nobody could read it, another was made in its place")

    stays = [v for name, registered in ours.items() for v in registered if v.version in needed[name]]
    # A copy of a version under another name shares its files.
    uses = Counter(v.model_id for registered in everything.values() for v in registered)
    for version in (v for registered in ours.values() for v in registered):
        is_loose = version.version not in needed[version.name] and uses[version.model_id] == 1
        is_old = version.created_ms / 1000 < policy.oldest
        if is_loose and is_old and version.tags.get(RUN_ID):  # no tag: not made by bertft
            yield Removal(
                kind="version",
                name=str(version),
                why="no alias, no rollback target, past the policy",
                size=versions.artifact_size(store, version),
                model=version.name,
                version=version.version,
            )
    for folder, kind in _COPIES.items():
        for path in _old(home / folder, policy):
            if path.name not in {v.model_id for v in stays}:
                yield _folder(kind, path, "downloaded again when needed")

    yield from _run_folders(runs, known.rests, policy)
    finished = {state["study"] for _, state in runs if "study" in state and "result" in state}
    unfinished = {state["study"] for _, state in runs if "study" in state and "result" not in state}
    for path in sorted(p for p in (home / "search").glob("[!.]*") if p.is_dir() and known.is_whole):
        if path.name in finished - unfinished:
            yield _folder("search folder", path, "its run has finished; the study stays in studies.db")
        elif path.name not in unfinished and _age(path) < policy.oldest:
            yield _folder("search folder", path, "older than the policy, no run claims it")

    if any("result" not in state and _age(RunFolder(path).state) >= policy.oldest for path, state in runs):
        return  # an unfinished run works with the caches
    for name in _CACHES:
        for path in _old(home / name, policy):
            yield _folder("cache", path, f"older than the policy; {name} are made again when needed")
    for path in sorted((home / "prefix").glob("[!.]*/")):
        if max(map(_age, [path, *path.iterdir()])) < policy.oldest:  # a segment's time is when it was last read
            yield _folder("cache", path, "hidden states that no fit has read of late; computed again when needed")


def _shared(policy: _Policy, notes: list[str]) -> Iterator[Removal]:
    """What BERTFT_CACHE has of old, whoever left it there; a cache that does not answer is noted."""
    shared = cache()
    try:
        found = shared.entries() if shared else []
    except Exception as fault:  # whatever its file system raises
        notes.append(f"{VARIABLE} stays as it is: {fault_text(fault)}")
        return
    for entry in found:
        if entry.written < policy.oldest:
            name = f"{entry.kind}/{entry.name}"
            yield Removal(kind=VARIABLE, name=name, why="older than the policy; made again", size=entry.size)


def _run_folders(runs: list[tuple[Path, dict[str, Any]]], needed_runs: set[str], policy: _Policy) -> Iterator[Removal]:
    """Attempts of one key are counted from 1 without gaps: they go together or not at all."""
    attempts: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path, state in runs:
        attempts.setdefault(path.name.partition("-")[0], []).append((path, state))
    for group in attempts.values():
        is_over = all("result" in state and _age(RunFolder(path).state) < policy.oldest for path, state in group)
        if is_over and not any(path.name in needed_runs for path, _ in group):
            yield from (_folder("run folder", p, "finished, no alias, champion or night rests on it") for p, _ in group)
            continue
        for path, state in group:
            checkpoint = RunFolder(path).checkpoint
            if "result" in state and checkpoint.exists():
                yield _folder("checkpoint", checkpoint, f"run {path.name} has finished")


def _old(folder: Path, policy: _Policy) -> list[Path]:
    return [p for p in sorted(folder.glob("[!.]*")) if _age(p) < policy.oldest]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _folder(kind: str, path: Path, why: str) -> Removal:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    size = sum(p.stat().st_size for p in files)
    return Removal(kind=kind, name="/".join(path.parts[-2:]), why=why, size=size, path=str(path))


def _remove(store: Store, removal: Removal, policy: _Policy) -> None:
    if removal.version:
        reason = needed_versions(store, removal.model, policy.keep).get(removal.version)
        if reason:  # an alias was moved since the plan was made
            raise RegistryError(f"{removal.name} stays: {reason}; run the command again")
        versions.delete_version(store, removal.model, removal.version)
        return
    if removal.kind == VARIABLE:
        shared = cache()
        if shared is None or not shared.remove(*removal.name.split("/", 1)):
            raise RegistryError(f"{VARIABLE} did not answer")
        return
    path = Path(removal.path)
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Renamed first: a killed removal leaves no half of a folder under its name.
    doomed = path if path.name.endswith(_DOOMED) else path.with_name(f".{path.name}{_DOOMED}")
    if doomed != path:
        path.rename(doomed)
    shutil.rmtree(doomed)
