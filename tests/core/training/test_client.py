from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bertft_core.base.errors import ConfigError, ModelError, TrainerDied, TrialPruned
from bertft_core.base.files import read_json, write_json
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.recipe.process import client
from bertft_core.recipe.process.client import Trainer, start_ahead
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.attribution import attribute
from bertft_core.serving.predictor import Predictor
from bertft_core.training.loop import fit
from bertft_core.training.machine import faster_precision, multiplies_bfloat16, step_seconds
from bertft_core.training.scoring import features
from bertft_core.training.spec import FitSpec, MachineSettings

ONE_THREAD = MachineSettings(precision="float32", device="cpu", threads=1)

pytestmark = pytest.mark.slow

Build = Callable[..., FitSpec]


@pytest.mark.usefixtures("cold_processes")
def test_trainer_fits_scores_and_agrees_with_the_loop(spec: Build, tokens: Path, tmp_path: Path) -> None:
    rungs: list[float] = []
    fractions: list[float] = []

    def on_rung(fraction: float, score: float) -> bool:
        rungs.append(fraction)
        return False

    with Trainer() as trainer:
        result = trainer.fit(spec(), lambda fraction, facts: fractions.append(fraction), on_rung)
        path = trainer.score(result.model_dir, tokens, "test", tmp_path / "p.npy", "cpu", 1)
    assert result.weights_digest == fit(spec(output=str(tmp_path / "here"))).weights_digest
    assert rungs == [0.25, 0.5, 0.75] and fractions[-1] == 1.0
    assert np.load(path, allow_pickle=False).shape == (32, 2)


def test_trainer_writes_features_and_agrees_with_the_function(encoder: Path, tokens: Path, tmp_path: Path) -> None:
    with Trainer() as trainer:
        path = trainer.features(encoder, tokens, "test", tmp_path / "features.npy", ONE_THREAD)
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), features(encoder, tokens, "test", ONE_THREAD))


def test_trainer_explains_a_served_artefact(encoder: Path, tmp_path: Path) -> None:
    classes = ("a", "b")
    model = save_classifier(load_classifier(encoder, classes, seed=5), encoder, tmp_path / "fit", classes)
    served = build_artifact(model, tmp_path / "served", ArtifactCard(max_length=32, truncation="head", classes=classes))
    write_json(tmp_path / "rows.json", [{"text": "a good film", "class": "b"}])
    facts: list[dict[str, Any]] = []
    with Trainer() as trainer:
        path = trainer.explain(
            served,
            tmp_path / "rows.json",
            tmp_path / "words.json",
            threads=1,
            on_progress=lambda _, said: facts.append(said),
        )
    (words,) = attribute(Predictor.load(served), ["a good film"], ["b"])
    found = read_json(path)[0]
    assert [word for word, _ in found] == ["a", "good", "film"]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in words], abs=1e-6)
    assert {"explaining": 1} in facts


def test_trainer_errors_come_back_by_class_and_the_process_lives_on(spec: Build, tmp_path: Path) -> None:
    wild = tmp_path / "wild"  # the trainer reads no rate that a configuration refuses: weights that overflow diverge
    shutil.copytree(spec().pretrained, wild)
    weights = load_file(wild / "model.safetensors")
    save_file({name: value * 1e30 for name, value in weights.items()}, wild / "model.safetensors", {"format": "pt"})
    with Trainer() as trainer:
        with pytest.raises(ModelError):
            trainer.score(tmp_path, tmp_path, "test", tmp_path / "p.npy")
        before = trainer.pid
        with pytest.raises(TrialPruned, match="nonfinite"):
            trainer.fit(spec(pretrained=str(wild), unfreezing="none", epochs=4))
        if not Path("/dev/nvidia0").exists():
            with pytest.raises(ConfigError, match=r"training\.device"):
                trainer.resolve(tmp_path, "float32", "cuda")
        assert trainer.pid == before


def test_trainer_beats_while_nothing_is_said(spec: Build) -> None:
    beats: list[float] = []
    with Trainer() as trainer:
        trainer.fit(spec(), lambda fraction, facts: beats.append(fraction), lambda fraction, score: not time.sleep(5))
    assert len(beats) >= 4


def test_trainer_resolve_times_a_step_where_the_processor_multiplies_bfloat16(spec: Build) -> None:
    with Trainer() as trainer:
        found = trainer.resolve(spec().pretrained, "auto", "cpu")
    if multiplies_bfloat16(torch.device("cpu")):
        assert found.float32_step and found.bfloat16_step
        seconds = {"float32": found.float32_step, "bfloat16": found.bfloat16_step}
        assert found.precision == faster_precision(seconds)
    else:
        assert found == MachineSettings(precision="float32", device="cpu", threads=len(os.sched_getaffinity(0)))


def test_products_in_bfloat16_are_what_the_processor_says_of_itself() -> None:
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert multiplies_bfloat16(torch.device("cpu")) == bool(words & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def test_step_is_timed_in_both_types(spec: Build) -> None:
    found = step_seconds(spec().pretrained, torch.device("cpu"))
    assert found.keys() == {"float32", "bfloat16"} and min(found.values()) > 0


def test_trainer_takes_the_process_that_was_started_ahead(tmp_path: Path) -> None:
    start_ahead()
    (started,) = client._AHEAD
    pid = started.pid
    with Trainer() as trainer:
        trainer.resolve(tmp_path, "float32", "cpu", 1)
        assert trainer.pid == pid and not client._AHEAD
    with Trainer() as trainer:
        trainer.resolve(tmp_path, "float32", "cpu", 1)
        assert trainer.pid != pid


def test_process_that_was_started_ahead_and_died_is_replaced(tmp_path: Path) -> None:
    start_ahead()
    os.kill(client._AHEAD[0].pid or 0, signal.SIGKILL)
    with Trainer() as trainer:
        assert trainer.resolve(tmp_path, "float32", "cpu", 1).threads == 1


def test_trainer_resolve_measures_nothing_when_the_precision_is_given(tmp_path: Path) -> None:
    with Trainer() as trainer:
        found = trainer.resolve(tmp_path, "bfloat16", "cpu", 3)
    assert found == MachineSettings(precision="bfloat16", device="cpu", threads=3)


def test_precision_stays_float32_unless_bfloat16_is_clearly_faster() -> None:
    assert faster_precision({"float32": 1.0, "bfloat16": 0.7}) == "bfloat16"
    assert faster_precision({"float32": 1.0, "bfloat16": 0.8}) == "float32"


def test_trainer_killed_mid_fit_is_reported_and_resumes(spec: Build, tmp_path: Path) -> None:
    long = spec(epochs=30, checkpoint_seconds=0)
    with Trainer() as trainer:

        def kill(fraction: float, facts: dict[str, Any]) -> None:
            if facts.get("step", 0) >= 60 and trainer.pid:
                os.kill(trainer.pid, signal.SIGKILL)

        with pytest.raises(TrainerDied, match="signal 9"):
            trainer.fit(long, kill)
        steps: list[int] = []
        resumed = trainer.fit(long, lambda fraction, facts: steps.append(facts.get("step", 0)))
    assert min(step for step in steps if step) >= 59  # a step is told before its checkpoint is written
    assert resumed.weights_digest == fit(spec(epochs=30, output=str(tmp_path / "whole"))).weights_digest


@pytest.mark.usefixtures("cold_processes")  # sitecustomize
def test_process_that_lost_onednn_ends_with_its_answer_and_a_fresh_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "import torch\ntorch.backends.mkldnn.set_flags(_enabled=False)\n"
    (tmp_path / "sitecustomize.py").write_text(lost)
    with Trainer() as trainer:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        settings = trainer.resolve(tmp_path, "float32", "cpu", 1)
        assert trainer.pid is None
        with pytest.raises(ConfigError, match="float16"):
            trainer.resolve(tmp_path, "float16", "cpu", 1)
        assert trainer.pid is None
        monkeypatch.undo()
        assert trainer.resolve(tmp_path, "float32", "cpu", 1) == settings
        assert trainer.pid is not None


def test_trainer_dies_with_its_parent() -> None:
    code = (
        "import time; from bertft_core.recipe.process.client import Trainer; t = Trainer(); "
        "t.resolve('x', 'float32', 'cpu', 1); print(t.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_trainer_process_imports_no_orchestrator() -> None:
    code = (
        "import sys; import bertft_core.recipe.process.trainer, bertft_core.training.loop; "
        "sys.exit(any(m in sys.modules for m in ('prefect', 'mlflow', 'optuna')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
