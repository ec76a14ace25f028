"""Files of any kind and size are scored row by row, and the output is whole or absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.base.errors import DataError, InputError
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.serving import tables
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.predictor import Predictor
from bertft_core.serving.tables import ScoredTable, TableSettings, score_table
from bertft_core.testing.encoders import tiny_encoder

CLASSES = ("ham", "spam")
TEXTS = ["good film", "NA", 'a "quoted"; text\nin two lines', "café", "bad plot " * 40]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("tables")
    encoder = tiny_encoder(root / "encoder", layers=2, seed=3)
    model = save_classifier(load_classifier(encoder, CLASSES, seed=5), encoder, root / "fit", CLASSES)
    card = ArtifactCard(max_length=24, truncation="head", classes=CLASSES, text="body", label="topic")
    return Predictor.load(build_artifact(model, root / "served", card))


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8", texts: list[str] = TEXTS) -> Path:
    with open(path, "w", newline="", encoding=encoding) as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerow(["id", "body", "label"])
        writer.writerows([str(i), text, "old"] for i, text in enumerate(texts))
    return path


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "latin-1"), ("\t", "utf-8")])
def test_csv_keeps_every_column_and_row(predictor: Predictor, tmp_path: Path, delimiter: str, encoding: str) -> None:
    source = write_csv(tmp_path / "in.csv", delimiter, encoding)
    scored = score_table(predictor, source, tmp_path / "out.csv", model="m")
    assert scored == ScoredTable(rows=5, faults={})
    out = read_csv(tmp_path / "out.csv")
    assert [r["body"] for r in out] == TEXTS and [r["id"] for r in out] == list("01234")
    assert {r["input_label"] for r in out} == {"old"} and {r["label"] for r in out} <= set(CLASSES)
    wanted = predictor.probabilities(TEXTS)
    found = np.array([[float(r[f"probability_{c}"]) for c in CLASSES] for r in out])
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_batches_change_nothing_but_memory(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path / "in.csv", texts=[f"text {i} " * (1 + i % 7) for i in range(50)])
    score_table(predictor, source, tmp_path / "whole.csv", model="m")
    monkeypatch.setattr(tables, "_ROWS", 7)
    seen: list[int] = []
    score_table(predictor, source, tmp_path / "parts.csv", model="m", on_rows=seen.append)
    whole, parts = read_csv(tmp_path / "whole.csv"), read_csv(tmp_path / "parts.csv")
    assert seen[:2] == [7, 14] and seen[-1] == 50
    assert [r["label"] for r in whole] == [r["label"] for r in parts]
    np.testing.assert_allclose(*([float(r["confidence"]) for r in t] for t in (whole, parts)), atol=1e-6)


def test_json_lines_keep_nested_values_and_late_keys(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROWS", 1)
    rows = [{"body": "good film", "meta": {"a": [1]}}, {"body": "bad plot", "late": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    score_table(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", model="m")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert out[0]["meta"] == {"a": [1]} and out[1]["late"] == 2 and out[0]["model"] == "m"


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["good film", "", "bad plot, really, bad", "", "", "x", "", ""], None),  # no row of the last two
        (['"so, good"', "", '"two', 'lines"', '"a ""b"""'], ["so, good", "", "two\nlines", 'a "b"']),
        (['"Great" they said, and left', "", 'he said "no", twice'], None),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_line_of_one_column_is_a_cell(
    predictor: Predictor, tmp_path: Path, lines: list[str], texts: list[str] | None, end: str
) -> None:
    wanted = texts or lines[:6]
    (tmp_path / "in.csv").write_text(end.join(["", "body", *lines, ""]), encoding="utf-8", newline="")
    score_table(predictor, tmp_path / "in.csv", tmp_path / "out.jsonl", model="m")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["body"].replace("\r", "") for row in out] == wanted
    assert [row["label"] in CLASSES for row in out] == [bool(text) for text in wanted]


@pytest.mark.parametrize("batch", [1, 2])
def test_lists_beside_a_text_leave_a_row_a_row(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(tables, "_ROWS", batch)
    rows = [{"body": "good film", "tags": ["x", "y"]}, {"body": "", "tags": ["z"]}, {"body": ["a", "b"], "tags": []}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    score_table(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl", model="m")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["label"] in CLASSES for row in out] == [True, False, False]
    assert [row["error"] for row in out] == [None, "body must be a text, was ''", "body must be a text, was ['a', 'b']"]
    assert [row["tags"] for row in out] == [["x", "y"], ["z"], []]


def test_late_key_is_refused_in_csv_and_leaves_nothing(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROWS", 1)
    (tmp_path / "in.jsonl").write_text('{"body": "a"}\n{"body": "b", "late": 2}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"'late' first occurs in row 2"):
        score_table(predictor, tmp_path / "in.jsonl", tmp_path / "out.csv", model="m")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_parquet_in_and_out_keeps_types(predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": TEXTS, "n": list(range(5))}), tmp_path / "in.parquet")
    score_table(predictor, tmp_path / "in.parquet", tmp_path / "out.parquet", model="m")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["n"].to_pylist() == list(range(5)) and out["n"].type == pa.int64()
    assert out["label"].to_pylist() == predictor.predict_frame({"text": TEXTS})["label"].tolist()


STRICT = TableSettings(strict=True)


def test_empty_text_ends_a_strict_reading_and_leaves_no_output(predictor: Predictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", texts=["good", "  "])
    with pytest.raises(InputError, match="body in row 2 must be a text"):
        score_table(predictor, source, tmp_path / "out.csv", model="m", settings=STRICT)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


def test_broken_csv_row_ends_a_strict_reading(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,body\n1,good\n2,bad,surplus\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2: wrong number of fields: 3"):
        score_table(predictor, tmp_path / "in.csv", tmp_path / "out.csv", model="m", settings=STRICT)


def test_a_strict_reading_has_no_column_error(predictor: Predictor, tmp_path: Path) -> None:
    score_table(predictor, write_csv(tmp_path / "in.csv"), tmp_path / "out.csv", model="m", settings=STRICT)
    assert "error" not in read_csv(tmp_path / "out.csv")[0]


@pytest.mark.parametrize("batch", [1, 2, 4096])
def test_every_row_comes_out_in_order_and_says_why_it_has_no_answer(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(tables, "_ROWS", batch)
    text = 'id,body\n0,\n1,good film\n2,"  "\n3,bad,surplus\n4,bad plot\n5\n6,a "quote\n7,café\n'
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    scored = score_table(predictor, tmp_path / "in.csv", tmp_path / "out.csv", model="m")
    assert scored == ScoredTable(rows=8, faults={"body must be a text": 2, "wrong number of fields": 2})
    out = read_csv(tmp_path / "out.csv")
    assert [r["id"] for r in out] == ["0", "1", "2", "", "4", "", "6", "7"]
    assert [bool(r["error"]) for r in out] == [True, False, True, True, False, True, False, False]
    assert out[2]["error"] == "body must be a text, was '  '"
    assert out[3]["error"] == "wrong number of fields: 3, the header has 2"
    answers = ("label", "confidence", "abstain", "probability_ham", "probability_spam")
    assert all(bool(r[name]) is not bool(r["error"]) for r in out for name in answers)
    assert {r["model"] for r in out} == {"m"}
    wanted = predictor.probabilities(["good film", "bad plot", 'a "quote', "café"])
    found = [[float(r[f"probability_{c}"]) for c in CLASSES] for r in out if not r["error"]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".csv"])
def test_rows_without_an_answer_keep_the_types_of_the_others(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tables, "_ROWS", 2)
    values = [None, 7, "good film", "bad plot", "half \ud83d sign", "x"]
    lines = [json.dumps({"body": value, "n": i}) + "\n" for i, value in enumerate(values)]
    (tmp_path / "in.jsonl").write_text("".join(lines), encoding="utf-8")
    source = tmp_path / "in.jsonl"
    if kind == ".parquet":
        source = tmp_path / "in.parquet"
        texts = [v if isinstance(v, str) and "half" not in v else None for v in values]
        pq.write_table(pa.table({"body": texts, "n": list(range(6))}), source)
    scored = score_table(predictor, source, tmp_path / f"out{kind}", model="m")
    assert scored == ScoredTable(rows=6, faults={"body must be a text": 3})
    if kind == ".parquet":
        out = pq.read_table(tmp_path / "out.parquet").to_pylist()
    elif kind == ".jsonl":
        out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    else:
        out = [{k: v or None for k, v in row.items()} for row in read_csv(tmp_path / "out.csv")]
    assert [row["label"] is None for row in out] == [True, True, False, False, True, False]
    assert [row["error"] is None for row in out] == [False, False, True, True, False, True]
    assert [str(row["n"]) for row in out] == list("012345")
    if kind != ".csv":
        assert out[0]["confidence"] is None or np.isnan(out[0]["confidence"])
        assert out[2]["abstain"] is False and out[0]["abstain"] is None


@pytest.mark.parametrize(
    ("source", "target", "match"),
    [
        ("gone.csv", "out.csv", "no such file"),
        ("in.csv", "out.xlsx", "unknown kind"),
        ("in.csv", "no/out.csv", "does not exist"),
        ("in.txt", "out.csv", "unknown kind"),
        ("header.csv", "out.csv", "holds no rows"),
        ("empty.csv", "out.csv", "empty"),
    ],
)
def test_impossible_files_are_named(predictor: Predictor, tmp_path: Path, source: str, target: str, match: str) -> None:
    write_csv(tmp_path / "in.csv")
    (tmp_path / "in.txt").write_text("x")
    (tmp_path / "header.csv").write_text("body\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises((InputError, DataError), match=match):
        score_table(predictor, tmp_path / source, tmp_path / target, model="m")
    assert not list(tmp_path.glob("*.part*")) and not list(tmp_path.glob("out*"))


HOSTILE = ["=1+1", "-0.5", "@user thanks", "- a bullet", "\t=x", "plain"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_formulas_are_written_as_text_and_counted(predictor: Predictor, tmp_path: Path, suffix: str) -> None:
    source = write_csv(tmp_path / "in.csv", texts=HOSTILE)
    source.write_text(source.read_text(encoding="utf-8").replace("id,body", "=id,body"), encoding="utf-8")
    scored = score_table(predictor, source, tmp_path / f"out{suffix}", model="m")
    with open(tmp_path / f"out{suffix}", newline="", encoding="utf-8") as handle:
        out = list(csv.DictReader(handle, delimiter="\t" if suffix == ".tsv" else ","))
    assert [row["body"] for row in out] == ["'=1+1", "-0.5", "'@user thanks", "'- a bullet", "'\t=x", "plain"]
    assert scored.formulas == 4 and "'=id" in out[0]


def test_verbatim_and_formats_for_programs_keep_every_sign(predictor: Predictor, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", texts=HOSTILE)
    scored = score_table(predictor, source, tmp_path / "o.csv", model="m", settings=TableSettings(verbatim=True))
    assert [row["body"] for row in read_csv(tmp_path / "o.csv")] == HOSTILE and scored.formulas == 0
    score_table(predictor, source, tmp_path / "o.parquet", model="m")
    assert pq.read_table(tmp_path / "o.parquet")["body"].to_pylist() == HOSTILE
