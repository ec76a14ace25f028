"""Fits on features and on chunks: bit for bit after a kill, with and without the prefix cache, in parts, and served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig, parse_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.tokenization import open_split, tokenize_splits
from bertft_core.model.classifier import load_classifier
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.features import level_map
from bertft_core.recipe.fit import prefix_plan, schedule_of
from bertft_core.recipe.prepare import Prepared
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.predictor import Predictor
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training import forward as feature_forward
from bertft_core.training.forward import WHOLE, open_forward
from bertft_core.training.loop import finished_fit, fit
from bertft_core.training.machine import one_row_milliseconds
from bertft_core.training.results import TrainingResult
from bertft_core.training.scoring import features, score
from bertft_core.training.spec import FitSpec, MachineSettings

from .crews import Crews, assert_equal_to_rounding
from .kills import Killed, killer
from .specs import fit_spec

ONE_THREAD = MachineSettings(precision="float32", device="cpu", threads=1)

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CHUNKS = TokenizationConfig(max_length=12, truncation="chunks", chunk_overlap=2, max_chunks=8)
PLANS = {
    "layers": FeaturePlan(pooling="layers", layers=(2, 1)),
    "mean": FeaturePlan(pooling="mean"),
    "chunks": FeaturePlan(chunk_pooling="mean"),
    "layers of chunks": FeaturePlan(pooling="layers", layers=(1, 2), combine="max", chunk_pooling="attention"),
}
WORDS = {"a": "goal match team win", "b": "bank market share price"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=3, hidden=16, max_positions=64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetSplits:
    """Texts of 6 to 60 words; what tells their class often comes late."""
    root, rng, lines = tmp_path_factory.mktemp("rows"), np.random.default_rng(0), ["text,label"]
    for i in range(110):
        label = "ab"[i % 2]
        words = ["the", "new", "of"] * int(rng.integers(1, 16)) + list(rng.permutation(WORDS[label].split())) + [str(i)]
        lines.append(f"{' '.join(words)},{label}")
    (root / "rows.csv").write_text("\n".join(lines) + "\n")
    return prepare_dataset(DataConfig(source="rows.csv"), root / "data", root)


@pytest.fixture(scope="module")
def folders(dataset: DatasetSplits, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Tokens in one piece, and in chunks."""
    root, whole = tmp_path_factory.mktemp("tokens"), TokenizationConfig(max_length=24)
    return {
        is_chunked: tokenize_splits(dataset, encoder, c, root).path
        for is_chunked, c in ((False, whole), (True, CHUNKS))
    }


@pytest.fixture
def spec(encoder: Path, folders: dict[bool, Path], tmp_path: Path) -> Callable[..., FitSpec]:
    def build(plan: FeaturePlan, **changes: Any) -> FitSpec:
        values: dict[str, Any] = {
            "pretrained": str(encoder),
            "tokens": str(folders[plan.chunk_pooling is not None]),
            "classes": ("a", "b"),
            "output": str(tmp_path / "fit"),
            "lr": 3e-3,
            "batch_size": 16,
            "epochs": 2,
            "threads": 1,
            "features": plan,
            "prefix_root": str(tmp_path / "prefix"),
            "checkpoint_seconds": 0,
        }
        return fit_spec(**{**values, **changes})

    return build


Build = Callable[..., FitSpec]


def numbers(result: TrainingResult) -> Any:
    return result.weights_digest, result.score, [h.train_loss for h in result.history], result.steps


@pytest.mark.parametrize("name", ["layers", "chunks", "layers of chunks"])
def test_resumed_equals_uninterrupted_bit_for_bit(spec: Build, name: str, tmp_path: Path) -> None:
    plain = fit(spec(PLANS[name], output=str(tmp_path / "plain")))
    with pytest.raises(Killed):
        fit(spec(PLANS[name]), killer(7))
    resumed = fit(FitSpec.from_json(spec(PLANS[name]).to_json()))
    assert numbers(resumed) == numbers(plain)
    assert (Path(resumed.model_dir) / "model.safetensors").read_bytes() == (
        Path(plain.model_dir) / "model.safetensors"
    ).read_bytes()


def test_two_processes_come_to_what_one_does_on_chunks(spec: Build, crews: Crews, tmp_path: Path) -> None:
    common: dict[str, Any] = {"batch_size": 15, "epochs": 5, "dropout": 0.0, "prefix_cache": "float32"}
    alone = fit(spec(PLANS["layers of chunks"], **common, output=str(tmp_path / "one")))
    two = spec(PLANS["layers of chunks"], **common, processes=2, prefix_root=str(tmp_path / "its own"))
    ended, together = crews.fit(two, tmp_path), finished_fit(two)
    assert ended.codes == [0, 0] and together is not None and together.steps >= 20, ended.said
    assert_equal_to_rounding(alone, together, two.tokens)


def test_a_fit_learns_from_what_comes_late_in_its_chunks(spec: Build) -> None:
    plan = FeaturePlan(pooling="layers", layers=(0, 1, 2), chunk_pooling="max")
    losses = [h.train_loss for h in fit(spec(plan, epochs=6, lr=1e-2, batch_size=8, unfreezing="none")).history]
    assert losses[0] > 0.5 and losses[-1] < 0.3


@pytest.mark.parametrize("name", ["mean", "layers of chunks"])
def test_the_prefix_cache_changes_rounding_only(spec: Build, name: str, tmp_path: Path) -> None:
    plain = fit(spec(PLANS[name], output=str(tmp_path / "plain")))
    cached = fit(spec(PLANS[name], prefix_cache="float32"))
    assert cached.prefix is not None and cached.prefix["built"] > 0 and cached.prefix["reason"] == ""
    for one, other in zip(plain.history, cached.history, strict=True):
        np.testing.assert_allclose(one.train_loss, other.train_loss, atol=2e-3)


def test_features_below_every_cut_are_computed_without_the_prefix_cache(spec: Build, tmp_path: Path) -> None:
    low = FeaturePlan(pooling="layers", layers=(0, 2))
    plain = fit(spec(low, output=str(tmp_path / "plain"), unfreezing="fast"))
    cached = fit(spec(low, prefix_cache="float32", unfreezing="fast"))
    assert cached.prefix is None and numbers(cached) == numbers(plain)


@pytest.mark.parametrize("chunk", [False, True])
@pytest.mark.parametrize("depth", [1, 2, WHOLE])
def test_chunks_in_parts_give_the_gradient_of_the_whole(
    encoder: Path, folders: dict[bool, Path], depth: int, chunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one row of chunks each, computed again on the way back; without dropout, whose numbers differ."""
    plan = FeaturePlan(pooling="layers", layers=(1, 2), chunk_pooling="attention" if chunk else None)
    arrays, rows, found = open_split(folders[chunk], "train"), np.array([3, 0, 8, 5]), []
    for budget in (10**6, 24):
        monkeypatch.setattr(feature_forward, "CHUNK_TOKENS", budget)
        model = load_classifier(encoder, ("a", "b"), 1, 0.0, plan=plan).train()
        logits, targets = open_forward(model, CPU, "float32").logits(arrays, rows, depth)
        torch.nn.functional.cross_entropy(logits, targets).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, parts = found
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, atol=2e-6, err_msg=name)


def test_a_training_step_holds_one_part_of_the_chunks_at_a_time(
    encoder: Path, folders: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that the step keeps for its way back do not grow with the number of chunks, but for their features."""
    arrays, kept = open_split(folders[True], "train"), {}
    rows = np.argsort(np.diff(arrays.first_unit))[-16:]
    monkeypatch.setattr(feature_forward, "CHUNK_TOKENS", 48)
    model = load_classifier(encoder, ("a", "b"), 1, 0.0, plan=PLANS["layers of chunks"]).train()
    forward = open_forward(model, CPU, "float32")
    for count in (4, 16):
        held: list[int] = []

        def note(tensor: torch.Tensor, held: list[int] = held) -> torch.Tensor:
            held.append(tensor.nbytes if not isinstance(tensor, torch.nn.Parameter) else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            forward.logits(arrays, rows[:count], WHOLE)
        kept[count] = sum(held)
    chunks = int(np.diff(arrays.first_unit)[rows].sum())
    activations = chunks * 12 * 16 * 4 * 3  # of nothing but the three layers' outputs
    assert kept[16] < activations


@pytest.mark.parametrize("name", ["mean", "chunks", "layers of chunks"])
def test_evaluation_and_the_served_model_agree(
    spec: Build, dataset: DatasetSplits, folders: dict[bool, Path], name: str, tmp_path: Path
) -> None:
    plan = PLANS[name]
    result = fit(spec(plan, epochs=1))
    config = CHUNKS if plan.chunk_pooling else TokenizationConfig(max_length=24)
    card = ArtifactCard(classes=("a", "b"), **config.cut())
    served = Predictor.load(build_artifact(result.model_dir, tmp_path / "served", card))
    texts = dataset.table("test")["text"].to_pylist()
    scored = score(result.model_dir, folders[plan.chunk_pooling is not None], "test", threads=1)
    np.testing.assert_allclose(served.probabilities(texts), scored, atol=1e-6)
    np.testing.assert_allclose(served.probabilities(texts, batch_size=1), scored, atol=1e-6)
    extremes = [".", "goal", "goal " * 10, "goal " * 11, "the market " * 500]
    alone = np.concatenate([served.probabilities([text]) for text in extremes])
    np.testing.assert_allclose(served.probabilities(extremes), alone, atol=1e-6)
    read = served.characters_read("goal " * 100)
    assert len(read) == (10 + 7 * 8 if plan.chunk_pooling else 22)


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_forty_thousand_tokens_without_a_limit(encoder: Path, tmp_path: Path, how: str) -> None:
    """Every chunk counts: all chunks of one text, pooled here and chunk by chunk."""
    from bertft_core.model.classifier import save_classifier

    plan = FeaturePlan(pooling="layers", layers=(2,), chunk_pooling=how)
    model: Any = load_classifier(encoder, ("a", "b"), 1, plan=plan)
    folder = save_classifier(model, encoder, tmp_path / "model", ("a", "b"))
    card = ArtifactCard(max_length=64, truncation="chunks", classes=("a", "b"))
    served = Predictor.load(build_artifact(folder, tmp_path / "served", card))
    text = " ".join(np.random.default_rng(1).choice(["goal", "bank", "the", "of"], 40_000))
    vocabulary = {w: i for i, w in enumerate((encoder / "vocab.txt").read_text().splitlines())}
    ids = [vocabulary[word] for word in text.split()]
    whole = torch.tensor([[2, *ids[i : i + 62], 3] for i in range(0, 39_990, 62)])
    rest = torch.tensor([[2, *ids[39_990:], 3]])
    with torch.inference_mode():
        states = [model.vectors({"input_ids": t, "attention_mask": torch.ones_like(t)}) for t in (whole, rest)]
        every = torch.cat(states)
        pooled = every.amax(dim=0) if how == "max" else every.mean(dim=0)
        if how == "attention":
            inner = torch.tanh(every @ model.attention.inner.weight.T + model.attention.inner.bias)
            pooled = torch.softmax(inner @ model.attention.score.weight[0], 0) @ every
        wanted = torch.softmax(model.classifier(pooled), -1)
    np.testing.assert_allclose(served.probabilities([text])[0], wanted, atol=1e-5)


def test_the_report_features_of_chunked_rows_are_means_over_all_their_tokens(
    encoder: Path, folders: dict[bool, Path]
) -> None:
    from transformers import AutoModel

    model, arrays = AutoModel.from_pretrained(str(encoder)).eval(), open_split(folders[True], "test")
    units, plain = arrays.units, []
    for row in range(4):
        tokens = []
        for unit in range(arrays.first_unit[row], arrays.first_unit[row + 1]):
            ids = torch.from_numpy(units.ids[units.offsets[unit] : units.offsets[unit + 1]].astype(np.int64))[None]
            with torch.inference_mode():
                tokens.append(model(input_ids=ids).last_hidden_state[0])
        plain.append(torch.cat(tokens).mean(dim=0).numpy())
    np.testing.assert_allclose(features(encoder, folders[True], "test", ONE_THREAD)[:4], np.stack(plain), atol=1e-5)


def test_latency_is_that_of_all_chunks(encoder: Path, folders: dict[bool, Path]) -> None:
    model = load_classifier(encoder, ("a", "b"), 1, plan=PLANS["chunks"])
    assert one_row_milliseconds(model, open_split(folders[True], "validation"), CPU) > 0


def test_the_key_of_a_fit_names_its_features_only_where_it_has_some(spec: Build) -> None:
    plain, mean = spec(PLANS["mean"], features=None), spec(PLANS["mean"])
    assert plain.key() != mean.key() != spec(PLANS["layers"]).key()


def test_a_run_says_that_its_features_leave_the_prefix_cache_off(
    encoder: Path, dataset: DatasetSplits, folders: dict[bool, Path], tmp_path: Path
) -> None:
    from bertft_core.data.tokens.tokenization import load_tokenized_splits

    prepared = Prepared(
        dataset=dataset, tokens=load_tokenized_splits(folders[False]), pretrained=str(encoder), encoder="e"
    )
    tree = {"name": "x", "data": {"source": "x.csv"}, "training": {"unfreezing": "fast", "prefix_cache": "float32"}}
    for layers, mode in (([0, 2], "off"), ([1, 2], "float32")):
        model = {"pretrained": str(encoder), "pooling": "layers", "layers": layers}
        config = parse_config({**tree, "model": model}, tmp_path)
        plan = prefix_plan(config, prepared, "float32", None)
        assert plan.mode == mode
        assert schedule_of(config, encoder).n_layers == 3
        if mode == "off":
            assert "raw [CLS] of layers 0, 2 (concat): the head reads below the layers that train" in str(plan)


def test_layers_that_are_not_computed_have_no_rate(encoder: Path, tmp_path: Path) -> None:
    model = {"pretrained": str(encoder), "pooling": "layers", "layers": 0}
    config = parse_config({"name": "x", "data": {"source": "x.csv"}, "model": model}, tmp_path)
    loaded = load_classifier(encoder, ("a", "b"), 1, plan=FeaturePlan(pooling="layers", layers=(0,)))
    assert schedule_of(config, encoder).n_layers == len(level_map(loaded).layers) == 1
