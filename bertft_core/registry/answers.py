"""What registered versions answer to the same rows, each by its own code in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import read_json
from bertft_core.base.text import set_text
from bertft_core.config.store import Store

# Two versions loaded in one process share the first one's modules. So one process imports what they share and is then
# left alone, and each version loads in a fork of it; neither imports bertft_core before mlflow has put the version's
# own copy first on sys.path. The imports are most of the time: two versions cost little more than one; the collector
# would be a quarter of it, and tidying up at the end another (both measured), so neither happens. A fork ends with its
# parent (Linux), as a process that was given up must not go on.
_SCRIPT = """
import gc
gc.disable()
import contextlib, ctypes, importlib, json, os, statistics, sys, time, traceback
import mlflow.pyfunc
import numpy as np, pandas as pd, pyarrow.parquet, torch
shared = ["transformers.modeling_utils", "transformers.tokenization_utils_tokenizers"]
if not os.environ["MLFLOW_TRACKING_URI"].startswith("http"):
    shared += ["mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
for name in shared:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
gc.freeze()
gc.enable()
request = sys.stdin.read()  # after the imports: they happen while the caller still evaluates
if not request:
    os._exit(0)  # nobody needs answers any more
spec = json.loads(request)


def score(uri, out):
    model = mlflow.pyfunc.load_model(uri, suppress_warnings=True)  # they cost a second
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
    with open(out + ".part", "wb") as handle:
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
    with open(out + ".json", "w") as handle:
        json.dump(answer, handle)
    os.replace(out + ".part", out)


parent = os.getpid()
for uri, out in spec["versions"]:
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.dup2(os.open(out + ".log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), 2)
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
            if os.getppid() == parent:
                score(uri, out)
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        with open(out + ".log", "a") as log:
            log.write(f"its process was ended by signal {-code}")
sys.stderr.flush()
os._exit(0)
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
        """The answers that `score_versions` left in `file`."""
        facts = read_json(f"{file}.json")
        return cls(**{**facts, "classes": tuple(facts["classes"]), "file": str(file)})

    def probabilities(self, classes: Sequence[str]) -> Any:
        """float32 [n, C] in the order of `classes`, which must be the same names."""
        return self._array("probabilities")[:, [self.classes.index(name) for name in classes]]

    def predicted(self, classes: Sequence[str]) -> Any:
        """int64 [n], indices into `classes`; of a multi-label version 0 and 1 [n, C]."""
        decisions = self._array("predicted")
        if decisions.ndim == 2:
            return decisions[:, [self.classes.index(name) for name in classes]]
        return np.array([list(classes).index(name) for name in self.classes])[decisions]

    def labels(self) -> Any:
        """The answers as they stand in the column `label`, object [n]."""
        decisions = self._array("predicted")
        if decisions.ndim == 2:
            return np.array([set_text(row, self.classes) for row in decisions], dtype=object)
        return np.array(self.classes, dtype=object)[decisions]

    def _array(self, name: str) -> Any:
        with np.load(self.file, allow_pickle=False) as stored:
            return stored[name]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Answers of several versions to the same rows, by version."""

    answers: Mapping[str, Answers] = field(default_factory=dict)


NOTHING_SCORED = Scored()


def score_in_fresh_process(
    model_uri: str, rows: Path | str, out: Path | str, batch_size: int, store: Store, timeout_seconds: float = 3600.0
) -> Answers:
    """`score_versions` for one version. Raises its ArtifactError."""
    return require(score_versions({model_uri: Path(out)}, rows, batch_size, store, timeout_seconds)[model_uri])


def require(answer: Answers | ArtifactError) -> Answers:
    """The answers of a version that must have answered; raises what kept it from it."""
    if isinstance(answer, ArtifactError):
        raise answer
    return answer


def score_versions(
    outs: Mapping[str, Path], rows: Path | str, batch_size: int, store: Store, timeout_seconds: float = 3600.0
) -> dict[str, Answers | ArtifactError]:
    """`Scorer.answers` of a scorer that is begun now."""
    with Scorer(store) as scorer:
        return scorer.answers(outs, rows, batch_size, timeout_seconds)


class Scorer:
    """A process in which registered versions answer, once. Use it as a context manager.

    It imports what the versions share as soon as it is made, so make it while other work is left: the imports are 5 to
    8 of the seconds that an answer takes (measured). Nobody has to ask; it ends with the context, or with its parent.
    """

    def __init__(self, store: Store) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **_environment(store)},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def answers(
        self, outs: Mapping[str, Path], rows: Path | str, batch_size: int, timeout_seconds: float = 3600.0
    ) -> dict[str, Answers | ArtifactError]:
        """What registered versions answer, by model URI, computed one after the other in processes of their own.

        outs: by model URI the .npz to write, whole or not at all, beside out.json. rows: parquet with `text` (and
        `text_pair`). batch_size: rows per batch, 0 = the artefact's token budget. A version that fails, or has not
        answered after timeout_seconds in all, has an ArtifactError with its process's last words.
        """
        files = {uri: Path(out).resolve() for uri, out in outs.items()}
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
            for stale in (file, _log(file)):
                stale.unlink(missing_ok=True)
        spec = {
            "versions": [(uri, str(file)) for uri, file in files.items()],
            "rows": str(Path(rows).resolve()),
            "batch_size": int(batch_size),
            "timed": _TIMED,
        }
        try:
            _, last_words = self._process.communicate(json.dumps(spec), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self._end()
            last_words = f"no answer within {timeout_seconds:g} s"
        return {uri: _answer_of(uri, file, last_words) for uri, file in files.items()}


def _answer_of(uri: str, file: Path, last_words: str) -> Answers | ArtifactError:
    """said: last words of the process that all versions share."""
    own = _log(file).read_text(encoding="utf-8", errors="replace") if _log(file).exists() else ""
    _log(file).unlink(missing_ok=True)
    if file.exists():
        return Answers.read(file)
    return ArtifactError(f"{uri} cannot be scored in a fresh process:\n{(own or last_words)[-2000:]}")


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}.log")


def _environment(store: Store) -> dict[str, str]:
    return {
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "MLFLOW_TRACKING_URI": store.tracking_uri,
        "MLFLOW_REGISTRY_URI": store.registry_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "HF_HUB_OFFLINE": "1",
    }
