"""The processes of a fit on this machine: the trainer is the first of them, the others are trainers of its own.

A trainer dies with its parent, says what killed it, and brings errors back by their class: what a launcher would be
for. They meet at a port of the loopback, which anybody on this machine can reach.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from bertft_core.base.errors import BertftError, ConfigError, TrainerDied
from bertft_core.base.files import write_json
from bertft_core.model.ranks import PATIENCE, Ranks, joined
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import FitSpec

FIT_FILE = "fit.json"  # beside the checkpoint
_HOST = "127.0.0.1"
_REASON_SECONDS = 10.0  # what a lost connection was is known by whoever waits for that process, and a moment later


@contextlib.contextmanager
def in_crew(spec: FitSpec, fail: Callable[[BertftError], None], *, asks_at_rungs: bool) -> Iterator[Ranks]:
    """Start the other processes of a fit and be their first; they end with this process.

    The fit's folder keeps what it was told, as `worker` reads it. fail: ends this process with that error, when one of
    them fails. Raises ConfigError for more processes than GPUs.
    """
    world, device = spec.training.processes, spec.training.device
    assert isinstance(world, int), "FitSpec has checked that it is settled"
    file = Path(spec.output) / FIT_FILE
    write_json(file, spec.to_json())
    if device == "cuda" and world > (here := torch.cuda.device_count()):
        raise ConfigError(
            f"training.processes is {world}, one a GPU, and this machine has {here}: set it to {here} or auto, or fit "
            f"over several machines by torchrun with {file} (docs/scaling.md), and then run this command again"
        )
    listener = socket.create_server((_HOST, 0))
    port = listener.getsockname()[1]
    meeting = dist.TCPStore(
        _HOST, port, world, is_master=True, timeout=PATIENCE, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    others = [
        _Other(spec=spec, place={"rank": rank, "port": port}, fail=fail, asks_at_rungs=asks_at_rungs)
        for rank in range(1, world)
    ]
    for other in others:
        threading.Thread(target=other.run, daemon=True).start()
    try:
        yield joined(0, world, device, local=0, store=meeting)
    except TrainerDied:
        time.sleep(_REASON_SECONDS)  # `fail` ends this process meanwhile
        raise


def as_place(spec: FitSpec, place: dict[str, int]) -> Ranks:
    """Be one of the others; `place` is what the first one said."""
    world, rank = spec.training.processes, place["rank"]
    assert isinstance(world, int), "FitSpec has checked that it is settled"
    meeting = dist.TCPStore(_HOST, place["port"], world, is_master=False, timeout=PATIENCE)
    return joined(rank, world, spec.training.device, local=rank, store=meeting)


@dataclass(kw_only=True)
class _Other:
    """Waits for one of the other processes."""

    spec: FitSpec
    place: dict[str, int]
    fail: Callable[[BertftError], None]
    asks_at_rungs: bool
    trainer: Trainer = field(default_factory=Trainer)

    def run(self) -> None:
        try:
            self.trainer.fit_beside(self.spec, self.place, asks_at_rungs=self.asks_at_rungs)
        except TrainerDied as death:
            who = f"process {self.place['rank'] + 1} of {self.spec.training.processes} of the fit"
            self.fail(TrainerDied(f"{who}: {death}", signal=death.signal))
        except BertftError as fault:
            self.fail(fault)
