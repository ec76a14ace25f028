"""Registered versions as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.base.display import masked
from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import load_array
from bertft_core.base.names import alias_name, checked, file_name, model_name, version_number
from bertft_core.base.records import parse_record
from bertft_core.config.store import Store
from bertft_core.registry.aliases import RUN_ID, RegisteredVersion, get_version, version_of_alias
from bertft_core.registry.evaluation_folder import EVIDENCE, TRAIN_ROWS
from bertft_core.serving.artifact import CARD, ONNX_FILE, ArtifactCard, read_card
from bertft_core.tracking.store import download_files, list_files, logged_model_location

EVIDENCE_FOLDER = "evidence"  # of a logged model, and below BERTFT_HOME
SCRATCH = ".scratch-"  # folders of a command below BERTFT_HOME; a kill leaves them


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What answers. uri: models:/NAME/VERSION or a folder. run_id: of the run that made it, None where nobody knows."""

    uri: str
    run_id: str | None
    folder: Path


def resolve_model(store: Store, model: str) -> ServedModel:
    """A models:/ URI with its alias resolved, and the served folder downloaded once below BERTFT_HOME/served.

    A local artefact folder is returned as it is. Raises InputError when there is no such version.
    """
    if not model.startswith("models:/"):
        if not (Path(model) / CARD).is_file():
            raise InputError(f"--model {model}: no artefact folder (no {CARD}); wanted one, or models:/NAME@champion")
        return ServedModel(uri=model, run_id=None, folder=Path(model))
    version = parse_uri(store, model)
    folder = Path(store.home) / "served" / file_name(version.model_id)
    served = download_model(store, version.model_uri, folder)
    return ServedModel(uri=version.model_uri, run_id=version.tags.get(RUN_ID), folder=served)


def download_model(store: Store, model_uri: str, folder: Path | str) -> Path:
    """Download a version's served folder (what `Predictor.load` reads) below `folder`; returns its path.

    model_uri: models:/NAME/VERSION or models:/NAME@ALIAS. Raises InputError when there is no such version.
    """
    version = parse_uri(store, model_uri)
    root = download_files(store, version.model_id, "artifacts", folder)
    folders = sorted(p.parent for p in root.rglob(CARD))
    if not folders:
        raise ArtifactError(f"{model_uri} holds no bertft.json: it was not logged by bertft")
    return folders[0]


def read_served_card(store: Store, name: str, version: str) -> ArtifactCard:
    """bertft.json of a version, without its weights. Raises ArtifactError when it is not there."""
    model_id = get_version(store, name, version).model_id
    inside = [f for f in list_files(store, model_id, "artifacts") if f.endswith(f"/{CARD}")]
    if not inside:
        raise ArtifactError(f"version {version} of {name} holds no {CARD}: it was not logged by bertft, or is damaged")
    return read_card(download_files(store, model_id, inside[0], _evidence(store, model_id)).parent)


def require_files(store: Store, version: RegisteredVersion) -> None:
    """Raise ArtifactError unless card and weights of a version are where the store says; nothing is downloaded."""
    names = list_files(store, version.model_id, "artifacts")
    wanted = {CARD: (CARD,), "weights": (".safetensors", ONNX_FILE)}
    if missing := [what for what, ends in wanted.items() if not any(name.endswith(ends) for name in names)]:
        where = masked(str(logged_model_location(store, version.model_id)))
        raise ArtifactError(f"its files are gone from {where} (no {', no '.join(missing)})")


def download_evidence(store: Store, name: str, version: str, file: str = EVIDENCE) -> Path:
    """Download one evidence file of a version; it stays below BERTFT_HOME/evidence."""
    model_id = get_version(store, name, version).model_id
    return download_files(store, model_id, f"{EVIDENCE_FOLDER}/{file}", _evidence(store, model_id))


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """The keys of evidence.json without which a version cannot be judged again (recipe/release writes it)."""

    config: dict[str, Any]
    base_dir: str
    test_rows: str
    classes: tuple[Any, ...]
    weights: str
    folder: str


def read_evidence(store: Store, name: str, version: str) -> dict[str, Any]:
    """The evidence.json of a version, downloaded. Raises ArtifactError where the registry has none that can be read."""
    return evidence_in(download_evidence(store, name, version))


def evidence_in(file: Path) -> dict[str, Any]:
    """An evidence.json, checked. Raises DamagedFile."""
    text = file.read_bytes()
    parse_record(text, _Evidence, str(file), "register the model anew with `bertft run --again`")
    return dict(json.loads(text))


def trained_on(store: Store, name: str, version: str) -> Any:
    """Fingerprints of the rows that a version was trained on, uint64, sorted; None where its evidence does not say."""
    try:
        return load_array(download_evidence(store, name, version, TRAIN_ROWS))
    except ArtifactError:
        return None


def _evidence(store: Store, model_id: str) -> Path:
    return Path(store.home) / EVIDENCE_FOLDER / file_name(model_id)  # the id may be what a tag of the registry says


def parse_uri(store: Store, uri: str) -> RegisteredVersion:
    """The version of models:/NAME/VERSION or models:/NAME@ALIAS. Raises InputError when there is none."""
    text = uri.removeprefix("models:/")
    name, at, alias = text.rpartition("@")
    if at and "/" not in alias:  # else of a name with @
        checked(model_name, name, f"model {uri[:80]!r}: its name")
        checked(alias_name, alias, f"model {uri[:80]!r}: its alias")
        return get_version(store, name, version_of_alias(store, name, alias))
    name, slash, version = text.rpartition("/")
    if not slash or text == uri:
        raise InputError(f"model {uri[:80]!r}: wanted models:/NAME/VERSION or models:/NAME@ALIAS")
    checked(model_name, name, f"model {uri[:80]!r}: its name")
    checked(version_number, version, f"model {uri[:80]!r}: its version")
    return get_version(store, name, version)
