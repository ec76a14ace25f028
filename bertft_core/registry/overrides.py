"""What a person decides: force, approve, decline, roll back, resume. No Prefect: a rollback must work without it.

Each may be repeated after a kill: what was announced is finished by `settle`, and a decision that already stands is
answered, not taken twice.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import read_json
from bertft_core.config.store import Store
from bertft_core.registry import aliases, artifacts, entries, ledger
from bertft_core.registry.answers import score_in_fresh_process
from bertft_core.registry.entries import Entries, LedgerEntry
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.registry.ledger import Decision, Release, release_of

_SENTENCE = "The quick brown fox jumps over the lazy dog."
_ROWS = 8  # of a version's own test rows: enough to see that it answers
_TIMEOUT = 600.0  # seconds for loading and answering them


def already(store: Store, name: str, version: str | None) -> Release | None:
    """The promotion of `version` (default: the challenger) that stands, or that a killed process left; else None."""
    aliases.require_model(store, name)
    settled = ledger.settle(store, name)
    chosen = version or aliases.aliases(store, name).get(store.config.aliases.challenger)
    if chosen is not None:
        made = entries.champion_entry(settled.entries, chosen)
        return release_of(name, made, version=chosen) if made else None
    left = [e for e in settled.repaired if e.action in entries.PROMOTIONS and e.state == entries.DONE]
    return release_of(name, left[-1]) if left else None


def force(store: Store, name: str, version: str | None, reason: str) -> Release:
    """Make `version` (default: the challenger) champion past gate and hold, once it loads and answers."""
    if done := already(store, name, version):
        return done
    chosen = version or aliases.version_of_alias(store, name, store.config.aliases.challenger)
    before = aliases.champion(store, name)
    check_answers(store, name, chosen)
    return _record(store, name, entries.FORCED, chosen, before, chosen, reason)


def awaiting(store: Store, name: str, version: str) -> LedgerEntry | None:
    """The gate's yes to `version` that waits for approval, against today's champion; None where there is none."""
    known = _settled(store, name)
    about = [e for e in entries.carried_out(known) if e.version == version]
    if not about or about[-1].action != entries.AWAITING:
        return None
    return about[-1] if about[-1].from_version == aliases.champion(store, name) else None


def approve(store: Store, name: str, entry: LedgerEntry, by: str = "", prefect_run: str = "") -> Release:
    """Carry out the promotion that `entry` asks approval for, once the version still loads and answers."""
    check_answers(store, name, entry.version)
    words = entry.reason.removeprefix("awaiting approval: ").partition("; finish with")[0]
    return _record(
        store,
        name,
        entries.APPROVED,
        entry.version,
        entry.from_version,
        entry.version,
        words,
        numbers=entry.numbers,
        by=by,
        prefect_run=prefect_run,
    )


def decline(store: Store, name: str, entry: LedgerEntry, by: str = "", prefect_run: str = "") -> Release:
    """Keep the champion: the approval that `entry` asks for was not given."""
    return _record(
        store,
        name,
        entries.KEPT,
        entry.version,
        entry.from_version,
        entry.from_version,
        f"approval was not given; {entry.reason.partition('; finish with')[0]}",
        numbers=entry.numbers,
        by=by,
        prefect_run=prefect_run,
    )


def rollback(store: Store, name: str, reason: str, to: str | None = None) -> Release:
    """Return to the last champion that was never rolled back (or to `to`, an earlier one) and hold promotions.

    The same reason again answers with the rollback that was done. Raises InputError when there is nothing to
    return to, ArtifactError when the target does not load or answer.
    """
    known, current = _settled(store, name), aliases.champion(store, name)
    done = entries.champion_entry(known, current) if current else None
    if done and done.action == entries.ROLLED_BACK and done.reason == reason and to in (None, current):
        return release_of(name, done)
    target = _target(store, name, known, current, to)
    try:
        check_answers(store, name, target)
    except ArtifactError as fault:
        raise ArtifactError(f"not rolled back: {fault}; choose an earlier champion with --to") from fault
    return _record(store, name, entries.ROLLED_BACK, current or target, current, target, reason)


def resume(store: Store, name: str, reason: str) -> Release:
    """Lift the hold. Raises InputError when there never was one."""
    known, champion = _settled(store, name), aliases.champion(store, name)
    if entries.hold(known) is None:
        lifted = [e for e in known if e.action == entries.RESUMED]
        if not lifted:
            raise InputError(f"promotions of {name} are not on hold: nothing to resume")
        return release_of(name, lifted[-1])
    last = [e for e in entries.carried_out(known) if e.action == entries.ROLLED_BACK][-1]
    return _record(store, name, entries.RESUMED, champion or last.version, champion, champion, reason)


def history(store: Store, name: str) -> dict[str, Any]:
    """The whole ledger, oldest first, with aliases and hold; repairs what a killed process left."""
    aliases.require_model(store, name)
    settled = ledger.settle(store, name)
    return {
        "registered_model": name,
        "aliases": aliases.aliases(store, name),
        "hold": entries.hold(settled.entries),
        "rolled_back": sorted(entries.rolled_back(settled.entries), key=int),
        "repaired": [e.number for e in settled.repaired],
        "entries": [asdict(e) for e in settled.entries],
    }


def check_answers(store: Store, name: str, version: str) -> None:
    """Load a version in a fresh process and let it answer some of its own test rows, or one sentence.

    Raises ArtifactError when it does not load, or answers with anything but probabilities.
    """
    found = aliases.get_version(store, name, version)
    aliases.require_ready(store, found.model_id)
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        rows, out = Path(scratch) / "rows.parquet", Path(scratch) / "answers.npz"
        count = _write_rows(store, name, version, rows)
        said = score_in_fresh_process(found.model_uri, rows, out, 0, store, _TIMEOUT)
        answers = said.probabilities(said.classes)
    good = len(answers) == count and np.isfinite(answers).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)
    if not good or answers.min() < 0:
        raise ArtifactError(f"{found.model_uri} loads, but its answers to {count} rows are no probabilities")


def _write_rows(store: Store, name: str, version: str, target: Path) -> int:
    import pandas as pd

    try:
        evidence = read_json(artifacts.download_evidence(store, name, version))
        frame = pd.read_parquet(EvaluationFolder(Path(evidence["folder"])).test_rows).head(_ROWS)
    except (ArtifactError, OSError, KeyError):  # evidence that was never there, or was cleaned up
        card = artifacts.read_served_card(store, name, version)
        pair = {} if card.text_pair is None else {"text_pair": [_SENTENCE]}
        frame = pd.DataFrame({"text": [_SENTENCE], **pair})
    frame.to_parquet(target)
    return len(frame)


def _settled(store: Store, name: str) -> Entries:
    aliases.require_model(store, name)
    return ledger.settle(store, name).entries


def _target(store: Store, name: str, known: Entries, current: str | None, to: str | None) -> str:
    existing = {v.version for v in aliases.versions(store, name)}
    if to is None:
        target = entries.rollback_target(known, current, existing)
        if target is None:
            where = f"before version {current}" if current else "in the ledger"
            raise InputError(f"{name} has no champion {where} to roll back to that was never rolled back")
        return target
    allowed = [v for v in entries.past_champions(known) if v in existing and v != current]
    if to not in allowed:
        listed = ", ".join(allowed) or "none"
        raise InputError(
            f"--to {to}: wanted an earlier champion of {name} that was never rolled back: {listed}; any other "
            f'version needs `bertft promote {name} {to} --force --reason "…"`'
        )
    return to


def _record(
    store: Store, name: str, action: str, version: str, before: str | None, after: str | None, reason: str, **facts: Any
) -> Release:
    decision = Decision(action=action, version=version, champion=before, to_version=after, reason=reason, **facts)
    return release_of(name, ledger.record(store, name, decision))
