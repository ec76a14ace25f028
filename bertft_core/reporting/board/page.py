"""What the board shows, as plain values; `board_html` draws it, `recipe/board` reads it from home and registry.

Times are ISO 8601 in UTC, intervals (low, high). Scores are as their metric has them: log loss is not negated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

Interval = tuple[float, float]
# how a night may end, in the order in which a legend names them
OUTCOMES = ("promoted", "kept", "awaiting approval", "skipped", "data rejected", "failed")


@dataclass(frozen=True, kw_only=True)
class NightMark:
    """How a night ended. night: the date it stands for; name: of its configuration, where a model has several."""

    night: str
    outcome: str
    reason: str
    version: str | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An entry of the ledger: when, what, on which version, who, and the scores on the same test rows.

    score, interval: the version's; the interval is known where its run lies in this home. champion_score: that of the
    champion before. champion: whoever is champion after it. is_promotion: it made `version` the champion;
    is_rollback: it took `version` down.
    """

    number: int
    at: str
    action: str
    version: str
    champion: str | None
    by: str
    reason: str
    score: float | None = None
    interval: Interval | None = None
    champion_score: float | None = None
    is_promotion: bool = False
    is_rollback: bool = False


@dataclass(frozen=True, kw_only=True)
class Champion:
    """Who serves, since when, by what (in words) of whom. report: of its run, below BERTFT_HOME; "" where it is gone.

    score, interval: on the test rows of its own run.
    """

    version: str
    since: str = ""
    how: str = ""
    by: str = ""
    score: float | None = None
    interval: Interval | None = None
    report: str = ""


@dataclass(frozen=True, kw_only=True)
class Power:
    """What the last comparison's test rows could have shown.

    least: the smallest true difference that is shown with 80 % power (`sentence` says it in full). n: rows, groups: of
    them where data.group is set.
    """

    n: int
    groups: int | None = None
    least: float | None = None
    sentence: str = ""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A kind of drift as it was measured last, and in which night."""

    name: str
    value: str
    night: str


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that waits for a person: what, and the command that goes on from it ("" where there is none)."""

    text: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All about one registered model.

    is_read: whether the registry said who is champion; metric: of its scores, in words; nights, decisions: the oldest
    first; drift: what was measured last; at_work: when each night began that is at work; night_page: of the last one,
    below BERTFT_HOME; waiting: for a person; notes: what else is to be known.
    """

    name: str
    champion: Champion | None = None
    is_read: bool = True
    metric: str = ""
    nights: tuple[NightMark, ...] = ()
    decisions: tuple[Decision, ...] = ()
    power: Power | None = None
    drift: tuple[Drift, ...] = ()
    at_work: tuple[str, ...] = ()
    night_page: str = ""
    waiting: tuple[Notice, ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self, most: int) -> list[tuple[str, int]]:
        """How often each outcome ended the last `most` nights, in the order of OUTCOMES."""
        found = Counter(night.outcome for night in self.nights[-most:])
        return [(outcome, found[outcome]) for outcome in OUTCOMES if found[outcome]]


@dataclass(frozen=True, kw_only=True)
class BoardPage:
    """The board as it stands. disk: (folder of BERTFT_HOME, bytes), the largest first; free: bytes on its disk."""

    written: str
    home: str
    registry: str
    models: tuple[ModelCard, ...] = ()
    faults: tuple[str, ...] = ()
    disk: tuple[tuple[str, int], ...] = ()
    free: int = 0
