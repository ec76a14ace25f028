"""Checkpoints of a fit in BERTFT_CACHE: fetched before it, kept while it goes on, so that another worker can take over.

A fit is known by the two last parts of its folder, a run's id or a study's name and what is fitted: both are made of
its contents, so the same command on another worker has the same. The checkpoint itself says which fit it is of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path

from bertft_core.base import cache as kept
from bertft_core.base.cache import CHECKPOINTS, Cache
from bertft_core.base.display import masked
from bertft_core.base.errors import TrialPruned
from bertft_core.base.names import file_name

CHECKPOINT, BEST, RESULT = "checkpoint.safetensors", "best.safetensors", "result.json"  # as training/ names them
_LOOK_SECONDS = 0.5
_BEAT_SECONDS = 2.0  # below the 5 s after which a lease is renewed (search.lease.LEASE_SECONDS)
_COST_SHARE = 20  # a push waits at least 20 times what the last one took: at most 5 % of a fit's time
_FAREWELL_SECONDS = 10.0  # that the last push of a fit may take which ends with an error
_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def carried(output: Path, beat: Callable[[], None], *, is_final: bool) -> Iterator[None]:
    """A fit that leaves its files in `output`; is_final: what was kept stays until `drop`, else it goes with its end.

    Where the folder has neither checkpoint nor result, those of the cache are fetched; each one that is written
    afterwards is kept, in the background, the last one too where the fit ends with an error. beat: is called now and
    then while the cache is waited for.
    """
    cache = kept.cache()
    if cache is None:
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    courier = _Courier(cache=cache, output=output)
    thread = threading.Thread(target=copy_context().run, args=(courier.run,), daemon=True)  # a task's log hears it
    thread.start()
    try:
        while not courier.is_ready.wait(_BEAT_SECONDS) and thread.is_alive():
            beat()
        yield
        courier.is_unwanted = not is_final
        courier.is_over.set()
        thread.join(_BEAT_SECONDS)
        while thread.is_alive():
            beat()
            thread.join(_BEAT_SECONDS)
    except TrialPruned:
        courier.is_unwanted = not is_final
        raise
    finally:
        courier.is_over.set()
        thread.join(_FAREWELL_SECONDS)


def drop(output: Path) -> None:
    """Drop what is kept of a fit whose run has finished."""
    if (cache := kept.cache()) is not None:
        cache.remove(CHECKPOINTS, _name(output))


def _name(output: Path) -> str:
    return file_name(".".join(output.parts[-2:]))


def _mark(output: Path) -> tuple[int, int] | None:
    """Which checkpoint lies there; None for none. Each is a new file."""
    with contextlib.suppress(FileNotFoundError):
        facts = (output / CHECKPOINT).stat()
        return facts.st_ino, facts.st_mtime_ns
    return None


@dataclass(kw_only=True)
class _Courier:
    """Goes between a fit's folder and the cache, in a thread of its own. is_unwanted: what is kept goes at the end."""

    cache: Cache
    output: Path
    is_ready: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    is_unwanted: bool = False

    def run(self) -> None:
        """Fetch where there is nothing, then push every checkpoint that is new, until the fit is over."""
        name, output, after = _name(self.output), self.output, 0.0
        is_new = not any((output / file).is_file() for file in (CHECKPOINT, RESULT))
        if is_new and self.cache.pull(CHECKPOINTS, name, output, needed=(CHECKPOINT,)):
            _LOGGER.warning("%s goes on from a checkpoint of %s", "/".join(output.parts[-2:]), masked(self.cache.url))
        known = _mark(output)
        self.is_ready.set()
        is_last = False
        while not is_last:
            is_last = self.is_over.wait(_LOOK_SECONDS)
            mark, begun = _mark(output), time.monotonic()
            if mark not in (None, known) and (begun >= after or is_last):
                with contextlib.suppress(OSError):  # the fit has just ended, or its folder is gone
                    _push(self.cache, output)
                known, after = mark, time.monotonic() + _COST_SHARE * (time.monotonic() - begun)
        if self.is_unwanted:
            self.cache.remove(CHECKPOINTS, name)


def _push(cache: Cache, output: Path) -> None:
    """Keep the checkpoint and the best epoch's weights as they are now: linked, since each is replaced by a new file.

    Best comes second: weights of a later epoch than the checkpoint's do no harm, since that epoch is made again.
    """
    with tempfile.TemporaryDirectory(dir=output, prefix=f".kept.part-{os.getpid()}-") as links:
        files: dict[str, Path] = {}
        for name in (CHECKPOINT, BEST):
            with contextlib.suppress(FileNotFoundError):
                _link(output / name, Path(links) / name)
                files = {name: Path(links) / name, **files}  # pulled in this order: the checkpoint last
        if CHECKPOINT in files:
            cache.push(CHECKPOINTS, _name(output), files)


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(file, link)
