"""Twenty bad inputs: a clear message, exit code 2, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]

GOOD = [(f"text number {i} goal", "a" if i % 2 else "b") for i in range(60)]


def _csv(path: Path, header: str = "text,label", rows=GOOD) -> None:
    path.write_text(header + "\n" + "\n".join(f"{t},{y}" for t, y in rows) + "\n", encoding="utf-8")


CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "missing file": (lambda f: None, ["data.source=nowhere.csv"], "nowhere.csv"),
    "missing column": (lambda f: None, ["data.label=topic"], "topic"),
    "empty file": (lambda f: (f / "rows.csv").write_text(""), [], "rows.csv"),
    "header only": (lambda f: (f / "rows.csv").write_text("text,label\n"), [], "rows.csv"),
    "binary file": (lambda f: (f / "rows.csv").write_bytes(bytes(range(256)) * 40), [], "rows.csv"),
    "one class": (lambda f: _csv(f / "rows.csv", rows=[(t, "a") for t, _ in GOOD]), [], "class"),
    "unknown key": (lambda f: None, ["training.learning_rate=1"], "training.learning_rate"),
    "lr of 5": (lambda f: None, ["training.lr=5"], "training.lr"),
    "alpha 0": (lambda f: None, ["training.alpha=0"], "training.alpha"),
    "alpha 1.5": (lambda f: None, ["training.alpha=1.5"], "training.alpha"),
    "max_length 5000": (lambda f: None, ["tokenization.max_length=5000"], "tokenization.max_length"),
    "not a model directory": (lambda f: (f / "m").mkdir(), ["model.pretrained=./m"], "model.pretrained"),
    "hub id without network": (lambda f: None, ["model.pretrained=owner/model"], "model.pretrained"),
    "missing package": (lambda f: None, ["data.source=package://no_such_package/data"], "no_such_package"),
    "faulty rows": (lambda f: _csv(f / "rows.csv", rows=[*GOOD, *(("", "a"),) * 9]), [], "quarantine"),
    "class absent from train": (lambda f: _csv(f / "rows.csv", rows=[*GOOD, ("only one row", "rare")]), [], "rare"),
    "broken JSON line": (
        lambda f: (f / "b.jsonl").write_text(json.dumps({"text": "a", "label": "b"}) + "\n{broken\n"),
        ["data.source=b.jsonl"],
        "b.jsonl",
    ),
    "not YAML": (lambda f: (f / "run.yaml").write_text("a: [b"), [], "YAML"),
    "empty space": (lambda f: None, ["search.space={lr: []}"], "search.space"),
    "unknown device": (lambda f: None, ["training.device=tpu"], "training.device"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_with_exit_code_two(case: str, project, command, tmp_path: Path) -> None:
    config = project(rows=GOOD)
    prepare, overrides, wanted = CASES[case]
    prepare(tmp_path)
    home = tmp_path / "home"
    done = command(home, "check", str(config), *overrides)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert wanted in done.stderr and "Traceback" not in done.stderr
    left = [p for folder in ("data", "tokens", "runs") for p in (home / folder).glob("**/*.part-*")]
    assert left == []


def test_unwritable_home_is_named(project, command, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder")
    done = command(blocked, "check", str(project()), cwd=tmp_path)
    assert done.returncode == 2 and "BERTFT_HOME" in done.stderr
