"""The run log of the nights of one model: a JSON line a night, and what a killed night left open."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from bertft_core.base.clock import Stamp, believed
from bertft_core.base.errors import DamagedFile
from bertft_core.base.files import write_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.names import file_name
from bertft_core.base.records import parse_record, read_record, set_aside
from bertft_core.base.text import counted
from bertft_core.recipe.runs import RunFolder, run_at

SKIPPED, KEPT, PROMOTED = "skipped", "kept", "promoted"
AWAITING, REJECTED, FAILED = "awaiting approval", "data rejected", "failed"
CANCELLED = "its process was killed or its run cancelled; the next night goes on from what it left"
LAST_TRAINING = ".basis.json"
_RESERVED_BYTES = 64 * 1024  # several blocks of any file system; a line is below 10 kB
_ON_DISK = {"settings": "asked"}  # the name that a field has in the files
_Settings = Annotated[str, Field(validation_alias=AliasChoices(_ON_DISK["settings"], "settings"))]
HUNG = "hung_since"  # a fact of the night that tells people of another one
_LONGEST_OF = 20  # nights
OUTCOMES = (SKIPPED, KEPT, PROMOTED, AWAITING, REJECTED, FAILED)
FORMER = {"kept champion": KEPT}  # in logs of before December 2026: it also stood where there was no champion


@dataclass(frozen=True, kw_only=True)
class Night:
    """How one night ended.

    night: the date it stands for; started: ISO 8601 in UTC; facts: what the reason rests on; clock: what the clocks of
    its machine said as it began (`base.clock.Stamp`), "" for nights that do not tell.
    """

    night: str
    started: str
    outcome: Annotated[str, BeforeValidator(lambda said: FORMER.get(said, said))]
    reason: str
    seconds: float
    run_id: str | None = None
    version: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    clock: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}, was {self.outcome!r}")

    def __str__(self) -> str:
        return f"{self.night}: {self.outcome}: {self.reason}"

    @property
    def is_to_be_told(self) -> bool:
        """Whether people are notified: nothing was trained, nothing serves though something was, a night hangs."""
        return self.outcome in (REJECTED, FAILED) or bool(self.facts.get("no_champion") or self.facts.get(HUNG))

    @property
    def began(self) -> float:
        """When it began, seconds since 1970; 0 where nobody can tell."""
        return seconds_of(self.started)


class NightLog:
    """home/nights/NAME.jsonl and the record of the night at work. Appending is atomic between processes.

    record: the file that holds the last training.
    """

    def __init__(self, home: Path, name: str) -> None:
        self.folder, name = home / "nights", file_name(name)
        self.file = self.folder / f"{name}.jsonl"
        self._reserve = self.folder / f"{name}.reserve"
        self._open = self.folder / f"{name}.open.json"
        self.record = self.folder / f"{name}{LAST_TRAINING}"

    def nights(self) -> list[Night]:
        """All nights, oldest first; half a line, from a full disk or a kill, is left out: `faults` says so."""
        return [night for night in self._lines() if isinstance(night, Night)]

    def faults(self) -> list[str]:
        """What is wrong with each line that cannot be read."""
        return [str(fault) for fault in self._lines() if isinstance(fault, DamagedFile)]

    def mend(self) -> None:
        """Write the log anew from the lines that can be read, beside the file as it was (NAME.broken)."""
        with exclusive(self.folder / f"{self.file.name}.lock", f"an append to {self.file}", FOREVER):
            lines, told = self.nights(), self.faults()
            set_aside(self.file, DamagedFile(f"{self.file}: {counted(len(told), 'line')} cannot be read"))
            for night in lines:
                self._append(self._line(night))

    @staticmethod
    def _line(night: Night) -> bytes:
        return json.dumps(asdict(night), ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def _lines(self) -> Iterator[Night | DamagedFile]:
        try:
            lines = self.file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    yield parse_record(line, Night, f"{self.file}:{number}", "the other nights are read without it")
            except DamagedFile as fault:
                yield fault

    def add(self, night: Night) -> None:
        """Append a line; on its own line even after half of another. A full disk has room kept for it."""
        line = self._line(night)
        with exclusive(self.folder / f"{self.file.name}.lock", f"an append to {self.file}", FOREVER):
            try:
                self._append(line)
            except OSError:
                self._reserve.unlink(missing_ok=True)
                self._append(line)
            else:
                self._keep_room()

    def _append(self, line: bytes) -> None:
        with open(self.file, "ab+", buffering=0) as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 1))
            start = b"\n" if handle.read(1) not in (b"", b"\n") else b""
            try:
                if handle.write(start + line) < len(start + line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
                os.fsync(handle.fileno())
            except OSError:
                with suppress(OSError):
                    handle.truncate(size)  # no half of a line
                raise

    def _keep_room(self) -> None:
        """Keep a file that goes when the disk is full, so that a night on it still has room for its line."""
        with suppress(OSError):
            if not self._reserve.exists() or self._reserve.stat().st_size < _RESERVED_BYTES:
                self._reserve.write_bytes(os.urandom(_RESERVED_BYTES))  # nothing that a file system could fold

    def begin(self, night: OpenNight) -> None:
        """Say that a night is at work; `left_open` finds it if it is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep_room()
        write_json(self._open, {**asdict(night), "plan": night.plan and to_disk(night.plan)})

    def left_open(self) -> OpenNight | None:
        """What a night said of itself that never ended, else None. Call it while holding the nights' lock.

        A damaged file is moved aside; when that night began is then taken from the file's own time.
        """
        try:
            return read_record(self._open, OpenNight, "the next night moves it aside and goes on")
        except FileNotFoundError:
            return None
        except DamagedFile as fault:
            written = dt.datetime.fromtimestamp(self._open.stat().st_mtime, dt.UTC)
            set_aside(self._open, fault)
            return OpenNight(night=written.date().isoformat(), started=written.isoformat(timespec="seconds"))

    def usual_seconds(self) -> float | None:
        """What a night takes: the longest of the last 20 that trained to their end; None before the first."""
        trained = [night.seconds for night in self.nights() if night.outcome in (KEPT, PROMOTED, AWAITING)]
        return max(trained[-_LONGEST_OF:], default=None)

    def at_work(self, now: Stamp) -> tuple[OpenNight, float] | None:
        """The night that says that it is at work, and for how many seconds; None where none says so readably.

        By the time that the machine has run, where it is this one, else by the clocks. Moves nothing aside.
        """
        try:
            night = read_record(self._open, OpenNight, "the next night moves it aside and goes on")
        except (FileNotFoundError, DamagedFile):
            return None
        then = Stamp.read(night.clock)
        if then and then.boot and then.boot == now.boot:
            return night, now.ran - then.ran
        return night, max(0.0, now.wall - seconds_of(night.started))

    def end(self, night: Night) -> None:
        """Append the night and take back that it is at work."""
        self.add(night)
        self._open.unlink(missing_ok=True)

    @property
    def last_training(self) -> LastTraining | None:
        """The last training, None before the first. Raises DamagedFile."""
        try:
            last = read_record(self.record, LastTraining, "the next night makes it again from the runs that there are")
        except FileNotFoundError:
            return None
        return replace(last, run=str(self.folder.parent / "runs" / last.run_id))  # the home may have been moved

    def remake_last_training(self, fault: DamagedFile) -> LastTraining | None:
        """In place of a damaged record, which is moved aside: what the last run of a night tells; None without one.

        Nothing tells its rows and settings: "", so that the next night asks for the training anew, which finds the run.
        """
        set_aside(self.record, fault)
        found: tuple[float, LastTraining] | None = None
        for folder in map(RunFolder, sorted((self.folder.parent / "runs").glob("[!.]*/"))):
            try:
                result = run_at(folder.path).result or {}
                written = folder.rows.stat().st_mtime
            except (OSError, DamagedFile):
                continue
            if result.get("name") == self.file.stem and (found is None or written > found[0]):
                when = dt.datetime.fromtimestamp(written, dt.UTC).isoformat(timespec="seconds")
                found = (
                    written,
                    LastTraining(
                        rows="",
                        settings="",
                        run=str(folder.path),
                        run_id=folder.path.name,
                        version=result.get("version"),
                        params=result.get("best_params", {}),
                        trained=when,
                        searched=when,
                        accuracy=result.get("test", {}).get("accuracy"),
                        test_rows=result.get("test", {}).get("n", 0),
                    ),
                )
        return found[1] if found else None

    def remember_training(self, training: LastTraining) -> None:
        """Remember a training that the next nights are compared with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.record, {**to_disk(training), "run": ""})  # the same bytes wherever the home lies


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a night trains. rows, settings: what it stands for, as in `LastTraining`. overrides: of the configuration.

    is_searched: whether the parameters come from a new search.
    """

    rows: str
    settings: _Settings
    overrides: list[str]
    is_searched: bool


@dataclass(frozen=True, kw_only=True)
class OpenNight:
    """A night at work: the date it stands for, when it began (ISO 8601 in UTC), its plan once it has one, its clock."""

    night: str
    started: str = ""
    plan: TrainingPlan | None = None
    clock: str = ""


def time_now(home: Path) -> tuple[float, str]:
    """The time that it must be by the nights of a home (seconds since 1970), and how the clock differs; else ""."""
    logs = [NightLog(home, file.stem) for file in sorted((home / "nights").glob("*.jsonl"))]
    nights = sorted((night for log in logs for night in log.nights()), key=lambda night: night.began)
    return believed(Stamp.now(), [(night.began, Stamp.read(night.clock)) for night in nights])


@dataclass(frozen=True, kw_only=True)
class LastTraining:
    """The last training: its rows (fingerprint, and a file in the folder `run`), its parameters, how good it was.

    settings: hash of configuration, encoder and code. trained, searched: when, ISO 8601 in UTC. accuracy: on the test
    rows of that training. machine: precision, device and threads of its fit. files: sha256 of the run's files that
    nights read, by their names below its folder.
    """

    rows: str
    settings: _Settings
    run: str
    run_id: str
    version: str | None
    params: dict[str, Any]
    trained: str
    searched: str
    accuracy: float | None = None
    test_rows: int = 0
    machine: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def age_days(self, now: dt.datetime) -> float:
        """Days since the training."""
        return _days(self.trained, now)

    def search_age_days(self, now: dt.datetime) -> float:
        """Days since the parameters were searched."""
        return _days(self.searched, now)


def seconds_of(started: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; 0 for another text."""
    try:
        return dt.datetime.fromisoformat(started).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _days(then: str, now: dt.datetime) -> float:
    return (now - dt.datetime.fromisoformat(then)).total_seconds() / 86_400


def to_disk(value: Any) -> dict[str, Any]:
    """A training or a plan as it lies on disk, where `settings` has the name `asked`."""
    return {_ON_DISK.get(key, key): part for key, part in asdict(value).items()}
