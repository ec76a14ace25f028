"""A folder of rows by several processes: a kill costs no finished shard, and leaves no half one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.predictor import Predictor

from ..processes import is_gone, processes

pytestmark = pytest.mark.slow
CLASSES = ("ham", "spam")
COMMAND = (sys.executable, "-P", "-c", "import sys; from flows.cli import main; sys.exit(main())", "predict", "--json")


def test_a_kill_costs_no_finished_shard(
    encoder: Path,
    clean_environment: Callable[[Path], dict[str, str]],
    document: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    model = save_classifier(load_classifier(encoder, CLASSES, seed=5), encoder, tmp_path / "fit", CLASSES)
    card = ArtifactCard(max_length=24, truncation="head", classes=CLASSES)
    served = build_artifact(model, tmp_path / "served", card)
    texts = [f"the film number {i} was " + "very good " * (1 + i % 5) for i in range(3000)]
    (tmp_path / "new").mkdir()
    pd.DataFrame({"number": range(3000), "text": texts}).to_csv(tmp_path / "new" / "a.csv", index=False)
    out, known = tmp_path / "answers", clean_environment(tmp_path / "home")
    words = (*COMMAND, "--model", "served", "--input", "new", "--output", "answers")
    words += ("--processes", "2", "--shard-rows", "50")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=400)

    with subprocess.Popen(words, cwd=tmp_path, env=known, stdout=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 300
        while len(list(out.glob("*.csv"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        children = processes(parent=killed.pid)
        killed.kill()
    assert len(children) >= 2 and all(is_gone(pid, 30) for pid in children), "scoring processes end with their parent"
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.csv")}
    assert 4 <= len(before) < 60
    result = document(run())
    assert (result["shards"], result["rows"], result["files"]) == (60, 3000, 1)
    assert result["shards_kept"] == len(before) and result["model"] == "served" and result["run_id"] is None
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.csv")}
    assert {name: after[name] for name in before} == before and len(after) == 60
    assert not list(out.rglob("*.part"))
    rows = pd.concat(map(pd.read_csv, sorted(out.glob("*.csv"))), ignore_index=True)
    wanted = Predictor.load(served).predict_frame({"text": texts})
    assert rows["number"].tolist() == list(range(3000)) and rows["label"].tolist() == wanted["label"].tolist()
    assert abs(rows["confidence"] - wanted["confidence"]).max() < 1e-6
    assert document(run())["shards_kept"] == 60
