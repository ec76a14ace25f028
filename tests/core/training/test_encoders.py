"""Each family of encoders trains, thaws, is killed and resumed, saved, loaded and served; others are added."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.base.home import open_home
from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig, load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.encoding import SpecialLayout, encode_texts, load_tokenizer
from bertft_core.data.tokens.tokenization import open_split, tokenize_splits
from bertft_core.model.classifier import load_classifier, load_saved
from bertft_core.model.encoder_pass import EncoderPass
from bertft_core.model.pretrained import layer_count
from bertft_core.recipe.check import plan
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.predictor import Predictor
from bertft_core.testing import check_structure
from bertft_core.training.loop import fit
from bertft_core.training.scoring import score
from bertft_core.training.spec import FitSpec

from .families import CONFIGS, LAYERS, UNKNOWN, WITHOUT_OWN_PASS, write_family
from .kills import Killed, killer
from .specs import fit_spec

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [f"{word} {'soup' if i % 2 else 'goal'} {i} " * (1 + i % 3) for i, word in enumerate(["the", "new"] * 24)]
PAIRS = [f"and {'bread' if i % 2 else 'team'} {i}" for i in range(len(TEXTS))]
LENGTH = 40


@dataclass(frozen=True)
class Family:
    name: str
    folder: Path
    tokens: Path

    def spec(self, output: Path, **changes: Any) -> FitSpec:
        values: dict[str, Any] = {
            "lr": 2e-3,
            "batch_size": 8,
            "epochs": 2,
            "unfreezing": "late",
            "threads": 1,
            "dropout": 0.2,
            "warmup_fraction": 0.0,
            **changes,
        }
        return fit_spec(
            pretrained=str(self.folder), tokens=str(self.tokens), output=str(output), classes=("a", "b"), **values
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetSplits:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"text": t, "more": p, "label": "ab"[i % 2]} for i, (t, p) in enumerate(zip(TEXTS, PAIRS, strict=True))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_dataset(DataConfig(source="rows.jsonl", text_pair="more"), folder / "home", folder)


def make(name: str, config: Any, dataset: DatasetSplits, root: Path) -> Family:
    folder = write_family(root / name, config, TEXTS + PAIRS)
    tokens = tokenize_splits(dataset, folder, TokenizationConfig(max_length=LENGTH), root / "tokens")
    return Family(name, folder, tokens.path)


@pytest.fixture(scope="module", params=list(CONFIGS))
def family(request: pytest.FixtureRequest, dataset: DatasetSplits, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make(request.param, CONFIGS[request.param], dataset, tmp_path_factory.mktemp("family"))


def stock_probabilities(folder: Path) -> np.ndarray[Any, Any]:
    """Of all rows by plain transformers, each row alone and without padding."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(folder)
    layout = SpecialLayout.of(tokenizer)
    rows = zip(*encode_texts(tokenizer, layout, TEXTS, PAIRS, LENGTH, "head+tail")[:2], strict=True)
    answers = []
    with torch.inference_mode():
        for ids, start in rows:
            inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None]}
            if layout.has_segments and getattr(model.config, "type_vocab_size", 0) > 1:
                inputs["token_type_ids"] = (torch.arange(len(ids)) >= start).long()[None]
            answers.append(torch.softmax(model(**inputs).logits, -1)[0].numpy())
    return np.stack(answers)


def test_keeps_the_contract(family: Family) -> None:
    assert len(check_structure(family.folder, 1e-6).layers) == LAYERS[family.name] == layer_count(family.folder)


def test_trains_resumes_saves_and_serves(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(family.spec(tmp_path / "whole"))
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    broken = family.spec(tmp_path / "broken", checkpoint_seconds=0)
    with pytest.raises(Killed):
        fit(broken, killer(whole.steps // 2 + 1))
    resumed = fit(broken)
    assert resumed.weights_digest == whole.weights_digest and resumed.steps == whole.steps
    assert [h.depth for h in whole.history] == [min(2, LAYERS[family.name] + 1), LAYERS[family.name] + 1]
    assert [h.train_loss for h in resumed.history] == [h.train_loss for h in whole.history]
    card = ArtifactCard(max_length=LENGTH, truncation="head+tail", classes=("a", "b"), text_pair="more")
    folder = build_artifact(whole.model_dir, tmp_path / "artefact", card)
    served, expected = Predictor.load(folder), stock_probabilities(folder)
    for batch_size in (None, 1):
        found = served.probabilities(TEXTS, PAIRS, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    labels = open_split(family.tokens, "validation").labels
    p = score(whole.model_dir, family.tokens, "validation", threads=1)
    best = whole.history[whole.best_epoch - 1].validation_loss
    assert -np.log(p[np.arange(len(labels)), labels]).mean() == pytest.approx(best, abs=1e-5)
    own_pass = EncoderPass.of(load_saved(whole.model_dir))
    assert (own_pass is None) is (family.name in WITHOUT_OWN_PASS)


@pytest.mark.parametrize("family", WITHOUT_OWN_PASS, indirect=True)
def test_trains_in_bfloat16(family: Family, tmp_path: Path) -> None:
    result = fit(family.spec(tmp_path / "fit", precision="bfloat16", epochs=1, keep_model=False))
    assert result.state == "complete" and np.isfinite(result.log_loss) and result.history[0].depth > LAYERS[family.name]


@pytest.fixture
def table(project: Callable[..., Path], tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """What `bertft check` says of an encoder."""

    def make(folder: Path) -> dict[str, Any]:
        training = {"lr": 1e-3, "alpha": 0.5, "weight_decay": 0.1, "epochs": 4, "unfreezing": "late"}
        config = load_config(project(model={"pretrained": str(folder)}, training=training, search={"trials": 0}))
        return plan(config, open_home(tmp_path / "home"), load_mlflow_config(None, config.base_dir, tmp_path))

    return make


TABLES = {
    1: [("head", 1e-3, 0), ("layer 0", 1e-3, 0), ("embeddings", 5e-4, 0.25)],
    2: [("head", 1e-3, 0), ("layer 1", 1e-3, 0), ("layer 0", 5e-4, 0.25), ("embeddings", 2.5e-4, 0.75)],
    3: [
        ("head", 1e-3, 0),
        ("layer 2", 1e-3, 0),
        ("layer 1", 5e-4, 0.25),
        ("layer 0", 2.5e-4, 0.75),
        ("embeddings", 1.25e-4, 0.75),
    ],
}


def test_check_prints_rate_decay_and_phase_of_each_layer(family: Family, table: Any) -> None:
    found = table(family.folder)
    rows = [(row["name"], row["lr"], row["thaws_at"]) for row in found["layers"]]
    assert rows == TABLES[LAYERS[family.name]]
    assert {row["weight_decay"] for row in found["layers"]} == {0.1}
    shared = " of shared weights, run 3 times" if "albert" in family.name else ""
    assert found["encoder"].endswith(f"layer{'s' if LAYERS[family.name] > 1 else ''}{shared}")


def test_contract_padding_that_is_read_is_found(
    dataset: DatasetSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = make("bert", CONFIGS["bert"], dataset, tmp_path)
    pooler = type(load_classifier(bert.folder, ("a", "b"), 0).bert.pooler)
    monkeypatch.setattr(pooler, "forward", lambda self, hidden: self.activation(self.dense(hidden.mean(1))))
    with pytest.raises(ModelError, match="logits differ by .* from those of the rows without padding"):
        check_structure(bert.folder)


def test_contract_a_level_that_never_trains_is_found(
    dataset: DatasetSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = make("bert", CONFIGS["bert"], dataset, tmp_path)
    layer = type(load_classifier(bert.folder, ("a", "b"), 0).bert.encoder.layer[0])
    stock = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, hidden, *args, **kwargs: stock(self, hidden.detach(), *args))
    with pytest.raises(ModelError, match="layer 1 stays where it should train, at depth 2"):
        check_structure(bert.folder)


def test_rows_beyond_the_positions_are_refused(dataset: DatasetSplits, tmp_path: Path) -> None:
    """RoBERTa's 66 positions begin at 2: 64 tokens."""
    roberta = make("roberta", CONFIGS["roberta"], dataset, tmp_path)
    with pytest.raises(ConfigError, match=r"tokenization\.max_length must not exceed 64"):
        tokenize_splits(dataset, roberta.folder, TokenizationConfig(max_length=65), tmp_path / "tokens")


ADAPTOR = """
def layers(model):
    parts = ("attentions", "layer_norm1", "ffns", "layer_norm2")
    return [[f"transformer.{part}.{i}" for part in parts] for i in range(model.config.n_layers)]

def wrong_name(model):
    return ["transformer.blocks.0"]

def wrong_order(model):
    return list(reversed(layers(model)))

def broken(model):
    raise KeyError("h")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a distribution whose entry point names an adaptor for flaubert."""

    def make(function: str, distribution: str = "flaubert_adaptor") -> None:
        site = tmp_path / "site"
        folder = site / f"{distribution}-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / "flaubert_adaptor.py").write_text(ADAPTOR)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[bertft.structures]\nflaubert = flaubert_adaptor:{function}\n")
        monkeypatch.syspath_prepend(str(site))

    return make


@pytest.fixture(scope="module")
def unknown(dataset: DatasetSplits, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make("flaubert", UNKNOWN, dataset, tmp_path_factory.mktemp("unknown"))


def test_an_unknown_structure_is_refused_before_it_trains(unknown: Family, table: Any, tmp_path: Path) -> None:
    wanted = r"FlaubertForSequenceClassification \(model_type flaubert\) has a structure that bertft does not know: .*"
    for act in (lambda: table(unknown.folder), lambda: fit(unknown.spec(tmp_path / "fit"))):
        with pytest.raises(ModelError, match=wanted + r"'flaubert' of 'bertft\.structures' .*docs/encoders\.md"):
            act()


def test_an_adaptor_makes_an_unknown_structure_known(
    unknown: Family, table: Any, install: Callable[..., None], tmp_path: Path
) -> None:
    install("layers")
    assert len(check_structure(unknown.folder).layers) == layer_count(unknown.folder) == 2
    assert [row["name"] for row in table(unknown.folder)["layers"]] == ["head", "layer 1", "layer 0", "embeddings"]
    assert [h.depth for h in fit(unknown.spec(tmp_path / "fit")).history] == [2, 3]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        ("wrong_name", r"flaubert_adaptor:wrong_name \(bertft\.structures, flaubert\) names .*transformer\.blocks\.0"),
        ("wrong_order", r"transformer\.attentions\.0 runs after|transformer\.attentions\.\d runs"),
        ("broken", r"flaubert_adaptor:broken .* failed: KeyError\('h'\)"),
        ("absent", r"flaubert_adaptor:absent .* failed: AttributeError"),
    ],
)
def test_a_wrong_adaptor_is_named(unknown: Family, install: Callable[..., None], function: str, wanted: str) -> None:
    install(function)
    with pytest.raises(ModelError, match=wanted):
        check_structure(unknown.folder)


def test_two_adaptors_for_one_encoder_are_refused(unknown: Family, install: Callable[..., None]) -> None:
    install("layers")
    install("layers", "another_one")
    with pytest.raises(ConfigError, match=r"two entry points of bertft\.structures .*'flaubert' .*another_one"):
        layer_count(unknown.folder)
