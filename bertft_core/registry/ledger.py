"""The ledger of a registered model: every decision in order, and aliases that agree with it after any kill.

The entries are tags of the registered model (bertft.ledger.000001, …): a version may be deleted, its model stays.
An entry is written as pending before the first alias moves and as done after the last step; `settle` finishes what
a killed process left, and notes what somebody changed by hand. Copies lie on the version (a tag) and in its MLflow
run (ledger.jsonl); the model's tags are the truth.

Two processes cannot write one number while they share the store's lock, which lies below BERTFT_HOME: machines that
promote the same model must share that folder. Without it the entry is read back, and a writer that was overwritten
raises before it has moved an alias.
"""

from __future__ import annotations

import getpass
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bertft_core.base.errors import RegistryError
from bertft_core.config.store import Store
from bertft_core.registry import aliases, entries
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.registry.entries import DONE, PENDING, VOID, Entries, LedgerEntry
from bertft_core.tracking.store import client, log_text, store_lock

LEDGER = "bertft.ledger."
DECISION = "bertft.decision"
FILE = "ledger.jsonl"
AWAITING_APPROVAL = "awaiting approval"  # the outcome of an entry that awaits
_SIGNATURE = 120  # characters of a name in `by`


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be recorded. champion: the one the decision rests on; to_version: the champion it makes."""

    action: str
    version: str
    champion: str | None
    to_version: str | None
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    prefect_run: str = ""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A ledger that agrees with the aliases, and what had to be done for that: entries finished, voided, noticed."""

    entries: Entries
    repaired: Entries = ()


@dataclass(frozen=True, kw_only=True)
class ChampionState:
    """The champion's version, or None. fault: why there is one, by the ledger, that cannot be used; else None."""

    version: str | None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Release:
    """What became of a version: the document that `promote`, `rollback` and `resume` answer with."""

    registered_model: str
    version: str
    promoted: bool
    outcome: str
    reason: str
    champion_before: str | None
    champion_after: str | None
    by: str
    look: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.registered_model} version {self.version}: {self.outcome}: {self.reason}"


def release_of(name: str, entry: LedgerEntry, look: tuple[str, ...] = (), version: str | None = None) -> Release:
    """A ledger entry as the document of a verb. version: the one asked about, where the entry may be on another."""
    if version is not None and (entry.version != version or entry.action == entries.NOTICED):
        return Release(
            registered_model=name,
            version=version,
            promoted=False,
            outcome=entries.KEPT,
            reason=f"already the champion, by entry {entry.number} of the ledger ({entry.action})",
            champion_before=version,
            champion_after=version,
            by=entry.by,
            look=look,
        )
    return Release(
        registered_model=name,
        version=entry.version,
        promoted=entry.action in entries.PROMOTIONS,
        outcome=AWAITING_APPROVAL if entry.action == entries.AWAITING else entry.action,
        reason=entry.reason,
        champion_before=entry.from_version,
        champion_after=entry.to_version,
        by=entry.by,
        look=look,
    )


def who() -> str:
    """$BERTFT_USER, else the operating system's user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run a number without a name
        user = f"uid {os.getuid()}"
    return (os.environ.get("BERTFT_USER") or f"{user}@{os.uname().nodename}")[:_SIGNATURE]


def read(store: Store, name: str) -> Entries:
    """Every entry, oldest first; none when there is no such model."""
    tags = aliases.model_tags(store, name)
    return tuple(LedgerEntry.from_text(tags[key]) for key in sorted(tags) if key.startswith(LEDGER))


def champion_state(store: Store, name: str) -> ChampionState:
    """The champion that a challenger must be compared with. Settle the ledger first."""
    version = aliases.champion(store, name)
    if version is not None:
        return ChampionState(version=version, fault=_unusable(store, name, version))
    lost = entries.last_champion(read(store, name))
    if lost is None:
        return ChampionState(version=None)
    exists = aliases.find(store, name, lost) is not None
    what = f"lost the alias {store.config.aliases.champion}" if exists else "was deleted"
    return ChampionState(version=None, fault=f"the champion, version {lost}, {what} outside bertft")


def record(store: Store, name: str, decision: Decision) -> LedgerEntry:
    """Write a decision and carry it out; a promotion while a hold lasts becomes `held`. Safe to kill and repeat.

    Raises RegistryError when the champion is no longer `decision.champion`, when the new champion's logged model
    is not READY, or when another machine wrote the same number.
    """
    with store_lock(store):
        known = settle(store, name).entries
        actual = aliases.champion(store, name)
        if actual != decision.champion:
            raise RegistryError(
                f"the champion of {name} is version {actual or 'none'}, the decision on version {decision.version} "
                f"rests on {decision.champion or 'none'}: somebody moved it meanwhile, run the command again"
            )
        held = entries.hold(known)
        if held and decision.action in (entries.PROMOTED, entries.APPROVED):
            decision = replace(decision, action=entries.HELD, to_version=actual, reason=f"{held}; {decision.reason}")
        if decision.action in entries.ALIAS_MOVES:
            assert decision.to_version is not None
            aliases.require_ready(store, aliases.get_version(store, name, decision.to_version).model_id)
        return _append(store, name, known, decision)


def settle(store: Store, name: str) -> Settled:
    """Finish what a killed process announced, note what was moved by hand. Changes nothing when all agrees."""
    with store_lock(store):
        known = read(store, name)
        repaired = [_repair(store, name, entry) for entry in known if entry.state == PENDING]
        if repaired:
            known = read(store, name)
        before, after = entries.expected_champion(known), aliases.champion(store, name)
        if before != after:
            repaired.append(_append(store, name, known, _noticed(before, after)))
            known = read(store, name)
        return Settled(entries=known, repaired=tuple(repaired))


def _noticed(before: str | None, after: str | None) -> Decision:
    words = f"champion moved outside bertft: {before or 'none'} -> {after or 'none'}"
    return Decision(
        action=entries.NOTICED,
        version=str(after or before),
        champion=before,
        to_version=after,
        reason=words,
        by="unknown",
    )


def _append(store: Store, name: str, known: Entries, decision: Decision) -> LedgerEntry:
    found = aliases.find(store, name, decision.version)
    tags = found.tags if found else {}
    entry = LedgerEntry(
        number=known[-1].number + 1 if known else 1,
        action=decision.action,
        version=decision.version,
        from_version=decision.champion,
        to_version=decision.to_version,
        reason=decision.reason,
        by=decision.by or who(),
        at=time.strftime(entries.TIME_FORMAT, time.gmtime()),
        state=PENDING,
        numbers=dict(decision.numbers),
        report=f"runs:/{found.run_id}/evaluation" if found and found.run_id else "",
        rows=tags.get("bertft.test_rows", ""),
        commit=tags.get("bertft.git_commit", ""),
        prefect_run=decision.prefect_run,
        run_key=tags.get("bertft.run_key", ""),
        weights=tags.get(aliases.WEIGHTS, ""),
        token=uuid.uuid4().hex[:12],
    )
    _write(store, name, entry)
    if read(store, name)[-1].token != entry.token:
        raise RegistryError(
            f"entry {entry.number} of {name}'s ledger was overwritten by another machine: let the machines that "
            "promote it share BERTFT_HOME, then run the command again"
        )
    return _carry_out(store, name, entry)


def _repair(store: Store, name: str, entry: LedgerEntry) -> LedgerEntry:
    fault = _obstacle(store, name, entry) if entry.action in entries.ALIAS_MOVES else None
    if fault is None:
        return _carry_out(store, name, entry)
    void = replace(entry, state=VOID, reason=f"not carried out, {fault}; {entry.reason}")
    _write(store, name, void)
    return void


def _obstacle(store: Store, name: str, entry: LedgerEntry) -> str | None:
    """Why an announced move can no longer be carried out, or None."""
    actual = aliases.champion(store, name)
    if actual not in (entry.from_version, entry.to_version):
        return f"the champion was moved to {actual or 'none'} meanwhile"
    return _unusable(store, name, str(entry.to_version))


def _unusable(store: Store, name: str, version: str) -> str | None:
    found = aliases.find(store, name, version)
    if found is None:
        return f"version {version} was deleted"
    try:
        aliases.require_ready(store, found.model_id)
    except RegistryError as fault:
        return f"version {version}: {fault}"
    return None


def _carry_out(store: Store, name: str, entry: LedgerEntry) -> LedgerEntry:
    """Every step may be repeated: after a kill `settle` starts again at the first."""
    done = replace(entry, state=DONE)
    found = aliases.find(store, name, entry.version)
    if entry.action in entries.ALIAS_MOVES:
        _move_aliases(store, name, entry)
    if found is not None:
        _mark(store, found, done)
        others = [e for e in read(store, name) if e.number != entry.number]
        log_text(store, found.run_id, "".join(e.to_text() + "\n" for e in [*others, done]), FILE)
    _write(store, name, done)
    return done


def _move_aliases(store: Store, name: str, entry: LedgerEntry) -> None:
    names, held = store.config.aliases, aliases.aliases(store, name)
    old, new = entry.from_version, str(entry.to_version)
    if old is not None and old != new and aliases.find(store, name, old):
        aliases.set_alias(store, name, names.previous, old)
    if held.get(names.champion) != new:
        aliases.set_alias(store, name, names.champion, new)
    if held.get(names.challenger) == new:
        aliases.drop_alias(store, name, names.challenger)


def _mark(store: Store, version: RegisteredVersion, entry: LedgerEntry) -> None:
    tags = {_key(entry): entry.to_text()}
    if entry.action not in (entries.RESUMED, entries.NOTICED):
        tags |= {DECISION: entry.action, f"{DECISION}_reason": entry.reason[: entries.TAG_LENGTH]}
    aliases.tag_version(store, version.name, version.version, tags)


def _write(store: Store, name: str, entry: LedgerEntry) -> None:
    client(store).set_registered_model_tag(name, _key(entry), entry.to_text())


def _key(entry: LedgerEntry) -> str:
    return f"{LEDGER}{entry.number:06d}"
