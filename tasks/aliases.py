"""Versions and aliases of a registered model: who is champion, how it got there, how to step back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bertft_core.errors import InputError, RegistryError
from bertft_core.mlflow_config import Store
from tasks.tracking import client, ensure_store, store_lock

RUN_ID = "bertft.run_id"
MODEL_ID = "bertft.model_id"  # a search for versions leaves MLflow's own model_id empty
LEDGER = "bertft.ledger."
HOLD = "bertft.hold"
DECISION = "bertft.decision"
_READY = "READY"
_ANY = "any"


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version of a registered model. was_found: it existed already; this call registered nothing."""

    name: str
    version: str
    model_uri: str
    run_id: str
    model_id: str
    tags: dict[str, str]
    created_ms: int
    was_found: bool = True

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One move of the champion. action: promote or rollback. replaced: the version that stepped down."""

    number: int
    action: str
    version: str
    replaced: str | None
    reason: str
    at: str


def versions(store: Store, name: str) -> tuple[RegisteredVersion, ...]:
    """All versions of a registered model, oldest first; none when there is no such model."""
    api = client(store)
    found, token = [], None
    while True:
        page = api.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        found += [describe(v) for v in page]
        token = page.token
        if not token:
            return tuple(sorted(found, key=lambda v: int(v.version)))


def get_version(store: Store, name: str, version: str) -> RegisteredVersion:
    """One version. Raises InputError naming the versions there are."""
    known = versions(store, name)
    for found in known:
        if found.version == str(version):
            return found
    listed = ", ".join(v.version for v in known) or "none"
    raise InputError(f"{name} has no version {version} in {store}; versions: {listed}")


def version_tags(store: Store, name: str, version: str) -> dict[str, str]:
    """The tags of a version."""
    return get_version(store, name, version).tags


def aliases(store: Store, name: str) -> dict[str, str]:
    """alias -> version of a registered model; empty when there is no such model."""
    model = _model(store, name)
    return {} if model is None else {k: str(v) for k, v in model.aliases.items()}


def version_of_alias(store: Store, name: str, alias: str) -> str:
    """The version behind `alias`. Raises InputError naming the aliases there are."""
    held = aliases(store, name)
    if alias not in held:
        listed = ", ".join(f"{k} -> {v}" for k, v in sorted(held.items())) or "none"
        raise InputError(f"{name} has no alias {alias} in {store}; aliases: {listed}")
    return held[alias]


def champion(store: Store, name: str) -> str | None:
    """The champion's version, or None when there is none yet."""
    return aliases(store, name).get(store.config.aliases.champion)


def set_alias(store: Store, name: str, alias: str, version: str) -> None:
    """Point `alias` at `version` and read it back. Raises RegistryError when it does not hold."""
    get_version(store, name, version)
    client(store).set_registered_model_alias(name, alias, str(version))
    if aliases(store, name).get(alias) != str(version):
        raise RegistryError(f"alias {alias} of {name} should be version {version}: another process moved it")


def tag_version(store: Store, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set (or replace) tags of a version."""
    api = client(store)
    for key, value in tags.items():
        api.set_model_version_tag(name, str(version), key, str(value))


def tag_decision(store: Store, name: str, version: str, promote: bool, reason: str) -> None:
    """Write the gate's answer on the version."""
    tag_version(store, name, version, {DECISION: "promoted" if promote else "kept", f"{DECISION}_reason": reason})


def move_champion(
    store: Store, name: str, version: str, reason: str, *, action: str = "promote", against: str | None = _ANY
) -> LedgerEntry:
    """Make `version` champion and the old champion `previous`; write reason and ledger. Repeatable.

    against: the champion that the gate compared with (None: there was none); RegistryError when somebody
    moved it meanwhile, or when the new version's logged model is not READY.
    """
    names = store.config.aliases
    with store_lock(store):
        require_ready(store, get_version(store, name, version).model_id)
        held = aliases(store, name)
        old = held.get(names.champion)
        if old != version:
            if against not in (_ANY, old):
                raise RegistryError(
                    f"the champion of {name} is version {old or 'none'}, the gate compared with "
                    f"{against or 'none'}: run the gate again"
                )
            if old is not None:
                set_alias(store, name, names.previous, old)
            set_alias(store, name, names.champion, version)
        if held.get(names.challenger) == version:
            client(store).delete_registered_model_alias(name, names.challenger)
        past = ledger(store, name)
        if past and past[-1].version == version:
            return past[-1]
        replaced = old if old != version else held.get(names.previous)
        return _write_entry(store, name, len(past) + 1, action, version, replaced, reason)


def rollback(store: Store, name: str, reason: str) -> LedgerEntry:
    """Return to the last champion that was never rolled back, and hold further promotions.

    Raises InputError when there is no champion or none to return to.
    """
    current = version_of_alias(store, name, store.config.aliases.champion)
    target = rollback_target(ledger(store, name), current)
    if target is None:
        raise InputError(f"{name} has no champion before version {current} to roll back to")
    client(store).set_registered_model_tag(name, HOLD, f"rolled back from version {current}: {reason}")
    return move_champion(store, name, target, reason, action="rollback", against=current)


def rollback_target(entries: tuple[LedgerEntry, ...], current: str) -> str | None:
    """The latest version in the ledger that is neither `current` nor was ever rolled back, or None."""
    rejected = rolled_back(entries) | {current}
    return next((e.version for e in reversed(entries) if e.version not in rejected), None)


def rolled_back(entries: tuple[LedgerEntry, ...]) -> set[str]:
    """Versions that a rollback took down."""
    return {e.replaced for e in entries if e.action == "rollback" and e.replaced is not None}


def ledger(store: Store, name: str) -> tuple[LedgerEntry, ...]:
    """Every move of the champion, oldest first."""
    model = _model(store, name)
    tags = {} if model is None else model.tags
    return tuple(LedgerEntry(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(LEDGER))


def hold(store: Store, name: str) -> str | None:
    """Why promotions are on hold, or None."""
    model = _model(store, name)
    return None if model is None else model.tags.get(HOLD)


def release_hold(store: Store, name: str) -> None:
    """Lift the hold; nothing happens when there is none."""
    if hold(store, name) is not None:
        client(store).delete_registered_model_tag(name, HOLD)


def describe(found: Any, was_found: bool = True) -> RegisteredVersion:
    """MLflow's ModelVersion as our value."""
    return RegisteredVersion(
        name=found.name,
        version=str(found.version),
        model_uri=f"models:/{found.name}/{found.version}",
        run_id=found.run_id or "",
        model_id=found.tags.get(MODEL_ID) or str(found.model_id or ""),  # a search leaves model_id empty
        tags=dict(found.tags),
        created_ms=int(found.creation_timestamp or 0),
        was_found=was_found,
    )


def require_ready(store: Store, model_id: str) -> None:
    """Raise RegistryError unless the logged model is READY."""
    # create_model_version takes a FAILED logged model, and aliases move to it: only loading fails (measured).
    status = str(client(store).get_logged_model(model_id).status)
    if status != _READY:
        raise RegistryError(f"logged model {model_id} is {status}, wanted {_READY}: register the run again")


def _write_entry(
    store: Store, name: str, number: int, action: str, version: str, replaced: str | None, reason: str
) -> LedgerEntry:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = LedgerEntry(number=number, action=action, version=version, replaced=replaced, reason=reason, at=at)
    tag_decision(store, name, version, True, f"{action}: {reason}")
    client(store).set_registered_model_tag(name, f"{LEDGER}{number:06d}", json.dumps(asdict(entry)))
    return entry


def _model(store: Store, name: str) -> Any:
    ensure_store(store)
    found = client(store).search_registered_models(f"name = '{name}'", max_results=1)
    return found[0] if found else None
