"""Inputs that damage a model in silence elsewhere, and what bertft does with each; exit code 1 where one is mistaken.

    python benchmarks/silent_damage.py [--only WORD] [--check]

Each input is real (files, encoder folders) and goes through the product's own functions in a temporary folder. Kinds
are those of docs/silent_damage.md. Without a network, in half a minute of one core. --check: `bertft check` on each
encoder folder that is to be refused, with its exit code, the lines it writes and its seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from silent_inputs import INPUTS
from silent_making import ROWS, Encoder, Input

from bertft_core.base.errors import BertftError


def happened(item: Input) -> str:
    """What bertft does with an input, in its own words."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = item.run(Path(folder))
        except BertftError as fault:
            found = f"refused: {' '.join(str(fault).split())}"
        return found.replace(f"{folder}/", "")


def is_met(item: Input, found: str) -> bool:
    """Whether bertft did what it should."""
    return re.search(item.expected, found, re.DOTALL) is not None


def checked(item: Input) -> tuple[bool, str]:
    """`bertft check` on an encoder folder in a process of its own: whether all is as it should be, and a line."""
    assert isinstance(item.run, Encoder), "only encoder folders are checked"
    with tempfile.TemporaryDirectory() as folder:
        made = item.run.make(Path(folder))
        (Path(folder) / "rows.csv").write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in ROWS))
        (Path(folder) / "run.yaml").write_text(f"name: x\ndata: {{source: rows.csv}}\nmodel: {{pretrained: {made}}}\n")
        code = "import sys; from flows.cli import main; sys.exit(main())"
        environment = {**os.environ, "BERTFT_HOME": f"{folder}/home", "PYTHONPATH": str(Path(__file__).parents[1])}
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-P", "-c", code, "check", f"{folder}/run.yaml"]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        said = done.stderr.strip().splitlines()
    found = (
        f"exit {done.returncode}, {len(said)} line, {seconds:.1f} s of processor, {wall:.1f} s: {' '.join(said)[:150]}"
    )
    return done.returncode == 2 and len(said) == 1 and seconds < 10, found.replace(f"{folder}/", "")


def main() -> int:
    """Print a row for each input; 1 where one is not met as expected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="inputs whose name holds this word")
    parser.add_argument("--check", action="store_true", help="the command `bertft check` on encoders to be refused")
    options, wrong = parser.parse_args(), 0
    chosen = [item for item in INPUTS if options.only in item.name]
    if options.check:
        chosen = [item for item in chosen if isinstance(item.run, Encoder) and " for " not in item.expected]
        chosen = [item for item in chosen if "^39 of 39" not in item.expected]
    for item in chosen:
        if options.check:
            is_right, found = checked(item)
        else:
            found = happened(item)
            is_right = is_met(item, found)
        wrong += not is_right
        print(f"{item.kind:2} {item.name:40} {'' if is_right else 'WRONG '}{found[:250]}", flush=True)
    print(f"{len(chosen)} inputs, {wrong} not met as expected")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
