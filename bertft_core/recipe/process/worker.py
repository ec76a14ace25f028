"""One process of a fit over several machines: `torchrun … -m bertft_core.recipe.process.worker FIT.json`.

docs/scaling.md has the whole command.

FIT.json is the fit.json that a fit on several processes leaves in its folder as it begins, a `FitSpec`. What is said
goes to stderr. The fit is over when its folder holds result.json, which the next `bertft finetune` or `bertft run`
reads; exit codes say less, since gloo aborts processes after their work is done.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from bertft_core.base.errors import ConfigError
from bertft_core.base.files import keep_private, read_json
from bertft_core.model.ranks import joined
from bertft_core.training.loop import fit
from bertft_core.training.spec import FitSpec

_SAY_SECONDS = 30.0


class _Said:
    """Progress for people: at every epoch, and every half minute."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, fraction: float, facts: dict[str, Any]) -> None:
        if "epoch" in facts or time.monotonic() - self._last > _SAY_SECONDS:
            self._last = time.monotonic()
            more = f", epoch {facts['epoch']}: score {facts['score']:.4f}" if "epoch" in facts else ""
            print(f"{fraction:.0%}, step {facts['step']} of {facts['total_steps']}{more}", file=sys.stderr, flush=True)


def main() -> None:
    """Fit; the first process says the result. Raises ConfigError where torchrun started more or fewer than wanted."""
    keep_private()
    spec = FitSpec.from_json(read_json(sys.argv[1]))
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if world != (wanted := spec.training.processes):
        raise ConfigError(
            f"{sys.argv[1]} is a fit on {wanted} processes, torchrun started {world}: --nnodes times --nproc-per-node "
            f"must be {wanted}, or set training.processes to {world} and begin anew"
        )
    result = fit(spec, _Said(), None, joined(rank, world, spec.training.device, local=local))
    if rank == 0:
        print(f"{result}; in {Path(spec.output) / 'result.json'}", file=sys.stderr, flush=True)
    os._exit(0)  # gloo aborts one process in nine that ends in order (torch 2.13, measured)


if __name__ == "__main__":
    record(main)()  # so that torchrun names the process that failed first, and why
