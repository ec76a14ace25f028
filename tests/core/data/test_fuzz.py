"""Tables of any encoding, quoting, line end, compression, label and date type, drawn by hypothesis: no row is lost."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS

ENCODINGS = {  # signs that each can write; the first makes the bytes no UTF-8 where it is another one
    "utf-8": "\u2019\u00e9\u6f22\U0001f600\u200b\u0301\u2028",
    "utf-8-sig": "\u2019\u00e9\u6f22",
    "cp1252": "\u2019\u20ac\u00e9\u2026",
    "latin-1": "\u00e9\u00a3\u00df\u00a0",
    "utf-16": "\u0436\u6f22\U0001f600",
    "utf-16-le": "\u0436\u6f22",
    "utf-16-be": "\u0a17\u0a0a\u2019",
}
LABELS: list[list[Any]] = [["a", "b"], [0, 1, 2], [0.0, 1.0], [True, False], ["e", "E "], [10, 20], ["1.5", "NA"]]
DAYS: list[Callable[[dt.date], Any]] = [
    dt.date.isoformat,
    lambda day: int(f"{day:%Y%m%d}"),
    lambda day: (day - dt.date(1970, 1, 1)).days * 86_400,
    lambda day: (day - dt.date(1970, 1, 1)).days * 86_400_000,
]
QUOTING = {"minimal": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL, "none": csv.QUOTE_NONE}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress}
ANCHORS = 60  # rows that give every split rows of every class


@st.composite
def tables(draw: Any) -> dict[str, Any]:
    """How a table is written, and its rows: anchors and a few wild ones."""
    encoding = draw(st.sampled_from(list(ENCODINGS)))
    quoting, delimiter = draw(st.sampled_from(list(QUOTING))), draw(st.sampled_from(",;\t|"))
    labels, spell = draw(st.sampled_from(LABELS)), draw(st.sampled_from(DAYS))
    kept = {"none": '"', "minimal": '",;\t|\n', "all": '",;\t|\n\r'}  # csv.writer leaves a lone \r without marks
    signs = "ab .!'" + ENCODINGS[encoding] + kept[quoting]
    text = st.text(signs.replace(delimiter, "") if quoting == "none" else signs, max_size=12)
    days = st.dates(dt.date(2021, 1, 1), dt.date(2027, 1, 1))
    wild = draw(st.lists(st.tuples(text, st.sampled_from([*labels, None]), days), max_size=25))
    first = dt.date(2022, 1, 1)
    rows = [
        (f"the row {i} is {'ab'[i % 2]} {ENCODINGS[encoding][0]} here", labels[i % len(labels)], first)
        for i in range(ANCHORS)
    ]
    return {
        "encoding": encoding,
        "quoting": quoting,
        "delimiter": delimiter,
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "pack": draw(st.sampled_from(list(PACKED))),
        "is_array": draw(st.booleans()),
        "rows": [{"text": text, "label": label, "day": spell(day)} for text, label, day in (*rows, *wild)],
    }


def written(table: dict[str, Any], folder: Path) -> list[Path]:
    """The table as CSV, JSON (an array or lines) and Parquet."""
    rows, out = table["rows"], io.StringIO()
    cells = [["" if value is None else value for value in row.values()] for row in rows]
    if table["quoting"] == "none":
        lines = [table["delimiter"].join(map(str, row)) for row in [list(rows[0]), *cells]]
        out.write("".join(line + table["end"] for line in lines))
    else:
        kind = QUOTING[table["quoting"]]
        csv.writer(out, delimiter=table["delimiter"], quoting=kind, lineterminator=table["end"]).writerows(
            [list(rows[0]), *cells]
        )
    path = folder / f"rows.csv{table['pack']}"
    path.write_bytes(PACKED[table["pack"]](out.getvalue().encode(table["encoding"])))
    document = folder / "rows.json"
    document.write_text(json.dumps(rows) if table["is_array"] else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return [path, document, folder / "rows.parquet"]


def prepare(path: Path, quoting: str) -> DatasetSplits:
    config = DataConfig(
        source=path.name,
        date="day",
        until="2024-12-31",
        max_faulty_share=1.0,
        min_class_rows=1,
        split={"validation": 0.3, "test": 0.3},
        quoting="none" if quoting == "none" and path.name.startswith("rows.csv") else "auto",
    )
    return prepare_dataset(config, path.parent / "home/datasets", path.parent)


def found(data: DatasetSplits) -> dict[str, tuple[str, str, bytes]]:
    return {
        row["text"]: (split, data.classes[row["label"]], row["fingerprint"])
        for split in SPLITS
        for row in data.table(split).to_pylist()
    }


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(table=tables())
def test_every_row_is_used_quarantined_dropped_or_filtered_and_formats_agree(table: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, *others = (prepare(path, table["quoting"]) for path in written(table, Path(folder)))
        for data in (first, *others):
            report = data.report
            assert report.rows_read == report.rows_used + report.rows_quarantined + report.duplicates_dropped
            assert report.rows_read + report.rows_filtered == len(table["rows"])
            assert report.rows_used == data.n_train + data.n_validation + data.n_test >= ANCHORS - 1
            assert report.rows_quarantined == sum(report.reasons.values())
            assert report.reasons == first.report.reasons
        assert first.classes == others[0].classes == others[1].classes
        assert found(first) == found(others[0]) == found(others[1])
