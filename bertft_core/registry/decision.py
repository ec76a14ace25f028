"""From a candidate to a ledger entry: hold, rejected versions, an unusable champion, the gate, approval."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bertft_core.base.errors import ArtifactError, ConfigError, DataError, InputError, LostError
from bertft_core.base.files import write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.config.store import Store
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.registry import aliases, entries, ledger
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.gate import Candidate, judge
from bertft_core.registry.ledger import Draft, ModelView, Release
from bertft_core.tracking.databases import require_sound_store

_NUMBERS = (
    "metric",
    "n",
    "groups",
    "challenger_score",
    "champion_score",
    "difference",
    "interval",
    "alpha",
    "spent",
    "test",
    "baseline_score",
    "baseline_difference",
    "baseline_interval",
    "majority_score",
)


def promote_or_keep(
    candidate: Candidate, store: Store, *, approved: bool = False, prefect_run: str = ""
) -> tuple[Release, PromotionDecision | None]:
    """Decide on a candidate and carry it out. Repeating it after a kill answers the same and adds nothing.

    approved: a person has said yes. Returns the gate's decision too, None where the gate was not needed.
    """
    view, name, version = ledger.settle(store, candidate.name), candidate.name, candidate.version
    entry = _without_gate(view, version, candidate.weights_digest, prefect_run)
    if entry is None:
        fingerprint = gate_fingerprint(candidate, store)
        if not approved:  # an approval may follow a "no" that was said before: then the gate decides anew
            entry = entries.standing_decision(view.entries, version, view.champion, fingerprint)
    look = (f"mlflow ui --backend-store-uri {store.shown_uri}", str(candidate.folder.page))
    if entry is not None:
        return ledger.release_of(name, entry, look, version), None
    gate, fault = None, view.champion_fault  # why the champion cannot be compared with
    if not fault:
        try:
            gate = judge(candidate, view, view.champion)
        except (ArtifactError, InputError) as error:  # it does not load, or knows other labels
            if view.champion is None or isinstance(error, DataError | ConfigError):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            fault = " … ".join(dict.fromkeys((lines[0], lines[-1])))
    if gate is None and store.config.promotion.champion_unavailable == "keep":
        entry = _write(view, entries.KEPT, version, _not_comparable(str(fault), name, version), prefect_run)
    else:
        gate = gate or judge(candidate, view, None, fault or "")
        write_json(candidate.folder.decision_json, gate.to_json())
        reason = gate.reason
        action = entries.PROMOTED if gate.promote else entries.KEPT
        if gate.promote and store.config.promotion.require_approval:
            action = entries.APPROVED if approved else entries.AWAITING
            finish = f"`bertft promote {name} {version} --approve`"
            reason = reason if approved else f"awaiting approval: {reason}; finish with {finish}"
        entry = _write(view, action, version, reason, prefect_run, gate_numbers(gate, fingerprint))
    return ledger.release_of(name, entry, look, version), gate


def require_comparable(store: Store, name: str) -> None:
    """Raise LostError where nothing that is trained could be released: before hours are spent on it, not after.

    The registry lacks the champion that this home remembers, or its champion was deleted, lost its alias or its files.
    Raises StorageError where a page of its sqlite database is damaged.
    """
    require_sound_store(store, whole=True)
    fault = ledger.settle(store, name).champion_fault
    if fault and store.config.promotion.champion_unavailable == "keep":
        raise LostError(
            f"the champion of {name} is lost, and nothing could be compared with it: {fault}; restore it, return with "
            f"`bertft rollback {name} --to VERSION`, or `bertft adopt {name}` goes on with the registry as it is "
            "(promotion.champion_unavailable: keep)"
        )


def bar(store: Store, name: str, version: str, weights: str, prefect_run: str = "") -> LedgerEntry | None:
    """The entry that answers for `version` without its test rows, else None; makes it the challenger.

    It is champion already, a hold lasts, it or its weights were rolled back, or the champion is unusable.
    """
    return _without_gate(ledger.settle(store, name), version, weights, prefect_run)


def _without_gate(view: ModelView, version: str, weights: str, prefect_run: str) -> LedgerEntry | None:
    if entry := entries.champion_entry(view.entries, version):
        return entry
    aliases.set_alias(view.store, view.name, view.store.config.aliases.challenger, version)
    name, known = view.name, view.entries
    force = f'`bertft promote {name} {version} --force --reason "…"`'
    action = entries.KEPT
    if hold := entries.hold(known):
        action, reason = entries.HELD, f'held, {hold}; `bertft resume {name} --reason "…"` lifts it'
    elif version in entries.rolled_back(known):
        reason = f"version {version} was rolled back; only {force} promotes it"
    elif parent := _rejected_parent(view, version):
        reason = f"is a cheaper form of version {parent}, which was rolled back; only {force}"
    elif weights in entries.rejected_weights(known):
        reason = f"has the weights of a version that was rolled back; only {force}"
    elif view.store.config.promotion.champion_unavailable == "keep" and view.champion_fault:
        reason = _not_comparable(view.champion_fault, name, version)
    else:
        return None
    return _write(view, action, version, reason, prefect_run)


def _rejected_parent(view: ModelView, version: str) -> str:
    """The version that this one is a cheaper form of, where that was rolled back; else ""."""
    if not (rejected := entries.rolled_back(view.entries)):
        return ""
    parent = aliases.get_version(view.store, view.name, version).tags.get(aliases.PARENT, "")
    return parent if parent in rejected else ""


def _write(
    view: ModelView, action: str, version: str, reason: str, prefect_run: str, numbers: dict[str, Any] | None = None
) -> LedgerEntry:
    """The entry that says this already, else a new one."""
    draft = Draft(
        action=action,
        version=version,
        champion=view.champion,
        to_version=version if action in entries.PROMOTIONS else view.champion,
        reason=reason,
        numbers=numbers or {},
        prefect_run=prefect_run,
    )
    same = entries.repeated(view.entries, version, action, reason, view.champion)
    return same or ledger.write(view.store, view.name, draft)


GATE_CODE = (
    "config",
    "evaluation",
    *(f"registry/{file}.py" for file in ("answering", "answers", "decision", "entries", "gate")),
)


def gate_fingerprint(candidate: Candidate, store: Store) -> str:
    """Hash of the rule and of the code that applies it: with another one the gate decides again.

    GATE_CODE: the rooms that hold the rule and its figures; of the registry the files that collect answers and entries
    and decide on them.
    """
    rule = asdict(candidate.rule(store.config))
    del rule["require_approval"]  # changes who has the last word, not what the gate says
    return hash_json([rule, code_fingerprint(*GATE_CODE)])[:16]


def gate_numbers(decision: PromotionDecision, gate: str) -> dict[str, Any]:
    """What the ledger keeps of the gate's decision: scores, difference, interval, n, level spent, failed checks."""
    facts = {key: list(v) if isinstance(v, tuple) else v for key, v in decision.to_json().items()}  # as JSON has them
    numbers = {key: facts[key] for key in _NUMBERS if facts.get(key) is not None}
    return {**numbers, "failed": [check.name for check in decision.checks if not check.passed], "gate": gate}


def _not_comparable(fault: str, name: str, version: str) -> str:
    return (
        f"no comparison: {fault}; mend it, return with `bertft rollback {name} --to VERSION`, or promote with "
        f'`bertft promote {name} {version} --force --reason "…"` (promotion.champion_unavailable: keep)'
    )
