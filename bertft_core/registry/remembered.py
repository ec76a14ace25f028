"""What a home remembers of each model's champion, so that a registry that lost it is never taken for a fresh one.

home/champions/NAME.json is written whenever bertft has read a champion that the ledger explains. A home of an earlier
release has none: then the results of its runs and its log of nights tell. The registry stays the truth: where its
ledger has the entry that is remembered, whatever came after it (another home that shares the registry, a person) is
taken over; where it has not, nothing is decided until the registry is restored or `bertft adopt` accepts it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from bertft_core.base.display import masked
from bertft_core.base.errors import LostError
from bertft_core.base.files import write_json
from bertft_core.base.records import read_or_set_aside
from bertft_core.config.store import Store
from bertft_core.registry import entries
from bertft_core.registry.entries import Entries

FOLDER = "champions"  # below BERTFT_HOME
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KnownChampion:
    """The champion of a model as this home saw it last.

    version: None where an adopted registry had none. since, entry: when and by which entry of the ledger it became
    champion, ISO 8601 in UTC; entry 0: by a run of an earlier release, whose id is `run`. weights: their digest.
    registry: the address, without credentials.
    """

    version: str | None
    since: str = ""
    entry: int = 0
    weights: str = ""
    registry: str = ""
    run: str = ""

    def __str__(self) -> str:
        return f"version {self.version}{f' since {self.since}' if self.since else ''}"

    def is_explained(self, known: Entries) -> bool:
        """Whether the ledger has the entry that is remembered, or one by which this run's version became champion."""
        if self.entry:
            return any((e.number, e.at, e.to_version) == (self.entry, self.since, self.version) for e in known)
        champions = [e for e in entries.carried_out(known) if e.to_version == self.version]
        return any(not (self.run and e.run_key) or e.run_key[:12] == self.run[:12] for e in champions)


def require_explained(store: Store, name: str, known: Entries) -> None:
    """Raise LostError where this home remembers a champion of `name` that the registry's ledger does not have."""
    champions = recall(store, name)
    if not champions or any(one.version is None or one.is_explained(known) for one in champions):
        return
    lost, here = champions[-1], masked(store.registry_uri)
    if lost.registry and lost.registry != here:
        raise LostError(
            f"{here} does not know the champion of {name}, {lost}, which {lost.registry} had: set MLFLOW_TRACKING_URI "
            f"or mlflow.yaml to that registry, or `bertft adopt {name}` goes on with this one as it is"
        )
    what = f"entry {lost.entry or 'about it'} of its ledger" if known else "it"
    raise LostError(
        f"the registry has lost model {name} (champion {lost}): {what} is not in {here}; restore it, or "
        f"`bertft adopt {name}` goes on with the registry as it is"
    )


def remember(store: Store, name: str, known: Entries, champion: str | None) -> None:
    """Keep the champion that the ledger explains; a disk that refuses it gets a warning: the registry is the truth."""
    last = entries.last_change(known)
    if last is None or last.to_version != champion or not (champion or last.action == entries.ADOPTED):
        return
    here = masked(store.registry_uri)
    seen = KnownChampion(version=champion, since=last.at, entry=last.number, weights=last.weights, registry=here)
    try:
        if seen != _read(store, name):
            file = _file(store, name)
            file.parent.mkdir(exist_ok=True)
            write_json(file, asdict(seen))
    except OSError as fault:
        _LOGGER.warning("the champion of %s is not remembered in %s (%s)", name, store.home, fault.strerror)


def recall(store: Store, name: str) -> list[KnownChampion]:
    """The champion of `name` that this home remembers; of an earlier release every one there was, the latest last."""
    remembered = _read(store, name)
    return [remembered] if remembered else list(_of_earlier_releases(store, name))


def models(home: Path) -> list[str]:
    """Names of the models whose champion is remembered in a file of its own."""
    return sorted(unquote(file.stem) for file in (home / FOLDER).glob("*.json"))


def _file(store: Store, name: str) -> Path:
    return Path(store.home) / FOLDER / f"{quote(name, safe=' ')}.json"


def _read(store: Store, name: str) -> KnownChampion | None:
    return read_or_set_aside(_file(store, name), KnownChampion, "the runs and nights of this home tell in its place")


def _of_earlier_releases(store: Store, name: str) -> Iterator[KnownChampion]:
    """Champions by the results of this home's runs and by its log of nights, the latest last as far as files tell."""
    home = Path(store.home)
    for file in sorted((home / "runs").glob("[!.]*/run.json"), key=lambda file: file.stat().st_mtime):
        result = _mapping(_mapping(_text(file)).get("result"))
        if result.get("registered_model") == name and result.get("champion_after"):
            is_own = result["champion_after"] == result.get("version")
            yield KnownChampion(version=str(result["champion_after"]), run=file.parent.name if is_own else "")
    for file in (home / "nights").glob("*.jsonl"):
        if store.config.model_name(file.stem) == name:
            for night in map(_mapping, _text(file).splitlines()):
                if night.get("outcome") == "promoted" and night.get("version"):
                    run, since = str(night.get("run_id") or ""), str(night.get("started") or "")
                    yield KnownChampion(version=str(night["version"]), since=since, run=run)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mapping(value: Any) -> dict[str, Any]:
    """JSON text, or what it held, as a mapping; empty where it is none: a witness that cannot be read says nothing."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
