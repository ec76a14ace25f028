"""A version's student: which rows and labels it learns from, killed and gone on with, registered once; refusals."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertft_core.base.errors import DataError, InputError
from bertft_core.config.store import MlflowConfig, Store
from bertft_core.data.dataset import load_dataset_splits
from bertft_core.model.student import spaced_layers
from bertft_core.recipe.chain import complete
from bertft_core.recipe.distill import Wanted, distill
from bertft_core.recipe.mlflow_tree import Tree
from bertft_core.recipe.release import STUDENT, candidate_of_version, register_fit
from bertft_core.registry import aliases
from bertft_core.tracking.store import WEIGHTS, open_store

KNOWN, NEW = 200, 60
_KILLED = """
import sys
from bertft_core.config.store import MlflowConfig
from bertft_core.recipe.distill import Wanted, distill
from bertft_core.tracking.store import open_store
home, rows = sys.argv[1:]
distill(open_store(MlflowConfig(), home), "tiny", "1", Wanted(layers=2, unlabelled=rows))
"""


@dataclass(frozen=True)
class Place:
    folder: Path
    store: Store
    unlabelled: Path


def _text(i: int) -> str:
    return f"{('goal match team', 'chip phone software')[i % 2]} {i} of the film {i % 7}"


def _version(folder: Path, encoder: Path) -> Place:
    """A home with version 1 of `tiny`, and a file of its own rows and new ones, each of them twice."""
    home = folder / "home"
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        rows = [(_text(i), ("sport", "tech")[i % 2]) for i in range(KNOWN)]
        csv.writer(handle).writerows([("text", "label"), *rows])
    with open(folder / "new.csv", "w", newline="", encoding="utf-8") as handle:
        texts = [*(_text(i) for i in range(KNOWN + NEW)), *(_text(i) for i in range(KNOWN + NEW))]
        csv.writer(handle).writerows([["text"], *([text] for text in texts)])
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {"source": str(folder / "rows.csv")},
        "model": {"pretrained": str(encoder)},
        "tokenization": {"max_length": 24},
        "training": {"lr": 3e-3, "batch_size": 8, "epochs": 3, "threads": 1, "precision": "float32"},
        "evaluation": {"resamples": 200},
        "decision": {"blend": "off"},
    }
    done = complete(tree, home)
    store = open_store(MlflowConfig(), home)
    with done.context.trainer:
        tree_of_runs = Tree(store.config, done.context)
        tree_of_runs.final_run(done.fit, done.context.config)
        register_fit(done.context, done.fit, tree_of_runs)
    tree_of_runs.close()
    return Place(folder, store, folder / "new.csv")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Place:
    return _version(tmp_path_factory.mktemp("distill"), encoder)


def test_the_kept_layers_are_evenly_spaced_and_the_ends_stay() -> None:
    assert spaced_layers(12, 6) == (0, 2, 4, 7, 9, 11)  # as DistilBERT's own code has them
    assert spaced_layers(6, 3) == (0, 2, 5)
    assert spaced_layers(4, 1) == (0,)


@pytest.mark.slow
def test_a_student_learns_the_answers_of_its_teacher_and_is_registered_once(
    place: Place, encoder: Path, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    store, home, wanted = place.store, Path(place.store.home), Wanted(layers=2, unlabelled=str(place.unlabelled))
    given = [sys.executable, "-P", "-c", _KILLED, str(home), str(place.unlabelled)]
    process = subprocess.Popen(given, env=clean_environment(home))
    end = time.monotonic() + 500
    while len(list((home / "runs").glob("[!.]*/fit"))) < 2:  # the student's fit has begun
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    said = list[str]()
    made = distill(store, "tiny", "1", wanted, said.append)
    assert (made["version"], made["was_found"], made["runtime"]) == ("2", False, "torch")
    assert any("training a student" in line for line in said)
    old, new = (candidate_of_version("tiny", version, store, home) for version in ("1", "2"))
    assert new.parent == "1" and new.rule(store.config).test == "non_inferiority" != old.rule(store.config).test
    assert 0 < new.size_mb < old.size_mb
    tags = aliases.get_version(store, "tiny", "2").tags
    assert tags[aliases.PARENT] == "1" and tags[STUDENT].startswith("layers 0, ")

    # the new rows that the split would train on, each once, and none of validation or test
    held = np.load(new.folder.test_fingerprints, allow_pickle=False)
    trained = np.load(new.folder.train_fingerprints, allow_pickle=False)
    assert len(trained) == len(np.unique(trained)) == made["rows"] + made["unlabelled"]
    assert 0.4 * NEW < made["unlabelled"] < NEW and not np.isin(held, trained).any()
    (taught,) = [d for d in map(_soft, (home / "data").glob("[!.]*/report.json")) if d is not None]
    labels = taught.soft_labels("train")
    assert np.allclose(labels.sum(axis=1), 1, atol=1e-5) and (labels.max(axis=1) < 1).any()
    assert set(np.unique(taught.soft_labels("validation"))) == {0.0, 1.0}

    said.clear()
    assert distill(store, "tiny", "1", wanted, said.append)["was_found"]
    assert not any("training" in line and "student" in line for line in said)
    other = _version(_folder(place.folder / "other"), encoder)  # never killed
    distill(other.store, "tiny", "1", replace(wanted, unlabelled=str(other.unlabelled)))
    weights = [aliases.get_version(s, "tiny", "2").tags[WEIGHTS] for s in (store, other.store)]
    assert weights[0] == weights[1]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _soft(file: Path) -> Any:
    dataset = load_dataset_splits(file.parent)
    return dataset if dataset.is_soft else None


@pytest.mark.slow
def test_what_cannot_be_distilled_is_refused(place: Place) -> None:
    def asking(**wanted: Any) -> Callable[[], Any]:
        return lambda: distill(place.store, "tiny", "1", Wanted(**wanted))

    with pytest.raises(InputError, match=r"--layers must lie between 1 and \d+: the version's encoder has \d+, was 9"):
        asking(layers=9)()
    with pytest.raises(InputError, match="has no champion: name the version to distill"):
        distill(place.store, "tiny", None, Wanted(layers=1))
    rows = place.folder / "rows.csv"
    text = rows.read_text(encoding="utf-8")
    try:
        rows.write_text(text.replace("film", "book"), encoding="utf-8")
        with pytest.raises(DataError, match="version 1 has lost the rows that it was judged on"):
            asking(layers=1)()
        rows.unlink()
        with pytest.raises(DataError, match="has lost the rows"):
            asking(layers=1)()
    finally:
        rows.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_command_begins_with_another_encoder(
    place: Place, encoder: Path, command: Callable[..., Any], document: Callable[..., dict[str, Any]]
) -> None:
    given = ("--encoder", str(encoder), "--unlabelled", str(place.unlabelled))
    made = document(command(Path(place.store.home), "distill", "tiny", "1", *given, "--json"))
    assert aliases.get_version(place.store, "tiny", made["version"]).tags[aliases.PARENT] == "1"
    assert made["student"].startswith(f"encoder {encoder}, ") and made["unlabelled"] > 0
