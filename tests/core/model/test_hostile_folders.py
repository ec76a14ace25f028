"""Folders of encoders that somebody else made: no code of theirs runs, absurd ones end in seconds and little memory."""

from __future__ import annotations

import json
import pickle
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertft_core.base.errors import ModelError
from bertft_core.config.run import parse_config
from bertft_core.data.tokens.encoder_fit import MOST_BYTES, encoder_config
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.model.weight_files import weight_shapes
from bertft_core.model.weights import survey
from bertft_core.testing.encoders import tiny_encoder

SECONDS, MEGABYTES = 20.0, 300.0  # of processor and memory, a refusal; 200 layers take 3 s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "encoder", layers=2, hidden=16)


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def check(folder: Path) -> None:
    """What `bertft check` and a fit do with a folder, in their order."""
    tree = {"name": "x", "data": {"source": "a.csv"}, "model": {"pretrained": str(folder)}}
    resolve_pretrained(parse_config(tree, folder.parent))
    load_tokenizer(folder)
    survey(folder)


@pytest.fixture
def marker(folder: Path, tmp_path: Path) -> Path:
    """A file that is there once any of the folder's code has run."""
    spy = tmp_path / "ran"
    code = f"open({str(spy)!r}, 'w').close()\n"
    for name in ("configuration_own", "modeling_own", "tokenization_own", "__init__", "setup", "custom_generate"):
        (folder / f"{name}.py").write_text(code)
    own = {"AutoConfig": "configuration_own.C", "AutoTokenizer": ["tokenization_own.T", "tokenization_own.F"]}
    own |= dict.fromkeys(("AutoModel", "AutoModelForSequenceClassification"), "modeling_own.M")
    edit(folder / "config.json", auto_map=own, custom_pipelines={"text-classification": {"impl": "modeling_own.P"}})
    edit(folder / "tokenizer_config.json", auto_map=own)

    class Spy:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (code,)

    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", "model.pt", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Spy()))
    return spy


def test_code_and_pickles_beside_an_encoder_that_transformers_knows_are_not_run(folder: Path, marker: Path) -> None:
    check(folder)
    save_classifier(load_classifier(folder, ("a", "b"), 1), folder, folder.parent / "saved", ("a", "b"))
    assert not marker.exists() and not list((folder.parent / "saved").glob("*.py"))


def test_no_code_is_run_where_the_tokenizer_must_be_converted(folder: Path, marker: Path) -> None:
    (folder / "tokenizer.json").unlink()
    load_tokenizer(folder)
    assert not marker.exists()


def test_an_encoder_that_needs_its_own_code_is_refused_without_a_question(
    folder: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder / "config.json", model_type="own")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ModelError, match="needs code of its own, which is never run"):
        check(folder)
    assert not marker.exists()


def test_weights_in_a_pickle_alone_are_refused_unread(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="other formats may run code"):
        check(folder)
    assert not marker.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_not_fetched(folder: Path, key: str) -> None:
    edit(folder / "config.json", **{key: "somebody/kernel@main"})
    with pytest.raises(ModelError, match="names code to fetch, 'somebody/kernel@main'"):
        check(folder)


ABSURD: dict[str, tuple[Any, str]] = {
    "labels": ({"num_labels": 500_000_000}, "num_labels must be"),
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
    "two hundred layers": ({"num_hidden_layers": 200}, "describes an encoder of"),
    "negative size": ({"hidden_size": -16}, "hidden_size must be"),
    "NaN size": ({"hidden_size": float("nan")}, "hidden_size must be"),
    "NaN elsewhere": ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be"),
    "infinite": ({"initializer_range": float("inf")}, "initializer_range must be finite"),
    "vocabulary": ({"vocab_size": 10**12}, "vocab_size must be"),
    "large vocabulary": ({"vocab_size": 10**7}, "describes an encoder of"),
    "heads": ({"num_attention_heads": 10**15}, "num_attention_heads must be at most"),
    "positions": ({"max_position_embeddings": 10**15}, "max_position_embeddings must be at most"),
    "many positions": ({"max_position_embeddings": 10**7}, "describes an encoder of"),
    "intermediate": ({"intermediate_size": 10**18}, "intermediate_size must be at most"),
    "in a part": ({"text_config": {"num_experts": 10**9}}, "num_experts must be at most"),
    "in a list": ({"model_type": "funnel", "block_sizes": [10**9, 1]}, "block_sizes must be at most"),
    "computed positions": (
        {"model_type": "distilbert", "sinusoidal_pos_embds": True, "dim": 768, "max_position_embeddings": 10**6},
        "numbers of fixed positions",
    ),
    "huge number": ({"hidden_size": 10**4_000}, "hidden_size must be .* bits"),
}


def bounded(act: Callable[[], object], wanted: str) -> None:
    """It is refused by name, in seconds and little memory."""
    most, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ModelError, match=wanted) as caught:
        act()
    assert time.process_time() - started < SECONDS and len(str(caught.value)) < 1_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) / 1024 < MEGABYTES


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_values_end_in_seconds_with_their_name(folder: Path, name: str) -> None:
    values, wanted = ABSURD[name]
    edit(folder / "config.json", **values)
    bounded(lambda: check(folder), wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[" * 1_000_000, "too many values within values"),
        ('{"a":' * 500_000, "too many values within values"),
        (json.dumps({"id2label": {i: f"label {i}" for i in range(300_000)}}), f"more than {MOST_BYTES} bytes"),
        ('{"hidden_size": ' + "1" * 5_000 + "}", "no readable config.json"),
        ("[1, 2]", "must be a JSON object"),
        ("", "no readable config.json"),
        ("\0" * 100, "no readable config.json"),
    ],
)
def test_a_config_that_is_no_plain_json_object_is_refused(folder: Path, text: str, wanted: str) -> None:
    (folder / "config.json").write_text(text)
    bounded(lambda: check(folder), wanted)


def test_a_config_of_2_gb_is_not_read(folder: Path) -> None:
    with open(folder / "config.json", "r+b") as handle:
        handle.truncate(1 << 31)  # sparse: no disk
    bounded(lambda: encoder_config(folder), f"more than {MOST_BYTES} bytes")


def test_a_tokenizer_of_2_gb_is_not_read(folder: Path) -> None:
    with open(folder / "tokenizer.json", "r+b") as handle:
        handle.truncate(1 << 31)
    bounded(lambda: load_tokenizer(folder), "bytes are no tokenizer")


def header(folder: Path, text: bytes, length: int | None = None, body: int = 0) -> None:
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + bytes(body))


def entry(shape: Any, offsets: Any, dtype: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    ("text", "length", "body"),
    [
        (b"{}", 2**63, 0),
        (b"{}", 2**64 - 1, 0),
        (b"{}", 90_000_000, 0),
        (b"[" * 1_000_000, None, 0),
        (entry([10**30], [0, 8]), None, 8),
        (entry([-2], [0, 8]), None, 8),
        (entry([2], [8, 0]), None, 0),
        (entry([2], [0, 8.0]), None, 8),
        (entry([2], [0]), None, 8),
        (entry([True, 2], [0, 8]), None, 8),
        (entry(7, [0, 8]), None, 8),
        (b'{"a": 1}', None, 0),
        (b"[]", None, 0),
    ],
)
def test_a_header_that_is_no_header_is_refused(folder: Path, text: bytes, length: int | None, body: int) -> None:
    header(folder, text, length, body)
    bounded(lambda: weight_shapes(folder), "is no safetensors file, or is damaged")


def test_a_header_of_more_bytes_than_any_encoder_needs_is_not_parsed(folder: Path) -> None:
    header(folder, b" " * (1 << 23))
    bounded(lambda: weight_shapes(folder), "is no safetensors file, or is damaged")


def test_an_index_of_shards_that_is_too_large_or_deep_is_damaged(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    for text in ("[" * 1_000_000, '{"weight_map": {"a": "' + "x" * (1 << 22) + '"}}'):
        index.write_text(text)
        bounded(lambda: weight_shapes(folder), "is damaged")


def test_values_that_encoders_have_pass(folder: Path) -> None:
    edit(
        folder / "config.json",
        **{"type_vocab_size": 2, "max_relative_positions": -1, "rope_theta": 1e6, "layer_norm_eps": 1e-12},
        **{"classifier_dropout": None, "id2label": {"0": "a"}, "_attn_implementation": "eager", "chunk_size": 0},
    )
    assert encoder_config(folder)["rope_theta"] == 1e6
    assert torch.is_tensor(load_classifier(folder, ("a", "b"), 1).state_dict()["classifier.weight"])
