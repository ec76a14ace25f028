"""Many files, or a huge one, scored in shards: each is whole or absent, and one that is there is never scored again."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertft_core.base.errors import DamagedFile, InputError
from bertft_core.base.files import follow_umask, is_abandoned, replacing, users_umask
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.base.records import read_record
from bertft_core.data.compressed import table_name
from bertft_core.data.sources import SourceFile, kind_of
from bertft_core.serving.artifact import ArtifactCard
from bertft_core.serving.predictor import Predictor
from bertft_core.serving.tables import Rows, TableSettings, inspected, score_rows

SHARD_ROWS = 10_000  # 2 to 3 minutes of a MiniLM on 2 cores: what a kill can cost
RECORDS = "_shards"  # below an output, what is known of each shard; readers of data sets pass over names with _
JOB = "job.json"  # in there: whose answers these are
LOCK = "lock"
_OUTPUTS = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet"}
_MAGIC = "*?["


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all shards of an output have in common; another job may not write there.

    model, run_id: who answers. digest: of the folder of the model. shard_rows: rows of a shard, the last of a file
    may have fewer. settings: what the user says of the tables.
    """

    model: str
    run_id: str | None
    digest: str
    shard_rows: int
    settings: TableSettings


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a process needs to score shards of a job. folder: of the model. target: the folder of answers."""

    job: Job
    folder: Path
    target: Path


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of one input file. name: of the file of answers, below the output. first: rows before it. rows: at least 1.

    stamp: the input's size and time when it was read first; a file that changes meanwhile is no input.
    """

    file: SourceFile
    name: str
    first: int
    rows: int
    stamp: tuple[int, int]

    @property
    def key(self) -> str:
        """What a finished shard is known by, the job apart: the input's bytes and the place in them."""
        return hash_json([self.file.digest, self.first, self.rows])


@dataclass(frozen=True, kw_only=True)
class ScoredShard:
    """A finished shard. source: the input file. key: `Shard.key`. digest: of the answers. faults: as `ScoredTable`."""

    name: str
    source: str
    key: str
    digest: str
    rows: int
    faults: dict[str, int]
    formulas: int


def find_inputs(source: str) -> dict[Path, str]:
    """Path -> name below the output of each file of a folder, a pattern (`logs/2026-*/*.csv`), or of one file.

    Of a folder all tables in it and below, without hidden ones and those that begin with _, as readers of data sets do.
    Raises InputError where there is none, and where a pattern finds a file that is no table.
    """
    root = Path(source)
    if root.is_dir():
        found = [p for p in sorted(root.rglob("*")) if p.is_file() and kind_of(p)]
        files = [p for p in found if not any(part[0] in "._" for part in p.relative_to(root).parts)]
        if not files:
            raise InputError(f"--input {source}: the folder holds no table; wanted .csv, .tsv, .jsonl or .parquet")
    elif root.is_file():
        files, root = [root], root.parent
    else:
        files = [Path(name) for name in sorted(glob.glob(source, recursive=True)) if Path(name).is_file()]
        if not files:
            what = "no file fits the pattern" if any(sign in source for sign in _MAGIC) else "no such file or folder"
            raise InputError(f"--input {source}: {what}")
        while any(sign in str(root) for sign in _MAGIC):
            root = root.parent
    for path in files:
        if kind_of(path) is None:
            raise InputError(f"--input {source}: {path} is no table; wanted .csv, .tsv, .jsonl or .parquet, or .gz")
    return {path: str(path.relative_to(root)) for path in files}


def cut(source: str, card: ArtifactCard, settings: TableSettings, shard_rows: int) -> tuple[Shard, ...]:
    """The shards of all input files, in order. An empty file has none.

    Raises InputError or DataError where a file cannot be read, or two files would have one name for their answers.
    """
    shards: list[Shard] = []
    named: dict[str, Path] = {}
    for path, name in find_inputs(source).items():
        stamp = stamp_of(path)
        if not stamp[0]:
            continue
        file = inspected(path, card, settings)
        with closing(Rows(file)) as rows:
            count = sum(1 for batch in rows.batches() for _ in batch)
        table = Path(table_name(path))
        stem = str(Path(name).with_name(table.stem))
        suffix = ".tsv" if table.suffix.lower() == ".tsv" else _OUTPUTS[file.kind]
        other = named.setdefault(stem + suffix, path)
        if other != path:
            raise InputError(
                f"--input {source}: {other} and {path} would have one name for answers: rename one of them"
            )
        shards += [
            Shard(
                file=file,
                name=f"{stem}-{place:05d}{suffix}",
                first=first,
                rows=min(shard_rows, count - first),
                stamp=stamp,
            )
            for place, first in enumerate(range(0, count, shard_rows))
        ]
    return tuple(shards)


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def open_output(target: Path, job: Job) -> None:
    """Make the folder of answers, or see that it is this job's.

    Raises InputError where it holds other things, or answers of another model, version or reading.
    """
    file = target / RECORDS / JOB
    if not file.exists():
        if target.exists() and (not target.is_dir() or {p.name for p in target.iterdir()} - {RECORDS}):
            raise InputError(
                f"--output {target}: holds what no `bertft predict` wrote; wanted a new or an empty folder"
            )
        _make(target, file.parent)
        _write(file, job)
        return
    wanted, found = asdict(job), asdict(read_record(file, Job, "give another folder as --output"))
    wanted |= wanted.pop("settings")
    found |= found.pop("settings")
    other = [f"{key} {found[key]!r}, now {value!r}" for key, value in wanted.items() if found[key] != value]
    if other:
        raise InputError(
            f"--output {target}: holds answers of another model or with other options ({'; '.join(other)}), which are "
            "not mixed: give another folder, or remove this one"
        )


def finished(target: Path, shards: Sequence[Shard]) -> tuple[dict[str, ScoredShard], int]:
    """The shards that are there, by name, and how many are there of files that are no input (any more): they stay.

    What an input had before it changed, and what a killed process left half done, is removed.
    """
    folder = target / RECORDS
    for path in folder.rglob("*"):
        if path.is_file() and is_abandoned(path):
            path.unlink(missing_ok=True)
    wanted = {shard.name: shard for shard in shards}
    sources = {str(shard.file.path) for shard in shards}
    done, others = dict[str, ScoredShard](), 0
    for record in sorted(folder.rglob("*.done")):
        name = str(record.relative_to(folder))[: -len(".done")]
        shard, answers = wanted.get(name), target / name
        try:
            known = read_record(record, ScoredShard, "it is scored again")
        except DamagedFile:
            known = None
        if known and shard and known.key == shard.key and answers.is_file() and hash_file(answers) == known.digest:
            done[name] = known
        elif known and shard is None and known.source not in sources:
            others += 1
        else:
            answers.unlink(missing_ok=True)
            record.unlink()
    return done, others


class ShardScorer:
    """Scores shards of one job, one after another; those of a file in order are read on, not from its beginning."""

    def __init__(self, work: Work) -> None:
        self._predictor = Predictor.load(work.folder)
        self._job, self._target = work.job, work.target
        self._rows: Rows | None = None

    def score(self, shard: Shard) -> ScoredShard:
        """Write the answers of a shard, or nothing. Raises InputError as `score_table`, and for a file that changed."""
        job, answers = self._job, self._target / shard.name
        record = self._target / RECORDS / f"{shard.name}.done"
        whole = record.with_name(answers.name)
        _make(self._target, answers.parent, record.parent)
        rows, self._rows = self._rows, None
        if rows is None or rows.file != shard.file or rows.at > shard.first:
            if rows is not None:
                rows.close()
            rows = Rows(shard.file)
        try:
            rows.skip_to(shard.first)
            scored = score_rows(
                self._predictor, rows, whole, model=job.model, run_id=job.run_id, settings=job.settings, most=shard.rows
            )
            if scored.rows != shard.rows or stamp_of(shard.file.path) != shard.stamp:
                raise InputError(f"{shard.file.path} changed while it was scored: give the same command again")
        except BaseException:
            rows.close()
            whole.unlink(missing_ok=True)
            raise
        self._rows = rows
        done = ScoredShard(
            name=shard.name, source=str(shard.file.path), key=shard.key, digest=hash_file(whole), **asdict(scored)
        )
        _write(record, done)  # counts from the moment the answers have their name: a record alone is no shard
        os.replace(whole, answers)
        return done


def _make(root: Path, *folders: Path) -> None:
    """Make folders below `root` with the modes that the user's umask allows."""
    for folder in (root, *folders):
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir(exist_ok=True)
                follow_umask(path, users_umask())


def _write(file: Path, value: Any) -> None:
    with replacing(file, is_private=False) as part:
        part.write_text(json.dumps(asdict(value), indent=1, ensure_ascii=False), encoding="utf-8")
