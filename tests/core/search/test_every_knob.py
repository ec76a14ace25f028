"""Every field that can be searched changes what is learnt: two values, two fits, other weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertft_core.config.knobs import searchable
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.tokenization import TokenizedSplits, tokenize_splits
from bertft_core.model.feature_plan import feature_plan
from bertft_core.recipe.unused_knobs import longest_text
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.loop import fit
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec

# Two values of each field; a new field needs an entry here, or the first test fails.
KNOBS: dict[str, tuple[Any, Any]] = {
    "lr": (2e-3, 3e-3),
    "batch_size": (8, 16),
    "epochs": (1, 2),
    "alpha": (0.7, 1.0),
    "embedding_rate": ("layerwise", "paper_code"),
    "head_multiplier": (1.0, 5.0),
    "warmup_fraction": (0.0, 0.5),
    "weight_decay": (0.0, 0.5),
    "unfreezing": ("gradual", "none"),
    "schedule": ("linear", "cosine"),
    "cut_fraction": (0.1, 0.5),
    "ratio": (8.0, 32.0),
    "phase_restart": (False, True),
    "max_grad_norm": (0.1, 10.0),
    "dropout": (None, 0.5),
    "attention_dropout": (0.0, 0.5),
    "loss": ("cross_entropy", "focal"),
    "focal_gamma": (1.0, 2.0),
    "tau": (0.5, 1.0),
    "class_weights": ("none", "balanced"),
    "label_smoothing": (0.0, 0.2),
    "tokenization.max_length": (12, 24),
    "tokenization.truncation": ("head", "tail"),
    "tokenization.chunk_overlap": (0, 6),
    "tokenization.max_chunks": (1, 2),
    "tokenization.chunk_pooling": ("mean", "max"),
    "model.pretrained": ("one", "two"),
    "model.pooling": ("cls", "mean"),
    "model.layers": (0, "all"),
    "model.combine": ("concat", "mean"),
}
MORE = [
    ("class_weights", ("balanced", "sqrt")),
    ("loss", ("cross_entropy", "logit_adjusted")),
    ("tokenization.truncation", ("head", "head+tail")),
    ("tokenization.truncation", ("head", "chunks")),
    ("tokenization.chunk_pooling", ("max", "attention")),
    ("model.layers", (-1, -2)),
    ("model.combine", ("mean", "max")),
    ("unfreezing", ("gradual", "late")),
    ("unfreezing", ("none", "fast")),
    ("unfreezing", ("none", "head_first")),
    ("unfreezing", ("head_first", "ulmfit")),
    ("unfreezing", ("none", "linear_probe")),
    ("schedule", ("constant", "slanted_triangular")),
    ("schedule", ("linear", "constant")),
]
BESIDE: dict[str, dict[str, Any]] = {  # without which the knob is not read
    "embedding_rate": {"unfreezing": "late"},
    "phase_restart": {"unfreezing": "late"},
    "cut_fraction": {"schedule": "slanted_triangular"},
    "ratio": {"schedule": "slanted_triangular"},
    "tokenization.chunk_overlap": {"tokenization.truncation": "chunks"},
    "tokenization.max_chunks": {"tokenization.truncation": "chunks"},
    "tokenization.chunk_pooling": {"tokenization.truncation": "chunks"},
    "model.layers": {"model.pooling": "layers"},
    "model.combine": {"model.pooling": "layers", "model.layers": "all"},
    "focal_gamma": {"loss": "focal"},
    "tau": {"loss": "logit_adjusted"},
}
WORDS = {"sport": ["goal", "match", "team"], "tech": ["chip", "phone", "software"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny encoders and 90 rows of 6 to 30 words, two thirds of them of one class."""
    root, rng, rows = tmp_path_factory.mktemp("knobs"), random.Random(1), []
    for seed, name in enumerate(("one", "two")):
        tiny_encoder(root / name, layers=2, hidden=16, seed=seed)
    for number in range(90):
        label = "tech" if number % 3 == 0 else "sport"
        words = rng.choices(["the", "new", "on", *WORDS[label]], k=rng.randint(6, 30))
        rows.append(json.dumps({"text": f"{' '.join(words)} {number}", "label": label}))
    (root / "rows.jsonl").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    tree = {
        "name": "knobs",
        "data": {"source": "rows.jsonl"},
        "model": {"pretrained": "one"},
        "tokenization": {"max_length": 16},
        "training": {
            "lr": 2e-3,
            "batch_size": 16,
            "epochs": 1,
            "threads": 1,
            "precision": "float32",
            "device": "cpu",
            "prefix_cache": "off",
        },
    }
    return parse_config(tree, folder)


@pytest.fixture(scope="module")
def dataset(config: RunConfig, folder: Path) -> DatasetSplits:
    return prepare_dataset(config.data, folder / "data", folder)


Tokenize = Callable[[RunConfig], TokenizedSplits]
Fit = Callable[[dict[str, Any]], TrainingResult]


@pytest.fixture(scope="module")
def tokenized(dataset: DatasetSplits, folder: Path) -> Tokenize:
    def tokens(config: RunConfig) -> TokenizedSplits:
        return tokenize_splits(dataset, folder / config.model.pretrained, config.tokenization, folder / "tokens")

    return tokens


@pytest.fixture(scope="module")
def fitted(config: RunConfig, dataset: DatasetSplits, tokenized: Tokenize, folder: Path) -> Fit:
    """The fit with some values in place; equal values are fitted once."""
    done: dict[str, TrainingResult] = {}

    def run(values: dict[str, Any]) -> TrainingResult:
        changed = config.with_values(values)
        key = changed.model_dump_json()
        if key not in done:
            done[key] = fit(
                FitSpec(
                    pretrained=str(folder / changed.model.pretrained),
                    tokens=tokenized(changed).directory,
                    output=str(folder / "fits" / str(len(done))),
                    classes=dataset.classes,
                    keep_model=False,
                    features=feature_plan(changed.model, changed.tokenization, 2),
                    training=changed.training,
                )
            )
        return done[key]

    return run


def test_every_searchable_field_has_an_entry() -> None:
    assert set(KNOBS) == set(searchable())


@pytest.mark.parametrize(("key", "values"), [*KNOBS.items(), *MORE], ids=lambda v: v if isinstance(v, str) else "")
def test_knob_changes_the_weights(key: str, values: tuple[Any, Any], fitted: Fit) -> None:
    first, second = (fitted({**BESIDE.get(key, {}), key: value}) for value in values)
    assert first.weights_digest != second.weights_digest


def test_value_without_effect_changes_no_weight(fitted: Fit) -> None:
    """So the test above can fail: a warm-up of as many whole steps, fitted in a folder of its own."""
    assert fitted({"warmup_fraction": 0.1 + 1e-9}).weights_digest == fitted({}).weights_digest


def test_longest_text_is_that_of_the_uncut_rows(config: RunConfig, tokenized: Tokenize) -> None:
    short, long = (tokenized(config.with_values({"tokenization.max_length": n})) for n in (12, 64))
    lengths = [
        value for split in ("train", "validation") for name, value in long.percentiles[split].items() if name == "max"
    ]
    assert longest_text(short) == longest_text(long) == max(lengths) > 24
