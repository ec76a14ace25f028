from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FlaubertConfig,
    FunnelConfig,
    MegatronBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from bertft_core.base.errors import ConfigError, ModelError
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.model.classifier import weights_digest
from bertft_core.model.layers import LayerRates, layer_rates, layer_table, set_depth
from bertft_core.model.structures import describe

CONFIGS = [BertConfig, RobertaConfig, ElectraConfig, ModernBertConfig, DistilBertConfig, DebertaV2Config]


def meta_model(config: object) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_layer_table_gives_every_parameter_one_home(kind: type) -> None:
    model = meta_model(kind(**{"n_layers" if kind is DistilBertConfig else "num_hidden_layers": 3}))
    table = layer_table(model)
    homes = [n for _, names in table.by_level() for n in names]
    assert sorted(homes) == sorted(n for n, _ in model.named_parameters())
    assert len(table.layers) == 3 and all("layer" in n for layer in table.layers for n in layer)
    assert any("classifier" in n for n in table.head)


def test_layer_table_bert_pooler_is_head() -> None:
    table = layer_table(meta_model(BertConfig(num_hidden_layers=2, vocab_size=50)))
    assert "bert.pooler.dense.weight" in table.head


def test_layer_table_eleven_layers_are_not_confused_by_prefix() -> None:
    table = layer_table(meta_model(BertConfig(num_hidden_layers=12)))
    assert all(".layer.1." in n for n in table.layers[1])


@pytest.mark.parametrize(("groups", "inner"), [(1, 1), (2, 2)])
def test_layer_table_a_group_of_shared_weights_is_one_layer(groups: int, inner: int) -> None:
    model = meta_model(AlbertConfig(num_hidden_layers=4, num_hidden_groups=groups, inner_group_num=inner))
    table = layer_table(model)
    assert len(table.layers) == groups and len(table.layers[0]) == 16 * inner
    assert {n for n in table.embeddings if "mapping" in n} == {
        f"albert.encoder.embedding_hidden_mapping_in.{kind}" for kind in ("weight", "bias")
    }
    plural = "layer" if groups == 1 else "layers"
    assert describe(model) == f"AlbertForSequenceClassification, {groups} {plural} of shared weights, run 4 times"


def test_layer_table_relative_positions_of_all_layers_are_embeddings() -> None:
    mpnet = layer_table(meta_model(MPNetConfig(num_hidden_layers=2, vocab_size=50)))
    assert "mpnet.encoder.relative_attention_bias.weight" in mpnet.embeddings
    settings = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "pos_att_type": "p2c|c2p"}
    deberta = layer_table(meta_model(DebertaV2Config(num_hidden_layers=2, **settings)))
    assert {"deberta.encoder.rel_embeddings.weight", "deberta.encoder.LayerNorm.bias"} <= set(deberta.embeddings)


def test_layer_table_what_one_layer_reads_is_that_layers() -> None:
    table = layer_table(meta_model(DebertaV2Config(num_hidden_layers=3, conv_kernel_size=3)))
    assert "deberta.encoder.conv.conv.weight" in table.layers[0]


@pytest.mark.parametrize("kind", [ModernBertConfig, MegatronBertConfig], ids=lambda kind: kind.__name__)
def test_layer_table_the_norm_above_the_layers_is_head(kind: type) -> None:
    table = layer_table(meta_model(kind(num_hidden_layers=2)))
    assert any(n.endswith(("final_norm.weight", "encoder.ln.weight")) for n in table.head)


def test_layer_table_weights_that_the_configuration_does_not_describe_are_refused() -> None:
    model = meta_model(BertConfig(num_hidden_layers=2, vocab_size=50))
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    with pytest.raises(ModelError, match=r"not those of its configuration \(bert.encoder.layer.1"):
        layer_table(model)


def test_layer_table_unknown_structure_is_refused_by_name_with_the_way_to_add_it() -> None:
    config = FlaubertConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2)
    with pytest.raises(ModelError) as caught:
        layer_table(meta_model(config))
    text = str(caught.value)
    assert "FlaubertForSequenceClassification (model_type flaubert)" in text
    assert "found transformer.attentions (2), transformer.layer_norm1 (2)" in text
    assert "'bertft.structures' (installed: none)" in text and "docs/encoders.md" in text


def test_layer_table_lists_that_are_no_layers_are_refused() -> None:
    with pytest.raises(ModelError, match=r"funnel\.encoder\.blocks\.0, taken for a layer, is never called"):
        layer_table(meta_model(FunnelConfig(vocab_size=50, d_model=16, n_head=2, d_inner=32, d_head=8)))
    with pytest.raises(ModelError, match="wanted one list of equal layers, found none"):
        layer_table(torch.nn.Linear(2, 2))


def test_layer_table_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=2, vocab_size=50)).train()
    before, state = weights_digest(model), torch.get_rng_state()
    layer_table(model)
    assert weights_digest(model) == before and torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())


def test_set_depth_what_runs_for_a_frozen_level_too_is_silent() -> None:
    model = meta_model(DebertaV2Config(num_hidden_layers=3, vocab_size=50, conv_kernel_size=3))
    layers = layer_table(model)
    found = {}
    for depth in range(5):
        set_depth(model, layers, depth)
        modules = (model, model.deberta, model.deberta.encoder, model.deberta.encoder.conv.dropout, model.dropout)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {name for _, names in layers.by_level()[: depth + 1] for name in names}
        found[depth] = [m.training for m in (*modules, model.deberta.encoder.layer[2].output.dropout)]
    assert found == {
        0: [True, False, False, False, True, False],
        1: [True, False, False, False, True, True],
        2: [True, False, False, False, True, True],
        3: [True, False, True, True, True, True],
        4: [True] * 6,
    }


def test_layer_rates_hand_computed() -> None:
    rates = layer_rates(6, 2e-5, 0.95)
    assert rates.layers[5] == rates.head == 2e-5
    assert rates.layers[0] / 2e-5 == pytest.approx(0.7737809375)
    assert rates.embeddings / 2e-5 == pytest.approx(0.735091890625)


def test_paper_code_rates_leave_embeddings_at_the_base_rate() -> None:
    rates = layer_rates(6, 2e-5, 0.95, embedding_rate="paper_code")
    assert rates.embeddings == rates.layers[5] == rates.head == 2e-5
    assert rates.layers == layer_rates(6, 2e-5, 0.95).layers


def test_head_multiplier_moves_the_head_alone() -> None:
    rates, plain = layer_rates(6, 2e-5, 0.95, head_multiplier=5), layer_rates(6, 2e-5, 0.95)
    assert rates.head == pytest.approx(1e-4)
    assert (rates.layers, rates.embeddings) == (plain.layers, plain.embeddings)


def test_rates_that_fall_towards_the_head_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match="must not fall from layer 0 up to the head"):
        LayerRates(head=1.0, layers=(1.0, 0.95), embeddings=0.9)


def configured(**training: Any) -> RunConfig:
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}, "training": training}
    return parse_config(tree, Path("."))


@pytest.mark.parametrize("wanted", [{"head_multiplier": 0.5}, {"embedding_rate": "inverted"}])
def test_impossible_rate_options_are_refused_by_key(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{next(iter(wanted))}: input should be"):
        configured(**wanted)


@pytest.mark.parametrize("alpha", [0, 1.3])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"training\.alpha"):
        configured(alpha=alpha)
