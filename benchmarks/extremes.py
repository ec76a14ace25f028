"""Kills, signals, flipped bits, surroundings and sizes at the edge of sense: what each real command answers.

    python benchmarks/extremes.py [--only PATTERN] [--out FILE] [--write] [--json]

Each case runs the command line in a temporary folder of its own, over loopback alone, with an encoder of random weights
(3 layers) on rows that can be learnt, in float32 on one thread. A case is met where the exit code is an expected one,
no process is left, no Python trace is shown, and what the case looks at afterwards is right. Peak: the largest process
of the command's tree, MB. A second start goes on after the last finished case. --write: the table into
docs/extremes.md. Needs Linux; a read-only home needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import extremes_files
import extremes_kills
import extremes_sizes
from extremes_world import Case, Met, trained, warm
from records import Records

CASES = [*extremes_files.CASES, *extremes_kills.CASES, *extremes_sizes.CASES]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "extremes.md"
BEGIN, END = "<!-- made by benchmarks/extremes.py --write -->", "<!-- end -->"


def attempted(case: Case, base: Path) -> dict[str, Any]:
    """One case in a folder of its own, which is gone afterwards, or in the one that was trained below `base`."""
    folder = Path(tempfile.mkdtemp(prefix="extreme-")).resolve()
    try:
        met = case.run(trained(base, versions=case.versions) if case.versions else folder)
    except Exception as fault:  # a case that falls over is one that is not met
        met = Met(code=-1, said="", seconds=0.0, megabytes=0.0, wrong=f"{type(fault).__name__}: {fault}"[:300])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    met = met if met.code in case.codes else met.but(f"exit code {met.code}")
    told = {
        key: getattr(met, key).replace(str(folder), "…").replace(str(base / "place"), "…") for key in ("said", "wrong")
    }
    return {**asdict(met), **told}


def processor() -> str:
    """The kind of processor and what of wide numbers it has."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next(
        (one.partition(":")[2].strip() for one in text.splitlines() if one.startswith("model name")), "unknown"
    )
    return ", ".join([model, *(name for name in ("avx2", "avx512f", "avx512_bf16") if f" {name} " in text)])


def line(case: Case, found: dict[str, Any]) -> str:
    """A row of the table."""
    happened = (found["code"] and found["said"]) or "as expected"  # where all is well the last line is of no interest
    happened = f"**{found['wrong']}**: {found['said']}" if found["wrong"] else happened
    took = (f"{found[key]:.0f}" for key in ("seconds", "processor_seconds", "megabytes"))
    cells = (case.name, case.expected, found["code"], happened, *took)
    shown = " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {shown} |"


def main() -> int:
    """A row a case; 1 where one was not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases in whose names this is found")
    parser.add_argument("--out", type=Path, default=Path("results/extremes.jsonl"), help="the records")
    parser.add_argument("--warm", action="store_true", help="fork commands where that is no part of the case: a tenth")
    parser.add_argument("--again", action="store_true", help="measure the chosen cases anew")
    parser.add_argument("--write", action="store_true", help="the table of all recorded cases into docs/extremes.md")
    parser.add_argument("--json", action="store_true", help="print one document")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup the commands would ignore it, too
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    records = Records(args.out, machine)
    base = args.out.resolve().with_suffix("")
    todo = [
        case for case in CASES if re.search(args.only, case.name) and (args.again or records.get(case.name) is None)
    ]
    with warm(base / "server") if args.warm and todo else nullcontext():
        for case in todo:
            print(line(case, records.add(case.name, attempted(case, base))), file=sys.stderr, flush=True)
    found = {case.name: known for case in CASES if (known := records.get(case.name)) is not None}
    head = "| case | expected | exit | what happened | s | of a processor | peak MB |\n|---|---|---|---|---|---|---|"
    text = "\n".join([head, *(line(case, found[case.name]) for case in CASES if case.name in found)])
    missed = [name for name, one in found.items() if one["wrong"]]
    if args.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(json.dumps(found, indent=1) if args.json else f"{text}\n\n{len(found)} cases, {len(missed)} not met")
    return 1 if missed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
