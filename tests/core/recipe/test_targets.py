"""Settings that do not go with the kind of the labels are refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import parse_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.recipe.nights.rows import Rows, changes
from bertft_core.recipe.prepare import require_targets


def prepared(folder: Path, labels: list[Any]) -> DatasetSplits:
    rows = [json.dumps({"text": f"text {i}", "label": labels[i % len(labels)]}) for i in range(90)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    config = parse_config({"name": "t", "data": {"source": "rows.jsonl"}, "model": {"pretrained": "x"}}, folder)
    return prepare_dataset(config.data, folder / "home", folder)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"loss": "logit_adjusted"}}, "training.loss logit_adjusted wants one class per row"),
        ({"decision": {"thresholds": "f_beta"}}, "decision.thresholds wants one class per row"),
        ({"decision": {"abstain_accuracy": 0.9}}, "decision.abstain_accuracy wants one class"),
        ({"search": {"space": {"tau": [0.5, 1.0]}}}, "search.space.tau has no effect on multi-label"),
        ({"search": {"space": {"loss": ["focal", "logit_adjusted"]}}}, "search.space.loss: logit_adjusted wants"),
    ],
)
def test_what_wants_one_class_per_row_is_refused_for_sets(tmp_path: Path, sections: Any, message: str) -> None:
    tree = {"name": "t", "data": {"source": "rows.jsonl"}, "model": {"pretrained": "x"}, **sections}
    config = parse_config(tree, tmp_path)
    with pytest.raises(ConfigError, match=message):
        require_targets(config, prepared(tmp_path, [["a"], ["a", "b"], []]))
    require_targets(config, prepared(tmp_path, ["a", "b", "b"]))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"evaluation": {"metric": "micro_f1"}}, "micro_f1 is accuracy where a row has one label"),
        ({"training": {"class_weights": {"z": 2}}}, "training.class_weights: no class 'z' in the data; classes: a, b"),
    ],
)
def test_what_single_labels_do_not_know_is_refused(tmp_path: Path, sections: Any, message: str) -> None:
    tree = {"name": "t", "data": {"source": "rows.jsonl"}, "model": {"pretrained": "x"}, **sections}
    with pytest.raises(ConfigError, match=message):
        require_targets(parse_config(tree, tmp_path), prepared(tmp_path, ["a", "b"]))


def test_nights_count_equal_sets_as_one_label(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    before = Rows.of(prepared(tmp_path / "one", [["a"], ["b", "a"], []]))
    now = Rows.of(prepared(tmp_path / "two", [["a"], ["b"], []]))
    assert before.counts() == {'["a", "b"]': 30, '["a"]': 30, "[]": 30}
    found = changes(before, now)
    assert (found.new, found.deleted, found.relabelled) == (0, 0, 30)
    assert found.new_classes == ('["b"]',) and found.lost_classes == ('["a", "b"]',)
