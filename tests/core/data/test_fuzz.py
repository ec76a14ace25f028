"""Random tables in every encoding, quoting, delimiter, line end, compression, label and date type: nothing is lost."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS

ENCODINGS = {  # with signs that each can write
    "utf-8": "\u2019\u00e9\u6f22\U0001f600",
    "utf-8-sig": "\u2019\u00e9\u6f22",
    "cp1252": "\u2019\u20ac\u00e9",
    "latin-1": "\u00e9\u00a3\u00df",
    "utf-16": "\u0436\u6f22\U0001f600",
    "utf-16-le": "\u0436\u6f22",
    "utf-16-be": "\u0a17\u0a0a\u2019",
}
LABELS: list[list[Any]] = [["a", "b", "c"], [0, 1, 2], [0.0, 1.0, 2.0], [True, False], ["\u00e9t\u00e9", "e\u0301te"]]
PACKED = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress}


def prepare(path: Path, **settings: Any) -> DatasetSplits:
    config = DataConfig(source=path.name, date="day", until="2024-12-31", max_faulty_share=1.0, **settings)
    return prepare_dataset(config, path.parent / "home/datasets", path.parent)


def found(data: DatasetSplits) -> dict[str, tuple[str, str, bytes]]:
    return {
        row["text"]: (split, data.classes[row["label"]], row["fingerprint"])
        for split in SPLITS
        for row in data.table(split).to_pylist()
    }


@pytest.mark.parametrize("seed", range(28))
def test_every_row_is_used_quarantined_dropped_or_filtered_and_formats_agree(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    encoding = list(ENCODINGS)[seed % len(ENCODINGS)]
    labels = list(LABELS[seed % len(LABELS)])
    if not encoding.startswith("utf"):
        labels = [
            label if not isinstance(label, str) else label.encode("ascii", "replace").decode() for label in labels
        ]
    is_quoted = rng.random() < 0.5
    delimiter, end = rng.choice(",;\t|"), rng.choice(["\n", "\r\n"])
    pieces = ["good ", "bad ", "NA", "it's", "'", *ENCODINGS[encoding]]
    pieces += ['"', '""', ", ", "; ", "\n", "\t", "|"] if is_quoted else ['"']
    days = [dt.date(2021, 1, 1) + dt.timedelta(days=rng.randrange(2_200)) for _ in range(200)]
    spell = [
        lambda d: d.isoformat(),
        lambda d: int(f"{d:%Y%m%d}"),
        lambda d: (d - dt.date(1970, 1, 1)).days * 86_400_000,
    ][seed % 3]
    rows = [
        {"text": f"{''.join(rng.choices(pieces, k=7)).strip()} {i}", "label": rng.choice(labels), "day": spell(day)}
        for i, day in enumerate(days)
    ]
    out = io.StringIO()
    if is_quoted:
        writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end)
        writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    else:
        table = [list(rows[0]), *(row.values() for row in rows)]
        out.write("".join(delimiter.join(map(str, row)) + end for row in table))
    suffix, pack = rng.choice(list(PACKED.items()))
    path = tmp_path / f"rows.csv{suffix}"
    path.write_bytes(pack(out.getvalue().encode(encoding)))
    (tmp_path / "rows.json").write_text(json.dumps(rows) if seed % 2 else "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, *others = (prepare(tmp_path / name) for name in (path.name, "rows.json", "rows.parquet"))
    kept = {row["text"] for row, day in zip(rows, days, strict=True) if day.year < 2025}
    for data in (first, *others):
        report = data.report
        assert report.rows_read == report.rows_used + report.rows_quarantined + report.duplicates_dropped
        assert report.rows_read + report.rows_filtered == 200 and report.rows_quarantined == 0
        assert set(found(data)) == kept
    assert found(first) == found(others[0]) == found(others[1])
    assert first.classes == others[0].classes == others[1].classes
