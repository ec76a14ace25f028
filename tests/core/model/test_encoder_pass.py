"""The own forward pass gives the stock modules' numbers, for every family it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from bertft_core.model import encoder_pass
from bertft_core.model.attention import attention, dropout_add
from bertft_core.model.encoder_pass import EncoderPass, Tricks, batch_tensors, logits_of, mask_bias
from bertft_core.model.layers import layer_table, set_depth

_SIZE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
    "pad_token_id": 1,
}
_DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "num_labels": 3}
TAKEN = {
    "bert": BertConfig(**_SIZE),
    "roberta": RobertaConfig(**_SIZE, max_position_embeddings=64),
    "xlm-roberta": XLMRobertaConfig(**_SIZE, max_position_embeddings=64),
    "electra": ElectraConfig(**_SIZE, embedding_size=8),
    "distilbert": DistilBertConfig(**_DISTIL),
}
OTHER = {
    "mpnet": MPNetConfig(**_SIZE),
    "deberta-v2": DebertaV2Config(**_SIZE, relative_attention=True, position_buckets=8, max_relative_positions=16),
    "modernbert": ModernBertConfig(
        **{**_SIZE, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    ),
    "albert": AlbertConfig(**_SIZE, embedding_size=8),
}


def build(config: Any) -> Any:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():  # larger than the initial 0.02, so that a wrong layer cannot hide in rounding
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    return model.eval()


def batch_of(model: Any, lengths: tuple[int, ...] = (7, 4, 1), width: int = 8) -> Any:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.where(mask.bool(), torch.randint(5, 50, mask.shape, generator=generator), 1)
    types = ((torch.arange(width) >= 3) & mask.bool()).long()
    return batch_tensors(model, ids.numpy(), mask.numpy(), types.numpy())


@pytest.mark.parametrize("family", TAKEN)
def test_logits_equal_the_stock_classifiers(family: str) -> None:
    model = build(TAKEN[family])
    passes, batch = EncoderPass.of(model), batch_of(model)
    assert passes is not None
    with torch.no_grad():
        torch.testing.assert_close(passes.logits(batch), model(**batch).logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", OTHER)
def test_other_structures_run_through_their_stock_modules(family: str) -> None:
    model = build(OTHER[family])
    batch = batch_of(model)
    assert EncoderPass.of(model) is None
    with torch.no_grad():
        assert torch.equal(logits_of(model)(batch), model(**batch).logits)


def test_a_model_whose_layers_only_look_alike_is_not_taken() -> None:
    model = build(TAKEN["bert"])
    stock = model.bert.encoder.layer[1].forward
    model.bert.encoder.layer[1].forward = lambda *args, **kwargs: stock(*args, **kwargs) * 1.01
    assert EncoderPass.of(model) is None


@pytest.mark.parametrize("family", TAKEN)
def test_gradients_equal_the_stock_classifiers(family: str) -> None:
    model = build(TAKEN[family])
    passes, batch, found = EncoderPass.of(model), batch_of(model), []
    assert passes is not None
    for forward in (passes.logits, lambda b: model(**b).logits):
        model.zero_grad()
        functional.cross_entropy(forward(batch), torch.tensor([0, 1, 2])).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[1].items():  # a missing one here is zero: positions that the head does not read
        torch.testing.assert_close(found[0].get(name, torch.zeros_like(gradient)), gradient, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_logits_from_a_cut_equal_the_whole(cut: int) -> None:
    model = build(TAKEN["bert"])
    passes, batch = EncoderPass.of(model), batch_of(model)
    assert passes is not None
    bias = mask_bias(batch["attention_mask"])
    with torch.no_grad():
        hidden = passes.run(passes.embed(batch), bias, 0, cut)
        assert torch.equal(passes.answer(hidden, bias, cut), passes.logits(batch))


def test_states_at_padding_change_no_logit() -> None:
    model = build(TAKEN["bert"])
    passes, batch = EncoderPass.of(model), batch_of(model)
    assert passes is not None
    bias = mask_bias(batch["attention_mask"])
    with torch.no_grad():
        hidden = passes.run(passes.embed(batch), bias, 0, 2)
        cleared = hidden * batch["attention_mask"][:, :, None]
        assert not torch.equal(hidden, cleared)
        assert torch.equal(passes.answer(hidden, bias, 2), passes.answer(cleared, bias, 2))


def test_only_trained_layers_drop_anything() -> None:
    model = build(TAKEN["bert"])
    layers = layer_table(model)
    passes, batch = EncoderPass.of(model), batch_of(model)
    assert passes is not None
    set_depth(model, layers, 1)
    bias = mask_bias(batch["attention_mask"])
    with torch.no_grad():
        frozen = [passes.run(passes.embed(batch), bias, 0, 2) for _ in range(2)]
        trained = [passes.run(frozen[0], bias, 2, 3) for _ in range(2)]
    assert torch.equal(*frozen) and not torch.equal(*trained)


@pytest.mark.parametrize("off", ["attention", "dropout", "first_only"])
def test_each_trick_can_be_left_out(off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(TAKEN["bert"])
    passes, batch = EncoderPass.of(model), batch_of(model)
    assert passes is not None
    with torch.no_grad():
        expected = passes.logits(batch)
        monkeypatch.setattr(encoder_pass, "TRICKS", Tricks(**{off: False}))
        torch.testing.assert_close(passes.logits(batch), expected, atol=1e-6, rtol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_the_stock_modules_are() -> None:
    model = build(BertConfig(**{**_SIZE, "hidden_size": 64, "num_attention_heads": 2}))
    passes, batch = EncoderPass.of(model), batch_of(model, (60, 41, 33), 64)
    assert passes is not None
    with torch.no_grad():
        exact = model(**batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            own, stock = passes.logits(batch).float(), model(**batch).logits.float()
    assert (own - exact).abs().max() < 2 * (stock - exact).abs().max() + 1e-3


@pytest.mark.parametrize("tokens", [5, 64, 200])
@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_in_bfloat16_equals_the_formula(tokens: int, is_masked: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    shape = (9, 2, tokens, 8)
    exact = [torch.randn(shape, generator=generator).bfloat16().double().requires_grad_() for _ in range(3)]
    low = [x.detach().bfloat16().requires_grad_() for x in exact]
    bias = None
    if is_masked:
        mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (9, 1), generator=generator)
        bias = mask_bias(mask.long())
    towards = torch.randn(shape, generator=generator)
    scores = exact[0] @ exact[1].transpose(-1, -2) / 8**0.5
    expected = torch.softmax(scores if bias is None else scores + bias.double(), -1) @ exact[2]
    expected.backward(towards.double())
    found = attention(*low, None if bias is None else bias.bfloat16())
    found.backward(towards.bfloat16())
    for one, two in ((found, expected), *((a.grad, b.grad) for a, b in zip(low, exact, strict=True))):
        torch.testing.assert_close(one.double(), two, atol=0.03, rtol=0.03)


def test_attention_of_many_rows_is_computed_in_chunks_with_equal_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [torch.randn(8, 2, 32, 8, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3)]
    whole = attention(*parts, None)
    monkeypatch.setattr("bertft_core.model.attention._CHUNK_BYTES", 3 * 2 * 32 * 32 * 2)
    assert torch.equal(attention(*parts, None), whole)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    hidden = torch.ones(1000, 1001)
    found = dropout_add(hidden, torch.zeros_like(hidden), 0.1)
    share = (found == 0).double().mean().item()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / hidden.numel()) ** 0.5 + 2**-16  # 4 standard errors and the step of p
    assert abs(found.mean().item() - 1) < 1e-3 and set(found.unique().tolist()) == {0.0, found.max().item()}
    assert found.max().item() == pytest.approx(1 / 0.9, abs=1e-4)


def test_dropout_lanes_are_alike() -> None:
    torch.manual_seed(0)
    dropped = dropout_add(torch.ones(400_000), torch.zeros(400_000), 0.5) == 0
    shares = dropped.view(-1, 4).double().mean(0)  # each of the four numbers cut out of one random word
    assert (shares - 0.5).abs().max() < 4 * (0.25 / 100_000) ** 0.5


def test_dropout_gradient_is_zero_where_it_dropped() -> None:
    torch.manual_seed(0)
    hidden = torch.ones(50, 7, requires_grad=True)
    found = dropout_add(hidden, torch.zeros(50, 7), 0.3)
    found.sum().backward()
    assert hidden.grad is not None and torch.equal(hidden.grad, found.detach())


def test_dropout_is_fixed_by_the_seed() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(dropout_add(torch.ones(33), torch.zeros(33), 0.5))
    assert torch.equal(*found)


def test_encoder_on_disk_is_taken(tmp_path: Path) -> None:
    from bertft_core.model.classifier import load_classifier
    from bertft_core.testing.encoders import tiny_encoder

    model = load_classifier(tiny_encoder(tmp_path / "e"), ("a", "b"), seed=1)
    model.train()
    passes = EncoderPass.of(model)
    assert passes is not None and len(passes.layers) == 4 and passes.width == 32
    assert all(m.training for m in model.modules())  # the check of `of` leaves the modes as they were
