"""The whole examination: each check by itself, so that one that falls over hides no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bertft_core.base.addresses import sqlite_file
from bertft_core.base.errors import InputError, fault_text
from bertft_core.base.locks import alone_in
from bertft_core.base.packages import OURS, WAYS_OUT, hiding
from bertft_core.config.store import MlflowConfig, Store
from bertft_core.recipe.doctor import home as home_checks
from bertft_core.recipe.doctor import registry as registry_checks
from bertft_core.recipe.doctor.finding import ERROR, NOTE, Finding
from bertft_core.recipe.runs import RunFolder


def examine(
    home: Path, config: MlflowConfig, say: Callable[[str], None] = lambda line: None, *, repair: bool
) -> dict[str, Any]:
    """Check a home and the registry that it works with; with `repair`, mend what can be mended without a loss.

    Nothing is made or changed without `repair`, and nothing that anybody could want to see is deleted with it: a broken
    file stays as NAME.broken. is_sound: no error and no warning is left. Raises InputError where there is no home,
    BusyError when a command works in it, with `repair` only.
    """
    if not home.is_dir():
        raise InputError(f"BERTFT_HOME {home} is no folder: nothing to check; the first command makes one")
    if repair and not os.access(home, os.W_OK):
        raise InputError(f"BERTFT_HOME {home} cannot be written: without --repair it is checked as it is")
    found: list[dict[str, Any]] = []
    with alone_in(home) if repair else nullcontext():
        for finding in _findings(home, config):
            mended = ""
            if repair and finding.repair is not None:
                try:
                    mended = finding.repair()
                except Exception as fault:  # the next finding may still be mended
                    say(f"{finding.where} is not mended: {fault_text(fault)}")
            say(
                f"{finding}"
                + (f"; mended: {mended}" if mended else f"; to do: {finding.remedy}" * bool(finding.remedy))
            )
            found.append(
                {
                    "severity": finding.severity,
                    "where": finding.where,
                    "found": finding.found,
                    "remedy": finding.remedy,
                    "repairs_itself": finding.repair is not None,
                    "mended": mended,
                }
            )
    left = [one for one in found if one["severity"] != NOTE and not one["mended"]]
    return {"home": str(home), "repaired": repair, "is_sound": not left, "findings": found}


def _findings(home: Path, config: MlflowConfig) -> Iterator[Finding]:
    for check in (
        home_checks.stamp,
        home_checks.small_files,
        home_checks.nights,
        home_checks.contents,
        home_checks.databases,
        home_checks.studies,
        home_checks.left_behind,
    ):
        yield from _isolated(check.__name__, partial(check, home))
    yield from _isolated("the registry", partial(_registry, home, config))
    yield from _isolated("the working directory", _names)


def _names() -> Iterator[Finding]:
    """Folders here that have the name of a package of ours."""
    for name in OURS:
        if other := hiding(name, [str(Path.cwd())]):
            found = f"hides bertft's package {name} where this folder comes first on Python's path"
            yield Finding(severity=NOTE, where=str(other), found=found, remedy=WAYS_OUT)


def _registry(home: Path, config: MlflowConfig) -> Iterator[Finding]:
    store = config.store(home)
    file = sqlite_file(store.registry_uri)
    if file is not None and not (file.exists() and file.stat().st_size):  # looking at it would make one
        made = [f.path.name for f in map(RunFolder, sorted((home / "runs").glob("[!.]*/"))) if f.result.exists()]
        severity, what = (
            (ERROR, f"runs {', '.join(made[:3])} registered versions in it") if made else (NOTE, "none yet")
        )
        yield Finding(severity=severity, where=str(file), found=f"no registry: {what}", remedy="put its backup there")
        return
    if file is not None and home_checks.damage(file):
        return  # said by the check of databases where it lies in the home
    yield from _isolated("the models of the registry", partial(_models, store))
    yield from _isolated("registered files", partial(registry_checks.files, store))


def _models(store: Store) -> Iterator[Finding]:
    return registry_checks.registry(store)


def _isolated(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as fault:
        yield Finding(severity=ERROR, where=name, found=f"could not be checked to its end: {fault_text(fault)}")
