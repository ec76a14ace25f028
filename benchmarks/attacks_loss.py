"""A loss that would pass for a beginning: registries emptied, cut off, swapped; homes moved and copied.

Each attack works on a restored home of an earlier release (tests/homes), whose registry has a champion.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from attacks import OPEN, REFUSED, Attack
from old_home import HOMES, MODEL, opened, restored

from bertft_core.base.errors import LostError, StorageError
from bertft_core.config.store import Store, load_mlflow_config
from bertft_core.registry import aliases, artifacts, overrides, remembered
from bertft_core.registry.decision import require_comparable
from bertft_core.search.storage import open_storage
from bertft_core.tracking import store as tracking
from flows.history import require_history


def said(act: Callable[[], object]) -> str:
    """What an act was refused with, at once and in one line."""
    begun = time.monotonic()
    try:
        act()
    except (LostError, StorageError) as fault:
        is_told = (
            "\n" not in str(fault) and "SELECT" not in str(fault) and time.monotonic() - begun < 120
        )  # MLflow tries for an hour
        return f"{REFUSED if is_told else OPEN}: {fault}"
    return f"{OPEN}: nothing was said"


def damaged_registry(damage: Callable[[Path], object]) -> Callable[[Path], str]:
    """Changes the file before the first command opens it; a night asks before it trains."""

    def attack(folder: Path) -> str:
        home = restored(folder)
        damage(home / "mlflow.db")
        return said(lambda: require_comparable(opened(home), MODEL))

    return attack


def changed_registry(change: Callable[[Store], object]) -> Callable[[Path], str]:
    """Changes the registry after the home has seen its champion."""

    def attack(folder: Path) -> str:
        store = opened(restored(folder))
        require_comparable(store, MODEL)
        change(store)
        return said(lambda: require_comparable(store, MODEL))

    return attack


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 60_000):
        content[place] ^= 0xFF
    file.write_bytes(content)


def newer(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = 'feed0facecafe'")


def lose_ledger(store: Store) -> None:
    with sqlite3.connect(Path(store.home) / "mlflow.db") as database:
        database.execute("delete from registered_model_tags")


def lose_version(store: Store) -> None:
    tracking.client(store).delete_model_version(MODEL, "1")


def lose_files(store: Store) -> None:
    shutil.rmtree(Path(store.home) / "artifacts" / "models" / aliases.get_version(store, MODEL, "1").model_id)


def forced_past(folder: Path) -> str:
    """promote --force, rollback and resume on a registry that lost everything."""
    home = restored(folder)
    (home / "mlflow.db").write_bytes(b"")
    store = opened(home)
    acts: list[Callable[[], object]] = [
        lambda: overrides.force(store, MODEL, "1", "because"),
        lambda: overrides.rollback(store, MODEL, "because"),
        lambda: overrides.resume(store, MODEL, "because"),
    ]
    return next((text for act in acts if (text := said(act)).startswith(OPEN)), f"{REFUSED}: all three")


def swapped(folder: Path) -> str:
    """The address of another registry, in which nothing is."""
    store = opened(restored(folder))
    require_comparable(store, MODEL)
    uri = f"sqlite:///{folder / 'other.db'}"
    settings = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": uri})
    return said(lambda: require_comparable(tracking.open_store(settings, store.home), MODEL))


def damaged_studies(folder: Path) -> str:
    file = folder / "search" / "studies.db"
    file.parent.mkdir()
    file.write_bytes(b"no database at all\n" * 500)
    return said(lambda: open_storage(None, folder))


def damaged_history(folder: Path) -> str:
    (folder / "prefect.db").write_bytes(b"no database at all\n" * 500)
    return said(lambda: require_history(folder))


def written_into_the_original(folder: Path) -> str:
    """A copy at work while the original is alive."""
    home = restored(folder / "first")
    shutil.copytree(home, folder / "copy")
    files = {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    store = opened(folder / "copy")
    run = tracking.find_or_create_run(store, "attack", "final")
    tracking.log_files(store, run, [HOMES / "format_1.json"])
    tracking.finish_run(store, run)
    is_same = files == {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    return f"{REFUSED}: the original is as it was" if is_same else f"{OPEN}: the copy wrote into the original"


def lost_on_the_way(folder: Path) -> str:
    """A home moved elsewhere: is its champion still found, and remembered?"""
    shutil.move(restored(folder / "first"), folder / "second")
    store = opened(folder / "second")
    require_comparable(store, MODEL)
    served = artifacts.resolve_model(store, f"models:/{MODEL}@champion").folder
    is_here = served.is_relative_to(folder / "second") and (served / "model.safetensors").exists()
    is_known = remembered.recall(store, MODEL)[0].version == "1"
    return f"{REFUSED}: it serves and is remembered" if is_here and is_known else f"{OPEN}: {served}, {is_known}"


_LOST = "the registry has lost the model, nothing is trained or promoted"
_LINE = "one line with file and remedy, no SQL"
ATTACKS = [
    Attack(10, "an empty mlflow.db", _LOST, damaged_registry(lambda file: file.write_bytes(b""))),
    Attack(10, "mlflow.db deleted", _LOST, damaged_registry(lambda file: file.unlink())),
    Attack(10, "--force, rollback, resume on an empty registry", _LOST, forced_past),
    Attack(10, "another registry's address", "both addresses named, `bertft adopt`", swapped),
    Attack(10, "the ledger's tags deleted", _LOST, changed_registry(lose_ledger)),
    Attack(10, "the champion's version deleted", "told before a training", changed_registry(lose_version)),
    Attack(10, "the champion's files deleted", "told before a training", changed_registry(lose_files)),
    Attack(
        10,
        "the alias taken off",
        "told before a training",
        changed_registry(lambda store: aliases.drop_alias(store, MODEL, "champion")),
    ),
    Attack(10, "mlflow.db is no database", _LINE, damaged_registry(lambda file: file.write_bytes(b"hello\n" * 2000))),
    Attack(10, "half of mlflow.db", _LINE, damaged_registry(lambda file: os.truncate(file, 300_000))),
    Attack(10, "60,000 flipped bytes in mlflow.db", _LINE, damaged_registry(flip)),
    Attack(10, "mlflow.db of a newer MLflow", _LINE, damaged_registry(newer)),
    Attack(10, "studies.db is no database", _LINE, damaged_studies),
    Attack(10, "prefect.db is no database", _LINE, damaged_history),
    Attack(12, "a copy at work beside its original", "nothing is written into the original", written_into_the_original),
    Attack(12, "a home moved elsewhere", "its champion is found and remembered", lost_on_the_way),
]
