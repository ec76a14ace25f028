"""The board of a home: what its registry, its nights and its disk say of every model, as one page.

The page is a look from outside: it mends nothing, moves no alias and makes no registry; what cannot be read is said.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bertft_core.base.addresses import sqlite_file
from bertft_core.base.display import masked
from bertft_core.base.errors import fault_text
from bertft_core.base.files import write_text
from bertft_core.base.home import board_file
from bertft_core.config.store import Store
from bertft_core.recipe.board.model import Witnesses, results_of, seen
from bertft_core.recipe.nights.log import NightLog
from bertft_core.registry import ledger, remembered
from bertft_core.reporting.board.document import board_html
from bertft_core.reporting.board.page import BoardPage
from bertft_core.tracking.store import ensure_store


def refresh_board(store: Store, say: Callable[[str], None], fault: str = "") -> None:
    """`write_board`; whatever goes wrong is said and changes nothing else: a page fails no night."""
    try:
        write_board(store, fault)
    except Exception as error:  # whatever the disk or the registry's client raises
        say(f"warning: the board is not written ({fault_text(error)[:200]})")


def write_board(store: Store, fault: str = "") -> BoardPage:
    """Write BERTFT_HOME/board.html, whole or not at all, mode 0600; returns what it shows.

    fault: why the registry is not asked, where the caller found out already. Raises OSError.
    """
    page = read_board(store, fault)
    write_text(board_file(Path(store.home)), board_html(page))
    return page


def read_board(store: Store, fault: str = "") -> BoardPage:
    """What the board shows; `fault` as for `write_board`. Without a registry, or where it does not answer: the home."""
    home = Path(store.home)
    names = {*remembered.models(home)}
    is_absent = _is_absent(store)
    if is_absent and names:
        fault = f"there is none at {masked(store.registry_uri)}, and this home remembers champions in it; restore it"
    try:
        if not fault and not is_absent:
            ensure_store(store)
            names |= {*ledger.models(store)}
    except Exception as error:  # whatever its client raises
        fault = fault_text(error)
    logs: dict[str, list[NightLog]] = {}
    for file in sorted((home / "nights").glob("*.jsonl")):
        logs.setdefault(store.config.model_name(file.stem), []).append(NightLog(home, file.stem))
    results = results_of(home)
    cards = [
        seen(
            store,
            name,
            Witnesses(logs=tuple(logs.get(name, ())), results=results),
            is_asked=not fault and not is_absent,
        )
        for name in sorted({*names, *logs})
    ]
    if fault:
        cards = [replace(card, is_read=False) for card in cards]
    return BoardPage(
        written=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        home=str(home),
        registry=masked(store.registry_uri) + (" (none yet)" if is_absent and not fault else ""),
        models=tuple(sorted(cards, key=lambda card: (not card.waiting, card.name))),
        faults=(f"The registry is not shown: {fault}",) if fault else (),
        disk=tuple(sorted((part for part in _sizes(home) if part[1]), key=lambda part: -part[1])),
        free=shutil.disk_usage(home).free,
    )


def _is_absent(store: Store) -> bool:
    """Whether the registry is a database of sqlite that does not exist: asking it would make one."""
    file = sqlite_file(store.registry_uri)
    return file is not None and not (file.exists() and file.stat().st_size)


def _sizes(home: Path) -> Iterator[tuple[str, int]]:
    """(folder, bytes) of everything below a home; files in no folder are one part."""
    loose = 0
    for entry in os.scandir(home):
        if entry.is_dir(follow_symlinks=False):
            yield entry.name, sum(_bytes(Path(folder, file)) for folder, _, files in os.walk(entry) for file in files)
        else:
            loose += _bytes(Path(entry.path))
    yield "files in no folder (databases)", loose


def _bytes(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # removed meanwhile
        return 0
