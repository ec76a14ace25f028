"""A knob that changes nothing on these rows is an error; one that changes something anywhere is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.recipe.unused_knobs import encoders, longest_cut, require_effect

UNEVEN = {"a": 3, "b": 4}
CUT = "tokenization.truncation: [head, tail]"


def config(space: str, trials: int = 2) -> RunConfig:
    search = {"trials": trials, "space": yaml.safe_load("{" + space + "}")}
    return parse_config(
        {
            "name": "x",
            "data": {"source": "a.csv"},
            "model": {"pretrained": "m"},
            "tokenization": {"max_length": 256},
            "search": search,
        },
        Path("."),
    )


@pytest.mark.parametrize(
    ("space", "longest", "wanted"),
    [
        ("tokenization.chunk_pooling: [mean, max]", {"m": 999}, "has no effect while tokenization.truncation is head"),
        ("model.layers: [0, all]", {"m": 999}, r"model\.layers has no effect while model\.pooling is cls"),
        (
            "tokenization.truncation: [head, chunks], "
            "tokenization.chunk_pooling: {values: [mean, max], when: {tokenization.truncation: chunks}}",
            {"m": 256},
            "chunk_pooling has no effect: no text is longer than 256",
        ),
        (CUT, {"m": 256}, r"search\.space\.tokenization\.truncation has no effect: no text is longer than 256 tokens"),
        ("tokenization.max_length: [128, 256]", {"m": 128}, r"max_length has no effect: no text is longer than 128"),
        ("tokenization.max_length: {low: 64, high: 256}", {"m": 60}, r"no text is longer than 64 tokens"),
        (f"{CUT}, model.pretrained: [a, b]", {"a": 200, "b": 256}, "the longest has 256"),
        (
            "tokenization.max_length: [64, 256], "
            "tokenization.truncation: {values: [head, tail], when: {tokenization.max_length: 256}}",
            {"m": 200},
            "truncation has no effect: no text is longer than 256",
        ),
    ],
)
def test_knob_that_cuts_nothing_is_refused(space: str, longest: dict[str, int], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        require_effect(config(space), longest, UNEVEN)


@pytest.mark.parametrize(
    ("space", "longest"),
    [
        (CUT, {"m": 257}),
        ("tokenization.max_length: [128, 256]", {"m": 129}),
        (f"{CUT}, tokenization.max_length: [64, 512]", {"m": 65}),
        (f"{CUT}, model.pretrained: [a, b]", {"a": 200, "b": 257}),
        (
            f"{CUT}, unfreezing: [gradual, none], "
            "tokenization.max_length: {values: [512, 500], when: {unfreezing: none}}",
            {"m": 501},  # 256 where it is not searched
        ),
        ("lr: [1.0e-5, 2.0e-5]", {"m": 5}),
    ],
)
def test_knob_that_cuts_somewhere_is_accepted(space: str, longest: dict[str, int]) -> None:
    require_effect(config(space), longest, UNEVEN)


def test_class_weights_of_classes_of_one_size_are_refused() -> None:
    space = config("class_weights: [none, balanced]")
    require_effect(space, {"m": 5}, UNEVEN)
    with pytest.raises(ConfigError, match=r"search\.space\.class_weights has no effect: every class has 3"):
        require_effect(space, {"m": 5}, {"a": 3, "b": 3})


@pytest.mark.parametrize("space", ["loss: [cross_entropy, logit_adjusted]", "tau: [0.5, 1.0]"])
def test_logit_adjustment_of_classes_of_one_size_is_refused(space: str) -> None:
    found = config(space)
    if "tau" in space:
        found = found.with_values({"loss": "logit_adjusted"})
    require_effect(found, {"m": 5}, UNEVEN)
    with pytest.raises(ConfigError, match=r"(loss|tau) has no effect: every class has 3"):
        require_effect(found, {"m": 5}, {"a": 3, "b": 3})


TRIANGLE = "schedule: [linear, slanted_triangular]"


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        ("cut_fraction: [0.1, 0.2]", "cut_fraction has no effect while schedule is linear: take it out, or change"),
        ("ratio: {low: 8, high: 64}", "ratio has no effect while schedule is linear: take it out"),
        (f"{TRIANGLE}, ratio: [8, 32]", r"ratio .* schedule is linear: add `when: {schedule: \[slanted_triangular\]}`"),
        (
            f"{TRIANGLE}, warmup_fraction: [0.0, 0.1]",
            r"warmup_fraction .* schedule is slanted_triangular: add `when: {schedule: \[linear\]}`",
        ),
        ("phase_restart: [true, false], unfreezing: [none, late]", r"phase_restart .* is none: add .*\[late\]"),
        ("phase_restart: [true, false], unfreezing: [gradual, late]", r"phase_restart .* is gradual: add .*\[late\]"),
        ("unfreezing: [none, ulmfit], epochs: {values: [1, 2], when: {unfreezing: none}}", None),
        ("loss: [cross_entropy, focal], focal_gamma: [1.0, 2.0]", r"focal_gamma .* add `when: {loss: \[focal\]}`"),
    ],
)
def test_key_of_another_schedule_is_refused(space: str, wanted: str | None) -> None:
    found = config(space)
    if wanted is None:  # the configured epochs are 3
        require_effect(found, {"m": 5}, UNEVEN)
        return
    with pytest.raises(ConfigError, match=rf"^search\.space\.{wanted}"):
        require_effect(found, {"m": 5}, UNEVEN)


LAYERS = {"model.pooling": "layers"}
CHUNKED = {"tokenization.truncation": "chunks"}


@pytest.mark.parametrize(
    ("space", "configured", "wanted"),
    [
        ("model.combine: [concat, mean]", {**LAYERS, "model.layers": -1}, "model.combine .* while model.layers is -1"),
        ("embedding_rate: [layerwise, paper_code]", {"alpha": 1.0}, "embedding_rate has no effect while alpha is 1"),
        (
            "alpha: [0.9, 1.0], embedding_rate: [layerwise, paper_code]",
            {},
            r"embedding_rate has no effect while alpha is 1.0: add `when: {alpha: \[0.9\]}`",
        ),
        ("embedding_rate: [layerwise, paper_code]", {"unfreezing": "fast"}, "embedding_rate .* unfreezing is fast"),
        ("embedding_rate: [layerwise, paper_code]", {}, "embedding_rate .* unfreezing is gradual"),
        ("alpha: {low: 0.8, high: 1.0}", {"unfreezing": [[0.0, 0], [0.5, 1]]}, "alpha has no effect while unfreezing"),
        ("tokenization.max_chunks: [4, 8]", CHUNKED, "max_chunks has no effect: no text has more than 2 chunks"),
        ("tokenization.max_chunks: [4, null]", CHUNKED, "max_chunks has no effect: no text has more than 2 chunks"),
        ("tokenization.chunk_pooling: [mean, max]", {**CHUNKED, "tokenization.max_chunks": 1}, "chunk_pooling has no"),
        ("tokenization.chunk_overlap: [0, 64]", {**CHUNKED, "tokenization.max_chunks": 1}, "chunk_overlap has no eff"),
        ("tokenization.truncation: [head, chunks]", {"tokenization.max_chunks": 1}, "truncation has no effect: one ch"),
        ("phase_restart: [true, false]", {"unfreezing": "ulmfit", "epochs": 1}, "phase_restart .* there is one phase"),
    ],
)
def test_knob_that_its_neighbours_make_idle_is_refused(space: str, configured: dict[str, Any], wanted: str) -> None:
    found = config(space)
    known = found.with_values({key: value for key, value in configured.items() if key not in space})
    with pytest.raises(ConfigError, match=wanted):
        require_effect(known, {"m": 300}, UNEVEN)


@pytest.mark.parametrize(
    ("space", "configured"),
    [
        ("model.combine: [concat, mean]", {**LAYERS, "model.layers": "last_2"}),
        ("alpha: {low: 0.8, high: 1.0}, embedding_rate: [layerwise, paper_code]", {"unfreezing": "late"}),
        ("alpha: [0.9, 1.0]", {"unfreezing": [[0.0, 0], [0.5, 2]]}),
        ("tokenization.max_chunks: [1, 8]", CHUNKED),
        ("tokenization.max_chunks: [2, 8], tokenization.max_length: [64, 256]", CHUNKED),
        ("tokenization.truncation: [head, tail, chunks]", {"tokenization.max_chunks": 1}),
        ("phase_restart: [true, false]", {"unfreezing": "ulmfit", "epochs": 2}),
    ],
)
def test_knob_that_counts_beside_its_neighbours_is_accepted(space: str, configured: dict[str, Any]) -> None:
    require_effect(config(space).with_values(configured), {"m": 300}, UNEVEN)


@pytest.mark.parametrize(
    "space",
    [
        f"{TRIANGLE}, ratio: {{values: [8, 32], when: {{schedule: slanted_triangular}}}}",
        f"{TRIANGLE}, cut_fraction: {{low: 0.05, high: 0.3, when: {{schedule: slanted_triangular}}}}",
        "warmup_fraction: [0.0, 0.1], schedule: [linear, cosine, constant]",
        "phase_restart: [true, false], unfreezing: [late, ulmfit]",
    ],
)
def test_key_of_its_own_schedule_is_accepted(space: str) -> None:
    require_effect(config(space), {"m": 5}, UNEVEN)


def test_ulmfit_beside_none_in_one_epoch_is_refused() -> None:
    found = config("unfreezing: [none, ulmfit]").with_values({"epochs": 1})
    with pytest.raises(ConfigError, match="unfreezing has no effect: with one epoch none and ulmfit are the same"):
        require_effect(found, {"m": 5}, UNEVEN)
    require_effect(found.with_values({"epochs": 2}), {"m": 5}, UNEVEN)


def test_search_without_trials_is_not_looked_at() -> None:
    require_effect(config(CUT, trials=0), {"m": 5}, UNEVEN)


LENGTH_OF_A = "model.pretrained: [a, b], tokenization.max_length: {values: [300, 500], when: {model.pretrained: a}}"


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        (LENGTH_OF_A, {"a": 500, "b": 256}),  # b never sees 500, which it may be too short for
        ("model.pretrained: [a, b], tokenization.max_length: {low: 64, high: 128}", {"a": 128, "b": 128}),
        ("lr: [0.001, 0.002]", {"m": 256}),
    ],
)
def test_longest_cut_is_the_one_that_an_encoder_can_meet(space: str, wanted: dict[str, int]) -> None:
    found = config(space)
    assert found.search is not None
    assert {name: longest_cut(found, found.search, name) for name in encoders(found, found.search)} == wanted


def test_configured_encoder_counts_where_another_is_searched_on_a_condition() -> None:
    found = config(f"{CUT}, model.pretrained: {{values: [a, b], when: {{tokenization.truncation: tail}}}}")
    assert found.search is not None
    assert encoders(found, found.search) == ["a", "b", "m"]
    require_effect(found, {"a": 300, "b": 300, "m": 300}, UNEVEN)
