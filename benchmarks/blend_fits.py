"""The tables and fits of blend.py: rows, the TF-IDF model's answers and each encoder's, kept as probabilities."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from records import Records
from workloads import ENCODER, Row, read_corpus, write_csv

from bertft_core.config.run import RunConfig
from bertft_core.evaluation.baseline import tfidf_baseline
from bertft_core.recipe import prepare as preparing
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.process.client import Trainer
from bertft_core.training.spec import MachineSettings

SPLITS = ("train", "validation", "test")
TRAINING = {"lr": 1e-4, "epochs": 3, "batch_size": 16, "unfreezing": "none", "precision": "float32", "threads": 1}
TOKENIZATION = {"max_length": 64, "truncation": "head+tail"}
METRIC = "macro_f1"
_SEED = 11  # of the choice of rows
_WORDS = 60  # of an excerpt


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of rows: its name, what it holds, its rows a split, and what reads its rows in a random order."""

    name: str
    about: str
    sizes: tuple[int, int, int]
    read: Callable[[Path], list[Row]]


def tables() -> list[Table]:
    """Three known tables and two with uneven classes, put together from their texts."""
    return [
        Table(name="BBC News", about="5 classes", sizes=(600, 300, 900), read=lambda home: read_corpus("bbc", home)),
        Table(name="IMDb", about="2 classes", sizes=(1000, 500, 1500), read=lambda home: read_corpus("imdb", home)),
        Table(
            name="Rotten Tomatoes", about="2 classes", sizes=(800, 400, 1000), read=lambda home: read_corpus("rt", home)
        ),
        Table(
            name="six",
            about="6 uneven classes: IMDb and Rotten Tomatoes by sentiment, two BBC categories",
            sizes=(700, 300, 1000),
            read=six,
        ),
        Table(
            name="twenty",
            about="20 uneven classes: source, category or sentiment, and which part of the text an excerpt is",
            sizes=(900, 400, 1100),
            read=twenty,
        ),
    ]


def six(home: Path) -> list[Row]:
    """Classes in shares that fall by a third from one to the next."""
    kinds = {f"imdb {label}": rows for label, rows in by_class("imdb", home).items()}
    kinds |= {f"rt {label}": rows for label, rows in by_class("rt", home).items()}
    bbc = by_class("bbc", home)
    order = ["imdb 0", "rt 1", "bbc tech", "imdb 1", "rt 0", "bbc entertainment"]
    kinds |= {f"bbc {name}": bbc[name] for name in ("tech", "entertainment")}
    return uneven({name: kinds[name] for name in order}, rows=2000, ratio=0.67)


def twenty(home: Path) -> list[Row]:
    """No text gives two excerpts, so that no two rows share one."""
    kinds: dict[str, list[str]] = {}
    for source, parts in (("imdb", ("opening", "middle", "ending")), ("bbc", ("opening", "middle"))):
        for label, texts in by_class(source, home).items():
            long = [text.split() for text in texts if len(text.split()) >= 3 * _WORDS]
            for place, part in enumerate(parts):
                own = long[place :: len(parts)]
                kinds[f"{source} {label} {part}"] = [excerpt(words, part) for words in own]
    for label, texts in by_class("rt", home).items():
        kinds[f"rt {label} short"] = [text for text in texts if len(text.split()) <= 15]
        kinds[f"rt {label} long"] = [text for text in texts if len(text.split()) > 15]
    plenty_first = sorted(kinds, key=lambda name: (-len(kinds[name]), name))
    return uneven({name: kinds[name] for name in plenty_first}, rows=2400, ratio=0.9)


def excerpt(words: list[str], part: str) -> str:
    """60 words of a text that has 180 or more."""
    start = {"opening": 0, "middle": (len(words) - _WORDS) // 2, "ending": len(words) - _WORDS}[part]
    return " ".join(words[start : start + _WORDS])


def by_class(source: str, home: Path) -> dict[str, list[str]]:
    """Texts of a source by class, in a random order."""
    found: dict[str, list[str]] = {}
    for text, label in read_corpus(source, home):
        found.setdefault(label, []).append(text)
    return dict(sorted(found.items()))


def uneven(kinds: dict[str, list[str]], rows: int, ratio: float) -> list[Row]:
    """`rows` rows in a random order; a class has `ratio` times the rows of the one before it."""
    shares = ratio ** np.arange(len(kinds))
    counts = np.round(rows * shares / shares.sum()).astype(int)
    counts[0] += rows - counts.sum()
    chosen: list[Row] = []
    for (name, texts), count in zip(kinds.items(), counts, strict=True):
        if len(texts) < count:
            raise SystemExit(f"{name} has {len(texts)} texts, {count} are wanted")
        chosen += [(text, name) for text in texts[:count]]
    return [chosen[i] for i in np.random.default_rng(_SEED).permutation(rows)]


def configuration(table: Table, home: Path) -> RunConfig:
    """The table as files with one split each, below `home`, and its configuration."""
    folder = home / "files" / table.name.replace(" ", "-")
    if not folder.exists():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        rows, start = table.read(home), 0
        for split, size in zip(SPLITS, table.sizes, strict=True):
            write_csv(part / f"{split}.csv", rows[start : start + size])
            start += size
        os.replace(part, folder)
    return RunConfig(
        name="blend",
        data={split: str(folder / f"{split}.csv") for split in SPLITS} | {"min_class_rows": 1},
        model={"pretrained": ENCODER},
        tokenization=TOKENIZATION,
        training={"device": "cpu", **TRAINING},
        evaluation={"metric": METRIC},
    )


def fit_all(wanted: list[Table], seeds: int, records: Records, home: Path) -> None:
    """Whatever is missing: each table's labels and TF-IDF answers, then its fits, one seed of all tables after another.

    Ends the program when the records are of other rows.
    """
    with Trainer() as trainer:
        for seed in range(1, seeds + 1):
            for table in wanted:
                key = f"fit {table.name}, seed {seed}"
                if records.get(key) is not None:
                    continue
                config = configuration(table, home)
                prepared = preparing.prepare(config, home)
                _keep_rows(table, prepared.dataset, records)
                settings = MachineSettings(
                    precision="float32", device="cpu", threads=1, float32_step=None, bfloat16_step=None
                )
                with tempfile.TemporaryDirectory(dir=home) as scratch:
                    output = Path(scratch) / "fit"
                    spec = fit_spec(config, prepared, settings, home, output, seed=seed, rows=None, keep_model=True)
                    result = trainer.fit(spec)
                    answers = {}
                    for split in SPLITS[1:]:
                        file = Path(scratch) / f"{split}.npy"
                        trainer.score(result.model_dir, prepared.tokens.directory, split, file, "cpu", 1)
                        answers[split] = packed(np.load(file, allow_pickle=False))
                scores = [epoch.macro_f1 for epoch in result.history]
                records.add(key, {**answers, "validation_macro_f1": scores, "seconds": result.seconds})
                print(key, f"{result.seconds:.0f} s", flush=True)


def _keep_rows(table: Table, dataset: Any, records: Records) -> None:
    key = f"rows {table.name}"
    known = records.get(key)
    if known is not None and known["fingerprint"] != dataset.fingerprint:
        raise SystemExit(f"{records.path} was measured on other rows: name another file with --out")
    if known is not None:
        return
    texts = {split: dataset.joined_texts(split) for split in SPLITS}
    labels = {split: dataset.targets(split) for split in SPLITS}
    found = tfidf_baseline(texts, labels, len(dataset.classes), METRIC, 1)
    records.add(
        key,
        {
            "fingerprint": dataset.fingerprint,
            "classes": list(dataset.classes),
            "labels": {split: labels[split].tolist() for split in SPLITS},
            "tfidf": {split: packed(p) for split, p in found.probabilities.items()},
            "params": found.params,
        },
    )


def packed(probabilities: Any) -> str:
    """float32 [n, C] as text."""
    return base64.b64encode(np.ascontiguousarray(probabilities, dtype="<f4").tobytes()).decode()


def unpacked(text: str, n_classes: int) -> Any:
    """float64 [n, C] from `packed`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(-1, n_classes).astype(np.float64)


def finished(table: Table, seeds: int, records: Records) -> Iterator[tuple[int, dict[str, Any]]]:
    """(seed, encoder's probabilities by split) of the fits there are."""
    n_classes = len((records.get(f"rows {table.name}") or {"classes": []})["classes"])
    for seed in range(1, seeds + 1):
        fit = records.get(f"fit {table.name}, seed {seed}")
        if fit is not None:
            yield seed, {split: unpacked(fit[split], n_classes) for split in SPLITS[1:]}
