"""CSV and TSV with and without quoting: no row swallows others, and every line is accounted for."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.delimited import csv_records
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.sources import Reading, inspect_source
from bertft_core.data.splits import SPLITS
from bertft_core.registry.comparison import read_labelled
from bertft_core.serving.artifact import ArtifactCard

Rows = list[tuple[str, str]]
CARD = ArtifactCard(max_length=24, truncation="head", classes=("neg", "pos"))


def plain(n: int = 300) -> Rows:
    return [(f"the film number {i} was {'good' if i % 2 else 'bad'} to see", ("neg", "pos")[i % 2]) for i in range(n)]


def marked(begins: int = 50, ends: int = 90) -> Rows:
    """One sentence begins with a quotation mark, a later one ends with one."""
    rows = plain()
    rows[begins] = (f'"{rows[begins][0]}', rows[begins][1])
    rows[ends] = (f'{rows[ends][0]} "', rows[ends][1])
    return rows


def write(folder: Path, rows: Rows, name: str = "rows.tsv", quoting: int = csv.QUOTE_NONE, end: str = "\n") -> Path:
    delimiter = "\t" if name.endswith(".tsv") else ","
    with open(folder / name, "w", newline="", encoding="utf-8") as out:
        if quoting == csv.QUOTE_NONE:
            out.write("".join(f"{text}{delimiter}{label}{end}" for text, label in [("text", "label"), *rows]))
        else:
            csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(
                [("text", "label"), *rows]
            )
    return folder / name


def prepare(path: Path, **settings: object) -> DatasetSplits:
    config = DataConfig(source=path.name, **settings)
    return prepare_dataset(config, path.parent / "home/datasets", path.parent)


def rows_of(data: DatasetSplits) -> set[tuple[str, str]]:
    return {(r["text"], data.classes[r["label"]]) for s in SPLITS for r in data.table(s).to_pylist()}


def quoting_of(path: Path, usual: str = "auto") -> str:
    (file,) = inspect_source(path, DataConfig(source=path.name), Reading(quoting=usual))
    assert file.dialect is not None
    return file.dialect.quoting


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv"])
def test_file_without_quoting_keeps_its_lines_and_marks(name: str, end: str, tmp_path: Path) -> None:
    data = prepare(write(tmp_path, marked(), name, end=end))
    assert rows_of(data) == set(marked()) and data.report.rows_read == 300
    assert data.report.quoting == "none" and "1 file is read without quoting" in data.report.warnings[0]


@pytest.mark.parametrize("text", ['"never closed', '"Great" they said, and left', '"odd" one "out', '"a" "b'])
def test_marks_that_are_no_quoting_are_part_of_the_text(text: str, tmp_path: Path) -> None:
    rows = [*plain(), (text, "pos")]
    assert rows_of(prepare(write(tmp_path, rows))) == set(rows)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv"])
def test_quoted_texts_of_several_lines_are_read_whole(name: str, quoting: int, tmp_path: Path) -> None:
    rows = [(f'{text}\nand "so" on, he said\n', label) for text, label in plain()]
    data = prepare(write(tmp_path, rows, name, quoting))
    assert rows_of(data) == set(rows) and data.report.quoting == "auto" and data.report.warnings == ()


@pytest.mark.parametrize(
    "order", ["label,text", "id,label,text", "text,label,note", "note,label,text", "text,note,label"]
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("delimiter", "end"), [(",", "\n"), (",", "\r\n"), ("\t", "\n")])
@pytest.mark.parametrize("second", ["second line", "second, line {i}", ", pos", "", "pos"])
def test_line_break_in_a_quoted_field_is_no_row_wherever_the_label_stands(
    order: str, quoting: int, delimiter: str, end: str, second: str, tmp_path: Path
) -> None:
    names, rows = order.split(","), []
    for i in range(60):
        text = f"see film {i}" if i % 5 else f"see film {i}{end}{second}"
        row = {"id": str(i), "label": ("neg", "pos")[i // 2 % 2], "note": "" if i % 10 > 1 else f"a{end}note"}
        rows.append([(row | {"text": text.replace("{i}", str(i)).replace(",", delimiter)})[name] for name in names])
    with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([names, *rows])
    (file,) = inspect_source(tmp_path / "rows.csv", DataConfig(source="rows.csv"))
    assert file.dialect is not None and file.dialect.delimiter == delimiter
    assert [record for _, record in csv_records(file, file.dialect)] == rows


def test_row_quoted_in_a_text_is_text_where_every_field_is_quoted(tmp_path: Path) -> None:
    rows = [*plain(), ('see this row:\ngreat film,pos\nor "this","pos"\nand more', "neg")]
    assert rows_of(prepare(write(tmp_path, rows, "rows.csv", csv.QUOTE_ALL))) == set(rows)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("begins", "ends"), [(50, 90), (50, 51), (0, 299)])
def test_marks_of_two_rows_join_none_between_them(
    order: tuple[int, int], begins: int, ends: int, tmp_path: Path
) -> None:
    rows = marked(begins, ends)
    lines = ["\t".join([row[place] for place in order]) for row in [("text", "label"), *rows]]
    (tmp_path / "rows.tsv").write_text("\n".join(lines) + "\n")
    data = prepare(tmp_path / "rows.tsv")
    assert rows_of(data) == set(rows) and data.report.quoting == "none"


def test_one_broken_row_of_a_quoted_file_is_its_own_fault(tmp_path: Path) -> None:
    path = write(tmp_path, plain(), "rows.csv", csv.QUOTE_ALL)
    path.write_text(path.read_text().replace('number 9 was good to see","pos"', 'number 9 was good to see,"pos"'))
    data = prepare(path)
    assert data.report.reasons == {"broken quoting": 1} and rows_of(data) == set(plain()) - {plain()[9]}


def test_field_with_rows_inside_is_a_fault_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, marked(), "rows.csv")
    path.write_text(path.read_text() + '"one, two",pos\n')  # so that no reading fits every line
    with pytest.raises(DataError, match="41 rows inside a quoted field"):
        prepare(path)
    data = prepare(path, max_faulty_share=0.2)
    assert data.report.rows_read == 301 == data.report.rows_used + 41
    faults = [json.loads(line) for line in (data.path / "quarantine.jsonl").read_text().splitlines()]
    assert "line 52 of the lines 52 to 92" in faults[0]["reason"] and "data.quoting: none" in faults[0]["reason"]
    assert [fault["row"] for fault in faults] == list(range(51, 92))
    told = prepare(path, quoting="standard", max_faulty_share=0.2)
    assert told.report.reasons == {"rows inside a quoted field": 41} and rows_of(told) == rows_of(data)
    with pytest.raises(DataError, match="1 wrong number of fields"):
        prepare(path, quoting="none", max_faulty_share=0)


@pytest.mark.parametrize("quoting", ["auto", "standard"])
def test_text_that_quotes_a_row_is_a_fault_also_where_the_user_says_standard(quoting: str, tmp_path: Path) -> None:
    rows = [*plain(), ("see this row:\ngreat film,pos\nand more", "neg")]
    path = write(tmp_path, rows, "rows.csv", csv.QUOTE_MINIMAL)
    data = prepare(path, quoting=quoting, max_faulty_share=0.1)
    assert data.report.reasons == {"rows inside a quoted field": 3} and rows_of(data) == set(plain())


def test_undecided_file_is_read_as_the_training_rows_were(tmp_path: Path) -> None:
    path = write(tmp_path, [*plain(), ('"Wonderful"', "pos")])
    assert (quoting_of(path), quoting_of(path, "none")) == ("standard", "none")
    quoted = write(tmp_path, [(f"{t}, and", label) for t, label in plain()], "quoted.csv", csv.QUOTE_ALL)
    assert quoting_of(quoted, "none") == "standard"
    assert read_labelled(path, CARD, None).texts[-1] == "Wonderful"
    assert read_labelled(path, replace(CARD, quoting="none"), None).texts[-1] == '"Wonderful"'


def test_field_above_the_limit_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [*plain(), ("x, " * 7_000_000, "pos")], "rows.csv", csv.QUOTE_MINIMAL)
    assert prepare(path).report.reasons == {"field too long": 1}


@pytest.mark.parametrize("seed", range(12))
def test_rows_in_are_rows_used_quarantined_and_dropped(seed: int, tmp_path: Path) -> None:
    """Random texts with marks, delimiters and line ends, written with quoting or without, in every order."""
    rng = random.Random(seed)
    pieces = ["good", "bad", " ", ", ", '"', '""', "it's", "\u2019", "NA", "#", ";", "|"]
    unquoted = seed % 2 == 0
    pieces = pieces if unquoted else [*pieces, "\n", "\t", ",pos\n"]
    rows = [("".join(rng.choices(pieces, k=8)) + f" {i}", rng.choice(["neg", "pos"])) for i in range(200)]
    end, quoting = rng.choice(["\n", "\r\n"]), csv.QUOTE_NONE if unquoted else csv.QUOTE_ALL
    path = write(tmp_path, rows, "rows.tsv", quoting, end)
    data = prepare(path, max_faulty_share=1.0)
    report = data.report
    assert report.rows_read == report.rows_used + report.rows_quarantined + report.duplicates_dropped
    if unquoted:
        assert report.rows_read == 200 and rows_of(data) <= set(rows)
    else:
        lines = path.read_text(encoding="utf-8").count("\n") - 1
        assert 200 <= report.rows_read <= lines
        assert report.rows_quarantined or rows_of(data) == set(rows)
