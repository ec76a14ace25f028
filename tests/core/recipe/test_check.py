"""`bertft check`: the preset, the rates and the phases of a run that is not run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.base.home import open_home
from bertft_core.config.run import load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.check import plan
from bertft_core.testing.encoders import tiny_encoder
from flows.command.tables import _classes, render

Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def planned(project: Callable[..., Path], tmp_path: Path) -> Plan:
    """The plan of the tiny project (3 layers) with some sections replaced."""

    def make(**sections: Any) -> dict[str, Any]:
        config = load_config(project(**sections))
        return plan(config, open_home(tmp_path / "home"), load_mlflow_config(None, config.base_dir, tmp_path))

    return make


def test_plan_has_the_preset_in_full_and_what_replaces_it(planned: Plan) -> None:
    found = planned(preset="ulmfit", training={"epochs": 4, "ratio": 16}, search={"trials": 0})
    assert found["preset"]["name"] == "ulmfit" and found["preset"]["values"]["training.ratio"] == 32
    assert found["preset"]["replaced"] == {"training.ratio": 16}
    assert found["rates"] == "slanted_triangular, rises over 10%, falls to 1/16, anew in each phase"
    assert [row["thaws_at"] for row in found["layers"]] == [0, 0.25, 0.5, 0.75, 0.75]


def test_plan_says_what_auto_stands_for(planned: Plan) -> None:
    found = planned(training={"batch_size": 8}, search={"trials": 2, "rows": 40})
    rows = next(row["rows"] for row in found["splits"] if row["split"] == "train")
    epochs = min(20, -(-300 // -(-rows // 8)))
    assert found["auto"].startswith("lr 5e-05 and ") or epochs == 20
    assert found["auto"].endswith(f"epochs {epochs} by auto, for {rows} rows of 3 classes")
    assert found["fit"] == f"{epochs} epochs in batches of 8" and found["steps"] == epochs * -(-rows // 8)
    assert "lr 6e-05 to 0.0006, log" in found["search"]  # 20 epochs of 5 batches: 3 times the rate


def test_plan_of_written_values_has_no_auto(planned: Plan) -> None:
    assert planned(search={"trials": 0})["auto"] == ""


def test_plan_without_a_preset_says_none(planned: Plan) -> None:
    found = planned(search={"trials": 0})
    assert found["preset"] is None and found["rates"] == "linear, warm-up over 10%, once over the fit"


def test_phases_deeper_than_the_encoder_are_refused(planned: Plan) -> None:
    with pytest.raises(ConfigError, match=r"training\.unfreezing must not go deeper than 4 .* with 3 layers"):
        planned(training={"unfreezing": [[0.0, 1], [0.5, 5]]}, search={"trials": 0})


def test_phases_deeper_than_a_searched_encoder_are_refused(planned: Plan, encoder: Path, tmp_path: Path) -> None:
    small = tiny_encoder(tmp_path / "small", layers=2, hidden=16)
    space = {"model.pretrained": [str(encoder), str(small)]}
    with pytest.raises(ConfigError, match="must not go deeper than 3 .* with 2 layers"):
        planned(training={"unfreezing": [[0.0, 1], [0.5, 4]]}, search={"trials": 2, "space": space})


def test_max_length_of_a_preset_beyond_the_encoder_is_refused(planned: Plan, tmp_path: Path) -> None:
    short = tiny_encoder(tmp_path / "short", layers=2, hidden=16, max_positions=64)
    sections: dict[str, Any] = {"model": {"pretrained": str(short)}, "search": {"trials": 0}, "preset": "sun2019"}
    with pytest.raises(ConfigError, match=r"tokenization\.max_length must not exceed 64"):
        planned(**sections, tokenization={})
    assert planned(**sections, tokenization={"max_length": 64})["preset"]["replaced"] == {
        "tokenization.max_length": 64,
        "training.lr": 2e-3,
        "training.batch_size": 8,
        "training.epochs": 2,
    }


@pytest.mark.parametrize(
    ("blend", "said"),
    [
        ("auto", "of encoder and TF-IDF baseline, if {n} validation rows show that it helps"),
        ("off", "off: the encoder answers alone"),
        ("only", "only: the TF-IDF baseline answers alone"),
    ],
)
def test_plan_says_whose_answers_would_be_served(planned: Plan, blend: str, said: str) -> None:
    data = {"source": "rows.csv", "split": {"validation": 0.5, "test": 0.1}}
    found = planned(decision={"blend": blend}, data=data, search={"trials": 0})
    (n,) = (split["rows"] for split in found["splits"] if split["split"] == "validation")
    assert found["blend"] == said.format(n=n)


def test_plan_says_that_too_few_validation_rows_leave_the_blend_off(planned: Plan) -> None:
    found = planned(search={"trials": 0})
    (n,) = (split["rows"] for split in found["splits"] if split["split"] == "validation")
    assert found["blend"] == f"stays off: {n} validation rows, 50 are wanted"


def test_plan_says_that_too_few_groups_leave_the_blend_off(planned: Plan, tmp_path: Path) -> None:
    rows = [f"text {i},{'ab'[i % 2]},{'' if i < 300 else 'one'}" for i in range(600)]
    rows = [row if row.endswith("one") else f"{row}group {i % 24}" for i, row in enumerate(rows)]
    (tmp_path / "grouped.csv").write_text("\n".join(["text,label,customer", *rows]) + "\n")
    data = {"source": str(tmp_path / "grouped.csv"), "group": "customer", "split": {"validation": 0.3, "test": 0.2}}
    found = planned(data=data, search={"trials": 0})
    assert found["splits"][1]["rows"] >= 50 and found["blend"].endswith("groups of validation rows, 10 are wanted")


def test_plan_has_rows_by_class_minutes_and_disk(planned: Plan) -> None:
    found = planned(search={"trials": 4, "rows": 60})
    counts, splits = found["rows_by_class"], {row["split"]: row["rows"] for row in found["splits"]}
    assert {split: sum(rows.values()) for split, rows in counts.items()} == splits
    assert set(found["seconds"]) == {"search", "finetune", "rest"} and found["seconds"]["search"] > 0
    assert "where nothing else runs: " in found["minutes"] and " GB are free" in found["disk"]
    shown = render("check", found)
    assert re.search(rf"^sport +{counts['train']['sport']} +{counts['validation']['sport']} ", shown, re.MULTILINE)
    assert "time         " in shown and "disk         " in shown


def test_plan_of_many_classes_shows_the_largest_and_the_rarest() -> None:
    counts = {split: {f"class {i}": 100 - i for i in range(50)} for split in ("train", "validation", "test")}
    lines = _classes(counts)
    assert len(lines) == 2 + 10 + 1 + 10 and "… 30 more classes" in lines
    assert lines[2].split() == ["class", "0", "100", "100", "100"] and lines[-1].startswith("class 49 ")
