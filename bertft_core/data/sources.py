"""Where rows come from: packages, files, folders, Hugging Face data sets; checked file by file."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.addresses import is_elsewhere
from bertft_core.base.display import masked
from bertft_core.base.errors import BertftError, ConfigError, DataError, fault_text
from bertft_core.base.hashes import hash_folder
from bertft_core.data.compressed import SUFFIXES, is_compressed, only_file, open_bytes, reading, table_name, zip_names
from bertft_core.data.delimited import Dialect, dialect_of
from bertft_core.data.elsewhere import fetch
from bertft_core.data.encodings import ByteMarks

if TYPE_CHECKING:
    from bertft_core.config.run import DataConfig


KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A Hugging Face data set: a hub id, or a local folder that `datasets` reads; split None = all."""

    name: str
    split: str | None
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source. kind: csv, jsonl, parquet, document (one .txt = one row) or hub."""

    name: str
    path: Path
    kind: str
    encoding: str | None
    digest: str
    hub: HubDataset | None = None
    dialect: Dialect | None = None  # of csv


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How tables like these are read where their own content allows several ways: what a version was trained with."""

    encoding: str | None = None
    delimiter: str | None = None
    quoting: str = "auto"


def resolve_package(text: str, key: str = "data.source") -> Path:
    """The path behind package://NAME/path, found without importing NAME.

    Raises DataError (ConfigError when `key` is no data key) if the package or the path in it is missing.
    """
    error: type[BertftError] = DataError if key.startswith("data.") else ConfigError
    match = re.match(r"^package://([A-Za-z_]\w*)(?:/(.*))?$", text)
    if not match or ".." in Path(match[2] or "").parts:
        raise error(f"{key}: wanted package://NAME/path with a top-level package name, found {text!r}")
    name, inside = match[1], match[2] or ""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise error(f"{key}: {text!r}: package {name} is not installed here; install it or give a path")
    for place in places:
        if (Path(place) / inside).exists():
            return Path(place) / inside
    raise error(f"{key}: {text!r}: package {name} is installed but holds no {inside!r}")


def resolve_source(
    text: str, base_dir: Path, key: str = "data.source", *, query: str | None = None, copies: Path | None = None
) -> Path | HubDataset:
    """The place of package://NAME/path, hf://owner/name[#split], hf:///folder, a path (from base_dir), or elsewhere.

    query: data.query. copies: the folder for a copy of what lies elsewhere, the caller's to remove; None refuses it.
    Raises DataError naming the key when there is nothing at that place.
    """
    if text.startswith("package://"):
        return resolve_package(text, key)
    if text.startswith("hf://"):
        name, _, split = text.removeprefix("hf://").partition("#")
        is_folder = name.startswith(("/", "./", "../", "~"))
        folder = (base_dir / Path(name).expanduser()).resolve() if is_folder else None
        if not name or (folder is not None and not folder.is_dir()):
            raise DataError(f"{key}: {text!r}: no such folder; wanted hf://owner/name or hf:///existing/folder")
        return HubDataset(name=name, split=split or None, folder=folder)
    if is_elsewhere(text):
        if copies is None:
            raise DataError(f"{key}: {masked(text)} lies elsewhere: wanted a file, a folder, package:// or hf://")
        return fetch(text, query, base_dir, copies, key)
    path = (base_dir / Path(text).expanduser()).resolve()
    if not path.exists():
        raise DataError(f"{key}: {text!r}: no such file or folder (looked at {path})")
    return path


def inspect_source(source: Path | HubDataset, config: DataConfig, usual: Reading = Reading()) -> tuple[SourceFile, ...]:
    """Every file of a source with its digest and encoding (data.encoding, else `ByteMarks.encoding`, file by file).

    Raises DataError for an empty file, binary content, an unknown encoding, an unknown suffix, a folder without rows.
    """
    for name in (config.encoding, usual.encoding):
        try:
            codecs.lookup(name or "utf-8")
        except LookupError:
            raise DataError(f"data.encoding: {name!r} is no encoding Python knows; try utf-8 or cp1252") from None
    if isinstance(source, HubDataset):
        files = []
        folder_digest = hash_folder(source.folder) if source.folder else None
        for split, dataset in open_hub(source).items():
            digest = folder_digest or _hash_cache(dataset.cache_files)
            path, part = source.folder or Path(source.name), replace(source, split=split)
            files.append(SourceFile(name=split, path=path, kind="hub", encoding=None, digest=digest, hub=part))
        return tuple(files)
    if source.is_file():
        kind = kind_of(source)
        if kind is None and source.suffix.lower() == ".zip":
            only_file(source, zip_names(source))
        if kind is None:
            raise DataError(
                f"{source.name}: unknown suffix {Path(table_name(source)).suffix!r}; wanted {', '.join(KINDS)}, each "
                f"alone or with {', '.join(SUFFIXES)}, or a folder"
            )
        return (_inspect_file(source, source.name, kind, config, usual),)
    if any((source / name).exists() for name in ("dataset_dict.json", "state.json")):
        raise DataError(f"{source.name}: a folder saved by `datasets`; write hf://{source} to read it")
    documents = sorted(p for p in source.glob("*/*.txt") if p.is_file() and not p.parent.name.startswith("."))
    if documents:
        return tuple(_inspect_file(p, f"{p.parent.name}/{p.name}", "document", config, usual) for p in documents)
    tables = {path: kind for path in sorted(source.iterdir()) if path.is_file() and (kind := kind_of(path))}
    if not tables:
        raise DataError(
            f"{source.name}: the folder holds neither class folders with .txt files nor files of {', '.join(KINDS)}"
        )
    return tuple(_inspect_file(path, path.name, kind, config, usual) for path, kind in tables.items())


def kind_of(path: Path) -> str | None:
    """csv, jsonl or parquet by the file's suffix, below the one of its compression; None for another suffix."""
    return KINDS.get(Path(table_name(path)).suffix.lower())


def _inspect_file(path: Path, name: str, kind: str, config: DataConfig, usual: Reading) -> SourceFile:
    """One pass over the bytes: digest and encoding. A document is read as it lies, and a bad one is a row's fault."""
    digest, marks, size = hashlib.sha256(), ByteMarks(), 0
    with reading(path, name):
        if kind == "parquet" and is_compressed(path):
            raise DataError(f"{name}: Parquet is compressed inside: unpack it")
        with open(path, "rb") if kind == "document" else open_bytes(path) as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
                if kind != "parquet":
                    marks.add(block)
                size += len(block)
    if size == 0 and kind != "document":
        raise DataError(f"{name}: the file is empty; wanted rows")
    encoding = None if kind == "parquet" else marks.encoding(usual.encoding, stated=config.encoding)
    if kind in ("csv", "jsonl") and config.encoding is None and encoding != usual.encoding:
        marks.require_text(name)
    file = SourceFile(name=name, path=path, kind=kind, encoding=encoding, digest=digest.hexdigest())
    return replace(file, dialect=dialect_of(file, config, usual)) if kind == "csv" else file


def open_hub(hub: HubDataset) -> dict[str, Any]:
    """{split name: datasets.Dataset}. Raises DataError when the set or the split is not there."""
    import datasets

    try:
        if hub.folder is None:
            loaded = datasets.load_dataset(hub.name)
        elif any((hub.folder / n).exists() for n in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(hub.folder))
        else:
            loaded = datasets.load_dataset(str(hub.folder))
    except Exception as fault:  # datasets raises many unrelated types for "not there" and "not reachable"
        raise DataError(
            f"data.source: hf://{hub.name} cannot be loaded ({fault_text(fault)[:200]}); "
            "wanted a data set id on the hub (network needed) or a local folder"
        ) from None
    splits = {"all": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    if hub.split is None or hub.split in splits:
        return splits if hub.split is None else {hub.split: splits[hub.split]}
    raise DataError(f"data.source: hf://{hub.name} has no split {hub.split!r}; found: {', '.join(splits)}")


def _hash_cache(cache_files: list[dict[str, str]]) -> str:
    digest = hashlib.sha256()
    for entry in cache_files:
        with open(entry["filename"], "rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
