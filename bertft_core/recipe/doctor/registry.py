"""What may be wrong with the models of a registry, and between it and a home."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertft_core.base.errors import BertftError, DamagedFile
from bertft_core.base.files import MANIFEST, is_complete
from bertft_core.config.store import Store
from bertft_core.recipe.doctor.finding import ERROR, NOTE, WARNING, Finding
from bertft_core.recipe.runs import RunFolder, run_at
from bertft_core.registry import aliases, entries, ledger, remembered
from bertft_core.registry.aliases import RUN_ID, RegisteredVersion
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.ledger import keys_of


def registry(store: Store) -> Iterator[Finding]:
    """Every model of ours: its ledger, its aliases, its versions; and the models that only this home remembers."""
    names = aliases.model_names(store)
    for name in names:
        versions = aliases.versions(store, name)
        if any(RUN_ID in version.tags for version in versions):
            try:
                yield from _ledger(store, name, versions)
                yield from _versions(store, name, versions)
            except BertftError as fault:
                yield Finding(severity=ERROR, where=name, found=str(fault))
    yield from _runs(store, names)


def files(store: Store) -> Iterator[Finding]:
    """Registered files that lie on this machine, against the manifest that was logged with them."""
    root = Path(store.artifact_root or "")
    if not store.artifact_root or not root.is_dir():
        return
    for manifest in sorted(root.rglob(MANIFEST)):
        if not is_complete(manifest.parent):
            yield Finding(
                severity=ERROR,
                where=str(manifest.parent),
                found="files of a registered version are not as they were logged",
                remedy="restore them from a backup; until then let another version be the champion (`bertft rollback`)",
            )


def _ledger(store: Store, name: str, versions: tuple[RegisteredVersion, ...]) -> Iterator[Finding]:
    tags, held = aliases.tags_and_aliases(store, name)
    view = ledger.view_model(store, name)

    def settle() -> str:
        repaired = ledger.settle(store, name).repaired
        return f"entries {', '.join(str(entry.number) for entry in repaired) or 'none'} of the ledger were settled"

    for entry in view.restored:
        found = f"the tag of ledger entry {entry.number} is damaged, its copy on the version is sound"
        yield Finding(severity=WARNING, where=name, found=found, remedy="write it anew from the copy", repair=settle)
    numbers = [entry.number for entry in view.entries]
    if missing := sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
        found = f"the ledger lacks {', '.join(map(str, missing))} of its {max(numbers)} entries"
        yield Finding(
            severity=ERROR, where=name, found=found, remedy="ledger.jsonl of the versions' MLflow runs has it"
        )
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    named = [key for number, key in keys_of(tags).items() if not number.isdigit()]
    if twice or named:
        found = f"ledger entries that stand under another's number: {', '.join(map(str, [*twice, *named]))}"
        yield Finding(severity=ERROR, where=name, found=found, remedy="ask who wrote to the model's tags")
    champion: str | None = None
    for entry in (e for e in entries.carried_out(view.entries) if e.action in entries.ALIAS_MOVES):
        if champion is not None and entry.from_version != champion and not missing:
            found = (
                f"entry {entry.number} goes on from champion {entry.from_version}, the one before it left {champion}"
            )
            yield Finding(
                severity=NOTE, where=name, found=found, remedy="somebody moved the alias by hand between them"
            )
        champion = entry.to_version
    if pending := [str(entry.number) for entry in view.entries if entry.state == entries.PENDING]:
        found = f"ledger entries {', '.join(pending)} were announced and not carried out: a process was killed"
        yield Finding(severity=WARNING, where=name, found=found, remedy="carry them out", repair=settle)
    elif (expected := entries.expected_champion(view.entries)) != view.champion:
        found = f"the ledger's champion is {expected or 'none'}, the alias points at {view.champion or 'none'}"
        yield Finding(severity=WARNING, where=name, found=found, remedy="note it in the ledger", repair=settle)
    known = {version.version for version in versions}
    for alias, version in sorted(held.items()):
        if version not in known:
            yield Finding(severity=ERROR, where=f"{name}@{alias}", found=f"points at version {version}, which is gone")
    yield from _copies(name, versions, {entry.number: entry for entry in view.entries})


def _copies(name: str, versions: tuple[RegisteredVersion, ...], known: dict[int, LedgerEntry]) -> Iterator[Finding]:
    for version in versions:
        for key in sorted(keys_of(version.tags).values()):
            try:
                copy = LedgerEntry.from_text(version.tags[key], f"the tag {key} of {version}")
            except BertftError as fault:
                yield Finding(
                    severity=WARNING, where=str(version), found=str(fault), remedy="it is a copy of the model's"
                )
                continue
            own = known.get(copy.number)
            if own is not None and (own.token, own.action, own.to_version) != (
                copy.token,
                copy.action,
                copy.to_version,
            ):
                found = f"ledger entry {copy.number} of {name} says {own.action}, its copy on the version {copy.action}"
                yield Finding(
                    severity=ERROR, where=str(version), found=found, remedy="one of the two was changed by hand"
                )


def _versions(store: Store, name: str, versions: tuple[RegisteredVersion, ...]) -> Iterator[Finding]:
    serving = set(aliases.aliases(store, name).values())
    for version in versions:
        try:
            aliases.require_ready(store, version.model_id)
        except BertftError as fault:
            severity = ERROR if version.version in serving else WARNING
            yield Finding(severity=severity, where=str(version), found=str(fault))


def _runs(store: Store, names: tuple[str, ...]) -> Iterator[Finding]:
    """Finished runs of this home and the versions that they say they made."""
    known: dict[str, set[str]] = {}
    models = set(names)
    for folder in map(RunFolder, sorted((Path(store.home) / "runs").glob("[!.]*/"))):
        result = _result(folder)
        name, version = result.get("registered_model"), result.get("version")
        if not name or not version:
            continue
        models.add(name)
        if name not in known:
            known[name] = {v.tags.get(RUN_ID, "") for v in aliases.versions(store, name)}
        if folder.path.name not in known[name]:
            found = f"made version {version} of {name}, which the registry does not have (any more)"
            yield Finding(severity=NOTE, where=f"run {folder.path.name}", found=found)
    for name in sorted(models):
        try:
            remembered.require_explained(store, name, ledger.view_model(store, name).entries)
        except BertftError as fault:
            yield Finding(severity=ERROR, where=name, found=str(fault))


def _result(folder: RunFolder) -> dict[str, Any]:
    try:
        return run_at(folder.path).result or {}
    except DamagedFile:  # said by the check of small files
        return {}
