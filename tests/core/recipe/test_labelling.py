"""`bertft label`: which rows are offered, and what is taken back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import DataError, InputError
from bertft_core.base.files import write_json
from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.config.store import MlflowConfig
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.recipe.labelling import offer, take_back
from bertft_core.recipe.prepare import ingest
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.tracking.store import open_store

WORDS = ["the", "film", "was", "long", "and", "dull", "but", "its", "end", "is", "fine"]


def _text(i: int) -> str:
    return " ".join(WORDS[(i * 7 + k * (1 + i % 3)) % len(WORDS)] for k in range(5)) + f" {i}"


def _config(folder: Path, **data: Any) -> RunConfig:
    tree = {
        "name": "films",
        "data": {"source": "films.csv", "chosen": "films.chosen.jsonl", **data},
        "model": {"pretrained": "encoder"},
    }
    return parse_config(tree, folder)


def _table(file: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A table, and the model of a run of it."""
    _table(tmp_path / "films.csv", ["text", "label"], [[_text(i), ["good", "bad"][i % 2]] for i in range(120)])
    encoder = tiny_encoder(tmp_path / "encoder", layers=2, hidden=16)
    home = open_home(tmp_path / "home")
    run, classes = home / "runs" / "abc", ("bad", "good")
    model = load_classifier(encoder, classes, 1)
    fit = save_classifier(model, encoder, tmp_path / "fit", classes)
    build_artifact(fit, run / "served", ArtifactCard(max_length=32, truncation="head", classes=classes))
    write_json(run / "config.json", _config(tmp_path).resolved())
    return tmp_path


def _offer(
    place: Path, pool: Path, rows: int = 10, config: RunConfig | None = None
) -> tuple[dict[str, Any], list[Any]]:
    target = place / f"{pool.stem}.to-label.csv"
    store = open_store(MlflowConfig(), place / "home")
    found = offer(config or _config(place), pool, rows, target, store, "films")
    with open(target, newline="", encoding="utf-8") as handle:
        return found, list(csv.DictReader(handle))


def _fill(file: Path, labels: dict[str, str] | str) -> Path:
    """The file with its labels filled in: one for all rows, or by text."""
    with open(file, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["label"] = labels if isinstance(labels, str) else labels.get(row["text"], "")
    return _table(file, list(rows[0]), [list(row.values()) for row in rows])


def _chosen(place: Path) -> list[dict[str, Any]]:
    lines = (place / "films.chosen.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_offered_rows_are_new_and_of_training(place: Path) -> None:
    data = ingest(_config(place, chosen=None), place / "home")
    known = [row for split in ("train", "validation", "test") for row in data.table(split)["text"].to_pylist()]
    pool = _table(
        place / "pool.csv", ["text"], [[t] for t in [*known[:60], f"{known[0]} !!", "", *map(_text, range(200, 300))]]
    )
    found, rows = _offer(place, pool, 12)
    assert found["read"] == 162 and len(rows) == 12 == len({row["text"] for row in rows})
    assert all(row["text"] not in known and row["label"] == "" and row["why"] for row in rows)
    take_back(_config(place), _fill(place / "pool.to-label.csv", "good"), place / "home")
    # their own hash puts them there, so that they train also where the file is merged into the source
    _table(
        place / "films.csv",
        ["text", "label"],
        [[_text(i), ["good", "bad"][i % 2]] for i in range(120)] + [[r["text"], "good"] for r in rows],
    )
    merged = ingest(_config(place, chosen=None), place / "home")
    assert {r["text"] for r in rows} <= set(merged.table("train")["text"].to_pylist())


def test_imported_rows_train_in_an_empty_home_and_under_another_salt(place: Path) -> None:
    pool = _table(place / "pool.csv", ["text"], [[_text(i)] for i in range(200, 300)])
    _, rows = _offer(place, pool, 20)
    counts = take_back(_config(place), _fill(place / "pool.to-label.csv", "good"), place / "home")
    assert counts["imported"] == counts["rows"] == 20
    data = ingest(_config(place, split={"test": 0.4, "validation": 0.3, "salt": "x"}), open_home(place / "other"))
    assert {row["text"] for row in rows} <= set(data.table("train")["text"].to_pylist())


def test_second_import_changes_nothing_and_a_half_filled_file_goes_on(place: Path) -> None:
    pool = _table(place / "pool.csv", ["text"], [[_text(i)] for i in range(200, 300)])
    _, rows = _offer(place, pool, 6)
    half = {row["text"]: "bad" for row in rows[:3]}
    file, home = _fill(place / "pool.to-label.csv", half), place / "home"
    first = take_back(_config(place), file, home)
    assert (first["imported"], first["without_label"]) == (3, 3)
    again = take_back(_config(place), _fill(file, "bad"), home)
    assert (again["imported"], again["known"], again["rows"]) == (3, 3, 6)
    assert take_back(_config(place), file, home)["imported"] == 0
    kept = place / "films.chosen.jsonl"
    kept.write_text(kept.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")  # by an editor
    take_back(_config(place), _table(place / "more.csv", ["text", "label"], [["one more", "good"]]), home)
    assert len(_chosen(place)) == 7


def test_unknown_class_and_another_label_of_a_text_import_nothing(place: Path) -> None:
    rows = [["fine one", "good"], ["dull one", "awful"]]
    file, home = _table(place / "back.csv", ["text", "label"], rows), place / "home"
    with pytest.raises(InputError, match=r"row 2: unknown label: .awful. .*classes: bad, good"):
        take_back(_config(place), file, home)
    assert not (place / "films.chosen.jsonl").exists()
    take_back(_config(place), _table(file, ["text", "label"], rows[:1]), home)
    _table(file, ["text", "label"], [["new one", "bad"], ["Fine  one", "bad"]])
    with pytest.raises(InputError, match=r"back\.csv, row 2 has another label than films\.chosen\.jsonl, row 1"):
        take_back(_config(place), file, home)
    assert len(_chosen(place)) == 1


def test_rows_of_validation_and_test_are_left_out_and_counted(place: Path) -> None:
    data = ingest(_config(place, chosen=None), place / "home")
    held = [data.table(split)["text"].to_pylist()[0] for split in ("validation", "test")]
    file = _table(place / "back.csv", ["text", "label"], [[held[0], "bad"], [f"{held[1]} !", "bad"], ["new", "bad"]])
    counts = take_back(_config(place), file, place / "home")
    assert (counts["in_validation_or_test"], counts["imported"]) == (2, 1)


@pytest.mark.parametrize("is_listed", [True, False], ids=["lists in one column", "a column a label"])
def test_rows_of_several_labels_come_back_as_they_were_labelled(place: Path, is_listed: bool) -> None:
    """A row of no label too; what is half filled in is told by its row."""
    sets = [["long", "dull"], ["dull"], [], ["long"]]

    def cells(labels: list[str]) -> list[str]:
        return [json.dumps(labels)] if is_listed else [str(int(name in labels)) for name in ("dull", "long")]

    header = ["tags"] if is_listed else ["dull", "long"]
    rows = [[_text(i), *cells(sets[i % 4])] for i in range(120)]
    _table(place / "films.csv", ["text", *header], rows)
    config = _config(place, label="tags" if is_listed else header)
    back = [[f"new {i}", *cells(labels)] for i, labels in enumerate(sets)]
    file = _table(place / "back.csv", ["text", *header], [*back, ["not yet", *[""] * len(header)]])
    counts = take_back(config, file, place / "home")
    assert (counts["imported"], counts["without_label"]) == (4, 1)
    assert take_back(config, file, place / "home")["imported"] == 0
    data = ingest(config, place / "home")
    train = {row["text"]: row["weights"] for row in data.table("train").to_pylist()}
    assert data.multi_label and list(data.classes) == ["dull", "long"]
    for i, labels in enumerate(sets):
        assert train[f"new {i}"] == [float(name in labels) for name in data.classes]
    faulty = ["half", json.dumps(["awful"])] if is_listed else ["half", "1", ""]
    _table(file, ["text", *header], [["one more", *cells(["dull"])], faulty])
    with pytest.raises(InputError, match=r"nothing is imported: row 2: .*classes: dull, long"):
        take_back(config, file, place / "home")
    other = _table(file, ["text", *header], [["New 1", *cells(["long"])]])
    with pytest.raises(InputError, match=r"back\.csv, row 1 has another label than films\.chosen\.jsonl, row 2"):
        take_back(config, other, place / "home")


def test_formulas_are_neutralised_in_the_file_and_come_back_as_they_were(place: Path) -> None:
    texts = [f"=HYPERLINK({i}) was the long film" for i in range(40)]
    found, rows = _offer(place, _table(place / "pool.csv", ["text"], [[t] for t in texts]), 5)
    assert found["rows"] == 5 and all(row["text"].startswith("'=") for row in rows)
    take_back(_config(place), _fill(place / "pool.to-label.csv", "good"), place / "home")
    assert {row["text"] for row in _chosen(place)} <= set(texts)


def test_doubtful_labels_stand_on_top_and_their_new_label_wins(place: Path) -> None:
    data = ingest(_config(place, chosen=None), place / "home")
    row = data.table("train").to_pylist()[0]
    label = data.classes[row["label"]]
    other = "good" if label == "bad" else "bad"
    folder = place / "home" / "runs" / "abc" / "evaluation"
    folder.mkdir()
    header = ["row", "label", "suggested", "self_confidence", "probability", "text"]
    _table(folder / "doubtful_labels.csv", header, [["films.csv:1", label, other, 0.1, 0.9, row["text"]]])
    pool = _table(place / "pool.csv", ["text"], [[_text(i)] for i in range(200, 300)])
    found, rows = _offer(place, pool, 8)
    assert (found["doubtful"], len(rows)) == (1, 8)
    assert (rows[0]["text"], rows[0]["why"]) == (row["text"], f"doubtful label {label}: {other}?")
    take_back(_config(place), _fill(place / "pool.to-label.csv", {row["text"]: other}), place / "home")
    after = ingest(_config(place), place / "home").table("train").to_pylist()
    assert [data.classes[r["label"]] for r in after if r["text"] == row["text"]] == [other]
    (place / "pool.to-label.csv").unlink()
    assert _offer(place, pool, 8)[0]["doubtful"] == 0


def test_file_that_may_hold_labels_is_not_written_over(place: Path) -> None:
    pool = _table(place / "pool.csv", ["text"], [[_text(i)] for i in range(200, 300)])
    _offer(place, pool, 6)
    with pytest.raises(InputError, match="exists, and may hold labels"):
        _offer(place, pool, 6)


def test_what_is_missing_is_named(place: Path) -> None:
    with pytest.raises(InputError, match=r"data\.chosen: not set; add `chosen: films\.chosen\.jsonl`"):
        take_back(_config(place, chosen=None), place / "films.csv", place / "home")
    with pytest.raises(DataError, match="there is no column 'text'"):
        _offer(place, _table(place / "pool.csv", ["body"], [["a text"]]))
    with pytest.raises(InputError, match=r"none of 1 row is left"):
        _offer(place, _table(place / "empty.csv", ["text"], [[_text(0)]]))
