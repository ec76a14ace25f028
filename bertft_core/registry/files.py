"""The files of a version, code and weights, held to the digest that they were registered with before they answer."""

from __future__ import annotations

import logging
from pathlib import Path

from bertft_core.base.errors import ArtifactError
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.base.names import file_name
from bertft_core.config.store import Store
from bertft_core.registry import aliases, artifacts, ledger
from bertft_core.tracking.store import download_files

_LOGGER = logging.getLogger(__name__)
_NOT_RUN = (artifacts.EVIDENCE_FOLDER, "registered_model_meta")  # what nobody loads, or MLflow adds on a download
_SAID: set[tuple[str, str]] = set()  # versions that this process has called unverified


def digest(folder: Path) -> str:
    """sha256 over names and bytes of what a logged model's folder holds: MLmodel, model file, code, weights."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    named = [(path.relative_to(folder), path) for path in files]
    return hash_json([[str(name), hash_file(path)] for name, path in named if name.parts[0] not in _NOT_RUN])


def fetch(store: Store, uri: str, folder: Path, *, is_forced: bool = False) -> Path:
    """A copy of a version's files below `folder`, which hash as its registration and its ledger say.

    A version of an earlier release has no digest: that is logged, once. is_forced: files that hash otherwise are taken
    for the version's own from now on. Raises ArtifactError where they do, or cannot be had.
    """
    version = artifacts.parse_uri(store, uri)
    copy = download_files(store, version.model_id, "", folder / file_name(version.model_id))
    found, at_registration = digest(copy), version.tags.get(aliases.FILES, "")
    decided = [e.files for e in ledger.read(store, version.name) if e.version == version.version and e.files]
    known = {at_registration, decided[-1]} if decided else {at_registration}
    if known == {found}:
        return copy
    if known == {""} and not is_forced:
        if (version.name, version.version) not in _SAID:
            _SAID.add((version.name, version.version))
            _LOGGER.warning("%s is unverified: it was registered before digests of files were kept", version)
        return copy
    if not is_forced:
        raise ArtifactError(
            f"{version} does not answer: its files hash as {found[:12]}, registered were "
            f"{' and '.join(sorted(one[:12] or 'none' for one in known))}. They were changed in the artefact store: "
            f"put back what was registered, register the run again (`bertft run CONFIG --again`), or, where you know "
            f'these files, `bertft promote {version.name} {version.version} --force --reason "…"`'
        )
    aliases.tag_version(store, version.name, version.version, {aliases.FILES: found})
    return copy
