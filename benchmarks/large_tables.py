"""What does a table of millions of rows cost, stage by stage: seconds, peak memory, bytes a row?

python benchmarks/large_tables.py [--rows N ...] [--words N] [--folder FOLDER] [--out FILE] [--picture FILE]

A made table of N rows of 60 words in Parquet, four classes, and a tiny encoder that knows each word. Each stage is a
process of its own at the lowest priority, watched from outside: `peak`, the largest resident memory of one process,
with the pages of mapped files that happen to be in memory; `own`, the part of it that the system cannot take back. What
a stage costs a row is the slope between the smallest and the largest table: libraries and model fall out of it.

table: written. ingest: read, checked, split. tokenize. train: 200 steps of 32 rows drawn from all, as a whole epoch
draws them. fit: 200 steps on 6,400 sampled rows and the scores of all validation rows; baseline: TF-IDF; judge: report
of the test rows; review: doubtful labels and the words behind the worst errors; release: what gate, next night and
MLflow are told of the rows.

A second start goes on where the first one ended; a table's files go before the next.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from records import Records, conclude

from bertft_core.config.run import RunConfig

STAGES = ("table", "ingest", "tokenize", "train", "fit", "baseline", "judge", "review", "release")
ROAD = ("ingest", "tokenize", "train")  # what holds for every row, whichever the settings
STEPS, BATCH, CLASSES = 200, 32, 4
LIMIT = 2e9  # bytes, beside the model
_WORDS, _PART = 5_000, 10_000  # words of the language; rows written at once
_LOOK_SECONDS = 0.02


def words_of_the_table() -> list[str]:
    """Pronounceable words of two or three syllables, the most frequent first."""
    signs = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    rng = np.random.default_rng(1)
    found = ("".join(signs[i] for i in rng.integers(len(signs), size=2 + k % 2)) for k in range(10 * _WORDS))
    return list(dict.fromkeys(found))[:_WORDS]


def write_table(path: Path, rows: int, words: int) -> None:
    """Rows of Zipf-like words; every third word of a row comes from the words of its class."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    known, rng = np.array(words_of_the_table(), dtype=object), np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(10, _WORDS + 10))
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _PART):
            n = min(_PART, rows - start)
            picks = np.searchsorted(weights, rng.random((n, words)) * weights[-1])
            labels = rng.integers(CLASSES, size=n)
            picks[:, ::3] = picks[:, ::3] // CLASSES * CLASSES + labels[:, None]
            texts = [" ".join(row) for row in known[np.minimum(picks, _WORDS - 1)]]
            names = [f"class {label}" for label in labels]
            writer.write_table(pa.table({"text": texts, "label": names}, schema=schema))


def configuration(folder: Path) -> RunConfig:
    """The run of the benchmark: one epoch, no search, defaults otherwise."""
    training = {"epochs": 1, "lr": 1e-3, "batch_size": BATCH, "unfreezing": "none", "precision": "float32"}
    return RunConfig(
        name="large",
        data={"source": str(folder / "rows.parquet")},
        model={"pretrained": str(folder / "encoder")},
        tokenization={"max_length": 128},
        training={**training, "device": "cpu", "threads": 1, "prefix_cache": "off"},
    )


class _Enough(Exception):
    """The steps that are measured are done."""


def run_stage(stage: str, folder: Path, rows: int, words: int) -> dict[str, Any]:
    """Do one stage in this process; what it says of itself."""
    from bertft_core.recipe import prepare as preparing

    if stage == "table":
        from bertft_core.testing.encoders import tiny_encoder

        write_table(folder / "rows.parquet", rows, words)
        tiny_encoder(folder / "encoder", layers=2, words=words_of_the_table())
        return {"table_bytes": (folder / "rows.parquet").stat().st_size}
    config, home = configuration(folder), folder / "home"
    begun = time.perf_counter()
    dataset = preparing.ingest(config, home)
    if stage == "ingest":
        return {"seconds": time.perf_counter() - begun, "rows_used": dataset.report.rows_used}
    begun = time.perf_counter()
    prepared = preparing.tokenize(config, dataset, home)
    if stage == "tokenize":
        return {"seconds": time.perf_counter() - begun, "tokens": str(prepared.tokens)}
    return _later_stage(stage, config, prepared, home)


def _later_stage(stage: str, config: RunConfig, prepared: Any, home: Path) -> dict[str, Any]:
    from bertft_core.recipe.context import RunContext
    from bertft_core.recipe.evaluation import baseline_folder, evaluate
    from bertft_core.recipe.mlflow_tree import split_records
    from bertft_core.recipe.nights.rows import Rows
    from bertft_core.recipe.process.client import Trainer
    from bertft_core.recipe.release import build_served, write_gate_rows
    from bertft_core.recipe.review import review, write_page
    from bertft_core.recipe.runs import identify
    from bertft_core.training.results import TrainingResult

    run = identify(config, prepared, home)
    begun = time.perf_counter()
    if stage in ("train", "fit"):
        return _fit(stage, config, prepared, home, run)
    if stage == "baseline":
        baseline_folder(config, prepared.dataset, home)
        return {"seconds": time.perf_counter() - begun}
    with Trainer() as trainer:
        context = RunContext(config=config, prepared=prepared, run=run, home=home, trainer=trainer)
        fit = TrainingResult.from_json(json.loads((home / "fit.json").read_text(encoding="utf-8")))
        begun = time.perf_counter()
        report = evaluate(context, fit)
        if stage == "judge":
            return {"seconds": time.perf_counter() - begun, "accuracy": report.scores.accuracy}
        begun = time.perf_counter()
        served = build_served(context, fit)
        if stage == "review":
            review(context, report, served)
        else:
            write_gate_rows(config, prepared.dataset, run.folder.evaluation, home)
            prepared.dataset.test_fingerprint()
            Rows.of(prepared.dataset).save(run.path)
            split_records(config, prepared.dataset)
        write_page(context, fit, report)
        return {"seconds": time.perf_counter() - begun}


def _fit(stage: str, config: RunConfig, prepared: Any, home: Path, run: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from bertft_core.recipe.fit import fit_spec
    from bertft_core.training import loop
    from bertft_core.training.spec import MachineSettings

    settings = MachineSettings(precision="float32", device="cpu", threads=1)
    run.update(settings=asdict(settings))
    rows = STEPS * BATCH if stage == "fit" else None
    output = home / stage
    spec = fit_spec(config, prepared, settings, home, output, seed=1, rows=rows, keep_model=True)
    begun = time.perf_counter()
    first = 0.0

    def watch(fraction: float, facts: dict[str, Any]) -> None:
        nonlocal first
        if facts["step"] == 1 and not first:
            first = time.perf_counter() - begun
        if stage == "train" and facts["step"] >= STEPS:
            raise _Enough

    loop._BEAT_SECONDS = 0.0  # a look after every step
    try:
        result = loop.fit(spec, watch)
        (home / "fit.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
    except _Enough:
        shutil.rmtree(output)
    return {"seconds": time.perf_counter() - begun, "first_step": first}


def measured(stage: str, folder: Path, rows: int, words: int) -> dict[str, Any]:
    """Run a stage in a child and watch it and its children: seconds, `peak` and `own` in bytes."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), "--rows", str(rows)]
    begun = time.perf_counter()
    child = subprocess.Popen([*command, "--words", str(words)], stdout=subprocess.PIPE, text=True)
    peak = own = 0
    while child.poll() is None:
        for process in family(child.pid):
            high, private = memory_of(process)
            peak, own = max(peak, high), max(own, private)
        time.sleep(_LOOK_SECONDS)
    assert child.stdout is not None
    said = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{stage} of {rows} rows ended with {child.returncode}")
    return {"seconds": time.perf_counter() - begun, "peak": peak, "own": own, **json.loads(said.splitlines()[-1])}


def family(pid: int) -> list[int]:
    """A process and all below it, those that are left."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        try:
            children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text(encoding="ascii")
        except OSError:
            continue
        todo += map(int, children.split())
    return found


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes: the largest resident memory so far, and what is now resident and no page of a file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    sizes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if "kB" in value}
    return 1024 * int(sizes.get("VmHWM", 0)), 1024 * int(sizes.get("RssAnon", 0))


def measure(args: argparse.Namespace, records: Records) -> None:
    """What is missing, table by table; a table's files go once its stages are measured."""
    os.nice(max(0, args.nice - os.nice(0)))
    for rows in args.rows:
        keys = {stage: f"{rows} {stage}" for stage in STAGES if stage not in args.skip}
        if all(records.get(key) for key in keys.values()):
            continue
        folder = args.folder / f"rows-{rows}"
        folder.mkdir(parents=True, exist_ok=True)
        for stage, key in keys.items():
            if records.get(key):
                continue
            found = records.add(key, measured(stage, folder, rows, args.words))
            print(
                f"{rows:>10,} {stage:10}{found['seconds']:9.1f} s {found['peak'] / 1e6:8.0f} MB peak "
                f"{found['own'] / 1e6:8.0f} MB own",
                file=sys.stderr,
                flush=True,
            )
        if not args.keep:
            shutil.rmtree(folder)


def document(args: argparse.Namespace, records: Records) -> dict[str, Any]:
    """By stage: seconds, peak and own of each table; bytes and microseconds a row between the smallest and largest."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        parts = {rows: part for rows in args.rows if (part := records.get(f"{rows} {stage}"))}
        if not parts:
            continue
        low, high = min(parts), max(parts)
        slope = {
            f"{name}_a_row": (parts[high][name] - parts[low][name]) / (high - low) if high > low else None
            for name in ("seconds", "peak", "own")
        }
        kept = {str(r): {name: part[name] for name in ("seconds", "peak", "own")} for r, part in parts.items()}
        found[stage] = {"tables": kept, **slope}
    return found


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(
        f"{'stage':10}{'rows':>11}{'seconds':>9}{'peak MB':>9}{'own MB':>8}{'us a row':>10}"
        f"{'bytes a row: peak':>19}{'own':>7}"
    )
    for stage, part in found.items():
        for rows, values in part["tables"].items():
            line = f"{stage:10}{int(rows):>11,}{values['seconds']:>9.1f}"
            print(line + f"{values['peak'] / 1e6:>9.0f}{values['own'] / 1e6:>8.0f}")
        if part["peak_a_row"] is not None:
            print(f"{'':47}{1e6 * part['seconds_a_row']:>10.1f}{part['peak_a_row']:>19.0f}{part['own_a_row']:>7.0f}")


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds and peak memory of the road from table to training, over the number of rows."""
    from bertft_core.reporting.html.picture import BLUE, GREY, INK, ORANGE, add_legend, picture

    with picture(path, height=4.6, rows=2) as (figure, (clock, memory)):
        for stage, colour in zip(ROAD, (BLUE, ORANGE, INK), strict=True):
            tables = found[stage]["tables"]
            rows = [int(n) / 1e6 for n in tables]
            clock.plot(rows, [t["seconds"] / 60 for t in tables.values()], "o-", color=colour, label=stage)
            memory.plot(rows, [t["peak"] / 1e9 for t in tables.values()], "o-", color=colour)
        memory.axhline(LIMIT / 1e9, color=GREY, linestyle="--", label="2 GB")
        clock.set(title="Time", ylabel="minutes", ylim=(0, None))
        memory.set(title="Peak memory of the process", ylabel="GB", xlabel="million rows of 60 words", ylim=(0, None))
        for axes in (clock, memory):
            axes.grid(axis="y")
        add_legend(figure, 4)


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = functools.partial(parser.add_argument, type=int)
    whole("--rows", nargs="+", default=[1_000_000, 2_000_000, 5_000_000])
    whole("--words", default=60)
    whole("--nice", default=19)
    parser.add_argument("--skip", nargs="*", default=[], choices=STAGES, help="stages that are left out")
    parser.add_argument("--folder", type=Path, help="where the tables and homes lie")
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--keep", action="store_true", help="leave the tables and homes where they are")
    parser.add_argument("--picture", type=Path, help="draw the road from table to training")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(run_stage(args.stage, args.folder, args.rows[0], args.words)))
        return
    args.folder = args.folder or Path(tempfile.mkdtemp(prefix="large-tables-"))
    out = args.out or args.folder / "records.jsonl"
    records = Records(out, {"words": args.words})
    measure(args, records)
    found = document(args, records)
    if args.picture:
        draw(found, args.picture)
    conclude(found, show, out, is_json=args.json)


if __name__ == "__main__":
    main()
