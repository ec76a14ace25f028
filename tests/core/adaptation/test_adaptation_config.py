"""The adaptation section, and the words base and adapted of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.adaptation import AdaptationConfig
from bertft_core.config.run import RunConfig, parse_config

BOTH = {"trials": 4, "space": {"model.pretrained": ["base", "adapted"]}}


def configured(adaptation: Any = None, **more: Any) -> RunConfig:
    tree: dict[str, Any] = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}}
    tree |= {} if adaptation is None else {"adaptation": adaptation}
    return parse_config({**tree, **more}, Path("."))


def test_the_training_rows_are_the_corpus_unless_another_is_named() -> None:
    assert configured({"epochs": 1}).adaptation == AdaptationConfig(corpus=("train",), epochs=1)
    assert configured({"epochs": 1, "corpus": "more.csv"}).adaptation == AdaptationConfig(
        corpus=("more.csv",), epochs=1
    )


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "adaptation: give exactly one of epochs, steps, minutes, found none"),
        ({"epochs": 1, "minutes": 3}, "adaptation: give exactly one of epochs, steps, minutes, found epochs, minutes"),
        ({"epochs": 0}, "adaptation.epochs"),
        ({"steps": True}, "adaptation.steps"),
        ({"steps": 1, "mask": 1.0}, "adaptation.mask"),
        ({"steps": 1, "lr": 0}, "adaptation.lr"),
        ({"steps": 1, "corpus": []}, "adaptation.corpus"),
        ({"steps": 1, "corpus": ["a.csv", "a.csv"]}, "adaptation: corpus must name each source once"),
        ({"steps": 1, "objective": "nsp"}, "adaptation.objective"),
        ({"steps": 1, "max_lenght": 9}, "did you mean adaptation.max_length?"),
    ],
)
def test_a_fault_is_told_by_its_key(section: Any, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        configured(section)
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"search": BOTH}, "search.space.model.pretrained: base wants a section adaptation"),
        ({"model": {"pretrained": "m", "adapted": False}}, "model.adapted: has no effect without a section adaptation"),
        ({"model": {"pretrained": "adapted"}, "adaptation": {"steps": 1}}, "model.pretrained: wanted an encoder"),
        (
            {"adaptation": {"steps": 1}, "search": {"trials": 4, "space": {"model.pretrained": ["m", "o"]}}},
            "adaptation: has no effect, search.space.model.pretrained does not hold adapted",
        ),
        ({"search": {"space": {"model.adapted": [True, False]}}}, "model.pretrained: [base, adapted]"),
    ],
)
def test_words_without_a_meaning_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        configured(**values)
    assert said in str(found.value)


def test_a_trial_says_which_of_the_two_it_begins_with() -> None:
    config = configured({"steps": 1}, search=BOTH)
    assert config.is_adapted and config.value_of("model.pretrained") == "adapted"
    for word, is_adapted in (("base", False), ("adapted", True)):
        chosen = config.with_values({"model.pretrained": word})
        assert (chosen.model.pretrained, chosen.model.adapted) == ("m", is_adapted)
        assert chosen.value_of("model.pretrained") == word
    other = config.with_values({"model.pretrained": "o"})
    assert (other.model.pretrained, other.model.adapted) == ("o", False)


def test_a_run_without_adaptation_is_what_it_was() -> None:
    plain, adapted = configured().identity(), configured({"steps": 1}).identity()
    assert "adaptation" not in plain and "adapted" not in plain["model"]
    assert adapted["adaptation"]["steps"] == 1 and adapted["model"]["adapted"] is True


def test_the_winner_of_a_search_reads_back_as_a_configuration() -> None:
    chosen = configured({"steps": 1}, search=BOTH).with_values({"model.pretrained": "base"})
    assert parse_config(chosen.resolved(), Path(".")).model == chosen.model
    assert not configured({"steps": 1}, model={"pretrained": "m", "adapted": False}).is_adapted
