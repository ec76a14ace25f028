"""The process in which registered versions answer. `answers.Scorer` runs this file by its path.

Two versions loaded in one process share the first one's modules. So one process imports what they share and is then
left alone, and each version loads in a fork of it; neither imports bertft_core before mlflow has put the version's
own copy first on sys.path. The imports are most of the time: two versions cost little more than one; the collector
would be a quarter of it, and tidying up at the end another (both measured), so neither happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import statistics
import sys
import time
import traceback
from typing import Any

_SHARED = ("mlflow.pyfunc", "numpy", "pandas", "pyarrow.parquet", "torch")
_LIKELY = ("transformers.modeling_utils", "transformers.tokenization_utils_tokenizers")
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of unshare(2)


def main() -> None:
    """Import what the versions share, read the request (`Scorer.answers`) from stdin, let each version answer."""
    os.umask(0o077)  # its files are its user's alone, whoever started it
    if fault := _close_network():
        print(f"bertft: network: {fault}", file=sys.stderr)
    gc.disable()
    for name in _SHARED:
        importlib.import_module(name)
    for name in _LIKELY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    request = sys.stdin.read()  # after the imports: they happen while the caller still evaluates
    if request:  # else nobody needs answers any more
        spec = json.loads(request)
        for folder, out in spec["versions"]:
            _in_a_fork(spec, folder, out)
    sys.stderr.flush()
    os._exit(0)


def _close_network() -> str:
    """Leave the network, and with it the users whose processes this one could look at; why not, where that is refused.

    A user namespace of one's own makes both possible without privileges (user_namespaces(7)); it must be made before
    there are threads. Files are as they were.
    """
    user, group = os.getuid(), os.getgid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_USER | _NEW_NETWORK):
            return f"unshare: {os.strerror(ctypes.get_errno())}"
    except (AttributeError, OSError):
        return "this system has no namespaces"
    with contextlib.suppress(OSError):  # without them it does not know its own name, which nothing needs
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as handle:
                handle.write(text)
    return ""


def _in_a_fork(spec: dict[str, Any], folder: str, out: str) -> None:
    """Write the answers of a version, or its last words to out.log."""
    parent = os.getpid()
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            with open(out + ".log", "a", encoding="utf-8") as log:
                log.write(f"its process was ended by signal {-code}")
        return
    code = 1
    try:
        os.dup2(os.open(out + ".log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), 2)
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: it must not go on once it was given up (Linux)
        if os.getppid() == parent:
            _answer(spec, folder, out)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _answer(spec: dict[str, Any], folder: str, out: str) -> None:
    """Write probabilities and decisions to `out` (.npz), whole or not at all, and the facts to out.json."""
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)  # they cost a second
    rows = pd.read_parquet(spec["rows"])
    table = model.predict(rows, params={"batch_size": spec["batch_size"]})
    names = [c for c in table.columns if c.startswith("probability_")]
    classes = [c.removeprefix("probability_") for c in names]
    if getattr(model.unwrap_python_model().predictor.card, "multi_label", False):
        predicted: list[Any] = [[int(c in json.loads(labels)) for c in classes] for labels in table["label"]]
    else:
        predicted = [classes.index(label) for label in table["label"]]
    seconds = []
    for start in range(spec["timed"]):
        row = rows.iloc[[start % len(rows)]]
        begun = time.perf_counter()
        model.predict(row)
        seconds.append(time.perf_counter() - begun)
    import bertft_core  # the version's own, which mlflow has put first

    with open(out + ".part", "wb") as handle:
        probabilities = table[names].to_numpy(dtype="float32")
        np.savez(handle, probabilities=probabilities, predicted=np.array(predicted, dtype="int64"))
    facts = {
        "classes": classes,
        "code": os.path.dirname(str(bertft_core.__file__)),
        "latency_ms": 1000 * statistics.median(seconds[len(seconds) // 4 :]),
    }
    with open(out + ".json", "w", encoding="utf-8") as file:
        json.dump(facts, file)
    os.replace(out + ".part", out)


if __name__ == "__main__":
    main()
