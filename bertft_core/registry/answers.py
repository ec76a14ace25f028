"""What registered versions answer to the same rows, each by its own code in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertft_core.base.display import cleaned
from bertft_core.base.errors import ArtifactError, DamagedFile, InputError
from bertft_core.base.files import load_arrays
from bertft_core.base.records import read_record
from bertft_core.base.text import multi_label_text
from bertft_core.config.store import Store
from bertft_core.data.labels import class_names
from bertft_core.registry import artifacts, files

_PROCESS = Path(__file__).with_name("answering.py")
_LOGGER = logging.getLogger(__name__)
_AGAIN = "the version answers again"
_TIMED = 16  # single rows timed; the first quarter warms up
_SECONDS = 3600.0  # for all versions of one go
_WITH_NETWORK = "bertft: network: "  # as answering.py says it
# What a version needs to load and to compute as it was evaluated.
_NAMED = frozenset(
    (
        *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"),  # programs and shared libraries: CUDA's, another malloc
        *("HOME", "TMPDIR", "LANG", "TZ"),  # packages and caches of the user's own, scratch files, texts, times
        *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"),  # where torch is found
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),  # GPUs
        *("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"),  # the kernels, so the last digits
        *("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "MLFLOW_LOGGING_LEVEL"),  # threads, silence
        "BERTFT_SESSION",  # the mark by which the end of a command finds its processes
    )
)
_FAMILIES = ("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")  # texts; threads and kernels
_FIXED = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "HF_HUB_OFFLINE": "1",
}


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
    model_uri: str,
    rows: Path | str,
    out: Path | str,
    batch_size: int,
    store: Store,
    *,
    timeout_seconds: float = _SECONDS,
    is_forced: bool = False,
) -> Answers:
    """`Scorer.answers` of one version, by a scorer that is begun now. Raises its ArtifactError."""
    with Scorer(store) as scorer:
        answers = scorer.answers(
            {model_uri: Path(out)}, rows, batch_size, timeout_seconds=timeout_seconds, is_forced=is_forced
        )
    return require(answers[model_uri])


def require(answer: Answers | ArtifactError) -> Answers:
    """The answers of a version that must have answered; raises what kept it from it."""
    if isinstance(answer, ArtifactError):
        raise answer
    return answer


def score_versions(
    outs: Mapping[str, Path], rows: Path | str, batch_size: int, store: Store, timeout_seconds: float = _SECONDS
) -> dict[str, Answers | ArtifactError]:
    """`Scorer.answers` of a scorer that is begun now."""
    with Scorer(store) as scorer:
        return scorer.answers(outs, rows, batch_size, timeout_seconds=timeout_seconds)


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

    A version is code. It gets its files and the rows, and of the environment what `answering_environment` names; where
    the system lets a user do so (Linux), the process has no network and may not look at others.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=answering_environment(os.environ),
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
        self,
        outs: Mapping[str, Path],
        rows: Path | str,
        batch_size: int,
        *,
        timeout_seconds: float = _SECONDS,
        is_forced: bool = False,
    ) -> dict[str, Answers | ArtifactError]:
        """What registered versions answer, by model URI, computed one after the other in processes of their own.

        outs: by model URI the .npz to write, whole or not at all, beside out.json. rows: parquet with `text` (and
        `text_pair`). batch_size: rows per batch, 0 = the artefact's token budget. is_forced: as of `files.fetch`. A
        version that fails, whose files are not those that were registered, or that has not answered after
        timeout_seconds in all, has an ArtifactError with its process's last words.
        """
        outputs = {uri: Path(out).resolve() for uri, out in outs.items()}
        for file in outputs.values():
            file.parent.mkdir(parents=True, exist_ok=True)
            for stale in (file, _log(file)):
                stale.unlink(missing_ok=True)
        answers: dict[str, Answers | ArtifactError] = {}
        spec: dict[str, Any] = {"rows": str(Path(rows).resolve()), "batch_size": int(batch_size), "timed": _TIMED}
        with tempfile.TemporaryDirectory(dir=self._store.home, prefix=artifacts.SCRATCH) as scratch:
            spec["versions"] = []
            for number, (uri, file) in enumerate(outputs.items()):
                try:
                    copy = files.fetch(self._store, uri, Path(scratch, str(number)), is_forced=is_forced)
                    spec["versions"].append((str(copy), str(file)))
                except ArtifactError as fault:
                    answers[uri] = fault
                except InputError as fault:  # there is no such version
                    answers[uri] = ArtifactError(str(fault))
            try:
                _, last_words = self._process.communicate(json.dumps(spec), timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                self._end()
                last_words = f"no answer within {timeout_seconds:g} s"
        _tell_of_network(last_words)
        for uri, file in outputs.items():
            own = _log(file).read_text(encoding="utf-8", errors="replace") if _log(file).exists() else ""
            _log(file).unlink(missing_ok=True)
            if file.exists():
                answers[uri] = Answers.read(file)
            elif uri not in answers:
                why = cleaned(own or last_words)[-2000:]
                answers[uri] = ArtifactError(f"{uri} cannot be scored in a fresh process:\n{why}")
        return answers


def answering_environment(user: Mapping[str, str]) -> dict[str, str]:
    """What of the user's environment a registered version gets to see: no key, no password, no address."""
    passed = {name: value for name, value in user.items() if name in _NAMED or name.startswith(_FAMILIES)}
    return {"GOMP_SPINCOUNT": "10000", **passed, **_FIXED}


@lru_cache(maxsize=1)
def _warn_of_network(reason: str) -> None:
    _LOGGER.warning("registered versions answer with a network: %s", reason)


def _tell_of_network(last_words: str) -> None:
    """Log once, where the process could not close its network."""
    for line in last_words.splitlines():
        if line.startswith(_WITH_NETWORK):
            _warn_of_network(line.removeprefix(_WITH_NETWORK))


def _log(file: Path) -> Path:
    return file.with_name(f"{file.name}.log")
