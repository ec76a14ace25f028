"""How fast does the product score a file of reviews, against transformers' pipeline on the same model and machine?

python benchmarks/scoring_speed.py [--reviews N] [--rounds N] [--whole] [--out FILE] [--json] [--quick]

5,000 movie reviews (IMDb and Rotten Tomatoes as the file mixes them, 3 to 1: 3 to 256 tokens), cut to the first 256
tokens on both sides, float32, one model: a MiniLM (6 layers) fine-tuned for a few steps by the product and saved as the
standard transformers folder that both sides load.
  ours       `serving.tables.score_table`, what `bertft predict` runs: CSV in, CSV with all probabilities out
  default    pipeline("text-classification") over the list of texts, one at a time, which is its default
  batch32    the same with batch_size=32
Sides run in fresh processes with the same number of threads; loading the model and scoring 32 texts first is not
counted, reading words, cutting and (ours) reading and writing the file is. Every label and probability of the
pipeline is compared with ours: the labels must be the same (unless within 1e-5 of a tie), probabilities within 1e-5.

Each of the rounds takes its share of the reviews, so that all of them are scored once by every side; --whole scores all
of them in every round. Sides alternate; ratios are of medians over the rounds of reviews a second.
About 8 minutes on 2 quiet cores, 24 with --whole; --quick (300 reviews in one round) about one. A second start with the
same --out goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers import in_child
from records import Records
from workloads import Workload, prepare, read_corpus, write_csv

from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.process.client import Trainer
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.training.spec import MachineSettings

MAX_LENGTH = 256
WARM_ROWS = 32
TOLERANCE = 1e-5  # of a probability: float32 rounding between shapes
PEERS = {"default": None, "batch32": 32}  # pipeline's batch_size
SIDES = ("ours", *PEERS)
FIT_ROWS = 192


def fine_tuned(home: Path, threads: int) -> Path:
    """The served folder of a short fit, made once."""
    folder = home / "artifact"
    if folder.exists():
        return folder
    wanted = {"epochs": 1, "unfreezing": "none", "lr": 1e-4}
    config, prepared = prepare(Workload(source="reviews", max_length=MAX_LENGTH, train=FIT_ROWS), home, wanted)
    settings = MachineSettings(precision="float32", device="cpu", threads=threads)
    spec = fit_spec(config, prepared, settings, home, home / "fit", seed=1, rows=None, keep_model=True)
    with Trainer() as trainer:
        model = trainer.fit(replace(spec, checkpoint_seconds=3600.0)).model_dir
    card = ArtifactCard(max_length=MAX_LENGTH, truncation="head", classes=prepared.dataset.classes)
    return build_artifact(model, folder, card)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the product's scoring of a CSV, and each text's (label, probability of it)."""
    from bertft_core.serving.predictor import Predictor
    from bertft_core.serving.tables import TableSettings, score_table

    predictor = Predictor.load(job["model"])
    with open(job["file"], encoding="utf-8", newline="") as handle:
        first = [row["text"] for _, row in zip(range(job["warm_rows"]), csv.DictReader(handle), strict=False)]
    predictor.probabilities(first)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "scored.csv"
        begun = time.perf_counter()
        score_table(predictor, Path(job["file"]), target, model="fitted", settings=TableSettings(text="text"))
        seconds = time.perf_counter() - begun
        with open(target, encoding="utf-8", newline="") as handle:
            answers = [[row["label"], float(row["confidence"])] for row in csv.DictReader(handle)]
    return {"seconds": seconds, "answers": answers}


def run_side(side: str, model: Path, file: Path, threads: int) -> dict[str, Any]:
    """One side over one file, in a fresh process."""
    job = {"model": str(model), "file": str(file), "max_length": MAX_LENGTH, "warm_rows": WARM_ROWS}
    if side == "ours":
        return dict(in_child("scoring_speed:ours", job, threads))
    return dict(in_child("peers:pipeline", {**job, "batch_size": PEERS[side]}, threads))


def compare(mine: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """Largest difference of a probability, and how many labels differ beyond a tie."""
    assert len(mine) == len(theirs), "an answer for every text"
    worst, differing = 0.0, 0
    for (label, chance), (other, score) in zip(mine, theirs, strict=True):
        same = str(label) == str(other)
        worst = max(worst, abs(chance - (score if same else 1.0 - score)))
        differing += not same and abs(score - 0.5) > TOLERANCE
    return {"largest_difference": worst, "labels_differing": differing}


def files(home: Path, reviews: int, rounds: int, *, is_whole: bool) -> list[Path]:
    """The texts of each round as CSV; rows that the model was trained on are none of them."""
    rows = read_corpus("reviews", home)[-reviews:]
    parts = [rows] * rounds if is_whole else [rows[i::rounds] for i in range(rounds)]
    found = []
    for number, part in enumerate(parts):
        found.append(home / f"reviews-{number}.csv")
        write_csv(found[-1], [(text, "") for text, _ in part])
    return found


def run_round(number: int, sides: list[str], model: Path, file: Path, threads: int) -> dict[str, Any]:
    """Seconds of every side over the same texts, and how far the answers are from ours."""
    answers: dict[str, Any] = {}
    found: dict[str, Any] = {"seconds": {}, "agreement": {}}
    for side in sorted(sides, reverse=bool(number % 2)):
        one = run_side(side, model, file, threads)
        answers[side], found["seconds"][side] = one["answers"], one["seconds"]
        rate = len(one["answers"]) / one["seconds"]
        print(f"round {number}, {side}: {rate:.1f} reviews/s", file=sys.stderr, flush=True)
    found["agreement"] = {side: compare(answers["ours"], answers[side]) for side in sides if side != "ours"}
    return {**found, "reviews": len(answers["ours"])}


def measure(args: argparse.Namespace, records: Records, home: Path) -> dict[str, Any]:
    """All rounds, then the ratios."""
    keys = [f"round {number}" for number in range(args.rounds)]
    if any(records.get(key) is None for key in keys):
        model = fine_tuned(home, args.threads)
        for number, file in enumerate(files(home, args.reviews, args.rounds, is_whole=args.whole)):
            if records.get(keys[number]) is None:
                records.add(keys[number], run_round(number, args.sides, model, file, args.threads))
    return ratios(args, [records.get(key) or {} for key in keys])


def ratios(args: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Reviews a second as medians over the rounds, ours over each of the peer's, and how far answers differ."""
    rates = {side: statistics.median(run["reviews"] / run["seconds"][side] for run in runs) for side in args.sides}
    peers = [side for side in args.sides if side != "ours"]
    agreement = {
        side: {
            name: max(run["agreement"][side][name] for run in runs)
            for name in ("largest_difference", "labels_differing")
        }
        for side in peers
    }
    scoring = {f"vs_{side}": rates["ours"] / rates[side] for side in peers}
    return {
        "reviews": args.reviews,
        "rounds": args.rounds,
        "scoring": {**scoring, "reviews_per_second": rates, "agreement": agreement},
    }


def show(found: dict[str, Any]) -> bool:
    """One table for people; whether all answers agree."""
    own, is_same = found["scoring"], True
    print(f"{found['reviews']} reviews, {found['rounds']} rounds, float32, cut to {MAX_LENGTH} tokens")
    for side, rate in own["reviews_per_second"].items():
        line = f"  {side:<8} {rate:8.1f} reviews/s"
        if side != "ours":
            told = own["agreement"][side]
            is_same &= told["labels_differing"] == 0 and told["largest_difference"] <= TOLERANCE
            line += f"   ours is {own[f'vs_{side}']:.2f} times as fast; probabilities differ by at most "
            line += f"{told['largest_difference']:.1e}, {told['labels_differing']} labels differ"
        print(line)
    return is_same


def main() -> None:
    """Measure, print the ratios; exit code 1 when the answers are not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"ours and one or more of {','.join(PEERS)}")
    parser.add_argument("--whole", action="store_true", help="all reviews in every round")
    parser.add_argument("--out", type=Path, help="JSON lines file; a second start skips what it holds")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="300 reviews in one round")
    args = parser.parse_args()
    args.sides = args.sides.split(",")
    if "ours" not in args.sides or set(args.sides) - set(SIDES):
        parser.error(f"--sides: ours and one or more of {', '.join(PEERS)}")
    if args.quick:
        args.reviews, args.rounds = 300, 1
    out = args.out or Path(tempfile.mkdtemp(prefix="scoring-speed-")) / "records.jsonl"
    records = Records(out, {k: getattr(args, k) for k in ("reviews", "rounds", "threads", "sides", "whole")})
    home = Path(tempfile.mkdtemp(prefix="scoring-speed-home-"))
    try:
        found = measure(args, records, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    is_same = show(found)
    print(f"measurements: {out}")
    if not is_same:
        raise SystemExit(f"answers differ by more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
