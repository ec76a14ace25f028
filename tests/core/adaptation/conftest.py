"""Documents of one topic each, whose words a tiny encoder learns to guess from the words beside them."""

from __future__ import annotations

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
