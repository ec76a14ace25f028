"""Claims on the next entry of a ledger, by which processes that share no lock keep out of each other's way.

Whoever is about to write an entry announces it by a tag of the registered model, reads the model again, and acts only
where nobody else has a claim and no entry came meanwhile. Of two that announce at once at least one sees the other's
claim, and whoever sees one takes its own back and begins again after a random time. So MLflow's own order of writes
decides, and two machines need no file or database in common but the registry.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping

from bertft_core.base.clock import Stamp
from bertft_core.base.errors import RegistryError
from bertft_core.base.postgres import is_postgres
from bertft_core.config.store import Store
from bertft_core.tracking.store import client

CLAIM = "bertft.claim."  # and the number of the entry: a tag of the registered model
ROUNDS = 10  # how often a process that meets others begins again
_PATIENCE_SECONDS = 60.0  # a claim that stands for so long is a killed process's: an entry takes seconds
_PAUSE_SECONDS = 0.5


class LostRace(RegistryError):
    """Another process was about to write an entry of the same ledger."""


def place(store: Store) -> str:
    """Names the home whose lock a claim was made under: under that lock, an older claim is a killed process's."""
    home = os.stat(store.home)
    return f"{Stamp.now().boot} {home.st_dev} {home.st_ino}"


def pause() -> None:
    """A random time, so that two that met do not meet again."""
    time.sleep(random.uniform(0.2, 2) * _PAUSE_SECONDS)


def wait(store: Store, name: str, read: Callable[[], Mapping[str, str]]) -> None:
    """Wait until nobody has a claim on the ledger of `name`; those of killed processes are taken off.

    read: the claims as they are now, key to place.
    """
    begun, here = time.monotonic(), place(store)
    while others := read():
        is_late = time.monotonic() - begun > _PATIENCE_SECONDS
        for key, owner in others.items():
            if is_late or owner == here:
                _drop(store, name, key)
        if not is_late:
            pause()


@contextlib.contextmanager
def claimed(store: Store, name: str, number: int, token: str) -> Iterator[set[str]]:
    """Claim entry `number` for as long as the block takes; yields the keys of the claims that are one's own.

    None is needed where every process takes the same lock, which lies in PostgreSQL (`tracking.store.store_lock`).
    """
    if is_postgres(store.tracking_uri) or is_postgres(store.registry_uri):
        yield set()
        return
    key = f"{CLAIM}{number:06d}.{token}"
    client(store).set_registered_model_tag(name, key, place(store))
    try:
        yield {key}
    finally:
        with contextlib.suppress(Exception):  # whatever MLflow raises: others take it off
            _drop(store, name, key)


def _drop(store: Store, name: str, key: str) -> None:
    client(store).delete_registered_model_tag(name, key)
