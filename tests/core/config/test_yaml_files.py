"""What a YAML text may cost and hold: every settings file and every override passes here."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import load_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.config.yaml_files import MOST_SIGNS, parse_yaml, read_yaml

Read = Callable[[Path, str], None]


def bomb(levels: int) -> str:
    """Ten aliases a line, each of ten of the line before."""
    lines = ["x0: &x0 [" + ", ".join("1" * 10) + "]"]
    lines += [f"x{i}: &x{i} [" + ", ".join([f"*x{i - 1}"] * 10) + "]" for i in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["x0: &x0 {a: 1, b: 2}"]
    lines += [f"x{i}: &x{i} {{<<: [" + ", ".join([f"*x{i - 1}"] * 10) + "]}" for i in range(1, levels)]
    return "\n".join(lines)


def chain(links: int) -> str:
    """Values that are shallow as written and deep by their aliases."""
    return "x0: &x0 [[1]]\n" + "\n".join(f"x{i}: &x{i} [[*x{i - 1}]]" for i in range(1, links))


BOMBS = {
    "ten times ten": (bomb(9), "its aliases stand for"),
    "of merge keys": (merge_bomb(9), "its aliases stand for"),
    "of one long text": ("x: &x " + "a" * 60_000 + "\ny: [*x, *x, *x]", "its aliases stand for"),
    "recursive": ("x: &x [1, *x]", "inside of what it stands for"),
    "recursive through a mapping": ("x: &x {y: {z: *x}}", "inside of what it stands for"),
    "recursive merge": ("x: &x {<<: *x}", "inside of what it stands for"),
    "deep": ("x: " + "[" * 100_000, "values within values"),
    "deep in blocks": ("\n".join(" " * i + "a:" for i in range(200)), "values within values"),
    "deep by aliases": (chain(100), "values within values"),
    "huge": ("x: " + "a" * MOST_SIGNS, "more than 524288 signs"),
    "object": ('x: !!python/object/apply:os.system ["true"]', "the tag .*python.*only plain values"),
    "binary": ("x: !!binary aGk=", "the tag"),
    "set": ("x: !!set {a, b}", "the tag"),
    "number that is none": ("x: !!int many", "the tag"),
    "own tag": ("x: !file /etc/passwd", "the tag"),
    "digits": ("x: " + "1" * 5_000, "too many digits"),
    "key twice": ("x: 1\nx: 2", "occurs twice"),
    "key twice in JSON": ('{"x": {"y": 1, "y": 2}}', "occurs twice"),
}


def refuse_override(folder: Path, text: str) -> None:
    (folder / "c.yaml").write_text("name: x\ndata: {source: a.csv}\nmodel: {pretrained: m}\n")
    load_config(folder / "c.yaml", [f"data.classes={{{text}}}" if "\n" not in text else f"data.classes={text}"])


def refuse_config(folder: Path, text: str) -> None:
    (folder / "c.yaml").write_text(text)
    load_config(folder / "c.yaml")


def refuse_mlflow(folder: Path, text: str) -> None:
    (folder / "mlflow.yaml").write_text(text)
    load_mlflow_config(None, folder, folder)


@pytest.mark.parametrize("read", [refuse_config, refuse_mlflow, refuse_override])
@pytest.mark.parametrize("name", BOMBS)
def test_a_text_that_would_cost_or_run_too_much_is_refused_by_name(tmp_path: Path, name: str, read: Read) -> None:
    text, wanted = BOMBS[name]
    with pytest.raises(ConfigError, match=wanted) as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("levels", [5, 7, 30])
def test_a_bomb_costs_no_more_where_it_is_larger(tmp_path: Path, levels: int) -> None:
    (tmp_path / "c.yaml").write_text(bomb(levels))
    started = time.process_time()
    with pytest.raises(ConfigError, match="its aliases stand for"):
        read_yaml(tmp_path / "c.yaml")
    assert time.process_time() - started < 0.1 * max(1, levels / 10)


def test_aliases_and_merge_keys_of_a_sane_file_are_read() -> None:
    text = "a: &a {lr: 1, alpha: 2}\nb: {<<: *a, lr: 3}\nc: *a\nd: [*a, *a]\ne: {<<: [*a, {x: 1}]}"
    assert parse_yaml(text) == {
        "a": {"lr": 1, "alpha": 2},
        "b": {"lr": 3, "alpha": 2},
        "c": {"lr": 1, "alpha": 2},
        "d": [{"lr": 1, "alpha": 2}] * 2,
        "e": {"lr": 1, "alpha": 2, "x": 1},
    }


def test_a_tag_that_says_text_is_read() -> None:
    assert parse_yaml("{a: !!str 010, b: !!str 7}") == {"a": "010", "b": "7"}


def test_an_empty_key_beside_a_composed_one_is_no_repetition() -> None:
    assert parse_yaml('{"": 1, b: 2}') == {"": 1, "b": 2}


def test_five_thousand_classes_are_read(tmp_path: Path) -> None:
    names = [f"class number {i} with a name of some length" for i in range(5_000)]
    assert len(str(names)) < MOST_SIGNS / 2
    (tmp_path / "c.yaml").write_text("classes:\n" + "\n".join(f"- {name}" for name in names))
    assert read_yaml(tmp_path / "c.yaml") == {"classes": names}


def test_an_mlflow_yaml_of_comments_alone_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow.yaml").write_text("# nothing yet\n")
    assert load_mlflow_config(None, tmp_path, tmp_path, environ={}).experiment == "bertft"
