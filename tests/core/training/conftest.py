"""A tiny encoder and tokenized rows on disk, in the format of data/tokenization.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bertft_core.base.files import staged_folder
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.spec import FitSpec

from .crews import Crews
from .specs import fit_spec


def write_tokens(
    folder: Path, n: int = 96, *, classes: int = 2, soft: bool = False, sets: bool = False, seed: int = 0
) -> Path:
    """Rows whose label is which of the ids 100.. occurs in them (sets: all that do): learnable from tokens alone."""
    rng = np.random.default_rng(seed)
    with staged_folder(folder) as staging:
        for split, count in (("train", n), ("validation", n // 3), ("test", n // 3)):
            labels = rng.integers(0, classes, count)
            ids, flags = [], np.zeros((count, classes))
            if sets:
                flags[:] = rng.random(flags.shape) < 0.5
            for label, flag in zip(labels, flags, strict=True):
                body = rng.integers(60, 90, int(rng.integers(4, 20)))
                if sets:  # every fourth token tells one label
                    for marked in np.flatnonzero(flag):
                        body[marked::4] = 100 + marked
                else:
                    body[rng.integers(0, len(body), 2)] = 100 + label
                ids.append([2, *body.tolist(), 3])
            columns: dict[str, Any] = {
                "input_ids": pa.array(ids, pa.list_(pa.int32())),
                "pair_start": pa.array([len(i) for i in ids], pa.int32()),
                "label": pa.array(labels, pa.int32()),
            }
            if sets:
                columns["label"] = pa.array([int(f.argmax()) if f.any() else -1 for f in flags], pa.int32())
                columns["weights"] = pa.array(flags.tolist(), pa.list_(pa.float32()))
            if soft:
                weights = np.full((count, classes), 0.1 / (classes - 1))
                weights[np.arange(count), labels] = 0.9
                columns["weights"] = pa.array(weights.tolist(), pa.list_(pa.float32()))
            table = pa.table(columns)
            with pa.OSFile(str(staging / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=3, hidden=16)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "hard")


@pytest.fixture(scope="session")
def soft_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "soft", soft=True)


@pytest.fixture(scope="session")
def set_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "sets", sets=True)


@pytest.fixture(scope="session")
def crews() -> Iterator[Crews]:
    started = Crews()
    yield started
    started.close()


@pytest.fixture
def spec(encoder: Path, tokens: Path, tmp_path: Path) -> Callable[..., FitSpec]:
    """FitSpec with small defaults; 96 training rows of batch 16 are 6 steps an epoch."""

    def build(**changes: Any) -> FitSpec:
        values: dict[str, Any] = {
            "pretrained": str(encoder),
            "tokens": str(tokens),
            "output": str(tmp_path / "fit"),
            "classes": ("a", "b"),
            "lr": 2e-3,
            "batch_size": 16,
            "epochs": 2,
            "unfreezing": "late",  # of all schedules the one with most phases
            "threads": 1,
            **changes,
        }
        return fit_spec(**values)

    return build
