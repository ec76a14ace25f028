from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from bertft_core.data.tokens.tokenization import TokenArrays, open_split
from bertft_core.model.classifier import load_classifier
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.loop import fit
from bertft_core.training.machine import _spread, one_row_milliseconds, runtime, weight_bytes
from bertft_core.training.results import TrainingResult
from bertft_core.training.spec import FitSpec

Build = Callable[..., FitSpec]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def short_and_deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same encoder with 2 and with 24 layers."""
    folders = (tiny_encoder(tmp_path_factory.mktemp("e"), layers=n, hidden=64) for n in (2, 24))
    short, deep = (load_classifier(folder, ("a", "b"), seed=1) for folder in folders)
    return short, deep


@pytest.fixture
def validation(tokens: Path) -> TokenArrays:
    return open_split(tokens, "validation")


def test_latency_of_more_layers_is_higher(
    short_and_deep: tuple[PreTrainedModel, PreTrainedModel], validation: TokenArrays
) -> None:
    short, deep = (min(one_row_milliseconds(m, validation, CPU) for _ in range(3)) for m in short_and_deep)
    assert short < deep  # twelve times the layers: no other work on the machine turns that round


def test_latency_is_of_one_thread_and_leaves_the_threads_as_they_were(
    short_and_deep: tuple[PreTrainedModel, PreTrainedModel], validation: TokenArrays
) -> None:
    seen: list[int] = []
    model = short_and_deep[0]
    handle = model.classifier.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    with runtime(2):
        one_row_milliseconds(model, validation, CPU)
        assert torch.get_num_threads() == 2
    handle.remove()
    assert set(seen) == {1} and len(seen) >= 3 + 32


def test_latency_leaves_out_the_time_that_the_thread_waits(
    short_and_deep: tuple[PreTrainedModel, PreTrainedModel], validation: TokenArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes 3 ms of the thread's time and waits 20 ms; the clocks of the machine stand still."""
    worked, waited = [0.0], [0.0]
    clocks = SimpleNamespace(thread_time=lambda: worked[0], perf_counter=lambda: worked[0] + waited[0])
    monkeypatch.setattr("bertft_core.training.machine.time", clocks)

    def answer(*_: object) -> None:
        worked[0] += 0.003
        waited[0] += 0.020

    handle = short_and_deep[0].classifier.register_forward_hook(answer)  # the model itself is never called
    assert one_row_milliseconds(short_and_deep[0], validation, CPU) == pytest.approx(3)
    handle.remove()


def test_size_of_more_layers_is_larger_by_the_layers(short_and_deep: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    short, deep = short_and_deep
    layer = sum(4 * p.numel() for p in short.bert.encoder.layer[0].parameters())
    assert weight_bytes(deep) - weight_bytes(short) == 22 * layer


def test_size_counts_a_tied_tensor_once() -> None:
    first, second = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    assert weight_bytes(torch.nn.Sequential(first, second)) == 8 * 8 * 4


def test_rows_timed_span_shortest_to_longest_and_are_thirty_two() -> None:
    lengths = np.random.default_rng(3).permutation(np.arange(1, 501))
    rows = _spread(lengths)
    assert len(rows) == 32 and lengths[rows[0]] == 1 and lengths[rows[-1]] == 500
    assert np.diff(lengths[rows]).min() >= 16 and np.diff(lengths[rows]).max() <= 17


@pytest.mark.parametrize("count", [1, 2, 31])
def test_rows_timed_of_few_rows_are_each_row_once(count: int) -> None:
    assert sorted(_spread(np.full(count, 7))) == list(range(count))


def test_fit_asked_for_latency_answers_it_and_the_saved_bytes(spec: Build) -> None:
    result = fit(spec(measure_latency=True))
    saved = load_file(Path(result.model_dir) / "model.safetensors")
    assert result.latency_ms is not None and 0.05 < result.latency_ms < 1000
    assert result.size_bytes == sum(t.nbytes for t in saved.values())


def test_fit_not_asked_for_latency_has_none_but_a_size(spec: Build) -> None:
    result = fit(spec())
    assert result.latency_ms is None and result.size_bytes is not None


def test_pruned_fit_is_measured_too(spec: Build) -> None:
    result = fit(spec(measure_latency=True), on_rung=lambda fraction, score: True)
    assert result.state == "pruned" and result.latency_ms is not None and result.size_bytes is not None


def test_measuring_changes_no_weight(spec: Build, tmp_path: Path) -> None:
    plain, measured = (fit(spec(output=str(tmp_path / str(m)), measure_latency=m)) for m in (False, True))
    assert plain.weights_digest == measured.weights_digest and plain.score == measured.score


def test_key_is_the_same_with_and_without_measuring(spec: Build) -> None:
    assert spec().key() == spec(measure_latency=True).key()


def test_checkpoint_of_settings_that_meant_something_else_is_not_taken_up(
    spec: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = spec().key()
    monkeypatch.setattr("bertft_core.training.spec.FITS_VERSION", 1)  # `gradual` was then what is `late` now
    assert spec().key() != before


def test_stored_result_without_latency_is_not_the_answer_where_latency_is_asked(spec: Build) -> None:
    assert fit(spec()).latency_ms is None
    measured = fit(spec(measure_latency=True))
    assert measured.latency_ms is not None and fit(spec()) == measured


def test_result_of_an_older_version_is_read(spec: Build) -> None:
    result = fit(spec(keep_model=False))
    stored = {k: v for k, v in result.to_json().items() if k not in ("latency_ms", "size_bytes")}
    assert TrainingResult.from_json(stored) == replace(result, latency_ms=None, size_bytes=None)


def test_result_without_a_field_it_needs_is_refused(spec: Build) -> None:
    stored = fit(spec(keep_model=False)).to_json()
    del stored["score"]
    with pytest.raises(KeyError, match="score"):
        TrainingResult.from_json(stored)
