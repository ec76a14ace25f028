"""Versions and aliases of a registered model: what there is, and what points at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertft_core.base.errors import InputError, RegistryError
from bertft_core.config.store import Store
from bertft_core.registry.description import first_description
from bertft_core.tracking.store import all_pages, client, ensure_store, literal, logged_model_status

RUN_ID = "bertft.run_id"
MODEL_ID = "bertft.model_id"  # a search for versions leaves MLflow's own model_id empty
MACHINE = "bertft.machine"  # precision, device and threads of the fit, for people
PARENT = "bertft.parent"  # the version that this one is a cheaper form of
FILES = "bertft.files"  # digest of what a version loads (`files.digest`)
READY = "READY"


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


def versions(store: Store, name: str) -> tuple[RegisteredVersion, ...]:
    """All versions of a registered model, oldest first; none when there is no such model."""
    api, query = client(store), f"name = {literal(name)}"
    models = all_pages(lambda token: api.search_model_versions(query, max_results=200, page_token=token))
    return tuple(sorted(map(describe, models), key=lambda v: int(v.version)))


def find(store: Store, name: str, version: str) -> RegisteredVersion | None:
    """One version, or None when there is none (any more)."""
    if not str(version).isascii() or not str(version).isdigit():
        return None
    query = f"name = {literal(name)} and version_number = {version}"
    matches = client(store).search_model_versions(query, max_results=1)
    return describe(matches[0]) if matches else None


def get_version(store: Store, name: str, version: str) -> RegisteredVersion:
    """One version. Raises InputError naming the versions there are."""
    known = find(store, name, version)
    if known is None:
        listed = ", ".join(v.version for v in versions(store, name)) or "none"
        raise InputError(f"{name} has no version {version} in {store}; versions: {listed}")
    return known


def tags_and_aliases(store: Store, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The tags of a registered model, and alias -> version; both empty when there is no such model."""
    model = _model(store, name)
    return ({}, {}) if model is None else (dict(model.tags), {k: str(v) for k, v in model.aliases.items()})


def aliases(store: Store, name: str) -> dict[str, str]:
    """alias -> version of a registered model; empty when there is no such model."""
    return tags_and_aliases(store, name)[1]


def version_of_alias(store: Store, name: str, alias: str) -> str:
    """The version behind `alias`. Raises InputError naming the aliases there are."""
    known = aliases(store, name)
    if alias not in known:
        listed = ", ".join(f"{k} -> {v}" for k, v in sorted(known.items())) or "none"
        raise InputError(f"{name} has no alias {alias} in {store}; aliases: {listed}")
    return known[alias]


def champion(store: Store, name: str) -> str | None:
    """The champion's version, or None when there is none yet."""
    return aliases(store, name).get(store.config.aliases.champion)


def set_alias(store: Store, name: str, alias: str, version: str) -> None:
    """Point `alias` at `version` and read it back. Raises RegistryError when it does not hold."""
    get_version(store, name, version)
    client(store).set_registered_model_alias(name, alias, str(version))
    if aliases(store, name).get(alias) != str(version):
        raise RegistryError(f"alias {alias} of {name} should be version {version}: another process moved it")


def drop_alias(store: Store, name: str, alias: str) -> None:
    """Take `alias` off the model."""
    client(store).delete_registered_model_alias(name, alias)


def require_model(store: Store, name: str) -> None:
    """Raise InputError, naming the registered models there are, unless `name` is one."""
    if _model(store, name) is None:
        listed = ", ".join(model_names(store)) or "none"
        raise InputError(f"there is no registered model {name} in {store}; registered models: {listed}")


def ensure_model(store: Store, name: str) -> None:
    """Make the registered model where it is missing; its description says that it has no champion yet."""
    from mlflow.exceptions import MlflowException

    try:
        client(store).create_registered_model(name, description=first_description(store, name))
    except MlflowException as fault:
        if fault.error_code not in {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}:
            raise RegistryError(f"registered model {name!r}: {fault}") from fault


def model_names(store: Store, with_tag: str | tuple[str, ...] = "") -> tuple[str, ...]:
    """Every registered model's name, sorted. with_tag: only of models that have a tag whose key begins so."""
    api = client(store)
    models = all_pages(lambda token: api.search_registered_models(max_results=100, page_token=token))
    return tuple(sorted(str(m.name) for m in models if not with_tag or any(key.startswith(with_tag) for key in m.tags)))


def tag_model(store: Store, name: str, tags: Mapping[str, str]) -> None:
    """Set (or replace) tags of a registered model."""
    for key, value in tags.items():
        client(store).set_registered_model_tag(name, key, value)


def tag_version(store: Store, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set (or replace) tags of a version."""
    api = client(store)
    for key, value in tags.items():
        api.set_model_version_tag(name, str(version), key, str(value))


def describe(version: Any, *, was_found: bool = True) -> RegisteredVersion:
    """MLflow's ModelVersion as a RegisteredVersion."""
    return RegisteredVersion(
        name=version.name,
        version=str(version.version),
        model_uri=f"models:/{version.name}/{version.version}",
        run_id=version.run_id or "",
        model_id=version.tags.get(MODEL_ID) or str(version.model_id or ""),  # a search leaves model_id empty
        tags=dict(version.tags),
        created_ms=int(version.creation_timestamp or 0),
        was_found=was_found,
    )


def require_ready(store: Store, model_id: str) -> None:
    """Raise RegistryError unless the logged model is READY."""
    # create_model_version takes a FAILED logged model, and aliases move to it: only loading fails (measured).
    status = logged_model_status(store, model_id)
    if status != READY:
        raise RegistryError(f"logged model {model_id} is {status}, wanted {READY}: register the run again")


def _model(store: Store, name: str) -> Any:
    ensure_store(store)
    matches = client(store).search_registered_models(f"name = {literal(name)}", max_results=1)
    return matches[0] if matches else None
