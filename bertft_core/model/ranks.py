"""The processes of one fit: each computes its share of a step's rows, all hold the same weights.

torch.distributed carries what they say to each other, gloo between CPUs and NCCL between GPUs; what starts them is the
trainer process, or torchrun. There is no DistributedDataParallel: what was frozen when it wrapped a model it never
synchronises, without an error, and it follows a module's own forward pass, where a fit runs the encoder in pieces
(hidden states from the cache, chunks, micro-batches). One sum over the gradients of what is thawed, after the backward
pass, needs none of that. What it gives up: sending the upper layers' gradients while the lower ones are computed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from bertft_core.base.errors import ModelError, TrainerDied
from bertft_core.base.hashes import hash_json

PATIENCE = dt.timedelta(minutes=30)  # torch's own for gloo: how long one may wait for another; a death shows at once
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place, rank 0 to world - 1, among those of a fit; alone, every method gives back what it is given.

    All of them call the same methods in the same order. Raises TrainerDied when another one is gone.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, tells progress and decides."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """Every world-th of a list or an array, from this rank's place on: together they are all, once each."""
        return items[self.rank :: self.world]

    def largest_share(self, count: int) -> int:
        """Items that the first process gets of so many; the others have as many, or one fewer."""
        return -(-count // self.world)

    def seed(self, seed: int) -> int:
        """A seed of this process's own for this step; the first one's is the seed itself."""
        return seed if self.is_first else int(hash_json([seed, self.rank])[:16], 16)

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float, *, is_short: bool) -> tuple[float, bool]:
        """Sum gradients and loss over all processes; (the loss, whether memory ran out in any of them).

        A parameter without a gradient everywhere keeps none, so that the optimizer skips it as it does alone. Where
        memory ran out the gradients are of no use.
        """
        if self.world == 1:
            return loss, is_short
        sizes = [p.numel() for p in parameters]
        total = torch.zeros(sum(sizes) + len(sizes) + 2, device=parameters[0].device)
        *gradients, given, said = total.split([*sizes, len(sizes), 2])  # type: ignore[no-untyped-call]
        said.copy_(torch.tensor([loss, float(is_short)]))
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if parameter.grad is not None:
                gradient.copy_(parameter.grad.reshape(-1))
                given[place] = 1
        with _together():
            dist.all_reduce(total)
        for parameter, gradient, count in zip(parameters, gradients, given.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None
        return float(said[0]), bool(said[1] > 0)

    def merge(self, array: NDArray[Any]) -> NDArray[Any]:
        """Arrays in which each process filled in its own places and left zeros elsewhere, as one; in place."""
        if self.world > 1:
            with _together():
                dist.all_reduce(torch.from_numpy(array))
        return array

    def tell(self, value: T) -> T:
        """The first process's value, in all of them: anything that JSON can say. The others' is not looked at."""
        if self.world == 1:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        size = torch.tensor([len(text)])
        with _together():
            dist.broadcast(size, src=0)
            content = torch.zeros(int(size), dtype=torch.uint8)
            content[: len(text)] = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
            dist.broadcast(content, src=0)
        return value if self.is_first else json.loads(content.numpy().tobytes())

    def wait(self) -> None:
        """Until all of them are here."""
        self.merge(np.zeros(1, dtype=np.float32))

    def require_equal(self, digests: Sequence[str], names: Sequence[str], when: str) -> None:
        """Hexadecimal digests are the same in all processes. Raises ModelError, in all of them, with the names."""
        if self.world == 1:
            return
        own = torch.tensor([int(digest[:15], 16) for digest in digests])
        least, most = own.clone(), own.clone()
        with _together():
            dist.all_reduce(least, op=dist.ReduceOp.MIN)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        if apart := [name for name, is_equal in zip(names, (least == most).tolist(), strict=True) if not is_equal]:
            raise ModelError(
                f"the {self.world} processes of this fit hold different weights {when}: {', '.join(apart)}; they must "
                "run the same versions on machines of one kind: set training.processes to 1 if they cannot"
            )


ALONE = Ranks()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as fault:  # gloo's; NCCL's is one too
        text = str(fault).partition(". This is")[0]
        raise TrainerDied(
            f"another process of this fit is gone ({text}): run the command again, the fit goes on from its last "
            "checkpoint"
        ) from fault


def joined(rank: int, world: int, device: str, *, local: int, store: dist.Store | None = None) -> Ranks:
    """Become one of the `world` processes of a fit, once all of them are there.

    local: this process's number on its machine, that of its GPU. store: where they find each other; None: where the
    variables of torchrun say.
    """
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    return Ranks(rank=rank, world=world)
