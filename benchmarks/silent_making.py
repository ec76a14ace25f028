"""What makes the inputs of silent_damage.py, and the functions of the product that look at them."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft_core.config.run import DataConfig, RunConfig, load_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS

Row = tuple[Any, ...]
ROWS: list[Row] = [(f"the film {i} is {'good' if i % 2 else 'bad'}", "ba"[i % 2]) for i in range(300)]


@dataclass(frozen=True)
class Input:
    """An input of a kind (1 to 12, as in docs/silent_damage.md); expected: what is to be said of it, as a pattern."""

    kind: int
    name: str
    expected: str
    run: Callable[[Path], str]


def summary(data: DatasetSplits) -> str:
    """What the gate says of the rows."""
    report = data.report
    parts = [f"{report.rows_read} read, {report.rows_used} used, {report.duplicates_dropped} duplicates"]
    parts += [f"{n} {reason}" for reason, n in report.reasons.items()]
    parts += [f"{report.rows_filtered} filtered"] if report.rows_filtered else []
    return "; ".join([*parts, f"classes {' '.join(data.classes)}", *report.warnings])


def table(rows: list[Row], *header: str, **settings: Any) -> Callable[[Path], str]:
    """A CSV file of these rows through the gate of data."""

    def run(folder: Path) -> str:
        with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([header or ("text", "label"), *rows])
        return prepared(folder, "rows.csv", **settings)

    return run


def written(name: str, content: str | bytes, **settings: Any) -> Callable[[Path], str]:
    """A file of this content through the gate of data."""

    def run(folder: Path) -> str:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return prepared(folder, name, **settings)

    return run


def prepared(folder: Path, name: str, **settings: Any) -> str:
    """What the gate of data says of a file."""
    config = DataConfig(source=name, max_faulty_share=settings.pop("max_faulty_share", 1.0), **settings)
    data = prepare_dataset(config, folder / "home/data", folder)
    texts = [text for split in SPLITS for text in data.table(split)["text"].to_pylist()]
    return f"{summary(data)}; the shortest text is {min(texts, key=len)!a}"


def tokenized(rows: list[Row], **sections: Any) -> Callable[[Path], str]:
    """A table through gate and tokenizer; says how many test rows have the token ids of a training row."""

    def run(folder: Path) -> str:
        from bertft_core.data.tokens.tokenization import open_split
        from bertft_core.recipe.prepare import prepare

        with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *rows])
        data = {"source": "rows.csv", "max_faulty_share": 1.0}
        config = RunConfig(name="x", data=data, model={"pretrained": str(encoder(folder))}, base_dir=folder, **sections)
        found = prepare(config, folder / "home")
        ids = []
        for split in ("train", "test"):
            arrays = open_split(found.tokens.path, split)
            bounds = zip(arrays.offsets[:-1], arrays.offsets[1:], strict=True)
            ids.append([arrays.ids[a:b].tobytes() for a, b in bounds])
        twins = sum(key in set(ids[0]) for key in ids[1])
        return f"{twins} twins of {len(ids[1])} test rows; {summary(found.dataset)}"

    return run


def encoder(folder: Path, **config: Any) -> Path:
    """A tiny encoder of two layers, with values of its config.json replaced."""
    from bertft_core.testing.encoders import tiny_encoder

    made = tiny_encoder(folder / "encoder", layers=2, hidden=16, seed=5)
    file = made / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return made


@dataclass(frozen=True)
class Encoder:
    """An encoder folder with something changed, and who looks at it; says what was found."""

    change: Callable[[Path], Any]
    look: Callable[[Path], str]
    config: dict[str, Any]

    def make(self, folder: Path) -> Path:
        """Write it."""
        made = encoder(folder, **self.config)
        self.change(made)
        return made

    def __call__(self, folder: Path) -> str:
        return self.look(self.make(folder))


def names(change: Callable[[str, Any], dict[str, Any]], **config: Any) -> Encoder:
    """An encoder whose tensors have other names or values; says how many come from the file."""

    def write(made: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = made / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        file.unlink()
        changed = {n: t.contiguous() for name, tensor in tensors.items() for n, t in change(name, tensor).items()}
        save_file(changed, file, metadata={"format": "pt"})

    return Encoder(write, _weights, config)


def weight_file(change: Callable[[Path], Any]) -> Encoder:
    """An encoder whose file of weights is changed."""
    return Encoder(lambda made: change(made / "model.safetensors"), _weights, {})


def _weights(made: Path) -> str:
    from bertft_core.model.weights import survey

    return str(survey(made))


def tokenizer(change: Callable[[dict[str, Any]], Any], **config: Any) -> Encoder:
    """An encoder whose tokenizer.json is changed; says what surrounds a text."""

    def write(made: Path) -> None:
        tree = json.loads((made / "tokenizer.json").read_text())
        change(tree)
        (made / "tokenizer.json").write_text(json.dumps(tree))

    def look(made: Path) -> str:
        from bertft_core.data.tokens.encoder_fit import fitting_layout, tokens_line
        from bertft_core.data.tokens.encoding import load_tokenizer

        loaded = load_tokenizer(made)
        fitting_layout(loaded, made)
        return tokens_line(loaded, made)

    return Encoder(write, look, config)


def configured(text: str) -> Callable[[Path], str]:
    """A configuration file; says what it was read as."""

    def run(folder: Path) -> str:
        (folder / "run.yaml").write_text(f"name: x\nmodel: {{pretrained: m}}\n{text}\n", encoding="utf-8")
        config = load_config(folder / "run.yaml")
        tree = config.resolved()
        return f"classes {tree['data']['classes']}, costs {tree['decision']['costs']}, name {tree['name']!r}"

    return run


def logged(text: str) -> Callable[[Path], str]:
    """A configuration with names of the user; says under which parameter names it goes to MLflow."""

    def run(folder: Path) -> str:
        from bertft_core.recipe.mlflow_tree import parameters

        (folder / "run.yaml").write_text(f"name: x\nmodel: {{pretrained: m}}\n{text}\n", encoding="utf-8")
        keys = parameters(load_config(folder / "run.yaml"))
        bad = [key for key in keys if not re.fullmatch(r"[\w./ -]+", key)]
        return f"{len(keys)} parameters, {len(bad)} with a name that MLflow refuses"

    return run


def answered(content: bytes) -> Callable[[Path], str]:
    """A file through `predict`; says how many rows come out and why some have no answer."""

    def run(folder: Path) -> str:
        from bertft_core.model.classifier import load_classifier, save_classifier
        from bertft_core.serving.artifact import ArtifactCard, build_artifact
        from bertft_core.serving.predictor import Predictor
        from bertft_core.serving.tables import score_table

        made, classes = encoder(folder), ("a", "b")
        fit = save_classifier(load_classifier(made, classes, seed=1), made, folder / "fit", classes)
        card = ArtifactCard(max_length=24, truncation="head", classes=classes)
        predictor = Predictor.load(build_artifact(fit, folder / "served", card))
        (folder / "in.csv").write_bytes(content)
        scored = score_table(predictor, folder / "in.csv", folder / "out.csv", model="m")
        with open(folder / "out.csv", newline="", encoding="utf-8") as handle:
            out = list(csv.DictReader(handle))
        return f"{len(out)} rows out, {sum(bool(row['label']) for row in out)} answered; {dict(scored.faults)}"

    return run


def compared(rows: list[Row]) -> Callable[[Path], str]:
    """A labelled file as `compare` reads it."""

    def run(folder: Path) -> str:
        from bertft_core.registry.comparison import read_labelled
        from bertft_core.serving.artifact import ArtifactCard

        with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("text", "label"), *rows])
        card = ArtifactCard(max_length=24, truncation="head", classes=("a", "b"))
        found = read_labelled(folder / "rows.csv", card, None)
        return f"{len(found.rows)} rows, {len(set(found.keys.tolist()))} texts; skipped {found.skipped}"

    return run


def packed(pack: Callable[[bytes], bytes] | None, name: str) -> Callable[[Path], str]:
    """The plain table, compressed."""
    content = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)

    def run(folder: Path) -> str:
        if pack is None:
            with zipfile.ZipFile(folder / name, "w") as archive:
                archive.writestr("rows.csv", content)
        else:
            (folder / name).write_bytes(pack(content.encode()))
        return prepared(folder, name)

    return run


def lines(*rows: str, end: str = "\n") -> str:
    """A table as text."""
    return end.join(["text\tlabel", *rows, ""])


PLAIN = [f"the film number {i} was {'good' if i % 2 else 'bad'}\t{'pos' if i % 2 else 'neg'}" for i in range(300)]
MARKED = [('"' if i == 50 else "") + (row.replace("\t", ' "\t') if i == 90 else row) for i, row in enumerate(PLAIN)]
DATES: dict[str, Callable[[int], Any]] = {
    "year": lambda i: 2019 + i % 7,
    "YYYYMMDD": lambda i: (2019 + i % 7) * 10_000 + 315,
    "milliseconds": lambda i: 1_553_000_000_000 + (i % 7) * 31_536_000_000,
    "microseconds": lambda i: 1_553_000_000_000_000 + (i % 7) * 31_536_000_000_000,
    "nanoseconds as text": lambda i: str(1_553_000_000_000_000_000 + (i % 7) * 31_536_000_000_000_000),
    "year and milliseconds mixed": lambda i: 2019 + i % 7 if i % 2 else 1_553_000_000_000,
    "Excel's day numbers": lambda i: 43_500 + (i % 7) * 365,
    "day/month/year": lambda i: f"03/04/{2019 + i % 7}",
}


def dated(value: Callable[[int], Any]) -> Callable[[Path], str]:
    """350 rows of seven years, cut after the fourth: 200 rows should stay."""
    rows = [{"text": f"row {i} {'xy'[i % 2]}", "label": "ab"[i % 2], "when": value(i)} for i in range(350)]
    return written("rows.jsonl", "\n".join(map(json.dumps, rows)), date="when", until="2022-12-31")


def spelt(*labels: Any, **settings: Any) -> Callable[[Path], str]:
    """Rows whose labels are these in turn."""
    rows = [{"text": f"row {i}", "label": labels[i % len(labels)]} for i in range(200)]
    return written("rows.jsonl", "\n".join(map(json.dumps, rows)), **settings)


def flipped(change: Callable[[str], str], n: int = 100) -> list[Row]:
    """The rows, and copies of the first n with a change and the other label."""
    return [*ROWS, *((change(text), "ab"[label == "a"]) for text, label in ROWS[:n])]


def copies(change: Callable[[str], str], n: int = 100) -> list[Row]:
    """The rows, and copies of the first n with a change."""
    return [*ROWS, *((change(text), label) for text, label in ROWS[:n])]


def encoded(text: str, encoding: str) -> bytes:
    """300 rows of this text in an encoding."""
    return ("text,label\n" + "".join(f"{i} {text},{'ab'[i % 2]}\n" for i in range(300))).encode(encoding)


def added_token(tree: dict[str, Any]) -> None:
    """One more token than the embedding matrix has rows."""
    size = len(tree["model"]["vocab"])
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": size, "content": "<url>"})


def model_name(folder: Path, name: str) -> str:
    """An mlflow.yaml with this registered_model."""
    from bertft_core.config.store import load_mlflow_config

    (folder / "mlflow.yaml").write_text(f"registered_model: {json.dumps(name)}\n", encoding="utf-8")
    return load_mlflow_config(str(folder / "mlflow.yaml"), folder, folder).model_name("x")
