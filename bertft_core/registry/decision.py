"""From a candidate to a ledger entry: hold, rejected versions, an unusable champion, the gate, approval."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bertft_core.base.errors import ArtifactError, ConfigError, DataError, InputError
from bertft_core.base.files import write_json
from bertft_core.base.hashes import code_fingerprint, hash_json
from bertft_core.config.store import Store
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.registry import aliases, entries, ledger
from bertft_core.registry.answers import NOTHING_SCORED, Scored
from bertft_core.registry.entries import Entries, LedgerEntry
from bertft_core.registry.gate import Candidate, judge
from bertft_core.registry.ledger import ChampionState, Release

_NUMBERS = ("metric", "n", "challenger_score", "champion_score", "difference", "interval", "alpha", "spent", "test")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be done with a candidate and why. gate: its decision, None where it was not asked."""

    action: str
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    gate: PromotionDecision | None = None


def decide(
    candidate: Candidate,
    store: Store,
    scored: Scored = NOTHING_SCORED,
    *,
    approved: bool = False,
    prefect_run: str = "",
) -> tuple[Release, PromotionDecision | None]:
    """Decide on a candidate and carry it out. Repeating it after a kill answers the same and adds nothing.

    scored: answers of other versions to its test rows; those that are missing are computed.
    """
    name, version = candidate.name, candidate.version
    if barred := bar(store, name, version, candidate.weights_digest, prefect_run):
        return _answer(candidate, store, barred), None
    known, state = ledger.read(store, name), ledger.champion_state(store, name)
    asked = gate_fingerprint(candidate, store)
    # an approval may follow a "no" that was said before: then the gate is asked anew
    standing = None if approved else entries.standing_decision(known, version, state.version, asked)
    if standing is not None:
        return _answer(candidate, store, standing), None
    verdict = _ask(candidate, state, store, scored, approved, asked)
    return _answer(candidate, store, _record(store, name, version, state, verdict, prefect_run)), verdict.gate


def bar(store: Store, name: str, version: str, weights: str, prefect_run: str = "") -> LedgerEntry | None:
    """The entry that answers for `version` without its test rows, else None; makes it the challenger.

    It is champion already, a hold lasts, it or its weights were rolled back, or the champion is unusable.
    """
    known = ledger.settle(store, name).entries
    if made := entries.champion_entry(known, version):
        return made
    state = ledger.champion_state(store, name)
    aliases.set_alias(store, name, store.config.aliases.challenger, version)
    verdict = _barred(store, name, version, weights, state, known)
    return None if verdict is None else _record(store, name, version, state, verdict, prefect_run)


def _record(
    store: Store, name: str, version: str, state: ChampionState, verdict: Verdict, prefect_run: str
) -> LedgerEntry:
    known = ledger.read(store, name)
    repeated = entries.repeated(known, version, verdict.action, verdict.reason, state.version)
    return repeated or ledger.record(
        store,
        name,
        ledger.Decision(
            action=verdict.action,
            version=version,
            champion=state.version,
            to_version=version if verdict.action in entries.PROMOTIONS else state.version,
            reason=verdict.reason,
            numbers=verdict.numbers,
            prefect_run=prefect_run,
        ),
    )


GATE_CODE = ("config", "evaluation", *(f"registry/{file}.py" for file in ("answers", "decision", "entries", "gate")))


def gate_fingerprint(candidate: Candidate, store: Store) -> str:
    """Hash of the rule and of the code that applies it: with another one the gate is asked again.

    GATE_CODE: the rooms that hold the rule and its figures; of the registry the files that collect answers and entries
    and decide on them.
    """
    return hash_json([asdict(store.config.promotion_rule(candidate.metric)), code_fingerprint(*GATE_CODE)])[:16]


def gate_numbers(decision: PromotionDecision, gate: str) -> dict[str, Any]:
    """What the ledger keeps of the gate's decision: scores, difference, interval, n, level spent, failed checks."""
    facts = decision.to_json()
    kept = {key: facts[key] for key in _NUMBERS if facts.get(key) is not None}
    return {**kept, "failed": [check.name for check in decision.checks if not check.passed], "gate": gate}


def _barred(
    store: Store, name: str, version: str, weights: str, state: ChampionState, known: Entries
) -> Verdict | None:
    force = f'`bertft promote {name} {version} --force --reason "…"`'
    if held := entries.hold(known):
        lift = f'`bertft resume {name} --reason "…"`'
        return Verdict(action=entries.HELD, reason=f"held, {held}; {lift} lifts it")
    if version in entries.rolled_back(known):
        return Verdict(action=entries.KEPT, reason=f"version {version} was rolled back; only {force} promotes it")
    if weights in entries.rejected_weights(known):
        return Verdict(action=entries.KEPT, reason=f"has the weights of a version that was rolled back; only {force}")
    if state.fault and store.config.promotion.champion_unavailable == "keep":
        return Verdict(action=entries.KEPT, reason=_not_comparable(state.fault, name, version))
    return None


def _not_comparable(fault: str, name: str, version: str) -> str:
    return (
        f"no comparison: {fault}; mend it, return with `bertft rollback {name} --to VERSION`, or promote with "
        f'`bertft promote {name} {version} --force --reason "…"` (promotion.champion_unavailable: keep)'
    )


def _ask(
    candidate: Candidate, state: ChampionState, store: Store, scored: Scored, approved: bool, asked: str
) -> Verdict:
    settings, name = store.config.promotion, candidate.name
    decision, fault = (None, state.fault) if state.fault else _compare(candidate, state, store, scored)
    if decision is None:
        if settings.champion_unavailable == "keep":
            return Verdict(action=entries.KEPT, reason=_not_comparable(str(fault), name, candidate.version))
        decision = judge(candidate, None, store)
    write_json(candidate.folder.decision_json, decision.to_json())
    reason = f"{fault} (promotion.champion_unavailable: promote); {decision.reason}" if fault else decision.reason
    action = entries.KEPT
    if decision.promote and settings.require_approval:
        action = entries.APPROVED if approved else entries.AWAITING
        finish = f"`bertft promote {name} {candidate.version} --approve`"
        reason = reason if approved else f"awaiting approval: {reason}; finish with {finish}"
    elif decision.promote:
        action = entries.PROMOTED
    return Verdict(action=action, reason=reason, numbers=gate_numbers(decision, asked), gate=decision)


def _compare(
    candidate: Candidate, state: ChampionState, store: Store, scored: Scored
) -> tuple[PromotionDecision | None, str | None]:
    """The gate's decision; None and why where the champion does not load or knows other labels."""
    try:
        return judge(candidate, state.version, store, scored), None
    except (DataError, ConfigError):
        raise
    except (ArtifactError, InputError) as fault:
        if state.version is None:
            raise
        lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
        return None, " … ".join(dict.fromkeys((lines[0], lines[-1])))


def _answer(candidate: Candidate, store: Store, entry: LedgerEntry) -> Release:
    look = (f"mlflow ui --backend-store-uri {store.shown_uri}", str(candidate.folder.page))
    return ledger.release_of(candidate.name, entry, look, candidate.version)
