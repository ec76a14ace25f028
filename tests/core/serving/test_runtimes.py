"""An exported classifier answers as torch does; with weights of 8 bits a row's answer stays its own in any batch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, InputError
from bertft_core.base.files import write_json
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.serving import onnx_export
from bertft_core.serving.artifact import CARD, ONNX_FILE, ArtifactCard, build_artifact, read_card
from bertft_core.serving.predictor import Predictor
from bertft_core.testing.encoders import tiny_encoder

pytestmark = pytest.mark.slow  # torch's exporter takes 6 s of a processor
CLASSES = ("ham", "spam", "other")
TEXTS = ["a short one", "b", "the quick brown fox jumps over a lazy dog " * 12, "hello there", "zebra " * 30] * 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The artefact by its runtime; a classifier with token types."""
    root = tmp_path_factory.mktemp("runtimes")
    encoder = tiny_encoder(root / "encoder", seed=3)
    model = save_classifier(load_classifier(encoder, CLASSES, seed=5), encoder, root / "fit", CLASSES)
    card = ArtifactCard(max_length=48, truncation="head+tail", classes=CLASSES)
    made = {"torch": Path(build_artifact(model, root / "torch", card))}
    for runtime in ("onnx", "onnx-int8"):
        made[runtime] = root / runtime
        shutil.copytree(made["torch"], made[runtime], ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
        onnx_export.export_onnx(model, made[runtime] / ONNX_FILE, int8=runtime == "onnx-int8")
        write_json(made[runtime] / CARD, replace(card, runtime=runtime).to_json())
    return made


def test_float32_file_answers_as_torch_does_in_any_batch(folders: dict[str, Path]) -> None:
    wanted = Predictor.load(folders["torch"]).probabilities(TEXTS)
    predictor = Predictor.load(folders["onnx"])
    for batch_size in (1, 3, None):
        np.testing.assert_allclose(predictor.probabilities(TEXTS, batch_size=batch_size), wanted, atol=1e-6)
    assert read_card(folders["onnx"]).runtime == "onnx" and not list(folders["onnx"].glob("*.safetensors"))


def test_int8_answers_do_not_depend_on_the_rows_beside(folders: dict[str, Path]) -> None:
    predictor = Predictor.load(folders["onnx-int8"])
    alone = np.concatenate([predictor.probabilities([text]) for text in TEXTS])
    assert np.array_equal(predictor.probabilities(TEXTS), alone)
    assert np.array_equal(predictor.probabilities(TEXTS, batch_size=7), alone)
    wanted = Predictor.load(folders["torch"]).probabilities(TEXTS)
    assert 0 < np.abs(alone - wanted).max() < 0.05
    sizes = [(folders[name] / ONNX_FILE).stat().st_size for name in ("onnx-int8", "onnx")]
    assert sizes[0] < 0.8 * sizes[1]  # most of so small a file is its graph


def test_answers_without_torch_and_transformers(folders: dict[str, Path]) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from bertft_core.serving.predictor import Predictor\n"
        f"print(Predictor.load({str(folders['onnx'])!r}).predict_frame([{{'text': 'hello there'}}])['confidence'][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = Predictor.load(folders["torch"]).predict_frame([{"text": "hello there"}])["confidence"][0]
    assert abs(float(done.stdout) - wanted) < 1e-6


def test_a_damaged_file_and_a_missing_library_are_named(folders, tmp_path, monkeypatch) -> None:
    broken = shutil.copytree(folders["onnx"], tmp_path / "broken")
    (broken / ONNX_FILE).write_bytes((broken / ONNX_FILE).read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"model\.onnx: cannot be loaded .*export the version again"):
        Predictor.load(broken)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError, match=r"onnxruntime, which is not installed: pip install 'bertft\[onnx\]'"):
        Predictor.load(folders["onnx"])
    with pytest.raises(InputError, match=r"pip install 'bertft\[onnx\]'"):
        onnx_export.export_onnx(folders["torch"], tmp_path / "x.onnx", int8=False)


def test_a_head_of_ours_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder", seed=3)
    plan = FeaturePlan(pooling="mean")
    model = save_classifier(load_classifier(encoder, CLASSES, seed=5, plan=plan), encoder, tmp_path / "fit", CLASSES)
    with pytest.raises(InputError, match="only a stock head is exported"):
        onnx_export.export_onnx(model, tmp_path / "x.onnx", int8=False)
