"""The ledger of a registered model: every decision in order, and aliases that agree with it after any kill.

The entries are tags of the registered model (LEDGER and 000001, …): a version may be deleted, its model stays. They are
no files of a run: a tag is written at once or not at all, by the database that has the aliases and the claims; one
request reads all of them; and whoever rolls back needs no artefact store. MLflow's pages do not show tags whose keys
begin so; people read the model's description and ledger.jsonl. The tag INDEX says so, and keeps an earlier release,
which knows the tags of FORMER alone, from beginning a ledger of its own.

An entry is written as pending before the first alias moves and as done after the last step; `settle` finishes what
a killed process left, and notes what somebody changed by hand. Copies lie on the version (a tag) and in its MLflow
run (ledger.jsonl); the model's tags are the truth.

Two processes cannot write one number while they share the store's lock, which lies below BERTFT_HOME or in PostgreSQL.
Those that share none exclude each other by claims in the registry (`claims`).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bertft_core.base.clock import Stamp
from bertft_core.base.errors import ArtifactError, DamagedFile, InputError, RegistryError
from bertft_core.config.store import Store
from bertft_core.registry import aliases, artifacts, claims, entries, remembered
from bertft_core.registry.description import describe_model
from bertft_core.registry.entries import DONE, PENDING, VOID, Entries, LedgerEntry
from bertft_core.tracking.lineage import who
from bertft_core.tracking.store import HIDDEN, WEIGHTS, client, log_text, store_lock

FORMER = "bertft.ledger."  # where entries of before December 2026 stand until the next one is written
LEDGER = f"{HIDDEN}{FORMER}"
INDEX = f"{FORMER}index"
_INDEX_TEXT = (
    "one tag an entry, not shown here; to read: the description, `bertft history`, ledger.jsonl of a version's run"
)
DECISION = "bertft.decision"
CLOCK = "clock"  # in the numbers of an entry: how the writer's clock differed from what it must have been
FILE = "ledger.jsonl"
AWAITING_APPROVAL = "awaiting approval"  # the outcome of an entry that awaits
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A registered model as it stood when it was read; whoever decides reads it once and passes it on.

    aliases: alias -> version. repaired: the entries that `settle` finished, voided or noticed to make ledger and
    aliases agree. restored: those whose own tag is damaged, read from a copy. claims: what others are about to write
    (`claims`), tag to place. tags: all that the model has.
    """

    store: Store
    name: str
    entries: Entries
    aliases: Mapping[str, str]
    repaired: Entries = ()
    restored: Entries = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def champion(self) -> str | None:
        """The champion's version; None when there is none."""
        return self.aliases.get(self.store.config.aliases.champion)

    @property
    def challenger(self) -> str | None:
        """The challenger's version; None when there is none."""
        return self.aliases.get(self.store.config.aliases.challenger)

    @cached_property
    def champion_fault(self) -> str | None:
        """Why there is a champion, by the ledger, that cannot be compared with, asked of the store once; else None."""
        if self.champion is not None:
            return _unusable(self.store, self.name, self.champion)
        lost = entries.last_champion(self.entries)
        if lost is None:
            return None
        exists = aliases.find(self.store, self.name, lost) is not None
        what = f"lost the alias {self.store.config.aliases.champion}" if exists else "was deleted"
        return f"the champion, version {lost}, {what} outside bertft"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry to be written. champion: the one the decision rests on; to_version: the champion it makes."""

    action: str
    version: str
    champion: str | None
    to_version: str | None
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    prefect_run: str = ""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What became of a version: the document that `promote`, `rollback` and `resume` answer with.

    numbers: what the gate measured, as the ledger keeps it.
    """

    registered_model: str
    version: str
    promoted: bool
    outcome: str
    reason: str
    champion_before: str | None
    champion_after: str | None
    by: str
    look: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The version and its outcome, without the reason."""
        return f"{self.registered_model} version {self.version}: {self.outcome}"

    def __str__(self) -> str:
        return f"{self.title}: {self.reason}"


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
        reason="; ".join(filter(None, [entry.reason, entry.numbers.get(CLOCK)])),
        champion_before=entry.from_version,
        champion_after=entry.to_version,
        by=entry.by,
        look=look,
        numbers=entry.numbers,
    )


def view_model(store: Store, name: str) -> ModelView:
    """Read a registered model; empty when there is none of that name.

    An entry whose tag is damaged is read from the copy on its version. Raises DamagedFile where that is no better.
    """
    tags, held_aliases = aliases.tags_and_aliases(store, name)
    found, restored = [], []
    for number, key in sorted(keys_of(tags).items()):
        try:
            found.append(LedgerEntry.from_text(tags[key], f"the tag {key} of registered model {name}"))
        except DamagedFile as fault:
            found.append(_copy(store, name, number, fault))
            restored.append(found[-1])
    others = {key: value for key, value in tags.items() if key.startswith(claims.CLAIM)}
    return ModelView(
        store=store,
        name=name,
        entries=tuple(found),
        aliases=held_aliases,
        restored=tuple(restored),
        claims=others,
        tags=tags,
    )


def keys_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The number of each entry among the tags of a model or a version, as it is written there, and its tag."""
    known = {prefix: [key for key in tags if key.startswith(prefix)] for prefix in (FORMER, LEDGER)}
    return {key.removeprefix(prefix): key for prefix, keys in known.items() for key in keys if key != INDEX}


def _copy(store: Store, name: str, number: str, fault: DamagedFile) -> LedgerEntry:
    """An entry from the copy on its version, where the model's own tag is damaged; without one, raises `fault`."""
    for version in aliases.versions(store, name):
        with suppress(DamagedFile):
            return LedgerEntry.from_text(version.tags.get(keys_of(version.tags).get(number, ""), ""))
    raise fault


def read(store: Store, name: str) -> Entries:
    """Every entry, oldest first; none when there is no such model."""
    return view_model(store, name).entries


def write(store: Store, name: str, draft: Draft) -> LedgerEntry:
    """Announce a decision and carry it out; a promotion while a hold lasts becomes `held`. Safe to kill and repeat.

    Raises RegistryError when the champion is no longer `draft.champion`, when the new champion's logged model
    is not READY, or when other machines write to this ledger time and again (LostRace).
    """
    for _ in range(claims.ROUNDS - 1):
        with suppress(claims.LostRace):
            return _write(store, name, draft)
        claims.pause()
    return _write(store, name, draft)


def _write(store: Store, name: str, draft: Draft) -> LedgerEntry:
    with store_lock(store):
        view = settle(store, name)
        if view.champion != draft.champion:
            raise RegistryError(
                f"the champion of {name} is version {view.champion or 'none'}, the decision on version "
                f"{draft.version} rests on {draft.champion or 'none'}: somebody moved it meanwhile, run the command "
                "again"
            )
        hold = entries.hold(view.entries)
        if hold and draft.action in (entries.PROMOTED, entries.APPROVED):
            reason = f"{hold}; {draft.reason}"
            draft = replace(draft, action=entries.HELD, to_version=view.champion, reason=reason)
        if draft.action in entries.ALIAS_MOVES:
            assert draft.to_version is not None
            aliases.require_ready(store, aliases.get_version(store, name, draft.to_version).model_id)
        entry = _append(view, draft)
        _remember(view_model(store, name))
        return entry


def models(store: Store) -> tuple[str, ...]:
    """Names of the registered models that have a ledger, sorted: a registry may hold other people's too."""
    return aliases.model_names(store, with_tag=(LEDGER, FORMER))


def settle(store: Store, name: str) -> ModelView:
    """Finish what a killed process announced, note what was moved by hand. Changes nothing when all agrees.

    Raises LostError where the registry does not have the champion that this home remembers.
    """
    with store_lock(store):
        view = view_model(store, name)
        if view.claims:
            claims.wait(store, name, lambda: view_model(store, name).claims)
            view = view_model(store, name)
        remembered.require_explained(store, name, view.entries)
        view = _repaired(store, name)
        _remember(view)
        return view


def adopt(store: Store, name: str, reason: str) -> LedgerEntry:
    """Take the registry as it stands for the truth, whatever this home remembers; says so in the ledger, once.

    A champion that cannot answer (deleted, or its files are gone) is taken off: from here on there is none. Raises
    InputError where the home remembers no other champion than the registry has, or neither knows the model.
    """
    with store_lock(store):
        champions = remembered.recall(store, name)
        if champions:
            aliases.ensure_model(store, name)
        aliases.require_model(store, name)
        view = _repaired(store, name)
        last, fault = entries.last_change(view.entries), view.champion_fault
        if last and last.action == entries.ADOPTED and last.to_version == view.champion and not fault:
            _remember(view)
            return last
        if not fault and all(one.is_explained(view.entries) for one in champions):
            known = f"version {view.champion}" if view.champion else "none"
            raise InputError(f"the champion of {name} is {known}, and this home remembers no other: nothing to adopt")
        if fault and view.champion:
            aliases.drop_alias(store, name, store.config.aliases.champion)
            view = view_model(store, name)
        before = entries.last_champion(view.entries) or (champions[-1].version if champions else None)
        draft = Draft(
            action=entries.ADOPTED,
            version=view.champion or before or "",
            champion=before,
            to_version=view.champion,
            reason=f"{reason} ({fault})" if fault else reason,
        )
        entry = _append(view, draft)
        _remember(view_model(store, name))
        return entry


def _remember(view: ModelView) -> None:
    remembered.remember(view.store, view.name, view.entries, view.champion)


def _repaired(store: Store, name: str) -> ModelView:
    """As `settle`, without asking what this home remembers."""
    with store_lock(store):
        view, repaired = view_model(store, name), []
        for entry in view.restored:
            _LOGGER.warning("the tag %s of %s is damaged: written anew from the copy on its version", _key(entry), name)
            _tag_model(store, name, entry)
            repaired.append(entry)
        while pending := [entry for entry in view.entries if entry.state == PENDING]:
            entry, fault = pending[0], None
            if entry.action in entries.ALIAS_MOVES:  # can it still be carried out?
                if view.champion in (entry.from_version, entry.to_version):
                    fault = _unusable(store, name, str(entry.to_version))
                else:
                    fault = f"the champion was moved to {view.champion or 'none'} meanwhile"
            if fault is None:
                entry = _carry_out(view, entry)
            else:
                entry = replace(entry, state=VOID, reason=f"not carried out, {fault}; {entry.reason}")
                _tag_model(store, name, entry)
            repaired.append(entry)
            view = view_model(store, name)
        before, after = entries.expected_champion(view.entries), view.champion
        if before != after:
            noticed = Draft(
                action=entries.NOTICED,
                version=str(after or before),
                champion=before,
                to_version=after,
                reason=f"champion moved outside bertft: {before or 'none'} -> {after or 'none'}",
                by="unknown",
            )
            repaired.append(_append(view, noticed))
            view = view_model(store, name)
        return replace(view, repaired=tuple(repaired))


def _append(view: ModelView, draft: Draft) -> LedgerEntry:
    store, name = view.store, view.name
    version = aliases.find(store, name, draft.version)
    tags = version.tags if version else {}
    stamp = Stamp.now()
    moment, odd = entries.time_now(view.entries, stamp)
    entry = LedgerEntry(
        number=view.entries[-1].number + 1 if view.entries else 1,
        action=draft.action,
        version=draft.version,
        from_version=draft.champion,
        to_version=draft.to_version,
        reason=draft.reason,
        by=draft.by or who(),
        at=time.strftime(entries.TIME_FORMAT, time.gmtime(moment)),
        state=PENDING,
        numbers={k: v for k, v in {**draft.numbers, CLOCK: odd}.items() if k != CLOCK or odd},
        report=f"runs:/{version.run_id}/evaluation" if version and version.run_id else "",
        rows=tags.get("bertft.test_rows", ""),
        commit=tags.get("bertft.git_commit", ""),
        prefect_run=draft.prefect_run,
        run_key=tags.get("bertft.run_key", ""),
        weights=tags.get(WEIGHTS, ""),
        files=tags.get(aliases.FILES, ""),
        token=uuid.uuid4().hex[:12],
        clock=str(stamp),
    )
    with claims.claimed(store, name, entry.number, entry.token) as own:
        seen = view_model(store, name)
        if set(seen.claims) != own or len(seen.entries) != len(view.entries):
            raise claims.LostRace(
                f"entry {entry.number} of {name}'s ledger: another process writes one at this moment: wait for it, "
                "then run the command again"
            )
        _hide_former(seen)
        _tag_model(store, name, entry)
        announced = view_model(store, name)
        if announced.entries[-1].token != entry.token:
            raise RegistryError(
                f"entry {entry.number} of {name}'s ledger was overwritten by another process: run the command again"
            )
        return _carry_out(announced, entry)


def _unusable(store: Store, name: str, version: str) -> str | None:
    registered = aliases.find(store, name, version)
    if registered is None:
        return f"version {version} was deleted"
    try:
        aliases.require_ready(store, registered.model_id)
        artifacts.require_files(store, registered)
    except (RegistryError, ArtifactError) as fault:
        return f"version {version}: {fault}"
    return None


def _carry_out(view: ModelView, entry: LedgerEntry) -> LedgerEntry:
    """Every step may be repeated: after a kill `settle` starts again at the first."""
    store, name, names = view.store, view.name, view.store.config.aliases
    done = replace(entry, state=DONE)
    version = aliases.find(store, name, entry.version)
    if entry.action in entries.ALIAS_MOVES:
        old, new = entry.from_version, str(entry.to_version)
        if old is not None and old != new and aliases.find(store, name, old):
            aliases.set_alias(store, name, names.previous, old)
        if view.champion != new:
            aliases.set_alias(store, name, names.champion, new)
        if view.challenger == new:
            aliases.drop_alias(store, name, names.challenger)
    if version is not None:
        tags = {_key(entry): done.to_text()}
        if entry.action not in (entries.RESUMED, entries.NOTICED, entries.ADOPTED):
            tags |= {DECISION: entry.action, f"{DECISION}_reason": entry.reason[: entries.TAG_LENGTH]}
        aliases.tag_version(store, name, version.version, tags)
        others = [e for e in view.entries if e.number != entry.number]
        log_text(store, version.run_id, "".join(e.to_text() + "\n" for e in [*others, done]), FILE)
    describe_model(store, name, (*(e for e in view.entries if e.number != entry.number), done))
    _tag_model(store, name, done)
    return done


def _hide_former(view: ModelView) -> None:
    """Move the tags of an earlier release to where this one has them; what a killed process moved is only taken off."""
    former = {key for key in view.tags if key.startswith(FORMER)} - {INDEX}
    for key in sorted(former):
        if (moved := LEDGER + key.removeprefix(FORMER)) not in view.tags:
            aliases.tag_model(view.store, view.name, {moved: view.tags[key]})
        client(view.store).delete_registered_model_tag(view.name, key)
    if INDEX not in view.tags:
        aliases.tag_model(view.store, view.name, {INDEX: _INDEX_TEXT})


def _tag_model(store: Store, name: str, entry: LedgerEntry) -> None:
    client(store).set_registered_model_tag(name, _key(entry), entry.to_text())


def _key(entry: LedgerEntry) -> str:
    return f"{LEDGER}{entry.number:06d}"
