"""The run log of the nights of one model: a JSON line a night, and what a killed night left open."""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bertft_core.base.files import read_json, write_json
from bertft_core.base.locks import FOREVER, exclusive

SKIPPED, KEPT, PROMOTED = "skipped", "kept champion", "promoted"
AWAITING, REJECTED, FAILED = "awaiting approval", "data rejected", "failed"
_LAST_TRAINING = ".basis.json"
T = TypeVar("T")
OUTCOMES = (SKIPPED, KEPT, PROMOTED, AWAITING, REJECTED, FAILED)


@dataclass(frozen=True, kw_only=True)
class Night:
    """How one night ended. night: the date it stands for; started: ISO 8601 in UTC; facts: what the reason rests on."""

    night: str
    started: str
    outcome: str
    reason: str
    seconds: float
    run_id: str | None = None
    version: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}, was {self.outcome!r}")

    def __str__(self) -> str:
        return f"{self.night}: {self.outcome}: {self.reason}"

    @property
    def is_to_be_told(self) -> bool:
        """Whether people are notified: nothing was trained, or nothing serves though something was."""
        return self.outcome in (REJECTED, FAILED) or bool(self.facts.get("no_champion"))


class NightLog:
    """home/nights/NAME.jsonl and the record of the night at work. Appending is atomic between processes."""

    def __init__(self, home: Path, name: str) -> None:
        self.folder = home / "nights"
        self.file = self.folder / f"{name}.jsonl"
        self._open = self.folder / f"{name}.open.json"
        self._last_training = self.folder / f"{name}{_LAST_TRAINING}"

    def nights(self) -> list[Night]:
        """All nights, oldest first; half a line, from a full disk or a kill, is left out."""
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        nights = []
        for line in lines:
            try:
                nights.append(Night(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return nights

    def add(self, night: Night) -> None:
        """Append a line; on its own line even after half of another."""
        lock = exclusive(self.folder / f"{self.file.name}.lock", f"an append to {self.file}", FOREVER)
        with lock, open(self.file, "ab+") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 1))
            start = b"\n" if handle.read(1) not in (b"", b"\n") else b""
            handle.write(start + json.dumps(asdict(night), ensure_ascii=False).encode("utf-8") + b"\n")
            handle.flush()
            os.fsync(handle.fileno())

    def begin(self, **facts: Any) -> None:
        """Say that a night is at work; `left_open` finds it if it is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._open, facts)

    def left_open(self) -> dict[str, Any] | None:
        """What a night said of itself that never ended, else None. Call it while holding the nights' lock."""
        try:
            return dict(read_json(self._open))
        except FileNotFoundError:
            return None

    def end(self, night: Night) -> None:
        """Append the night and take back that it is at work."""
        self.add(night)
        self._open.unlink(missing_ok=True)

    @property
    def last_training(self) -> LastTraining | None:
        """The last training, None before the first."""
        try:
            return from_disk(LastTraining, read_json(self._last_training))
        except FileNotFoundError:
            return None

    def remember_training(self, training: LastTraining) -> None:
        """Remember a training that the next nights are compared with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._last_training, to_disk(training))


def last_runs(home: Path) -> set[str]:
    """The run of each model's last training: the next night reads its rows."""
    names = [file.name.removesuffix(_LAST_TRAINING) for file in (home / "nights").glob(f"*{_LAST_TRAINING}")]
    return {training.run_id for name in names if (training := NightLog(home, name).last_training)}


@dataclass(frozen=True, kw_only=True)
class LastTraining:
    """The last training: its rows (fingerprint, and a file in the folder `run`), its parameters, how good it was.

    settings: hash of configuration, encoder and code. trained, searched: when, ISO 8601 in UTC. accuracy: on the test
    rows of that training.
    """

    rows: str
    settings: str
    run: str
    run_id: str
    version: str | None
    params: dict[str, Any]
    trained: str
    searched: str
    accuracy: float | None = None
    test_rows: int = 0

    def age_days(self, now: dt.datetime) -> float:
        """Days since the training."""
        return _days(self.trained, now)

    def search_age_days(self, now: dt.datetime) -> float:
        """Days since the parameters were searched."""
        return _days(self.searched, now)


def _days(then: str, now: dt.datetime) -> float:
    return (now - dt.datetime.fromisoformat(then)).total_seconds() / 86_400


def to_disk(value: Any) -> dict[str, Any]:
    """A training or a plan as it lies on disk, where `settings` has the name `asked`."""
    return {"asked" if key == "settings" else key: part for key, part in asdict(value).items()}


def from_disk(kind: type[T], stored: dict[str, Any]) -> T:
    """Inverse of `to_disk`."""
    return kind(**{"settings" if key == "asked" else key: part for key, part in stored.items()})
