"""Documents of one topic each, whose words a tiny encoder learns to guess from the words beside them."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.adaptation.corpus import Corpus, write_documents
from bertft_core.adaptation.results import AdaptationSpec
from bertft_core.config.adaptation import AdaptationConfig
from bertft_core.testing.encoders import tiny_encoder

TOPICS = (
    ("film", "movie", "plot", "story"),
    ("goal", "match", "team", "player"),
    ("bank", "price", "profit", "trade"),
    ("chip", "phone", "software", "computer"),
)


def topic_texts(n: int, seed: int = 0, words: int = 40) -> list[str]:
    """Texts of one topic each, in an order of words that says nothing."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(draw.choice(TOPICS), k=words)) for _ in range(n)]


def write_corpus(texts: Sequence[str], encoder: Path, folder: Path) -> Corpus:
    """A corpus of these texts."""
    folder.mkdir(parents=True)
    return write_documents([list(texts)], np.zeros(0, dtype=np.uint64), encoder, folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=2, hidden=32)


@pytest.fixture(scope="session")
def topics(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(topic_texts(240), encoder, tmp_path_factory.mktemp("corpora") / "topics")


@pytest.fixture
def spec(encoder: Path, topics: Corpus, tmp_path: Path) -> Callable[..., AdaptationSpec]:
    """40 updates of 16 blocks of 32 tokens, at a rate at which so small an encoder learns."""

    def build(corpus: Corpus = topics, pretrained: Path = encoder, key: str = "k", **changes: Any) -> AdaptationSpec:
        own = {n: changes.pop(n) for n in list(changes) if n in AdaptationConfig.model_fields}
        settings = {"steps": 40, **own} if not {"epochs", "minutes"} & set(own) else own
        config = AdaptationConfig(**{"lr": 1e-2, "batch_size": 16, "max_length": 32, **settings})
        values: dict[str, Any] = {
            "output": str(tmp_path / "adapted"),
            "seed": 1,
            "precision": "float32",
            "device": "cpu",
            "threads": 1,
            **changes,
        }
        return AdaptationSpec(config=config, key=key, pretrained=str(pretrained), corpus=corpus.directory, **values)

    return build


TOGETHER = "{epochs: 3, lr: 3.0e-3, batch_size: 16, unfreezing: none}"


def rows_of(topics: tuple[int, int], n: int, seed: int) -> list[tuple[str, str]]:
    """Texts of one of two topics each, labelled by it."""
    draw = random.Random(seed)
    chosen = [draw.choice(topics) for _ in range(n)]
    return [(" ".join(draw.choices(TOPICS[topic], k=12)), TOPICS[topic][0]) for topic in chosen]


def write_task(folder: Path, name: str, rows: list[tuple[str, str]], split: str = "{}") -> None:
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])
    text = f"""
name: {name}
data: {{source: {name}.csv, split: {split}}}
model: {{pretrained: encoder, pooling: {"mean" if name == "trade" else "cls"}}}
tokenization: {{max_length: {32 if name == "trade" else 24}}}
training: {{epochs: 1, precision: float32, device: cpu, threads: 1}}
"""
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def write_tasks(folder: Path) -> None:
    """play and trade, of other topics and sizes, read by other heads of one encoder; both.yaml names them."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_encoder(folder / "encoder", layers=2, hidden=32)
    write_task(folder, "play", rows_of((0, 1), 300, 1))
    write_task(folder, "trade", rows_of((2, 3), 120, 2))
    text = f"name: both\ntasks: {{play: play.yaml, trade: trade.yaml}}\ntemperature: 2\ntraining: {TOGETHER}\n"
    (folder / "both.yaml").write_text(text, encoding="utf-8")
