"""The encoding of a file by its bytes, and the same table read alike by training, predict and compare."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.encodings import utf16_of
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.sources import Reading, inspect_source
from bertft_core.data.splits import SPLITS
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.registry.comparison import read_labelled
from bertft_core.serving.artifact import ArtifactCard, build_artifact
from bertft_core.serving.predictor import Predictor
from bertft_core.serving.tables import score_table
from bertft_core.testing.encoders import tiny_encoder

BLOCK = 1 << 20  # bytes that are looked at in one go


def csv_text(texts: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [("text", "label"), *((t, "ab"[i % 2]) for i, t in enumerate(texts))]
    )
    return out.getvalue()


def encoding_of(folder: Path, content: bytes, usual: str | None = None) -> str | None:
    (folder / "rows.csv").write_bytes(content)
    (file,) = inspect_source(folder / "rows.csv", DataConfig(source="rows.csv"), Reading(encoding=usual))
    return file.encoding


def prepare(folder: Path, name: str = "rows.csv", **settings: object) -> DatasetSplits:
    return prepare_dataset(DataConfig(source=name, **settings), folder / "home/datasets", folder)


def texts_of(data: DatasetSplits) -> set[str]:
    return {text for split in SPLITS for text in data.table(split)["text"].to_pylist()}


@pytest.mark.parametrize(
    ("sign", "written", "found"),
    [
        ("\u2019 \u20ac \u2013", "cp1252", "cp1252"),
        ("\u00e9 \u00a3 \u00df", "latin-1", "latin-1"),
        ("\u2019 \u00e9", "utf-8", "utf-8"),
        ("\u2019", "utf-8-sig", "utf-8"),
        ("plain", "ascii", "utf-8"),
        ("\x81 \x93", "latin-1", "latin-1"),  # 0x81 is no sign of cp1252
        ("\u0416\u0443\u043a", "utf-16", "utf-16"),
        ("\u0416\u0443\u043a", "utf-16-le", "utf-16-le"),
        ("\u6f22\u5b57", "utf-16-be", "utf-16-be"),
        ("\u0a17\u0a41\u0a30\u0a0a", "utf-16-le", "utf-16-le"),  # Gurmukhi: each letter holds a byte 0x0A
        ("\u0a17\u0a41\u0a30\u0a0a", "utf-16-be", "utf-16-be"),
        ("plain", "utf-16-le", "utf-16-le"),
        ("\U0001f600", "utf-32", "utf-32"),
    ],
)
def test_encoding_is_told_by_the_bytes(sign: str, written: str, found: str, tmp_path: Path) -> None:
    rows = [f"number {i} {sign}" for i in range(60)]
    assert encoding_of(tmp_path, csv_text(rows).encode(written)) == found
    assert texts_of(prepare(tmp_path)) == set(rows)


def test_cp1252_gives_texts_and_classes_as_written_and_says_so(tmp_path: Path) -> None:
    labels = ("b\u2019s", "a")
    rows = "text,label\n" + "".join(f"it\u2019s {i} for \u20ac{i},{labels[i % 2]}\n" for i in range(300))
    (tmp_path / "rows.csv").write_bytes(rows.encode("cp1252"))
    data = prepare(tmp_path)
    assert data.classes == ("a", "b\u2019s") and "it\u2019s 7 for \u20ac7" in texts_of(data)
    assert data.report.encodings == {"cp1252": 1}
    assert data.report.warnings == ("1 file is not UTF-8: read as cp1252 (else: data.encoding)",)


def test_signs_beyond_the_first_block_count_too(tmp_path: Path) -> None:
    filling = "x,a\n" * (BLOCK // 4)
    assert encoding_of(tmp_path, f"text,label\n{filling}it\u2019s,a\n".encode("cp1252")) == "cp1252"
    cut = "text,label\n".ljust(BLOCK - 1, "x") + "\u2019,a\n"  # one sign in two blocks
    assert encoding_of(tmp_path, cut.encode("utf-8")) == "utf-8"
    assert encoding_of(tmp_path, "text,label\nx,a\u2019".encode()[:-1]) == "cp1252"  # cut within a sign: no UTF-8


@pytest.mark.parametrize("place", [40, -1, BLOCK + 20])
def test_one_bad_byte_in_utf_8_is_named_and_makes_no_mojibake(place: int, tmp_path: Path) -> None:
    whole = csv_text([f"it\u2019s {i} caf\u00e9" for i in range(100_000 if place > BLOCK else 60)]).encode()
    place = place if place > 0 else len(whole)
    while place < len(whole) and whole[place] >= 0x80:
        place += 1
    content = whole[:place] + b"\xe9" + whole[place:]
    with pytest.raises(DataError, match=rf"rows\.csv: byte {place} is no UTF-8, while \d+ signs .*data\.encoding"):
        encoding_of(tmp_path, content)
    (tmp_path / "rows.csv").write_bytes(content)
    (file,) = inspect_source(tmp_path / "rows.csv", DataConfig(source="x", encoding="cp1252"))
    assert file.encoding == "cp1252"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "\u0428\u0438\u0440\u043e\u043a\u0430\u044f \u00ab\u042e\u00bb"),
        ("gb2312", "\u6c49\u5b57\u4e2d\u6587\u5f88\u597d"),
        ("euc_kr", "\ud55c\uad6d\uc5b4 \uc601\ud654"),
        ("shift_jis", "\u3042\u3044\u6620\u753b"),
        ("cp1252", "\u00dc\u201c \u00c4rger \u2013 \u00e4\u00f6\u00fc"),
        ("iso8859_7", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac"),
    ],
)
def test_other_encodings_are_no_broken_utf_8(encoding: str, text: str, tmp_path: Path) -> None:
    assert encoding_of(tmp_path, csv_text([f"{text} {i}" for i in range(60)]).encode(encoding)) in ("cp1252", "latin-1")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_json_lines_in_utf_16_are_read(encoding: str, tmp_path: Path) -> None:
    rows = [{"text": f"\u0421\u043b\u043e\u0432\u043e {i}", "label": "ab"[i % 2]} for i in range(60)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(content.encode(encoding))
    assert texts_of(prepare(tmp_path, "rows.jsonl")) == {row["text"] for row in rows}


@pytest.mark.parametrize(
    "content", [b"text,label\nx\0y,a\n", b"\x00\x01\x02text,label\n", b"text,label\n\0\0\0\0x,a\n"]
)
def test_a_stray_nul_is_no_utf_16(content: bytes, tmp_path: Path) -> None:
    assert utf16_of(content) is None
    with pytest.raises(DataError, match="NUL byte at byte"):
        encoding_of(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "usual", "found"),
    [
        ("\u3042".encode("shift_jis"), "shift_jis", "shift_jis"),
        ("\u3042".encode(), "shift_jis", "utf-8"),  # it tells
        (b"plain", "cp1251", "cp1251"),
        (b"plain", "utf-16", "utf-8"),  # no NUL, so it is none
        ("\u3042".encode("iso2022_jp"), "iso2022_jp", "iso2022_jp"),
        ("\u3042".encode("utf-16"), "shift_jis", "utf-16"),
    ],
)
def test_usual_encoding_is_for_files_that_do_not_tell(content: bytes, usual: str, found: str, tmp_path: Path) -> None:
    assert encoding_of(tmp_path, content, usual=usual) == found


@pytest.mark.parametrize("encoding", [None, "mac_roman", "cp1252", "shift_jis", "utf-16-be"])
def test_training_predict_and_compare_read_the_same_texts(encoding: str | None, tmp_path: Path) -> None:
    sign = "\u3042\uff71" if encoding == "shift_jis" else "it\u2019s \u00e9"
    rows = [f'{i}, "{sign}";\nNA' for i in range(60)]
    (tmp_path / "rows.csv").write_bytes(csv_text(rows).encode(encoding or "cp1252"))
    trained = prepare(tmp_path, encoding=encoding)
    assert texts_of(trained) == set(rows)
    encoder = tiny_encoder(tmp_path / "encoder", layers=1)
    model = save_classifier(load_classifier(encoder, trained.classes, seed=5), encoder, tmp_path / "fit", ("a", "b"))
    card = ArtifactCard(max_length=24, truncation="head", classes=trained.classes, encoding=encoding)
    predictor = Predictor.load(build_artifact(model, tmp_path / "served", card))
    score_table(predictor, tmp_path / "rows.csv", tmp_path / "out.jsonl", model="m")
    scored = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    compared = read_labelled(tmp_path / "rows.csv", predictor.card, None)
    assert scored == rows == list(compared.texts)


def test_an_encoding_given_to_predict_and_compare_wins(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(csv_text(["\u0436\u0443\u043a", "\u043a\u043e\u0442"]).encode("cp1251"))
    card = ArtifactCard(max_length=24, truncation="head", classes=("a", "b"), encoding="cp1252")
    assert read_labelled(tmp_path / "rows.csv", card, None).texts[0] == "\u00e6\u00f3\u00ea"
    assert read_labelled(tmp_path / "rows.csv", card, None, "cp1251").texts == (
        "\u0436\u0443\u043a",
        "\u043a\u043e\u0442",
    )
    with pytest.raises(DataError, match=r"no utf-8 .*predict and compare: --encoding"):
        read_labelled(tmp_path / "rows.csv", card, None, "utf-8")
    with pytest.raises(DataError, match="'utf-nine' is no encoding"):
        read_labelled(tmp_path / "rows.csv", card, None, "utf-nine")
