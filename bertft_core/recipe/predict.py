"""Score a file, or a folder of files in shards, with a registered version."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import InputError, ModelError
from bertft_core.base.hashes import hash_folder
from bertft_core.base.locks import exclusive
from bertft_core.config.store import Store
from bertft_core.data.sources import KINDS
from bertft_core.registry.artifacts import resolve_model
from bertft_core.serving.artifact import read_card
from bertft_core.serving.tables import TableSettings, score_table

if TYPE_CHECKING:
    from bertft_core.serving.shards import ScoredShard, Shard, ShardScorer, Work

_SCORER: list[ShardScorer] = []  # of a scoring process
_WATCHED_SECONDS = 0.5


def predict_file(
    model: str,
    source: Path,
    target: Path,
    store: Store,
    settings: TableSettings,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score a file with a registered version or an artefact folder. Raises as `score_table` does."""
    from bertft_core.serving.predictor import Predictor

    served = resolve_model(store, model)
    predictor = Predictor.load(served.folder)
    scored = score_table(
        predictor, source, target, model=served.uri, run_id=served.run_id, settings=settings, on_rows=on_rows
    )
    named = {"model": served.uri, "run_id": served.run_id}
    counts = _counts(scored.rows, scored.faults, scored.formulas)
    return named | counts | {"output": str(target), "classes": list(predictor.classes)}


def is_sharded(source: str, target: str) -> bool:
    """Whether answers go to a folder of shards: the output is no file's name, or the input a folder or a pattern."""
    is_folder = Path(target).is_dir() or target.endswith("/") or not Path(target).suffix
    return is_folder or Path(source).is_dir() or (not Path(source).is_file() and any(sign in source for sign in "*?["))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A job and where its shards stand. kept: shards that were there. others: how many were there of other inputs."""

    work: Work
    shards: tuple[Shard, ...]
    kept: tuple[ScoredShard, ...]
    others: int

    @property
    def open(self) -> tuple[Shard, ...]:
        """The shards that are to be scored, in order."""
        done = {shard.name for shard in self.kept}
        return tuple(shard for shard in self.shards if shard.name not in done)

    def document(self, scored: Sequence[ScoredShard]) -> dict[str, Any]:
        """What the command prints, once all shards are there."""
        every = (*self.kept, *scored)
        faults: dict[str, int] = {}
        for shard in every:
            for why, count in shard.faults.items():
                faults[why] = faults.get(why, 0) + count
        counts = _counts(sum(s.rows for s in every), faults, sum(s.formulas for s in every))
        shards = {"files": len({s.source for s in every}), "shards": len(every), "shards_kept": len(self.kept)}
        shards |= {"shards_of_other_inputs": self.others} if self.others else {}
        work = self.work
        named = {"model": work.job.model, "run_id": work.job.run_id}
        return named | counts | shards | {"output": str(work.target), "classes": list(read_card(work.folder).classes)}


@contextlib.contextmanager
def scoring(
    model: str, source: str, target: Path, store: Store, settings: TableSettings, shard_rows: int | None = None
) -> Iterator[Scoring]:
    """A folder of answers to itself: what is to be scored, as long as the block lasts.

    Raises InputError where input or output are of no use, BusyError where another command scores into that folder.
    """
    from bertft_core.serving import shards as parts

    served = resolve_model(store, model)
    if target.suffix.lower() in KINDS:
        raise InputError(f"--output {target}: is a file's name; wanted a folder for the answers to {source}")
    if Path(source).is_dir() and target.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(f"--output {target}: lies in --input {source}, so answers would be scored: put it elsewhere")
    card, shard_rows = read_card(served.folder), shard_rows or parts.SHARD_ROWS
    job = parts.Job(
        model=served.uri,
        run_id=served.run_id,
        digest=hash_folder(served.folder),
        shard_rows=shard_rows,
        settings=settings,
    )
    shards = parts.cut(source, card, settings, shard_rows)
    if not shards:
        raise InputError(f"--input {source}: holds no rows")
    parts.open_output(target, job)
    with exclusive(target / parts.RECORDS / parts.LOCK, f"scoring into {target}"):
        done, others = parts.finished(target, shards)
        kept = tuple(done.values())
        work = parts.Work(job=job, folder=served.folder, target=target)
        yield Scoring(work=work, shards=shards, kept=kept, others=others)


def predict_folder(
    job: Scoring, processes: int = 1, on_rows: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Score the open shards here, in one process or several, whose threads share the cores.

    on_rows(rows that are scored, of how many). A process that dies ends it; what is finished stays.
    """
    from bertft_core.serving.shards import ShardScorer

    total, done = sum(s.rows for s in job.shards), sum(s.rows for s in job.kept)
    scored: list[ScoredShard] = []

    def took(shard: ScoredShard) -> None:
        nonlocal done
        scored.append(shard)
        done += shard.rows
        if on_rows:
            on_rows(done, total)

    if not job.open:
        return job.document(())
    if processes == 1:
        scorer = ShardScorer(job.work)
        for shard in job.open:
            took(scorer.score(shard))
        return job.document(scored)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    begin, others = (threads, os.getpid(), job.work), set(active_children())
    with ProcessPoolExecutor(min(processes, len(job.open)), get_context("spawn"), _begin, begin) as pool:
        waiting = [pool.submit(_score, shard) for shard in job.open]
        try:
            for future in as_completed(waiting):
                took(future.result())
        except BaseException as fault:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:  # the end of what they are at may be minutes away
                process.terminate()
            if not isinstance(fault, BrokenProcessPool):
                raise
            raise ModelError(
                "a scoring process died (often: too little memory for all of them); finished shards stay, and the same "
                "command goes on: give fewer --processes"
            ) from None
    return job.document(scored)


def _begin(threads: int, parent: int, work: Work) -> None:
    """Make a new process one that scores: its threads before torch counts the cores, its end with its parent's."""
    os.environ["OMP_NUM_THREADS"] = str(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCHED_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from bertft_core.serving.shards import ShardScorer

    _SCORER.append(ShardScorer(work))


def _score(shard: Shard) -> ScoredShard:
    return _SCORER[0].score(shard)


def _counts(rows: int, faults: dict[str, int], formulas: int) -> dict[str, Any]:
    faulty = sum(faults.values())
    counts = {"rows": rows, "scored": rows - faulty, "not_scored": faulty, "faults": faults}
    return counts | ({"formulas": formulas} if formulas else {})
