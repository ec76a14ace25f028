"""Features and chunk pooling against numbers computed by hand (numpy) on a 2-layer encoder, and over the families."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.config.run import parse_config
from bertft_core.model.classifier import load_classifier, load_saved, save_classifier, weights_digest
from bertft_core.model.feature_plan import FeaturePlan, resolve_layers
from bertft_core.model.features import FeatureClassifier, level_map
from bertft_core.model.layers import set_depth
from bertft_core.model.pretrained import features_of
from bertft_core.testing.encoders import tiny_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("a", "b", "c")
IDS = np.array([[2, 50, 61, 72, 3], [2, 80, 3, 0, 0], [2, 91, 55, 3, 0]])
MASK = (IDS > 0).astype(np.int64)
COUNTS = [2, 1]  # the first two units are chunks of one text
PLANS = {
    "mean": FeaturePlan(pooling="mean"),
    "top": FeaturePlan(pooling="layers", layers=(1,)),
    "lower": FeaturePlan(pooling="layers", layers=(0,)),
    "concat": FeaturePlan(pooling="layers", layers=(1, 0)),
    "layer mean": FeaturePlan(pooling="layers", layers=(0, 1), combine="mean"),
    "layer max": FeaturePlan(pooling="layers", layers=(0, 1), combine="max"),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), layers=2, hidden=16, max_positions=64)


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.from_numpy(IDS), "attention_mask": torch.from_numpy(MASK)}


def norm(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * weight + bias


def softmax(x: Any) -> Any:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def by_hand(model: FeatureClassifier, ids: Any) -> list[Any]:
    """Hidden states [T, H] after each layer of a BERT of 2 heads, in float64 and without padding."""
    w = {n.removeprefix("backbone."): t.numpy().astype(np.float64) for n, t in model.state_dict().items()}
    place = "embeddings.{}_embeddings.weight"
    hidden = w[place.format("word")][ids] + w[place.format("position")][: len(ids)] + w[place.format("token_type")][0]
    hidden = norm(hidden, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
    states = []
    for i in range(model.config.num_hidden_layers):

        def linear(name: str, x: Any, i: int = i) -> Any:
            return x @ w[f"encoder.layer.{i}.{name}.weight"].T + w[f"encoder.layer.{i}.{name}.bias"]

        def normed(name: str, x: Any, i: int = i) -> Any:
            return norm(x, w[f"encoder.layer.{i}.{name}.weight"], w[f"encoder.layer.{i}.{name}.bias"])

        q, k, v = (linear(f"attention.self.{n}", hidden) for n in ("query", "key", "value"))
        heads = [slice(0, 8), slice(8, 16)]
        mixed = np.concatenate([softmax(q[:, h] @ k[:, h].T / np.sqrt(8)) @ v[:, h] for h in heads], axis=-1)
        attended = normed("attention.output.LayerNorm", linear("attention.output.dense", mixed) + hidden)
        inner = linear("intermediate.dense", attended)
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        hidden = normed("output.LayerNorm", linear("output.dense", inner) + attended)
        states.append(hidden)
    return states


EXPECTED: dict[str, Callable[[list[Any]], Any]] = {
    "mean": lambda s: s[1].mean(0),
    "top": lambda s: s[1][0],
    "lower": lambda s: s[0][0],
    "concat": lambda s: np.concatenate([s[1][0], s[0][0]]),
    "layer mean": lambda s: (s[0][0] + s[1][0]) / 2,
    "layer max": lambda s: np.maximum(s[0][0], s[1][0]),
}


@pytest.mark.parametrize("is_stock", [False, True], ids=["in pieces", "stock modules"])
@pytest.mark.parametrize("name", PLANS)
def test_features_equal_hand_computed_values(encoder: Path, name: str, is_stock: bool) -> None:
    model = load_classifier(encoder, CLASSES, 3, plan=PLANS[name])
    assert isinstance(model, FeatureClassifier) and model.passes is not None
    if is_stock:
        model.passes = None
    states = [by_hand(model, ids[ids > 0]) for ids in IDS]
    wanted = np.stack([EXPECTED[name](s) for s in states])
    with torch.inference_mode():
        found = model.vectors(batch())
        logits = model(**batch()).logits
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    weight, bias = (p.detach().numpy() for p in model.classifier.parameters())
    np.testing.assert_allclose(logits, wanted @ weight.T + bias, atol=2e-5)


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_chunk_pooling_equals_hand_computed_values(encoder: Path, how: str) -> None:
    plan = FeaturePlan(pooling="layers", layers=(0, 1), chunk_pooling=how)
    model = load_classifier(encoder, CLASSES, 3, plan=plan)
    units = np.stack([np.concatenate([state[0] for state in by_hand(model, ids[ids > 0])]) for ids in IDS])
    first = units[:2]
    weights = np.array([0.5, 0.5])
    if how == "attention":
        with torch.no_grad():  # far from the small weights of a fresh head, so that the scores differ
            for parameter in model.attention.parameters():
                parameter.mul_(40)
        inner, bias, score = (p.detach().numpy().astype(np.float64) for p in model.attention.parameters())
        weights = softmax((np.tanh(first @ inner.T + bias) @ score.T)[:, 0])
        assert abs(weights[0] - 0.5) > 0.01
    pooled = first.max(0) if how == "max" else weights @ first
    weight, bias = (p.detach().numpy() for p in model.classifier.parameters())
    with torch.inference_mode():
        found = model(**batch(), counts=COUNTS).logits
        apart = model.answer_all(model.vectors(batch()).numpy(), np.array(COUNTS))
    np.testing.assert_allclose(found, np.stack([pooled, units[2]]) @ weight.T + bias, atol=3e-5)
    np.testing.assert_allclose(found, apart, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max", "attention"])
def test_a_text_of_one_chunk_has_the_stock_heads_logits(encoder: Path, how: str) -> None:
    stock = load_classifier(encoder, CLASSES, 3)
    model = load_classifier(encoder, CLASSES, 3, plan=FeaturePlan(chunk_pooling=how))
    with torch.inference_mode():
        np.testing.assert_allclose(model(**batch()).logits, stock(**batch()).logits, atol=1e-5)
        two = model(**batch(), counts=COUNTS).logits
        cls = stock.bert(**batch()).last_hidden_state[:, 0]
        pooled = {"mean": cls[:2].mean(0), "max": cls[:2].amax(0)}.get(how)
        if pooled is not None:
            wanted = stock.classifier(stock.bert.pooler(pooled[None, None]))
            np.testing.assert_allclose(two[:1], wanted, atol=1e-5)


def test_layers_above_the_highest_used_are_not_there(encoder: Path) -> None:
    model = load_classifier(encoder, CLASSES, 3, plan=PLANS["lower"])
    assert len(level_map(model).layers) == 1 and model.config.num_hidden_layers == 1
    assert not [name for name, _ in model.named_parameters() if "layer.1." in name or "pooler" in name]


@pytest.mark.parametrize("plan", [PLANS["mean"], FeaturePlan(chunk_pooling="attention")], ids=str)
def test_the_head_drops_out_while_layers_are_frozen(encoder: Path, plan: FeaturePlan) -> None:
    model = load_classifier(encoder, CLASSES, 3, plan=plan)
    layers = level_map(model)
    assert sorted(n for _, names in layers.by_level() for n in names) == sorted(n for n, _ in model.named_parameters())
    set_depth(model, layers, 1)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {*layers.head, *layers.layers[1]}
    head = model.dropout if plan.pooling == "mean" else model.backbone.dropout
    frozen, thawed = model.base_model.encoder.layer
    assert head.training and thawed.output.dropout.training and not frozen.output.dropout.training
    assert not model.base_model.embeddings.dropout.training


def test_equal_seeds_give_equal_heads(encoder: Path) -> None:
    plan = FeaturePlan(pooling="mean", chunk_pooling="attention")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = (weights_digest(load_classifier(encoder, CLASSES, s, plan=plan)) for s in (1, 1, 2))
    assert one == same != other and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "plan",
    [*PLANS.values(), FeaturePlan(chunk_pooling="mean"), FeaturePlan(pooling="mean", chunk_pooling="attention")],
    ids=str,
)
def test_a_saved_classifier_comes_back(encoder: Path, plan: FeaturePlan, tmp_path: Path) -> None:
    model = load_classifier(encoder, CLASSES, 3, plan=plan)
    folder = save_classifier(model, encoder, tmp_path / "saved", CLASSES)
    again = load_saved(folder)
    assert again.plan == plan and weights_digest(again) == weights_digest(model)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in folder.iterdir())
    bare, info = AutoModel.from_pretrained(str(folder), output_loading_info=True)
    assert not [name for name in info["missing_keys"] if not name.startswith("pooler.")]
    with torch.inference_mode():
        wanted = model.base_model(**batch()).last_hidden_state
        np.testing.assert_allclose(bare.eval()(**batch()).last_hidden_state, wanted, atol=1e-6)
        if plan.pooling == "cls":
            stock = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
            np.testing.assert_allclose(stock(**batch()).logits, again(**batch()).logits, atol=1e-5)


def test_a_damaged_head_is_named(encoder: Path, tmp_path: Path) -> None:
    model = load_classifier(encoder, CLASSES, 3, plan=PLANS["mean"])
    folder = save_classifier(model, encoder, tmp_path / "saved", CLASSES)
    (folder / "bertft_head.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="no weights of a head"):
        load_saved(folder)
    (folder / "bertft_head.json").write_text('{"format": 9}')
    with pytest.raises(ModelError, match="format must be 1, was 9"):
        load_saved(folder)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 99, "num_labels": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "roberta": {"intermediate_size": 32, "pad_token_id": 1},
    "electra": {"intermediate_size": 32, "embedding_size": 8},
    "distilbert": {"hidden_dim": 32},
    "deberta-v2": {
        "intermediate_size": 32,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "type_vocab_size": 0,
        "pooler_hidden_size": 16,
    },
    "albert": {"intermediate_size": 32, "embedding_size": 8},
    "modernbert": {"intermediate_size": 32, "pad_token_id": 0},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny encoder of a family, under a classifier's head."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(5)
            config = AutoConfig.for_model(name, **SMALL, **FAMILIES[name])
            AutoModelForSequenceClassification.from_config(config).save_pretrained(made[name])
        return made[name]

    return build


@pytest.mark.parametrize("name", FAMILIES)
def test_an_output_layer_that_the_folder_brings_along_is_drawn_anew(family: Callable[[str], Path], name: str) -> None:
    """The folder holds a classifier of as many classes."""

    def linear(seed: int) -> dict[str, torch.nn.Linear]:
        model: Any = load_classifier(family(name), CLASSES, seed)
        return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith(name[:4])}

    one, same, other = linear(1), linear(1), linear(2)
    output = list(one)[-1]
    assert one[output].out_features == len(CLASSES) and output.startswith("classifier")
    assert torch.equal(one[output].weight, same[output].weight)
    assert not torch.equal(one[output].weight, other[output].weight)
    assert one[output].weight.std() < 0.04 and not one[output].bias.any()
    for below in list(one)[:-1]:
        assert torch.equal(one[below].weight, other[below].weight), "what else the head has is the folder's"


def test_modernbert_that_pools_by_the_mean_is_read_at_its_first_token(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(family("modernbert"), tmp_path / "mean")
    config = json.loads((tmp_path / "mean" / "config.json").read_text())
    (tmp_path / "mean" / "config.json").write_text(json.dumps({**config, "classifier_pooling": "mean"}))
    wanted, found = (load_classifier(folder, CLASSES, 3) for folder in (family("modernbert"), tmp_path / "mean"))
    with torch.inference_mode():
        assert torch.equal(wanted(**batch()).logits, found(**batch()).logits)
        chunks = load_classifier(tmp_path / "mean", CLASSES, 3, plan=FeaturePlan(chunk_pooling="mean"))
        np.testing.assert_allclose(chunks(**batch()).logits, found(**batch()).logits, atol=1e-5)
    assert found.config.classifier_pooling == "cls", "so that transformers reads the saved folder alike"


@pytest.mark.parametrize("name", FAMILIES)
def test_features_over_the_families(family: Callable[[str], Path], name: str) -> None:
    inputs = {"input_ids": torch.from_numpy(IDS + 4 * (1 - MASK)), "attention_mask": torch.from_numpy(MASK)}
    bare = AutoModel.from_pretrained(str(family(name))).eval()
    with torch.inference_mode():
        output = bare(**inputs, output_hidden_states=True)
        mean = load_classifier(family(name), CLASSES, 3, plan=FeaturePlan(pooling="mean")).vectors(inputs)
        plan = FeaturePlan(pooling="layers", layers=(1, 0))
        low = load_classifier(family(name), CLASSES, 3, plan=plan)
        found = low.vectors(inputs)
        chunks = load_classifier(family(name), CLASSES, 3, plan=FeaturePlan(chunk_pooling="mean"))
        logits = chunks(**inputs).logits
        stock = load_classifier(family(name), CLASSES, 3)(**inputs).logits
    rows = [output.last_hidden_state[i, : n.item()].mean(0).numpy() for i, n in enumerate(MASK.sum(1))]
    np.testing.assert_allclose(mean, np.stack(rows), atol=1e-5)
    np.testing.assert_allclose(logits, stock, atol=1e-5)
    if name == "albert":  # one layer of weights, run three times: refused where a configuration asks for layers
        return
    norm = bare.final_norm if name == "modernbert" else torch.nn.Identity()
    with torch.inference_mode():
        wanted = torch.cat([norm(output.hidden_states[2][:, 0]), norm(output.hidden_states[1][:, 0])], dim=-1)
        alone = load_classifier(family(name), CLASSES, 3, plan=FeaturePlan(pooling="layers", layers=(0,)))
        np.testing.assert_allclose(alone.vectors(inputs), wanted[:, 16:], atol=1e-5)
        top = FeaturePlan(pooling="layers", layers=(2,))
        highest = load_classifier(family(name), CLASSES, 3, plan=top).vectors(inputs)
        np.testing.assert_allclose(highest, output.last_hidden_state[:, 0], atol=1e-5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert len(level_map(low).layers) == 2


def test_a_cut_modernbert_comes_back(family: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_classifier(family("modernbert"), CLASSES, 3, plan=FeaturePlan(pooling="layers", layers=(1,)))
    (family("modernbert") / "tokenizer.json").write_text("{}")
    again = load_saved(save_classifier(model, family("modernbert"), tmp_path / "saved", CLASSES))
    assert weights_digest(again) == weights_digest(model)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(-1, (5,)), ((0, -1), (0, 5)), ("all", tuple(range(6))), ("first_4", (0, 1, 2, 3)), ("last_4", (2, 3, 4, 5))],
)
def test_layers_by_name_and_number(layers: Any, expected: tuple[int, ...]) -> None:
    assert resolve_layers(layers, 6) == expected


def test_layers_of_shared_weights_are_refused(family: Callable[[str], Path]) -> None:
    tree = {"name": "x", "data": {"source": "x.csv"}, "model": {"pretrained": "m", "pooling": "layers", "layers": 0}}
    config = parse_config(tree, Path("."))
    with pytest.raises(ConfigError, match="has 1 for 3 runs: use cls or mean"):
        features_of(config, family("albert"))
    assert features_of(config, family("roberta")) == PLANS["lower"]


@pytest.mark.parametrize("layers", [6, -7, "last_7", (0, 6), (5, -1)])
def test_layers_that_are_not_there_are_refused(layers: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.layers"):
        resolve_layers(layers, 6)
