"""Ledger entries as values, and what follows from them: the hold, rejected versions, where a rollback goes."""

from __future__ import annotations

import calendar
import json
import time
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bertft_core.base import clock
from bertft_core.base.errors import RegistryError
from bertft_core.base.records import parse_record

PROMOTED, FORCED, APPROVED, ROLLED_BACK = "promoted", "forced", "approved", "rolled_back"
KEPT, HELD, AWAITING, RESUMED, NOTICED = "kept", "held", "awaiting", "resumed", "noticed"
ADOPTED = "adopted"  # the registry as it stands is the truth: its champion, or none
PROMOTIONS = frozenset({PROMOTED, FORCED, APPROVED})
ALIAS_MOVES = PROMOTIONS | {ROLLED_BACK}  # entries that bertft carries out on the aliases
_CHAMPION_CHANGES = ALIAS_MOVES | {NOTICED, ADOPTED}
ACTIONS = _CHAMPION_CHANGES | {KEPT, HELD, AWAITING, RESUMED}
PENDING, DONE, VOID = "pending", "done", "void"
TAG_LENGTH = 5000  # characters: width of MLflow's registered_model_tags.value
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"  # of an entry's `at`, UTC: texts sort as times do
_DAY = 86_400  # seconds
_VITAL = ("difference", "spent", "test", "gate")  # numbers that `spent` and `anchor` live on
_SHOWN_BETTER = ("first", "superiority")  # tests of the gate that say more than "not worse"
_LEAST_REASON = 200  # characters of a reason that stay when an entry is too long for its tag


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One decision on a registered model.

    action: one of ACTIONS. version: the one it is about; of a rollback, the one taken down. from_version,
    to_version: the champion before and after, None for none. numbers: what the gate measured. report: where the
    evidence lies. rows, commit, run_key, weights, files (their digest): of `version`. state: pending (announced, not
    yet carried out), done, or void (announced, never carried out). token: tells two writers of one number apart.
    clock: what the writer's clocks said (`base.clock.Stamp`).
    """

    number: int
    action: str
    version: str
    from_version: str | None
    to_version: str | None
    reason: str
    by: str
    at: str
    state: str = DONE
    numbers: dict[str, Any] = field(default_factory=dict)
    report: str = ""
    rows: str = ""
    commit: str = ""
    prefect_run: str = ""
    run_key: str = ""
    weights: str = ""
    files: str = ""
    token: str = ""
    clock: str = ""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS or self.state not in (PENDING, DONE, VOID):
            raise RegistryError(
                f"ledger entry {self.number}: unknown action {self.action!r} or state {self.state!r}: install the "
                "bertft that wrote it; this one decides nothing on a model whose past it does not understand"
            )

    def __str__(self) -> str:
        move = f"{self.from_version or 'none'} -> {self.to_version or 'none'}"
        return f"{self.number} {self.action} version {self.version} ({move}): {self.reason}"

    def to_text(self) -> str:
        """One line of JSON that fits a tag; a reason too long for it ends in …, then most numbers go."""
        text = _dump(self)
        if len(text) <= TAG_LENGTH:
            return text
        sizes = range(len(self.reason))
        length = bisect_right(sizes, TAG_LENGTH, key=lambda n: len(_dump(self._shortened(n)))) - 1
        vital = {key: value for key, value in self.numbers.items() if key in _VITAL}
        if length < min(_LEAST_REASON, len(self.reason)) and self.numbers != vital:
            return replace(self, numbers=vital).to_text()
        return _dump(self._shortened(max(0, length)))

    def _shortened(self, length: int) -> LedgerEntry:
        return replace(self, reason=self.reason[:length] + "…")

    @classmethod
    def from_text(cls, text: str, where: str = "a ledger entry") -> LedgerEntry:
        """The entry that `to_text` wrote, without a later bertft's fields.

        Raises DamagedFile for other text, RegistryError for a later bertft's action.
        """
        remedy = "the same line stands in ledger.jsonl of its version's MLflow run: put it back there"
        return parse_record(text, cls, where, remedy)


Entries = tuple[LedgerEntry, ...]


def carried_out(entries: Entries) -> Entries:
    """The entries without void ones."""
    return tuple(e for e in entries if e.state != VOID)


def last_change(entries: Entries) -> LedgerEntry | None:
    """The last entry that says who is champion; None where none does."""
    changes = [e for e in carried_out(entries) if e.action in _CHAMPION_CHANGES]
    return changes[-1] if changes else None


def expected_champion(entries: Entries) -> str | None:
    """The champion as the ledger has it; None when there is none, or when its loss has been noticed."""
    last = last_change(entries)
    return last.to_version if last else None


def last_champion(entries: Entries) -> str | None:
    """The last version that the ledger knows as champion, be it gone by now; None when there never was one.

    A registry that was adopted without one begins anew.
    """
    changes = [e for e in carried_out(entries) if e.action in _CHAMPION_CHANGES]
    known = [e.to_version for e in changes if e.to_version or e.action == ADOPTED]
    return known[-1] if known else None


def champion_entry(entries: Entries, version: str) -> LedgerEntry | None:
    """The entry that made `version` the present champion; None when it is not the champion."""
    last = last_change(entries)
    return last if last and last.to_version == version else None


def rolled_back(entries: Entries) -> set[str]:
    """Versions that a rollback took down."""
    return {e.version for e in carried_out(entries) if e.action == ROLLED_BACK and e.version != e.to_version}


def rejected_weights(entries: Entries) -> set[str]:
    """Weights of the versions that a rollback took down: they may come back under another number."""
    return {e.weights for e in carried_out(entries) if e.version in rolled_back(entries) and e.weights}


def past_champions(entries: Entries) -> tuple[str, ...]:
    """Champions that were never rolled back, the latest first, each once."""
    bad = rolled_back(entries)
    champions = [e.to_version for e in reversed(carried_out(entries)) if e.action in _CHAMPION_CHANGES and e.to_version]
    return tuple(dict.fromkeys(v for v in champions if v not in bad))


def rollback_target(entries: Entries, current: str | None, existing: Collection[str]) -> str | None:
    """The last champion that was never rolled back, still exists and is not `current`; None when there is none."""
    return next((v for v in past_champions(entries) if v != current and v in existing), None)


def anchor(entries: Entries) -> str | None:
    """The last version promoted because it was shown better (or was the first), and never rolled back; else None."""
    bad = rolled_back(entries)
    promoted = [e for e in carried_out(entries) if e.action in PROMOTIONS and e.numbers.get("test") in _SHOWN_BETTER]
    return next((e.version for e in reversed(promoted) if e.version not in bad), None)


def time_now(entries: Entries, now: clock.Stamp) -> tuple[float, str]:
    """The time that it must be by the ledger (seconds since 1970), and how the clock differs; "" where it does not."""
    return clock.believed(now, [(_moment(entry), clock.Stamp.read(entry.clock)) for entry in entries])


def _moment(entry: LedgerEntry) -> float:
    try:
        return float(calendar.timegm(time.strptime(entry.at, TIME_FORMAT)))
    except (ValueError, OverflowError):
        return 0.0  # the entries around it say when it was


def spent(entries: Entries, allowed: int, now: float) -> int:
    """Decisions of the running period (`allowed` days back from `now`, seconds since 1970) that compared two models.

    Entries lie in the order in which they were written, whatever a clock said: one that is dated later than `now` or
    before an earlier one counts at the latest moment that it can have been.
    An approval repeats the comparison it approves and counts once with it; another rule or code is another look.
    """
    since = now - allowed * _DAY
    dated = zip(entries, clock.in_order(map(_moment, entries), now), strict=True)
    recent = [entry for entry, when in dated if when >= since and entry.state != VOID]
    compared = [entry for entry in recent if entry.numbers.get("difference") is not None]
    paid = [e for e in compared if e.numbers.get("spent", 0) < allowed]
    return len({(e.version, e.from_version, e.numbers.get("gate")) for e in paid})


def hold(entries: Entries) -> str | None:
    """Why promotions are on hold, or None: a rollback holds them until somebody resumes."""
    holds = [e for e in carried_out(entries) if e.action in (ROLLED_BACK, RESUMED)]
    if not holds or holds[-1].action == RESUMED:
        return None
    return f"rolled back from version {holds[-1].version}: {holds[-1].reason}"


def standing_decision(entries: Entries, version: str, champion: str | None, gate: str) -> LedgerEntry | None:
    """The gate's last answer on `version` where nothing that it rests on has changed, else None.

    Only the gate reads the test rows, once per version: the same rule (`gate`, a fingerprint) against the same
    champion is not applied twice.
    """
    about = [e for e in carried_out(entries) if e.version == version and e.action not in (RESUMED, NOTICED)]
    if not about or about[-1].action not in (KEPT, AWAITING):
        return None
    last = about[-1]
    return last if last.from_version == champion and last.numbers.get("gate") == gate else None


def repeated(entries: Entries, version: str, action: str, reason: str, champion: str | None) -> LedgerEntry | None:
    """The last entry about `version` when it already says just this, else None."""
    about = [e for e in carried_out(entries) if e.version == version]
    if not about or (about[-1].action, about[-1].reason, about[-1].from_version) != (action, reason, champion):
        return None
    return about[-1]


def _dump(entry: LedgerEntry) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False, separators=(",", ":"))
