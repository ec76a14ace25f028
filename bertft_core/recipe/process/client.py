"""The parent's side of the trainer process. Importing this needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bertft_core.adaptation.multi_task.results import MultiTaskResult, MultiTaskSpec
from bertft_core.adaptation.results import AdaptationResult, AdaptationSpec
from bertft_core.base import errors
from bertft_core.base.display import cleaned
from bertft_core.base.errors import BertftError, TrainerDied
from bertft_core.base.records import parse_record
from bertft_core.recipe.process.checkpoints import carried
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec, MachineSettings

OnProgress = Callable[[float, dict[str, Any]], None]
OnRung = Callable[[float, float], bool]
_TAIL = 2000  # characters of the child's stderr in an error message
_AHEAD: list[Trainer] = []  # started by `start_ahead` and not taken yet


def start_ahead() -> None:
    """Start a trainer process now; its imports, 5 s of a core, run beside what this process does next.

    The first `Trainer` that needs a process takes it. One that nobody takes ends with this process.
    """
    trainer = Trainer()
    trainer._start()
    trainer._send({"cmd": "import"})
    _AHEAD.append(trainer)


def end_ahead() -> None:
    """End what `start_ahead` started and nobody took: in a notebook it would wait as long as the kernel lives."""
    with contextlib.suppress(IndexError):
        while True:
            _AHEAD.pop().close()


class Trainer:
    """A long-lived process that fits, scores and explains. Use it in one thread, as a context manager.

    It starts with the first command, and anew after it died. Every method raises TrainerDied when the process
    ends without an answer, the trainer's own BertftError by its class, and BertftError with the traceback for
    a defect.

    >>> with Trainer() as trainer:  # doctest: +SKIP
    ...     trainer.resolve("my-encoder", "float32")
    MachineSettings(precision='float32', device='cpu', threads=2, float32_step=None, bfloat16_step=None)
    """

    def __init__(self, gpu: int | None = None) -> None:
        """gpu: the only device that the process sees, by its number on this machine; None: all."""
        self._gpu = gpu
        self._process: subprocess.Popen[str] | None = None
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """End the process; a fit in progress can be resumed from its last checkpoint."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # checkpoints are atomic: nothing needs a farewell
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def fit(
        self, spec: FitSpec, on_progress: OnProgress | None = None, on_rung: OnRung | None = None
    ) -> TrainingResult:
        """Run `training.loop.fit` in the process. Callbacks run here. Its checkpoints are kept in BERTFT_CACHE, too."""
        message = {"cmd": "fit", "spec": spec.to_json(), "rungs": on_rung is not None}
        with carried(Path(spec.output), _beat(on_progress), is_final=spec.keep_model):
            return TrainingResult.from_json(self._call(message, on_progress, on_rung))

    def fit_beside(self, spec: FitSpec, place: dict[str, int], *, asks_at_rungs: bool) -> None:
        """Be one of the other processes of a fit, until it is over. place: its rank, and the port where they meet."""
        self._call({"cmd": "fit", "spec": spec.to_json(), "rungs": asks_at_rungs, "place": place})

    def adapt(self, spec: AdaptationSpec, on_progress: OnProgress | None = None) -> AdaptationResult:
        """Run `adaptation.loop.adapt` in the process, as `fit`."""
        with carried(Path(spec.output), _beat(on_progress), is_final=False):
            found = self._call({"cmd": "adapt", "spec": spec.to_json()}, on_progress)
        return parse_record(json.dumps(found), AdaptationResult, "the trainer's answer", "")

    def fit_together(self, spec: MultiTaskSpec, on_progress: OnProgress | None = None) -> MultiTaskResult:
        """Run `adaptation.multi_task.loop.fit_together` in the process, as `fit`."""
        with carried(Path(spec.output), _beat(on_progress), is_final=False):
            found = self._call({"cmd": "fit_together", "spec": spec.to_json()}, on_progress)
        return parse_record(json.dumps(found), MultiTaskResult, "the trainer's answer", "")

    def score(
        self,
        model_dir: Path | str,
        tokens_dir: Path | str,
        split: str,
        output_npy: Path | str,
        device: str = "cpu",
        threads: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Write probabilities [n, C] float32 of a saved model on one split to ``output_npy``."""
        where = {"model_dir": str(model_dir), "tokens_dir": str(tokens_dir), "split": split}
        return self._write("score", output_npy, on_progress, **where, device=device, threads=threads)

    def features(
        self,
        pretrained: Path | str,
        tokens_dir: Path | str,
        split: str,
        output_npy: Path | str,
        settings: MachineSettings,
        on_progress: OnProgress | None = None,
        *,
        rows: int | None = None,
        places: list[int] | None = None,
    ) -> Path:
        """Write the pretrained encoder's mean-pooled features [n, H] float32 of one split to ``output_npy``.

        ``rows``: of about that many rows, those of `batching.sample_rows`; None: of all. ``places``: of these rows.
        """
        where = {"pretrained": str(pretrained), "tokens_dir": str(tokens_dir), "split": split}
        values = {"settings": asdict(settings), "rows": rows, "places": places}
        return self._write("features", output_npy, on_progress, **where, **values)

    def explain(
        self,
        artifact_dir: Path | str,
        rows_json: Path | str,
        out_json: Path | str,
        device: str = "cpu",
        threads: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Write the word weights of a served artefact's answers to ``out_json``.

        rows_json: list of {"text": str, "class": name, "text_pair": str or null}. out_json: for each row the
        list of [word or span, weight] that `serving.attribution.attribute` gives.
        """
        where = {"artifact_dir": str(artifact_dir), "rows": str(Path(rows_json).absolute())}
        return self._write("explain", out_json, on_progress, **where, device=device, threads=threads)

    def resolve(
        self, pretrained: Path | str, precision: str = "auto", device: str = "auto", threads: int | None = None
    ) -> MachineSettings:
        """This machine's values in place of auto."""
        settings = {"precision": precision, "device": device, "threads": threads}
        return MachineSettings(**self._call({"cmd": "resolve", "pretrained": str(pretrained), **settings}))

    def _write(self, command: str, output: Path | str, on_progress: OnProgress | None, **values: Any) -> Path:
        """Run a command that writes a file, and give its path."""
        message = {"cmd": command, "output": str(Path(output).absolute()), **values}
        return Path(self._call(message, on_progress)["path"])

    def _call(
        self, message: dict[str, Any], on_progress: OnProgress | None = None, on_rung: OnRung | None = None
    ) -> dict[str, Any]:
        self._start()
        try:
            self._send(message)
            while True:
                answer = self._receive()
                if answer["event"] == "progress":
                    if on_progress:
                        on_progress(answer["fraction"], answer["facts"])
                elif answer["event"] == "rung":
                    assert on_rung is not None, "the trainer asks only if told to"
                    self._send({"stop": bool(on_rung(answer["fraction"], answer["score"]))})
                else:
                    break
        except BaseException:  # the process is in the middle of something: the next command gets a new one
            self.close()
            raise
        if answer["ends"]:
            self.close()
        if answer["event"] == "error":
            raise _rebuild(answer)
        return dict(answer["value"])

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        started = None
        with contextlib.suppress(IndexError):  # none is left; threads may ask at once
            started = None if self._gpu is not None else _AHEAD.pop()
        if started is not None:
            self._process, self._stderr = started._process, started._stderr
            with contextlib.suppress(TrainerDied):  # then a fresh one
                while self._receive()["event"] == "progress":  # of its imports
                    pass
                return
            self.close()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bertft_core.recipe.process.trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(self._gpu),
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which closes the pipe
        )

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as fault:
            raise self._death() from fault

    def _receive(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        return dict(json.loads(line))

    def _death(self) -> TrainerDied:
        assert self._process is not None and self._stderr is not None
        code = self._process.wait()
        self._stderr.seek(0)
        tail = cleaned(self._stderr.read().decode("utf-8", "replace"))[-_TAIL:].strip()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        hint = " (signal 9 is often the kernel's out-of-memory killer: lower training.batch_size)" if code == -9 else ""
        text = f"the trainer process ended {how}{hint}: run the command again to resume. {tail}".strip()
        return TrainerDied(text, signal=max(-code, 0))


def _beat(on_progress: OnProgress | None) -> Callable[[], None]:
    """Tells whoever hears progress that the work goes on, though there is nothing new."""
    return partial(on_progress, 0.0, {}) if on_progress else lambda: None


def _environment(gpu: int | None) -> dict[str, str]:
    root = str(Path(errors.__file__).resolve().parents[2])
    values = {
        "GOMP_SPINCOUNT": "10000",  # threads that spin for long slow a shared machine; this costs an idle one nothing
        **os.environ,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }  # deterministic matrix products on CUDA need it
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # processes of a fit meet on this machine
        values.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
    if gpu is not None:
        values["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if root not in {str(Path(p).resolve()) for p in site.getsitepackages()}:
        values["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    return values


def _rebuild(answer: dict[str, Any]) -> BertftError:
    kind = getattr(errors, answer["kind"], None)
    if kind is TrainerDied:
        return TrainerDied(answer["message"], signal=answer.get("signal", 0))
    if isinstance(kind, type) and issubclass(kind, BertftError):
        return kind(answer["message"])
    return BertftError(f"the trainer failed with {answer['kind']}: {answer['message']}\n{answer['trace']}".strip())
