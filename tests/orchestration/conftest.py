"""A real sqlite MLflow store with registered versions of tiny real models."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bertft_core.config.store import load_mlflow_config
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.registry import gate, versions
from bertft_core.registry.evaluation_folder import EvaluationFolder
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.tracking import store as tracking

CLASSES = ("ham", "spam")
MODEL = "letters"


@pytest.fixture(scope="session")
def served(tmp_path_factory, encoder):
    root = tmp_path_factory.mktemp("served")
    card = ArtifactCard(max_length=48, truncation="head+tail", classes=CLASSES)
    made = []
    for seed in (5, 6, 7):
        fit = save_classifier(load_classifier(encoder, CLASSES, seed=seed), encoder, root / f"fit{seed}", CLASSES)
        made.append(build_artifact(fit, root / f"served{seed}", card))
    return made


@pytest.fixture(scope="session")
def blank(tmp_path_factory):
    """An initialised empty store to copy: migrations take 3 s."""
    home = tmp_path_factory.mktemp("store") / "home"
    tracking.open_store(load_mlflow_config(environ={}), home)
    return home


@pytest.fixture
def store(blank, tmp_path):
    """A store of the test's own; its experiment is made on first use, in its own folder."""
    shutil.copytree(blank, tmp_path / "home")
    config = load_mlflow_config(environ={}).model_copy(update={"experiment": "own"})
    return tracking.open_store(config, tmp_path / "home")


@pytest.fixture
def publish(store, served):
    def go(key="k1", which=0, **extra):
        run = tracking.find_or_create_run(store, key, "final")
        return versions.register(store, run, served[which], MODEL, {"bertft.run_id": key}, **extra)

    return go


@pytest.fixture(scope="session")
def stocked(blank, served, tmp_path_factory):
    """A home with versions 1 to 4 of MODEL, no alias and no ledger, to copy: publishing takes a second each."""
    home = tmp_path_factory.mktemp("stocked") / "home"
    shutil.copytree(blank, home)
    store = tracking.open_store(load_mlflow_config(environ={}).model_copy(update={"experiment": "own"}), home)
    for number, folder in enumerate([*served, served[0]], 1):
        run = tracking.find_or_create_run(store, f"r{number}", "final")
        tags = {"bertft.run_id": f"r{number}", "bertft.weights": f"w{number}", "bertft.test_rows": "rows"}
        versions.register(store, run, folder, MODEL, {**tags, "bertft.run_key": f"key{number}"})
    return home


@pytest.fixture
def shelf(stocked, tmp_path):
    """A store of the test's own with four versions; their artefacts are shared: delete none."""

    def go(**promotion):
        if not (tmp_path / "shelf").exists():
            shutil.copytree(stocked, tmp_path / "shelf", ignore=shutil.ignore_patterns("artifacts"))
        config = load_mlflow_config(environ={})
        rule = replace(config.promotion, **promotion)
        own = {"experiment": "own", "artifact_root": str(stocked / "artifacts"), "promotion": rule}
        return tracking.open_store(config.model_copy(update=own), tmp_path / "shelf")

    return go


@pytest.fixture
def candidate(tmp_path):
    """A candidate whose stored answers to 60 test rows are right in `right` of them; the TF-IDF baseline's in 55."""

    def go(version, right=60, classes=CLASSES, weights=None):
        folder = EvaluationFolder(tmp_path / f"candidate-{version}")
        folder.path.mkdir(exist_ok=True)
        labels = np.arange(60) % 2
        answers = np.where(np.arange(60) < right, labels, 1 - labels)
        pd.DataFrame({"text": [f"text number {i}" for i in range(60)]}).to_parquet(folder.test_rows)
        np.save(folder.labels, labels, allow_pickle=False)
        np.save(folder.probabilities, np.eye(2)[answers] * 0.8 + 0.1, allow_pickle=False)
        np.save(folder.predicted, answers, allow_pickle=False)
        baseline = np.where(np.arange(60) < 55, labels, 1 - labels)
        np.save(folder.baseline, np.eye(2)[baseline] * 0.8 + 0.1, allow_pickle=False)
        np.save(folder.shares, np.array([0.5, 0.5]), allow_pickle=False)
        np.save(folder.test_fingerprints, np.arange(60, dtype=np.uint64), allow_pickle=False)
        np.savez(folder.slices, first=np.arange(60) < 40)
        return gate.Candidate(
            name=MODEL,
            version=version,
            classes=classes,
            folder=folder,
            metric="accuracy",
            weights_digest=weights or f"w{version}",
            size_mb=1.0,
        )

    return go


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    """An empty working directory: MLflow drops mlflow.db and mlruns there when its global URI is used."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
