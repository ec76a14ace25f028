"""Tiny encoders with real tokenizers, for tests and examples."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = """
the a an of to and in is it was for on that this with as not be at by very film movie plot story actor
good great fine lovely superb bad awful poor dull terrible goal match team player win loss league coach
market share bank price profit trade tax rate court minister vote party law police chip phone software
game computer internet music song star award
"""


def tiny_vocabulary(words: Sequence[str] = ()) -> list[str]:
    """Return the WordPiece vocabulary: specials, single characters (also as ##pieces) and whole words.

    Any lower-case ASCII word can be spelled by it, so that no ASCII text becomes [UNK].
    """
    characters = list(string.ascii_lowercase + string.digits + string.punctuation)
    pieces = [f"##{c}" for c in string.ascii_lowercase + string.digits]
    return list(dict.fromkeys([*_SPECIALS, *characters, *pieces, *_WORDS.split(), *(w.lower() for w in words)]))


def tiny_encoder(
    folder: Path | str,
    layers: int = 4,
    hidden: int = 32,
    seed: int = 0,
    *,
    words: Sequence[str] = (),
    max_positions: int = 512,
    spread: float = 0.1,
) -> Path:
    """Write a real BERT encoder with random weights and a WordPiece tokenizer, and return its folder.

    The folder is a standard transformers one (config.json, model.safetensors, tokenizer.json,
    tokenizer_config.json, vocab.txt). Attention heads are 8 units wide where ``hidden`` allows it. ``spread``
    is the standard deviation of the initial weights: above BERT's 0.02, since so small a network learns
    little from that. Equal arguments give equal bytes.

    Raises: ValueError if ``hidden`` is not a multiple of 4.

    >>> tiny_encoder("/tmp/tiny", layers=2)  # doctest: +SKIP
    """
    if hidden % 4:
        raise ValueError(f"hidden must be a multiple of 4, was {hidden}")
    import torch
    from transformers import BertConfig, BertModel

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    vocabulary = tiny_vocabulary(words)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 8 if hidden % 8 == 0 else 4,
        intermediate_size=2 * hidden,
        max_position_embeddings=max_positions,
        initializer_range=spread,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(target)
    _write_tokenizer(target, vocabulary, max_positions)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


def _write_tokenizer(target: Path, vocabulary: list[str], max_positions: int) -> None:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    index = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(vocab=index, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens(list(_SPECIALS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", index["[CLS]"]), ("[SEP]", index["[SEP]"])],
    )
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIALS, strict=True))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": max_positions, **names}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
