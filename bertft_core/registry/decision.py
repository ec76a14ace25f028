"""From a candidate to a ledger entry: hold, rejected versions, an unusable champion, the gate, approval."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from bertft_core.base.errors import ArtifactError, ConfigError, DataError, InputError
from bertft_core.base.files import write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.config.store import Store
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.registry import aliases, entries, ledger
from bertft_core.registry.entries import LedgerEntry
from bertft_core.registry.gate import Candidate, judge
from bertft_core.registry.ledger import Draft, ModelView, Release

_NUMBERS = ("metric", "n", "challenger_score", "champion_score", "difference", "interval", "alpha", "spent", "test")


def promote_or_keep(
    candidate: Candidate, store: Store, *, approved: bool = False, prefect_run: str = ""
) -> tuple[Release, PromotionDecision | None]:
    """Decide on a candidate and carry it out. Repeating it after a kill answers the same and adds nothing.

    approved: a person has said yes. Returns the gate's decision too, None where the gate was not needed.
    """
    view, version = ledger.settle(store, candidate.name), candidate.version
    gate = None
    entry = _without_gate(view, version, candidate.weights_digest, prefect_run)
    if entry is None:
        fingerprint = gate_fingerprint(candidate, store)
        if not approved:  # an approval may follow a "no" that was said before: then the gate decides anew
            entry = entries.standing_decision(view.entries, version, view.champion, fingerprint)
    if entry is None:
        draft, gate = _with_gate(candidate, view, approved=approved, fingerprint=fingerprint)
        entry = _write(view, draft, prefect_run)
    look = (f"mlflow ui --backend-store-uri {store.shown_uri}", str(candidate.folder.page))
    return ledger.release_of(candidate.name, entry, look, version), gate


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
    elif weights in entries.rejected_weights(known):
        reason = f"has the weights of a version that was rolled back; only {force}"
    elif view.store.config.promotion.champion_unavailable == "keep" and view.champion_fault:
        reason = _not_comparable(view.champion_fault, name, version)
    else:
        return None
    return _write(view, _draft(view, action, version, reason), prefect_run)


def _with_gate(
    candidate: Candidate, view: ModelView, *, approved: bool, fingerprint: str
) -> tuple[Draft, PromotionDecision | None]:
    """What is to be done with a candidate that nothing bars; no gate's decision where the champion does not answer."""
    settings, version = view.store.config.promotion, candidate.version
    gate, fault = (None, view.champion_fault) if view.champion_fault else _compare(candidate, view)
    if gate is None:
        if settings.champion_unavailable == "keep":
            return _draft(view, entries.KEPT, version, _not_comparable(str(fault), view.name, version)), None
        gate = judge(candidate, view, None)
    write_json(candidate.folder.decision_json, gate.to_json())
    reason = f"{fault} (promotion.champion_unavailable: promote); {gate.reason}" if fault else gate.reason
    action = entries.PROMOTED if gate.promote else entries.KEPT
    if gate.promote and settings.require_approval:
        action = entries.APPROVED if approved else entries.AWAITING
        finish = f"`bertft promote {view.name} {version} --approve`"
        reason = reason if approved else f"awaiting approval: {reason}; finish with {finish}"
    return _draft(view, action, version, reason, gate_numbers(gate, fingerprint)), gate


def _compare(candidate: Candidate, view: ModelView) -> tuple[PromotionDecision | None, str | None]:
    """The gate's decision; None and why where the champion does not load or knows other labels."""
    try:
        return judge(candidate, view, view.champion), None
    except (DataError, ConfigError):
        raise
    except (ArtifactError, InputError) as fault:
        if view.champion is None:
            raise
        lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
        return None, " … ".join(dict.fromkeys((lines[0], lines[-1])))


def _draft(view: ModelView, action: str, version: str, reason: str, numbers: dict[str, Any] | None = None) -> Draft:
    to_version = version if action in entries.PROMOTIONS else view.champion
    return Draft(
        action=action,
        version=version,
        champion=view.champion,
        to_version=to_version,
        reason=reason,
        numbers=numbers or {},
    )


def _write(view: ModelView, draft: Draft, prefect_run: str) -> LedgerEntry:
    """The entry that says it already, else a new one."""
    same = entries.repeated(view.entries, draft.version, draft.action, draft.reason, view.champion)
    return same or ledger.write(view.store, view.name, replace(draft, prefect_run=prefect_run))


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
    rule = asdict(store.config.promotion_rule(candidate.metric))
    del rule["require_approval"]  # changes who has the last word, not what the gate says
    return hash_json([rule, code_fingerprint(*GATE_CODE)])[:16]


def gate_numbers(decision: PromotionDecision, gate: str) -> dict[str, Any]:
    """What the ledger keeps of the gate's decision: scores, difference, interval, n, level spent, failed checks."""
    facts = decision.to_json()
    numbers = {key: facts[key] for key in _NUMBERS if facts.get(key) is not None}
    return {**numbers, "failed": [check.name for check in decision.checks if not check.passed], "gate": gate}


def _not_comparable(fault: str, name: str, version: str) -> str:
    return (
        f"no comparison: {fault}; mend it, return with `bertft rollback {name} --to VERSION`, or promote with "
        f'`bertft promote {name} {version} --force --reason "…"` (promotion.champion_unavailable: keep)'
    )
