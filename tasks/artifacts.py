"""Registered versions as files: downloaded, or scored by their own code in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.errors import ArtifactError, InputError
from bertft_core.mlflow_config import Store
from bertft_core.policy import set_text
from bertft_core.serving.artifact import CARD, ArtifactCard, read_card
from bertft_core.state import read_json
from tasks.aliases import RegisteredVersion, get_version, version_of_alias
from tasks.tracking import download_files, list_files

EVIDENCE = "evidence"
SCRATCH = ".scratch-"  # folders of a command below BERTFT_HOME; a kill leaves them
# Two versions loaded in one process share the first one's modules, so each is scored in its own process,
# which must not import bertft_core before mlflow has put the version's own copy first on sys.path.
_SCORE_SCRIPT = """
import json, os, statistics, sys, time
spec = json.loads(sys.stdin.read())
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(spec["uri"])
import numpy as np, pandas as pd
rows = pd.read_parquet(spec["rows"])
table = model.predict(rows, params={"batch_size": spec["batch_size"]})
names = [c for c in table.columns if c.startswith("probability_")]
classes = [c.removeprefix("probability_") for c in names]
is_multi = getattr(model.unwrap_python_model().predictor.card, "multi_label", False)
seconds = []
for start in range(spec["timed"]):
    row = rows.iloc[[start % len(rows)]]
    begun = time.perf_counter()
    model.predict(row)
    seconds.append(time.perf_counter() - begun)
import bertft_core
with open(spec["out"] + ".part", "wb") as handle:
    np.savez(
        handle,
        probabilities=table[names].to_numpy(dtype="float32"),
        predicted=np.array(
            [[int(c in json.loads(name)) for c in classes] for name in table["label"]]
            if is_multi else [classes.index(name) for name in table["label"]], dtype="int64",
        ),
    )
answer = {"classes": classes, "code": os.path.dirname(bertft_core.__file__)}
answer["latency_ms"] = 1000 * statistics.median(seconds[len(seconds) // 4 :])
with open(spec["out"] + ".json", "w") as handle:
    json.dump(answer, handle)
os.replace(spec["out"] + ".part", spec["out"])
"""
_TIMED = 16  # single rows timed; the first quarter warms up


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a version answered, on disk: probabilities float32 [n, C] in the order of classes, predicted int64 [n].

    latency_ms: median of one row at a time, in the fresh process. code: the folder of the bertft_core that answered.
    """

    classes: tuple[str, ...]
    file: str
    latency_ms: float
    code: str

    @classmethod
    def read(cls, file: Path) -> Answers:
        """The answers that `score_in_fresh_process` left in `file`."""
        facts = read_json(f"{file}.json")
        return cls(**{**facts, "classes": tuple(facts["classes"]), "file": str(file)})

    def probabilities(self, classes: Sequence[str]) -> Any:
        """float32 [n, C] in the order of `classes`, which must be the same names."""
        return self._array("probabilities")[:, [self.classes.index(name) for name in classes]]

    def predicted(self, classes: Sequence[str]) -> Any:
        """int64 [n], indices into `classes`; of a multi-label version 0 and 1 [n, C]."""
        found = self._array("predicted")
        if found.ndim == 2:
            return found[:, [self.classes.index(name) for name in classes]]
        return np.array([list(classes).index(name) for name in self.classes])[found]

    def told(self) -> Any:
        """The answers as they stand in the column `label`, object [n]."""
        found = self._array("predicted")
        if found.ndim == 2:
            return np.array([set_text(row, self.classes) for row in found], dtype=object)
        return np.array(self.classes, dtype=object)[found]

    def _array(self, name: str) -> Any:
        with np.load(self.file, allow_pickle=False) as stored:
            return stored[name]


def score_in_fresh_process(
    model_uri: str,
    rows: Path | str,
    out: Path | str,
    batch_size: int,
    store: Store,
    timeout_seconds: float = 3600.0,
) -> Answers:
    """What a registered version answers, computed by its own code in a new process.

    rows: parquet with `text` (and `text_pair`). out: an .npz, written whole or not at all, beside out.json.
    batch_size: rows per batch, 0 = the artefact's token budget. Raises ArtifactError with the process's last
    words when it fails or takes longer than `timeout_seconds`.
    """
    target = Path(out).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "uri": model_uri,
        "rows": str(Path(rows).resolve()),
        "out": str(target),
        "batch_size": int(batch_size),
        "timed": _TIMED,
    }
    target.unlink(missing_ok=True)
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _SCORE_SCRIPT],
            input=json.dumps(spec),
            env={**os.environ, **_fresh_environment(store)},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as fault:
        raise ArtifactError(f"{model_uri} did not answer within {timeout_seconds:g} s") from fault
    if answer.returncode != 0 or not target.exists():
        raise ArtifactError(f"{model_uri} cannot be scored in a fresh process:\n{answer.stderr[-2000:]}")
    return Answers.read(target)


def resolve_model(store: Store, model: str) -> tuple[str, Path]:
    """A models:/ URI with its alias resolved, and the served folder downloaded once below BERTFT_HOME/served.

    A local artefact folder is returned as it is. Raises InputError when there is no such version.
    """
    if not model.startswith("models:/"):
        if not (Path(model) / CARD).is_file():
            raise InputError(f"--model {model}: no artefact folder (no {CARD}); wanted one, or models:/NAME@champion")
        return model, Path(model)
    found = _parse_uri(store, model)
    folder = Path(store.home) / "served" / found.model_id
    return found.model_uri, download_model(store, found.model_uri, folder)


def download_model(store: Store, model_uri: str, folder: Path | str) -> Path:
    """Download a version's served folder (what `Predictor.load` reads) below `folder`; returns its path.

    model_uri: models:/NAME/VERSION or models:/NAME@ALIAS. Raises InputError when there is no such version.
    """
    version = _parse_uri(store, model_uri)
    root = download_files(store, version.model_id, "artifacts", folder)
    found = sorted(p.parent for p in root.rglob("bertft.json"))
    if not found:
        raise ArtifactError(f"{model_uri} holds no bertft.json: it was not logged by bertft")
    return found[0]


def read_served_card(store: Store, name: str, version: str) -> ArtifactCard:
    """bertft.json of a version, without its weights. Raises ArtifactError when it is not there."""
    model_id = get_version(store, name, version).model_id
    inside = [f for f in list_files(store, model_id, "artifacts") if f.endswith(f"/{CARD}")]
    if not inside:
        raise ArtifactError(f"version {version} of {name} holds no {CARD}: it was not logged by bertft, or is damaged")
    return read_card(download_files(store, model_id, inside[0], Path(store.home) / EVIDENCE / model_id).parent)


def download_evidence(store: Store, name: str, version: str, file: str = "evidence.json") -> Path:
    """Download one evidence file of a version; it stays below BERTFT_HOME/evidence."""
    found = get_version(store, name, version)
    target = Path(store.home) / EVIDENCE / found.model_id
    return download_files(store, found.model_id, f"{EVIDENCE}/{file}", target)


def _parse_uri(store: Store, uri: str) -> RegisteredVersion:
    text = uri.removeprefix("models:/")
    name, at, alias = text.partition("@")
    if at:
        return get_version(store, name, version_of_alias(store, name, alias))
    name, slash, version = text.rpartition("/")
    if not slash or text == uri:
        raise InputError(f"model {uri!r}: wanted models:/NAME/VERSION or models:/NAME@ALIAS")
    return get_version(store, name, version)


def _fresh_environment(store: Store) -> dict[str, str]:
    return {
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "MLFLOW_TRACKING_URI": store.tracking_uri,
        "MLFLOW_REGISTRY_URI": store.registry_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "HF_HUB_OFFLINE": "1",
    }
