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

from bertft_core.base.errors import ArtifactError, InputError, LostError
from bertft_core.base.text import counted
from bertft_core.config.store import Store
from bertft_core.registry import aliases, artifacts, entries, ledger
from bertft_core.registry.answers import score_in_fresh_process
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.registry.ledger import Draft, ModelView, Release, release_of

_SENTENCE = "The quick brown fox jumps over the lazy dog."
_ROWS = 8  # of a version's own test rows: enough to see that it answers
_TIMEOUT = 600.0  # seconds for loading and answering them


def already(store: Store, name: str, version: str | None) -> Release | None:
    """The promotion of `version` (default: the challenger) that stands, or that a killed process left; else None."""
    view = _settled(store, name)
    chosen = version or view.challenger
    if chosen is not None:
        entry = entries.champion_entry(view.entries, chosen)
        return release_of(name, entry, version=chosen) if entry else None
    left = [e for e in view.repaired if e.action in entries.PROMOTIONS and e.state == entries.DONE]
    return release_of(name, left[-1]) if left else None


def force(store: Store, name: str, version: str | None, reason: str) -> Release:
    """Make `version` (default: the challenger) champion past gate and hold, once it loads and answers."""
    if done := already(store, name, version):
        return done
    chosen = version or aliases.version_of_alias(store, name, store.config.aliases.challenger)
    before = aliases.champion(store, name)
    check_answers(store, name, chosen, is_forced=True)
    draft = Draft(action=entries.FORCED, version=chosen, champion=before, to_version=chosen, reason=reason)
    return release_of(name, ledger.write(store, name, draft))


def awaiting(store: Store, name: str, version: str) -> LedgerEntry | None:
    """The gate's yes to `version` that waits for approval, against today's champion; None where there is none."""
    return awaited(_settled(store, name)).get(version)


def awaited(view: ModelView) -> dict[str, LedgerEntry]:
    """Versions that wait for approval against today's champion, each with the entry that asks for it."""
    last = {entry.version: entry for entry in entries.carried_out(view.entries)}
    asked = {version: entry for version, entry in last.items() if entry.action == entries.AWAITING}
    return {version: entry for version, entry in asked.items() if entry.from_version == view.champion}


def approve(store: Store, name: str, entry: LedgerEntry, by: str = "", prefect_run: str = "") -> Release:
    """Carry out the promotion that `entry` asks approval for, once the version still loads and answers."""
    check_answers(store, name, entry.version)
    reason = entry.reason.removeprefix("awaiting approval: ").partition("; finish with")[0]
    return _answer(store, name, entry, action=entries.APPROVED, reason=reason, by=by, prefect_run=prefect_run)


def decline(store: Store, name: str, entry: LedgerEntry, by: str = "", prefect_run: str = "") -> Release:
    """Keep the champion: the approval that `entry` asks for was not given."""
    reason = f"approval was not given; {entry.reason.partition('; finish with')[0]}"
    return _answer(store, name, entry, action=entries.KEPT, reason=reason, by=by, prefect_run=prefect_run)


def _answer(
    store: Store, name: str, entry: LedgerEntry, *, action: str, reason: str, by: str, prefect_run: str
) -> Release:
    """Write what was answered to `entry`, which awaits approval, with its numbers."""
    draft = Draft(
        action=action,
        version=entry.version,
        champion=entry.from_version,
        to_version=entry.version if action in entries.PROMOTIONS else entry.from_version,
        reason=reason,
        numbers=entry.numbers,
        by=by,
        prefect_run=prefect_run,
    )
    return release_of(name, ledger.write(store, name, draft))


def rollback(store: Store, name: str, reason: str, to: str | None = None) -> Release:
    """Return to the last champion that was never rolled back (or to `to`, an earlier one) and hold promotions.

    The same reason again answers with the rollback that was done. Raises InputError when there is nothing to
    return to, ArtifactError when the target does not load or answer.
    """
    view = _settled(store, name)
    current = view.champion
    done = entries.champion_entry(view.entries, current) if current else None
    if done and done.action == entries.ROLLED_BACK and done.reason == reason and to in (None, current):
        return release_of(name, done)
    existing = {v.version for v in aliases.versions(store, name)}
    target = entries.rollback_target(view.entries, current, existing) if to is None else to
    if target is None:
        where = f"before version {current}" if current else "in the ledger"
        raise InputError(f"{name} has no champion {where} to roll back to that was never rolled back")
    allowed = [v for v in entries.past_champions(view.entries) if v in existing and v != current]
    if target not in allowed:
        raise InputError(
            f"--to {to}: wanted an earlier champion of {name} that was never rolled back: "
            f"{', '.join(allowed) or 'none'}; any other version needs "
            f'`bertft promote {name} {to} --force --reason "…"`'
        )
    try:
        check_answers(store, name, target)
    except ArtifactError as fault:
        raise ArtifactError(f"not rolled back: {fault}; choose an earlier champion with --to") from fault
    draft = Draft(
        action=entries.ROLLED_BACK, version=current or target, champion=current, to_version=target, reason=reason
    )
    return release_of(name, ledger.write(store, name, draft))


def resume(store: Store, name: str, reason: str) -> Release:
    """Lift the hold. Raises InputError when there never was one."""
    view = _settled(store, name)
    if entries.hold(view.entries) is None:
        lifted = [e for e in view.entries if e.action == entries.RESUMED]
        if not lifted:
            raise InputError(f"promotions of {name} are not on hold: nothing to resume")
        return release_of(name, lifted[-1])
    last = [e for e in entries.carried_out(view.entries) if e.action == entries.ROLLED_BACK][-1]
    about, champion = view.champion or last.version, view.champion
    draft = Draft(action=entries.RESUMED, version=about, champion=champion, to_version=champion, reason=reason)
    return release_of(name, ledger.write(store, name, draft))


def barred(store: Store, name: str) -> list[str]:
    """Versions that were rolled back, in their order: a lifted hold frees none of them, `promote --force` does."""
    return sorted(entries.rolled_back(_settled(store, name).entries), key=int)


def adopt(store: Store, name: str, reason: str = "") -> Release:
    """Go on with the registry as it is, where it lacks what this home remembers or its champion cannot answer.

    Raises InputError where there is nothing to adopt. Done once: the same again answers with the entry there is.
    """
    return release_of(
        name, ledger.adopt(store, name, reason.strip() or "the registry as it is was taken for the truth")
    )


def history(store: Store, name: str) -> dict[str, Any]:
    """The whole ledger, oldest first, with aliases and hold; repairs what a killed process left.

    lost: what the registry lacks of what this home remembers, None where nothing is; then nothing is repaired.
    """
    lost = None
    try:
        view = _settled(store, name)
    except LostError as fault:
        view, lost = ledger.view_model(store, name), str(fault)
    return {
        "registered_model": name,
        "lost": lost,
        "aliases": dict(view.aliases),
        "hold": entries.hold(view.entries),
        "rolled_back": sorted(entries.rolled_back(view.entries), key=int),
        "repaired": [e.number for e in view.repaired],
        "entries": [asdict(e) for e in view.entries],
    }


def check_answers(store: Store, name: str, version: str, *, is_forced: bool = False) -> None:
    """Load a version in a fresh process and let it answer some of its own test rows, or one sentence.

    is_forced: files that are not those that were registered are taken for its own. Raises ArtifactError where they are
    not, when it does not load, or answers with anything but probabilities.
    """
    import pandas as pd

    registered = aliases.get_version(store, name, version)
    aliases.require_ready(store, registered.model_id)
    with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
        rows, out = Path(scratch) / "rows.parquet", Path(scratch) / "answers.npz"
        card = artifacts.read_served_card(store, name, version)
        try:
            evidence = artifacts.read_evidence(store, name, version)
            frame = pd.read_parquet(EvaluationFolder.of_run(store.home, evidence["folder"]).test_rows).head(_ROWS)
        except (ArtifactError, OSError, KeyError):  # evidence that was never there, or was cleaned up
            pair = {} if card.text_pair is None else {"text_pair": [_SENTENCE]}
            frame = pd.DataFrame({"text": [_SENTENCE], **pair})
        frame.to_parquet(rows)
        scored = score_in_fresh_process(
            registered.model_uri, rows, out, 0, store, timeout_seconds=_TIMEOUT, is_forced=is_forced
        )
        answers = scored.probabilities(scored.classes)
    good = len(answers) == len(frame) and np.isfinite(answers).all() and answers.min() >= 0 and answers.max() <= 1.001
    if not good or not (card.multi_label or np.allclose(answers.sum(axis=1), 1, atol=1e-3)):
        to_rows = f"answers to {counted(len(frame), 'row')}"
        raise ArtifactError(f"{registered.model_uri} loads, but its {to_rows} are no probabilities")


def _settled(store: Store, name: str) -> ModelView:
    view = ledger.settle(store, name)  # first: a model that the registry lost is no unknown name
    if not view.entries:
        aliases.require_model(store, name)
    return view
