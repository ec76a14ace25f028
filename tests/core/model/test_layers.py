from __future__ import annotations

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
    ModernBertConfig,
    RobertaConfig,
)

from bertft_core.errors import ConfigError, ModelError
from bertft_core.model.layers import LayerRates, layer_rates, layer_table

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
    table = layer_table(meta_model(BertConfig(num_hidden_layers=2)))
    assert "bert.pooler.dense.weight" in table.head and table.embedding_modules == ("bert.embeddings",)
    assert table.layer_modules == ("bert.encoder.layer.0", "bert.encoder.layer.1")


def test_layer_table_eleven_layers_are_not_confused_by_prefix() -> None:
    table = layer_table(meta_model(BertConfig(num_hidden_layers=12)))
    assert all(".layer.1." in n for n in table.layers[1])


def test_layer_table_shared_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="share"):
        layer_table(meta_model(AlbertConfig()))


def test_layer_table_unknown_structure_is_refused() -> None:
    with pytest.raises(ModelError, match="BERT-style"):
        layer_table(torch.nn.Linear(2, 2))


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
    with pytest.raises(AssertionError):
        LayerRates(head=1.0, layers=(1.0, 0.95), embeddings=0.9)


@pytest.mark.parametrize("wanted", [{"head_multiplier": 0.5}, {"embedding_rate": "inverted"}])
def test_impossible_rate_options_are_refused_by_key(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{next(iter(wanted))} must be"):
        layer_rates(6, 1e-4, 0.9, **wanted)


@pytest.mark.parametrize("alpha", [0, 1.3])
def test_layer_rates_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"training\.alpha"):
        layer_rates(6, 1e-4, alpha)
