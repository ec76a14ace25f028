"""The trainer process: `python -P -m bertft_core.recipe.process.trainer`, JSON lines in, JSON lines out.

Commands: {"cmd": "fit", "spec": {...}, "rungs": bool}, {"cmd": "adapt" | "fit_together", "spec": {...}}, {"cmd":
"score" | "features" | "explain" | "resolve", ...} and {"cmd": "import"}, which does no more than every command does
first. A fit on several processes is led by this one, which starts the others (`crew`); "place" in a fit's command makes
it one of those.
Answers: {"event": "progress" | "rung" | "result" | "error", ...}; a rung waits for {"stop": bool}.
Progress is repeated every 2 s.
It imports no prefect, mlflow or optuna, and it ends when its parent does.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from bertft_core.base.errors import BertftError, ConfigError, TrainerDied
from bertft_core.base.files import keep_private, read_json, save_array, write_json
from bertft_core.training.spec import MachineSettings

_PULSE_SECONDS = 2.0  # below the 5 s after which a lease is renewed (search.lease.LEASE_SECONDS)


class _Wire:
    """The line protocol over stdin and stdout. A thread reads ahead and sees a closed stdin at once."""

    def __init__(self, lines: TextIO, out: TextIO) -> None:
        self._out = out
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._parent = os.getppid()
        self._lock = threading.Lock()
        self._last: dict[str, Any] | None = None
        self.is_spent = False  # after a fit on several processes, whose connections cannot be made anew
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._pulse, daemon=True).start()

    def _read(self, lines: TextIO) -> None:
        for line in lines:
            self._inbox.put(json.loads(line))
        os._exit(0)  # the parent closed the pipe or died: nobody waits for an answer

    def _watch(self) -> None:
        # a forked sibling may hold the pipe open after the parent's death
        while os.getppid() == self._parent:
            time.sleep(1)
        os._exit(1)

    def _pulse(self) -> None:
        # repeats the last progress while one long operation says nothing: the parent renews its lease on it
        while True:
            time.sleep(_PULSE_SECONDS)
            with self._lock:
                if self._last is not None:
                    self._write({"event": "progress", **self._last})

    def receive(self) -> dict[str, Any]:
        return self._inbox.get()

    def send(self, event: str, **values: Any) -> None:
        with self._lock:
            if event == "progress":
                self._last = values
            elif event in ("result", "error"):
                self._last = None
            self._write({"event": event, **values})

    def _write(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def fail(self, fault: BertftError) -> None:
        """Answer the present command with this error and end at once, wherever the main thread is."""
        self.send("error", ends=True, **_error(fault))
        os._exit(1)

    def ask_rung(self, fraction: float, score: float) -> bool:
        self.send("rung", fraction=fraction, score=score)
        return bool(self.receive()["stop"])


def resolve(pretrained: str, precision: str, device: str, threads: int | None) -> MachineSettings:
    """Turn auto values into facts of this machine.

    auto device is cuda where there is one; auto precision is float32 on a processor without bfloat16 instructions, else
    a training step of the encoder is timed in both types, and bfloat16 taken where it is 1.3 times faster; threads
    default to the CPUs this process may use.

    Raises: ConfigError if cuda is asked for and missing; ModelError if the encoder cannot be loaded.
    """
    import torch

    from bertft_core.training.machine import faster_precision, multiplies_bfloat16, pick_device, runtime, step_seconds

    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    target = pick_device(name)
    count = threads or len(os.sched_getaffinity(0))
    seconds: dict[str, float] = {}
    if precision == "auto" and not multiplies_bfloat16(target):
        precision = "float32"
    if precision == "auto":
        with runtime(count):
            seconds = step_seconds(pretrained, target)
        precision = faster_precision(seconds)
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"training.precision must be auto, float32 or bfloat16, was {precision!r}")
    gpus = torch.cuda.device_count() if name == "cuda" else 0
    return MachineSettings(
        precision=precision,
        device=name,
        threads=count,
        gpus=gpus,
        float32_step=seconds.get("float32"),
        bfloat16_step=seconds.get("bfloat16"),
    )


def _run_fit(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    from bertft_core.recipe.process.crew import as_place, in_crew
    from bertft_core.training.loop import finished_fit, fit
    from bertft_core.training.spec import FitSpec

    def progress(fraction: float, facts: dict[str, Any]) -> None:
        wire.send("progress", fraction=fraction, facts=facts)

    spec, on_rung = FitSpec.from_json(message["spec"]), wire.ask_rung if message["rungs"] else None
    if spec.training.processes == 1:
        return fit(spec, progress, on_rung).to_json()
    if "place" in message:
        return fit(spec, None, on_rung, as_place(spec, message["place"])).to_json()
    if (finished := finished_fit(spec)) is not None:  # over several machines, perhaps
        return finished.to_json()
    wire.is_spent = True
    with in_crew(spec, wire.fail, asks_at_rungs=message["rungs"]) as ranks:
        return fit(spec, progress, on_rung, ranks).to_json()


def _run_adapt(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    from bertft_core.adaptation.loop import adapt
    from bertft_core.adaptation.results import AdaptationSpec

    def progress(fraction: float, facts: dict[str, Any]) -> None:
        wire.send("progress", fraction=fraction, facts=facts)

    return asdict(adapt(AdaptationSpec.from_json(message["spec"]), progress))


def _run_fit_together(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    from bertft_core.adaptation.multi_task.loop import fit_together
    from bertft_core.adaptation.multi_task.results import MultiTaskSpec

    def progress(fraction: float, facts: dict[str, Any]) -> None:
        wire.send("progress", fraction=fraction, facts=facts)

    return asdict(fit_together(MultiTaskSpec.from_json(message["spec"]), progress))


def _run_score(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    from bertft_core.training.scoring import score

    beat = _beat(wire, {"scoring": message["split"]})
    settings = (message["device"], message["threads"], beat)
    return _save_array(
        message["output"], score(message["model_dir"], message["tokens_dir"], message["split"], *settings)
    )


def _run_features(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from bertft_core.training.scoring import features

    beat = _beat(wire, {"features": message["split"]})
    places = None if message["places"] is None else np.array(message["places"], dtype=np.int64)
    settings = MachineSettings(**message["settings"])
    where = (message["pretrained"], message["tokens_dir"], message["split"])
    return _save_array(message["output"], features(*where, settings, beat, rows=message["rows"], places=places))


def _run_explain(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    from bertft_core.serving.attribution import explain_rows
    from bertft_core.training.machine import pick_device, runtime

    rows, target = read_json(message["rows"]), Path(message["output"])
    with runtime(message["threads"]):
        pick_device(message["device"])  # refuses a device that is missing in the words of the configuration
        found = explain_rows(message["artifact_dir"], rows, message["device"], _beat(wire, {"explaining": len(rows)}))
    write_json(target, found)
    return {"path": str(target), "rows": len(found)}


def _beat(wire: _Wire, facts: dict[str, Any]) -> Callable[[float], None]:
    return lambda fraction: wire.send("progress", fraction=fraction, facts=facts)


def _save_array(output: str, array: Any) -> dict[str, Any]:
    save_array(Path(output), array)
    return {"path": output, "rows": len(array)}


def _run_resolve(wire: _Wire, message: dict[str, Any]) -> dict[str, Any]:
    return asdict(resolve(message["pretrained"], message["precision"], message["device"], message["threads"]))


_COMMANDS: dict[str, Callable[[_Wire, dict[str, Any]], dict[str, Any]]] = {
    "import": lambda wire, message: {},
    "adapt": _run_adapt,
    "fit_together": _run_fit_together,
    "fit": _run_fit,
    "score": _run_score,
    "features": _run_features,
    "explain": _run_explain,
    "resolve": _run_resolve,
}


def main() -> None:
    """Serve commands until the parent closes stdin.

    After a command in which memory ran out in oneDNN the process ends, and its last line says so ("ends"): the next
    command is computed by a fresh one, as it would have been without the accident. So it does after a fit on several
    processes, at once: gloo aborts one in nine that end in order (torch 2.13, measured).
    """
    keep_private()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    wire = _Wire(sys.stdin, out)
    ends = False
    while not ends:
        message = wire.receive()
        wire.send("progress", fraction=0.0, facts={})
        event, said = _answer(wire, message)
        ends = _is_worn() or wire.is_spent
        wire.send(event, ends=ends, **said)
    if wire.is_spent:
        os._exit(0)


def _answer(wire: _Wire, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    try:
        import_libraries()
        return "result", {"value": _COMMANDS[message["cmd"]](wire, message)}
    except BertftError as fault:
        return "error", _error(fault)
    except MemoryError as fault:  # outside of a fit's own steps, such as an import
        return "error", {"kind": "TrialPruned", "message": f"oom: {fault or 'no memory left'}", "trace": ""}
    except Exception as fault:  # the border of the process: everything must reach the parent
        return "error", {"kind": type(fault).__name__, "message": str(fault), "trace": traceback.format_exc()}


def _error(fault: BertftError) -> dict[str, Any]:
    said = {"kind": type(fault).__name__, "message": str(fault), "trace": ""}
    return {**said, "signal": fault.signal} if isinstance(fault, TrainerDied) else said


def import_libraries() -> None:
    """torch and transformers, with the collector off: it would go through all that they make, a quarter of the time.

    What is imported is never garbage; frozen, no later collection goes through it either.
    """
    if "bertft_core.training.loop" in sys.modules:
        return
    gc.disable()
    try:
        import bertft_core.training.loop  # noqa: F401 (for what it imports)
    finally:
        gc.freeze()
        gc.enable()


def _is_worn() -> bool:
    optimizer = sys.modules.get("bertft_core.training.optimizer")  # torch is imported where it is needed
    return optimizer is not None and bool(optimizer.is_worn())


if __name__ == "__main__":
    main()
