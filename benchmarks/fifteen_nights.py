"""What nights leave behind: files and bytes of the home by folder, memory and descriptors of the process, per night.

    python benchmarks/fifteen_nights.py [--nights N] [--folder DIR] [--json]

Rows arrive and each night trains on them, one after the other in this process (a scheduler that never ends), with a
search of two trials, an encoder of random weights, float32 and one thread, against one Prefect server: what a process
keeps from night to night shows here, and what a home does. Resident memory and descriptors are this process's own
after each night. Files: how many are new since the night before, by the folder below BERTFT_HOME; at the end what
`bertft gc --keep 1 --days 0 --apply` would leave. About a quarter of a minute a night.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from extremes_world import FILLER
from nights_world import NAME, Row, World

from bertft_core.recipe.nights.log import KEPT, PROMOTED
from bertft_core.testing.encoders import tiny_encoder

FIRST = dt.date(2026, 3, 1)
ROWS = 60  # of a night; the first brings five times as many


def rows(number: int) -> list[Row]:
    """Rows of a night, whose class stands in their text."""
    rng, count = random.Random(number), ROWS if number else 5 * ROWS
    return [(f"{' '.join(rng.choices(FILLER, k=6))} word{i % 2} {number} {i}", f"class{i % 2}") for i in range(count)]


def tree(folder: Path) -> dict[str, Any]:
    """The configuration."""
    return {
        "data": {"source": "rows", "date": "day"},
        "model": {"pretrained": str(tiny_encoder(folder / "encoder", layers=2, hidden=32, seed=1))},
        "tokenization": {"max_length": 24},
        "training": {"lr": 2e-3, "batch_size": 16, "epochs": 1, "precision": "float32", "threads": 1},
        "search": {"trials": 2, "rows": 100},
        "evaluation": {"resamples": 200},
        "nightly": {"new_rows": ROWS // 2},
    }


def used(home: Path) -> tuple[Counter[str], Counter[str]]:
    """Files and bytes of a home by folder; those of a night's run and of MLflow's by what they are."""
    files, sizes = Counter[str](), Counter[str]()
    for file in home.rglob("*"):
        if file.is_file() and not file.is_symlink():
            parts = file.relative_to(home).parts
            place = parts[0] if len(parts) > 1 else "databases"
            if place == "artifacts":
                place = "artifacts/models" if parts[1] == "models" else "artifacts/runs"
            elif place in ("runs", "search") and len(parts) > 3:
                place = f"{place}/…/{parts[2]}"
            files[place] += 1
            sizes[place] += file.stat().st_size
    return files, sizes


def resident() -> float:
    """Megabytes (10^6) of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def through(world: World, count: int) -> list[dict[str, Any]]:
    """The nights."""
    from flows.nightly import nightly

    told, known = [], Counter[str]()
    for number in range(count):
        date = (FIRST + dt.timedelta(days=number)).isoformat()
        world.arrive(date, rows(number))
        night = nightly(config_path=str(world.config), home=str(world.home), as_of=date, live=True)
        files, sizes = used(world.home)
        told.append(
            {
                "night": number + 1,
                "outcome": night["outcome"],
                "seconds": round(night["seconds"], 1),
                "files": files.total(),
                "new_files": {place: files[place] - known[place] for place in files if files[place] != known[place]},
                "megabytes": round(sizes.total() / 1e6, 1),
                "resident_megabytes": round(resident()),
                "descriptors": len(os.listdir("/proc/self/fd")),
            }
        )
        known = files
        print(line(told[-1]), file=sys.stderr, flush=True)
    return told


def line(night: dict[str, Any]) -> str:
    """A row of the table."""
    new = sum(night["new_files"].values())
    cells = [night[key] for key in ("night", "outcome", "seconds", "files")]
    cells += [f"+{new}", night["megabytes"], night["resident_megabytes"], night["descriptors"]]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Live the nights, print the tables; 1 where a night did not train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one, removed")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="fifteen-nights-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder=folder, fresh=[], tree=tree(folder))
    try:
        world.prepare()
        world.start_server()
        os.environ |= world.environment
        from bertft_core.base.files import keep_private
        from flows.environment import prepare_environment

        keep_private()
        prepare_environment(world.home)
        told = through(world, args.nights)
        from bertft_core.config.store import load_mlflow_config
        from bertft_core.recipe.cleanup import clean_up
        from bertft_core.tracking.store import open_store

        # `bertft gc` itself would be refused: this process has worked in the home and lives on
        store = open_store(load_mlflow_config(None, world.folder, world.folder), world.home)
        clean_up(store, keep=1, days=0, apply=True)
        files, sizes = used(world.home)
    finally:
        world.close()
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    after = {"files": files.total(), "megabytes": round(sizes.total() / 1e6, 1)}
    if args.json:
        print(json.dumps({"model": NAME, "nights": told, "after_gc": after}, indent=1))
    else:
        show(told, after)
    return 0 if all(night["outcome"] in (PROMOTED, KEPT) for night in told) else 1


def show(told: list[dict[str, Any]], after: dict[str, Any]) -> None:
    """For people: nights, and where the last one's files lie."""
    print("| night | outcome | s | files | new | MB | resident MB | descriptors |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(map(line, told)))
    print(f"\nafter gc: {after['files']} files, {after['megabytes']} MB")
    print("\n| folder | files of the last night |\n|---|---|")
    for place, count in sorted(told[-1]["new_files"].items(), key=lambda item: -item[1]):
        print(f"| {place} | {count:+} |")


if __name__ == "__main__":
    sys.exit(main())
