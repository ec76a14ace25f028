"""Makes format_1.json: a BERTFT_HOME of state format 1, as the release before the rooms wrote it.

Run it with the code of that release (commit c54c87f), never with today's:

    git worktree add ../old c54c87f
    PYTHONPATH=../old python -P tests/homes/make_home.py tests/homes/format_1.json

What is in it: `rows.csv`, `run.yaml`, a tiny `encoder`, and `home`, where `bertft run` searched two trials and promoted
version 1, a second run registered version 2, and `bertft nightly` wrote down its first night. Left out: Prefect's own
database, what the machine was measured to be, logs, locks, pictures and pages, the larger segment of the prefix cache.
The document is {"root": placeholder, "archive": base64 of a tar.xz}: the folder everything lay in stands in the files
as the placeholder, an sqlite database as its dump.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT, RELEASE = "@ROOT@", "/release"
CODE = "import sys; from flows.cli import main; sys.exit(main())"
WORDS = {"sport": ["goal", "match", "team", "win"], "tech": ["chip", "software", "phone", "game"]}
FILLER = ["the", "a", "was", "of", "as", "not", "very", "on", "in", "and"]
LEFT_OUT = ("prefect", "logs", "locks", "features", "machine.json")
ENDINGS_LEFT_OUT = (".png", ".html", ".lock")
LARGEST_SEGMENT = 20_000  # bytes of a segment of the prefix cache: the validation rows' fits, that of training does not


def main(target: Path) -> None:
    """Make the home in a temporary folder and write it down."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        write_project(root)
        for arguments in (
            ("run", "run.yaml"),
            ("run", "run.yaml", "training.lr=3e-3", "search.trials=0"),
            ("nightly", "run.yaml"),
        ):
            subprocess.run([sys.executable, "-P", "-c", CODE, *arguments], cwd=root, env=environment(root), check=True)
        target.write_text(json.dumps(packed(root), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def environment(root: Path) -> dict[str, str]:
    """No settings of whoever runs this."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "BERTFT_"))}
    return {**kept, "BERTFT_HOME": str(root / "home"), "HOME": str(root), "HF_HUB_OFFLINE": "1"}


def write_project(root: Path) -> None:
    """rows.csv, run.yaml and the encoder."""
    from bertft_core.testing import tiny_encoder

    tiny_encoder(root / "encoder", layers=2, hidden=16, seed=1, max_positions=32)
    rng, classes = random.Random(0), list(WORDS)
    with open(root / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(("text", "label"))
        for i in range(100):
            label = classes[i % len(classes)]
            words = rng.choices(FILLER, k=5) + rng.choices(WORDS[label], k=4)
            rows.writerow((" ".join(rng.sample(words, len(words))) + f" {i}", label))
    (root / "run.yaml").write_text(
        """name: letters
data: {source: rows.csv}
model: {pretrained: encoder}
tokenization: {max_length: 24}
training: {lr: 2.0e-3, batch_size: 8, epochs: 2, threads: 1, precision: float32}
search: {trials: 2, space: {lr: {low: 1.0e-3, high: 4.0e-3, log: true}}}
evaluation: {resamples: 500}
nightly: {new_rows: 20}
""",
        encoding="utf-8",
    )


def packed(root: Path) -> dict[str, str]:
    """The files below `root` as an archive; the folder itself stands in them as the placeholder, sqlite as a dump."""
    import bertft_core

    paths = ((str(root), ROOT), (str(Path(bertft_core.__file__).parents[1]), RELEASE))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz", preset=9) as tar:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            name = str(file.relative_to(root))
            is_out = name.startswith((".", *(f"home/{left}" for left in LEFT_OUT))) or name.endswith(ENDINGS_LEFT_OUT)
            if is_out or (file.suffix == ".seg1" and file.stat().st_size > LARGEST_SEGMENT):
                continue
            content = file.read_bytes()
            if file.suffix == ".db":
                with sqlite3.connect(file) as database:
                    content = "\n".join(database.iterdump()).encode()
            for path, placeholder in paths:
                content = content.replace(path.encode(), placeholder.encode())
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"root": ROOT, "archive": base64.b64encode(archive.getvalue()).decode()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
