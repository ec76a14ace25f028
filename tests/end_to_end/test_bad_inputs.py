"""Twenty bad inputs: a clear message, exit code 2, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertft_core.testing.encoders import tiny_encoder

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


def _config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _tensors(folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    found = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.unlink()
    save_file({k: t for name, tensor in found.items() for k, t in change(name, tensor).items()}, file)


def _tokenizer(folder: Path, **values: Any) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _added(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    _tokenizer(
        folder, added_tokens=[*tree["added_tokens"], {**tree["added_tokens"][0], "id": rows, "content": "<url>"}]
    )


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "LFS pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        "git lfs pull",
    ),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "is damaged",
    ),
    "another format": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "save_pretrained"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "merge_and_unload"),
    "two encoders": (
        lambda f: _tensors(f, lambda n, t: {f"query.{n}": t, f"passage.{n}": t.clone()}),
        "2 encoders, under passage., query.",
    ),
    "names of no encoder": (lambda f: _tensors(f, lambda n, t: {f"w{abs(hash(n))}": t}), "only 0 of 71 tensors"),
    "more layers": (lambda f: _config(f, num_hidden_layers=6), "only 71 of 103 tensors"),
    "more words": (
        lambda f: _config(f, vocab_size=300),
        "word_embeddings.weight (file [176, 32], config.json [300, 32])",
    ),
    "not finite": (lambda f: _tensors(f, lambda n, t: {n: t.fill_(torch.nan) if "layer.1" in n else t}), "NaN"),
    "absurd labels": (lambda f: _config(f, num_labels=500_000_000), "from 1 to 100000"),
    "token beyond the rows": (_added, "'<url>' with id 176, lie beyond the 176 rows"),
    "no special tokens": (lambda f: _tokenizer(f, post_processor=None), "no special token before and after a text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_encoder_ends_in_one_line_with_exit_code_two(case: str, project, command, tmp_path: Path) -> None:
    broken = tiny_encoder(tmp_path / "broken", layers=4)
    damage, wanted = BROKEN[case]
    damage(broken)
    done = command(tmp_path / "home", "check", str(project(rows=GOOD)), f"model.pretrained={broken}")
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert wanted in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
