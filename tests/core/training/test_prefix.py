"""Fits with the prefix cache: equal to fits without it, shared, and bitwise unmoved by kills and damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertft_core.data.tokens.tokenization import open_split
from bertft_core.model.classifier import load_classifier
from bertft_core.model.encoder_pass import EncoderPass
from bertft_core.model.layers import layer_table
from bertft_core.model.prefix.cache import PrefixCache
from bertft_core.model.prefix.frozen import FrozenPrefix, prefix_keys, row_keys
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.forward import Forward, padding
from bertft_core.training.loop import fit
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec

from .conftest import write_tokens
from .kills import Killed, killer

Build = Callable[..., FitSpec]


@pytest.fixture
def cached(spec: Build, tmp_path: Path) -> Build:
    def build(name: str = "cached", **values: Any) -> FitSpec:
        settings = {"prefix_cache": "float32", "prefix_root": str(tmp_path / "prefix"), "epochs": 4, "dropout": 0.2}
        settings["lr"] = 1e-4  # Adam moves a weight by up to lr a step, however small its gradient
        return spec(**{**settings, "output": str(tmp_path / name), **values})

    return build


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    return load_file(Path(result.model_dir) / "model.safetensors")


def segments(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size > 2000)


def test_cached_fit_has_the_weights_of_an_uncached_one(cached: Build) -> None:
    with_cache = fit(cached())  # 24 steps: depths 1, 2 and all
    without = fit(cached("plain", prefix_cache="off"))
    assert with_cache.prefix is not None and with_cache.prefix["built"] == 128 and without.prefix is None
    one, two = weights(with_cache), weights(without)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    assert with_cache.score == pytest.approx(without.score, abs=1e-6)


@pytest.mark.parametrize("unfreezing", ["gradual", "late", "fast"])
def test_second_fit_computes_nothing_below_the_cut(cached: Build, unfreezing: str) -> None:
    first = fit(cached("a", unfreezing=unfreezing))
    second = fit(cached("b", unfreezing=unfreezing))
    assert second.prefix is not None
    assert (second.prefix["stored_before"], second.prefix["built"], second.prefix["recomputed"]) == (128, 0, 0)
    assert second.weights_digest == first.weights_digest


@pytest.mark.parametrize("unfreezing", ["gradual", "fast"])
def test_other_schedules_read_cuts_that_late_stored(cached: Build, unfreezing: str) -> None:
    fit(cached("a", unfreezing="late"))
    found = fit(cached("b", unfreezing=unfreezing)).prefix
    assert found is not None and found["built"] == 0


@pytest.mark.parametrize("at_step", [3, 8, 14, 20])
def test_resumed_fit_equals_an_undisturbed_one(cached: Build, monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    whole = fit(cached("whole", prefix_root=str(Path(cached().output).parent / "another")))
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    broken = cached("broken", checkpoint_seconds=0)
    with pytest.raises(Killed):
        fit(broken, killer(at_step))
    assert fit(broken).weights_digest == whole.weights_digest


def test_fit_whose_cache_is_damaged_or_gone_has_equal_bits(cached: Build, tmp_path: Path) -> None:
    whole = fit(cached("whole"))
    files = segments(tmp_path / "prefix")
    assert files
    for number, file in enumerate(files):
        data = bytearray(file.read_bytes())
        data[-40 if number else 400] ^= 1  # of the states; of the first file in the index, which condemns it whole
        file.write_bytes(data)
    flipped = fit(cached("flipped"))
    assert flipped.prefix is not None and flipped.prefix["recomputed"] > 0 and flipped.prefix["built"] > 0
    assert flipped.weights_digest == whole.weights_digest
    for file in segments(tmp_path / "prefix"):
        file.unlink()
    rebuilt = fit(cached("rebuilt"))
    assert rebuilt.prefix is not None and rebuilt.prefix["built"] == 128
    assert rebuilt.weights_digest == whole.weights_digest


def test_fit_without_room_for_the_cache_has_equal_bits_and_says_why(cached: Build) -> None:
    whole = fit(cached("whole"))
    small = fit(cached("small", prefix_root=str(Path(cached().output).parent / "small"), prefix_cache_gb=1e-6))
    assert small.prefix is not None and small.prefix["reason"] and small.prefix["recomputed"] > 0
    assert small.weights_digest == whole.weights_digest


def test_fit_in_float16_is_near(cached: Build) -> None:
    one, two = weights(fit(cached("half", prefix_cache="float16"))), weights(fit(cached("whole")))
    difference = max((one[name] - two[name]).abs().max().item() for name in one)
    assert 0 < difference < 1e-4


def test_fit_with_states_beyond_float16_computes_those_rows_each_time(cached: Build, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "large"
    shutil.copytree(cached().pretrained, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.LayerNorm.bias"][0] = 1e5  # the largest float16 is 65,504
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = fit(cached("fit", pretrained=str(folder), prefix_cache="float16", epochs=1))
    assert found.state == "complete" and found.prefix is not None and found.prefix["recomputed"] > 0


def test_rungs_are_judged_from_the_cache_too(cached: Build) -> None:
    seen: dict[str, list[float]] = {"on": [], "off": []}
    for name, mode in (("on", "float32"), ("off", "off")):
        fit(cached(name, prefix_cache=mode), on_rung=lambda _, score, name=name: bool(seen[name].append(score)))
    assert len(seen["on"]) == 3 and seen["on"] == pytest.approx(seen["off"], abs=1e-6)


def keys_of(folder: Path) -> set[tuple[int, ...]]:
    splits = [open_split(folder, name) for name in ("train", "validation")]
    return {tuple(key) for arrays in splits for key in row_keys(arrays, np.arange(len(arrays.labels))).tolist()}


def test_new_rows_only_add(cached: Build, tmp_path: Path) -> None:
    fit(cached("a"))
    more = write_tokens(tmp_path / "more", 120)  # its first 96 training rows have the tokens of the fixture's
    new = keys_of(more) - keys_of(Path(cached().tokens))
    found = fit(cached("b", tokens=str(more))).prefix
    assert found is not None and 0 < found["built"] == len(new) < len(keys_of(more))


def prefix_of(pretrained: str, tokens: str, root: Path, **values: Any) -> FrozenPrefix:
    model = load_classifier(pretrained, ("a", "b"), seed=1)
    passes, layers = EncoderPass.of(model), layer_table(model)
    assert passes is not None
    precision, dtype = values.pop("precision", "float32"), values.pop("dtype", "float32")
    arrays = open_split(Path(tokens), "train")
    device = torch.device("cpu")
    return FrozenPrefix(
        passes=passes,
        arrays=arrays,
        rows=values.pop("rows", np.arange(len(arrays.labels))),
        dtype=dtype,
        name="0" * 32,
        keys=prefix_keys(passes, layers, (1, 2), precision, dtype, device)[1],
        precision=precision,
        device=device,
        padding=padding(model),
        cache=PrefixCache(root, 10**9),
    )


def test_read_gives_the_states_below_the_cut(cached: Build, tmp_path: Path) -> None:
    spec = cached()
    prefix = prefix_of(spec.pretrained, spec.tokens, tmp_path / "p")
    prefix.build()
    rows = np.array([5, 0, 17])
    forward = Forward(
        model=prefix.passes.model,
        passes=prefix.passes,
        device=torch.device("cpu"),
        precision="float32",
        padding=prefix.padding,
    )
    plain = forward.logits(prefix.arrays, rows, 1)[0]
    forward.prefixes[id(prefix.arrays)] = prefix
    torch.testing.assert_close(forward.logits(prefix.arrays, rows, 1)[0], plain, atol=1e-5, rtol=1e-5)
    states = prefix.read(2, rows, 24)
    assert states.shape == (3, 24, 16) and states.dtype == torch.float32
    lengths = np.diff(prefix.arrays.offsets)[rows]
    assert all(not states[i, n:].any() and states[i, n - 1].any() for i, n in enumerate(lengths))


def test_key_changes_with_all_that_the_states_depend_on(cached: Build, tmp_path: Path) -> None:
    spec = cached()
    other = tiny_encoder(tmp_path / "other", layers=3, hidden=16, seed=9)

    def keys(pretrained: str, **values: Any) -> dict[int, str]:
        return dict(prefix_of(pretrained, spec.tokens, tmp_path / "p", **values).keys)

    base = keys(spec.pretrained)
    assert base == keys(spec.pretrained) and base[1] != base[2]
    for changed in (
        keys(str(other)),
        keys(spec.pretrained, precision="bfloat16"),
        keys(spec.pretrained, dtype="float16"),
    ):
        assert not set(base.values()) & set(changed.values())


def test_key_does_not_change_with_classes_dropout_and_upper_weights(cached: Build) -> None:
    spec = cached()
    found = []
    for classes, dropout in ((("a", "b"), None), (("x", "y", "z"), 0.3)):
        model = load_classifier(spec.pretrained, classes, seed=len(classes), dropout=dropout)
        with torch.no_grad():
            model.get_submodule("bert.encoder.layer.2.output.dense").weight.add_(len(classes))
        passes, layers = EncoderPass.of(model), layer_table(model)
        assert passes is not None
        found.append(prefix_keys(passes, layers, (1, 2), "float32", "float32", torch.device("cpu")))
    assert found[0] == found[1]


def test_encoder_of_another_structure_trains_without_the_cache(cached: Build, tmp_path: Path) -> None:
    from transformers import MPNetConfig, MPNetModel

    folder = tmp_path / "mpnet"
    MPNetModel(
        MPNetConfig(vocab_size=200, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((Path(cached().pretrained) / name).read_bytes())
    found = fit(cached("mpnet-fit", pretrained=str(folder), epochs=1))
    assert found.state == "complete" and found.prefix is not None and "MPNet" in found.prefix["reason"]
