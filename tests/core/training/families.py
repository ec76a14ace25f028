"""A tiny encoder of each family, with random weights and a tokenizer trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FlaubertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

VOCABULARY = 130
BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
_ROBERTA = {**_SIZE, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_MARKS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(**_SIZE, max_position_embeddings=64),
    "roberta": RobertaConfig(**_ROBERTA, max_position_embeddings=66, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**_ROBERTA, max_position_embeddings=66, type_vocab_size=1),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=3,
        n_heads=2,
        hidden_dim=48,
        initializer_range=0.2,
        max_position_embeddings=64,
    ),
    "electra": ElectraConfig(**_SIZE, embedding_size=16, max_position_embeddings=64),
    "albert": AlbertConfig(**_SIZE, embedding_size=16, max_position_embeddings=64),
    "albert-2-groups": AlbertConfig(**_SIZE, embedding_size=16, max_position_embeddings=64, num_hidden_groups=2),
    "mpnet": MPNetConfig(**_ROBERTA, max_position_embeddings=66),
    "deberta-v2": DebertaV2Config(
        **_SIZE,
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        norm_rel_ebd="layer_norm",
        pos_att_type=["p2c", "c2p"],
        conv_kernel_size=3,
        conv_act="gelu",
    ),
    "deberta-v3": DebertaV2Config(
        **_SIZE,
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        norm_rel_ebd="layer_norm",
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        position_biased_input=False,
    ),
    "modernbert": ModernBertConfig(**_SIZE, **_MARKS, max_position_embeddings=64, local_attention=8),
}
LAYERS = {**dict.fromkeys(CONFIGS, 3), "albert": 1, "albert-2-groups": 2}
WITHOUT_OWN_PASS = ("albert", "albert-2-groups", "mpnet", "deberta-v2", "deberta-v3", "modernbert")
UNKNOWN = FlaubertConfig(
    vocab_size=VOCABULARY, emb_dim=32, n_layers=2, n_heads=2, max_position_embeddings=64, pad_index=0, init_std=0.2
)


def write_family(folder: Path, config: Any, texts: list[str]) -> Path:
    """A transformers folder of this configuration: weights, and a tokenizer of its kind trained on the texts."""
    is_roberta = config.model_type in ("roberta", "xlm-roberta", "mpnet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = (_bpe if is_roberta else _wordpiece)(texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("<pad>" if is_roberta else "[PAD]",)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": names[0]}))
    return folder


def _wordpiece(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(BERT_MARKS))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _bpe(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(ROBERTA_MARKS), show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer
