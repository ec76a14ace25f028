"""The second night: rows that an earlier night tokenised are copied, and the files are those of a full run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bertft_core.base.files import MANIFEST, read_json, write_json
from bertft_core.base.hashes import hash_file
from bertft_core.config.fit import TokenizationConfig
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.known_tokens import LOOK_BACK, MANNER, KnownRows, known_rows, row_keys
from bertft_core.data.tokens.tokenization import TokenizedSplits, open_split, tokenize_splits

CONFIG = TokenizationConfig(max_length=8)
MARK = 999  # no id of the vocabulary


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "[UNK]", *(f"w{i}" for i in range(200))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return folder


def night(folder: Path, numbers: range, **settings: Any) -> DatasetSplits:
    """Rows `w1`, `w2 w2`, ...: row i holds 1 + i % 11 words and, with a pair, one more text."""
    rows = [{"text": f"w{i} " * (1 + i % 11), "more": f"w{i + 1}", "label": "ab"[i % 2]} for i in numbers]
    name = f"night{numbers.start}-{numbers.stop}.jsonl"
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = DataConfig(source=name, split={"validation": 0.25, "test": 0.25}, **settings)
    return prepare_dataset(config, folder / "data", folder)


def contents(tokens: TokenizedSplits) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(tokens.path.iterdir())}


def plant(tokens: TokenizedSplits, *, is_signed: bool) -> None:
    """Write MARK over every id of a folder, and the manifest that fits it where it is signed."""
    for split in ("train", "validation", "test"):
        file = tokens.path / f"{split}.arrow"
        batch = pa.ipc.open_file(pa.OSFile(str(file))).get_batch(0)
        ids = batch["input_ids"]
        wrong = pa.array(np.full(len(ids.values), MARK, dtype=np.int32))
        planted = batch.set_column(0, "input_ids", pa.LargeListArray.from_arrays(ids.offsets, wrong))
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(planted)
    if is_signed:
        digests = read_json(tokens.path / MANIFEST)["digests"]
        write_json(tokens.path / MANIFEST, {"digests": {name: hash_file(tokens.path / name) for name in digests}})


def all_keys(data: DatasetSplits) -> Any:
    tables = [data.table(s).combine_chunks() for s in ("train", "validation", "test")]
    return np.concatenate([row_keys(t["text"].combine_chunks(), None) for t in tables])


def manner_of(tokens: TokenizedSplits) -> str:
    return str(pa.ipc.open_file(str(tokens.path / "train.arrow")).schema.metadata[MANNER].decode())


@pytest.mark.parametrize("pair", [None, "more"])
def test_second_night_is_bit_for_bit_a_full_run(encoder: Path, tmp_path: Path, pair: str | None) -> None:
    tokenize_splits(night(tmp_path, range(0, 120), text_pair=pair), encoder, CONFIG, tmp_path / "tokens")
    second = night(tmp_path, range(20, 150), text_pair=pair)
    grown = tokenize_splits(second, encoder, CONFIG, tmp_path / "tokens")
    assert contents(grown) == contents(tokenize_splits(second, encoder, CONFIG, tmp_path / "fresh"))


def test_known_rows_are_copied_and_only_new_ones_tokenised(encoder: Path, tmp_path: Path) -> None:
    first = tokenize_splits(night(tmp_path, range(0, 120)), encoder, CONFIG, tmp_path / "tokens")
    plant(first, is_signed=True)  # the mark shows where an id comes from
    second = night(tmp_path, range(0, 150))
    grown = tokenize_splits(second, encoder, CONFIG, tmp_path / "tokens")
    marked = 0
    for split in ("train", "validation", "test"):
        rows = open_split(grown.path, split)
        pieces = np.split(rows.ids, rows.offsets[1:-1])
        is_known = [int(text.split()[0][1:]) < 120 for text in second.table(split)["text"].to_pylist()]
        assert [bool((piece == MARK).all()) for piece in pieces] == is_known
        marked += sum(is_known)
    assert marked == 120


def test_facts_about_truncation_count_copied_rows(encoder: Path, tmp_path: Path) -> None:
    tokenize_splits(night(tmp_path, range(0, 120)), encoder, CONFIG, tmp_path / "tokens")
    grown = tokenize_splits(night(tmp_path, range(0, 121)), encoder, CONFIG, tmp_path / "tokens")
    cut = sum(1 + i % 11 + 2 > 8 for i in range(121))  # words, <s> and </s>
    assert sum(grown.rows_cut.values()) == cut and max(p["max"] for p in grown.percentiles.values()) == 13


def test_damaged_folder_is_not_copied_from(encoder: Path, tmp_path: Path) -> None:
    first = tokenize_splits(night(tmp_path, range(0, 120)), encoder, CONFIG, tmp_path / "tokens")
    plant(first, is_signed=False)
    second = night(tmp_path, range(0, 130))
    grown = tokenize_splits(second, encoder, CONFIG, tmp_path / "tokens")
    assert contents(grown) == contents(tokenize_splits(second, encoder, CONFIG, tmp_path / "fresh"))


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0 and then nothing"])
def test_unreadable_split_is_passed_over(encoder: Path, tmp_path: Path, content: bytes) -> None:
    first = tokenize_splits(night(tmp_path, range(0, 120)), encoder, CONFIG, tmp_path / "tokens")
    (first.path / "validation.arrow").write_bytes(content)
    second = night(tmp_path, range(0, 130))
    grown = tokenize_splits(second, encoder, CONFIG, tmp_path / "tokens")
    assert contents(grown) == contents(tokenize_splits(second, encoder, CONFIG, tmp_path / "fresh"))


def test_folder_deleted_after_it_was_opened_can_still_be_read(encoder: Path, tmp_path: Path) -> None:
    data = night(tmp_path, range(0, 120))
    first = tokenize_splits(data, encoder, CONFIG, tmp_path / "tokens")
    manner, keys = manner_of(first), all_keys(data)
    expected = open_split(first.path, "train").ids.tolist()
    known = known_rows(tmp_path / "tokens", manner, keys)
    shutil.rmtree(first.path)
    parts, rows = known.find(keys[: data.n_train])
    spans = [(known.parts[p], r) for p, r in zip(parts, rows, strict=True)]
    assert [int(i) for part, r in spans for i in part.ids[part.offsets[r] : part.offsets[r + 1]]] == expected


def test_rows_cut_in_another_way_are_not_known(encoder: Path, tmp_path: Path) -> None:
    data = night(tmp_path, range(0, 120))
    first = tokenize_splits(data, encoder, CONFIG, tmp_path / "tokens")
    plant(first, is_signed=True)
    longer = tokenize_splits(data, encoder, TokenizationConfig(max_length=9), tmp_path / "tokens")
    assert MARK not in open_split(longer.path, "train").ids
    assert known_rows(tmp_path / "tokens", "0" * 32, all_keys(data)).parts == ()


def test_only_the_last_folders_are_looked_at(encoder: Path, tmp_path: Path) -> None:
    nights = [night(tmp_path, range(200 * n, 200 * n + 60)) for n in range(LOOK_BACK + 1)]
    folders = [tokenize_splits(data, encoder, CONFIG, tmp_path / "tokens") for data in nights]
    manner = manner_of(folders[0])
    for data, is_seen in ((nights[0], False), (nights[1], True)):
        assert bool(known_rows(tmp_path / "tokens", manner, all_keys(data)).parts) is is_seen


def test_row_key_covers_the_exact_text_and_the_pair() -> None:
    texts = pa.array(["a", "A", "a ", "a", "a"], type=pa.large_string())
    pairs = pa.array([None, None, None, "", "b"], type=pa.large_string())
    keys = row_keys(texts, pairs)
    assert len({tuple(k) for k in keys.tolist()}) == 5
    assert (row_keys(texts, None)[0] == keys[0]).all()


def test_key_that_nobody_holds_is_not_found() -> None:
    assert KnownRows(parts=()).find(np.ones((3, 2), dtype=np.uint64))[0].tolist() == [-1, -1, -1]
