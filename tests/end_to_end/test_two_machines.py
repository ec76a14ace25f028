"""A fit over two machines by torchrun, as docs/scaling.md has it: two network namespaces with a cable between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bertft_core.base.files import staged_folder
from bertft_core.config.fit import TrainingConfig
from bertft_core.training.loop import finished_fit, fit
from bertft_core.training.spec import FitSpec

pytestmark = pytest.mark.slow

_ADDRESSES = ("10.213.7.1", "10.213.7.2")
_LONGEST = 300


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two network namespaces, each with an address of its own and no other way out."""
    names, cables = ([f"{kind}{end}-{os.getpid()}" for end in "ab"] for kind in ("bertft-", "v"))
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, _ADDRESSES, strict=True):
            _ip("link", "set", cable, "netns", name)
            _ip("-n", name, "link", "set", cable, "name", "eth0")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names


def _tokens(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with staged_folder(folder) as staging:
        for split, count in (("train", 60), ("validation", 20), ("test", 20)):
            labels = rng.integers(0, 2, count)
            ids = [[2, *rng.integers(60, 90, 9).tolist(), 100 + int(label), 3] for label in labels]
            columns = {"input_ids": pa.array(ids, pa.list_(pa.int32())), "label": pa.array(labels, pa.int32())}
            table = pa.table({**columns, "pair_start": pa.array([12] * count, pa.int32())})
            with pa.OSFile(str(staging / f"{split}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
                out.write_table(table)
    return folder


def test_fit_over_two_machines_comes_to_what_one_process_does(
    machines: list[str], encoder: Path, tmp_path: Path
) -> None:
    tokens = _tokens(tmp_path / "tokens")

    def spec(processes: int) -> FitSpec:
        training = {"lr": 2e-3, "batch_size": 16, "epochs": 5, "dropout": 0.0, "threads": 1, "processes": processes}
        settled = {"precision": "float32", "device": "cpu", "prefix_cache": "float32"}
        return FitSpec(
            training=TrainingConfig(**{**training, **settled}),
            pretrained=str(encoder),
            tokens=str(tokens),
            output=str(tmp_path / f"fit-{processes}"),
            classes=("a", "b"),
            prefix_root=str(tmp_path / f"prefix-{processes}"),
        )

    two = spec(2)
    (tmp_path / "fit.json").write_text(json.dumps(two.to_json()))
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--master-addr", _ADDRESSES[0], "--master-port", "29500"]
    worker = ["-m", "bertft_core.recipe.process.worker", str(tmp_path / "fit.json")]
    own = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "eth0"}
    logs = [tmp_path / f"machine-{node}.txt" for node in range(2)]
    started = []
    for node, (name, log) in enumerate(zip(machines, logs, strict=True)):
        command = ["ip", "netns", "exec", name, *torchrun, "--node-rank", str(node), *worker]
        with log.open("w") as said:
            started.append(subprocess.Popen(command, env=own, stdout=said, stderr=said, stdin=subprocess.DEVNULL))
    try:
        codes = [process.wait(_LONGEST) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = [log.read_text(errors="replace") for log in logs]
    assert codes == [0, 0], said
    together, alone = finished_fit(two), fit(spec(1))
    assert together is not None and together.processes == 2 and "20 steps in 2 processes" in said[0], said
    assert together.steps == 20 and "20 steps" not in said[1]
    for one, shared in zip(alone.history, together.history, strict=True):
        assert shared.train_loss == pytest.approx(one.train_loss, abs=1e-6)
        assert shared.validation_loss == pytest.approx(one.validation_loss, abs=1e-6)
