"""What registered versions answer to the same rows, each by its own code in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertft_core.base.display import cleaned
from bertft_core.base.errors import ArtifactError, DamagedFile
from bertft_core.base.files import load_arrays
from bertft_core.base.records import read_record
from bertft_core.base.text import multi_label_text
from bertft_core.config.store import Store
from bertft_core.data.labels import class_names

_PROCESS = Path(__file__).with_name("answering.py")
_LOGGER = logging.getLogger(__name__)
_AGAIN = "the version answers again"
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
        """The answers that `score_versions` left in `file`, classes spelt as data are now. Raises DamagedFile."""
        facts = read_record(f"{file}.json", _Facts, _AGAIN)
        if load_arrays(file, "probabilities", "predicted") is None:
            raise DamagedFile(f"{file} is damaged: wanted probabilities and predicted (.npz), found none; {_AGAIN}")
        return cls(classes=class_names(facts.classes), file=str(file), latency_ms=facts.latency_ms, code=facts.code)

    @classmethod
    def known(cls, file: Path) -> Answers | None:
        """What `read` gives; None where there is no such file, or one that nobody can read."""
        try:
            return cls.read(file)
        except FileNotFoundError:
            return None
        except DamagedFile as fault:
            _LOGGER.warning("%s", fault)
            return None

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
            return np.array([multi_label_text(row, self.classes) for row in decisions], dtype=object)
        return np.array(self.classes, dtype=object)[decisions]

    def _array(self, name: str) -> Any:
        with np.load(self.file, allow_pickle=False) as stored:
            return stored[name]


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


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a process of answers writes beside them."""

    classes: tuple[str, ...]
    latency_ms: float
    code: str


class Scorer:
    """A process in which registered versions answer, once. Use it as a context manager.

    It imports what the versions share as soon as it is made, so make it while other work is left: the imports are 5 to
    8 of the seconds that an answer takes (measured). Nobody has to ask; it ends with the context, or with its parent.
    """

    def __init__(self, store: Store) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
                "MLFLOW_TRACKING_URI": store.tracking_uri,
                "MLFLOW_REGISTRY_URI": store.registry_uri,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "true",
                "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
                "HF_HUB_OFFLINE": "1",
            },
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
        answers: dict[str, Answers | ArtifactError] = {}
        for uri, file in files.items():
            own = _log(file).read_text(encoding="utf-8", errors="replace") if _log(file).exists() else ""
            _log(file).unlink(missing_ok=True)
            if file.exists():
                answers[uri] = Answers.read(file)
            else:
                why = cleaned(own or last_words)[-2000:]
                answers[uri] = ArtifactError(f"{uri} cannot be scored in a fresh process:\n{why}")
        return answers


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}.log")
