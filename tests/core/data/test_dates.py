"""Dates are what they are in every spelling and format, and a table has one reading."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertft_core.base.errors import DataError
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.dates import DateColumn, end_of, read_date
from bertft_core.data.labels import FaultyRow
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.splits import SPLITS

MARCH = dt.datetime(2019, 3, 15, 12, 30, tzinfo=dt.UTC)
SECONDS = int(MARCH.timestamp())


def micro(*date: int) -> int:
    return int(dt.datetime(*date, tzinfo=dt.UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("value", "moment", "reading"),
    [
        ("2019-03-15", micro(2019, 3, 15), "ISO 8601"),
        ("2019-03-15T13:30:00+01:00", SECONDS * 10**6, "ISO 8601"),
        (dt.date(2019, 3, 15), micro(2019, 3, 15), "ISO 8601"),
        (MARCH.replace(tzinfo=None), SECONDS * 10**6, "ISO 8601"),
        (2019, micro(2019, 1, 1), "a year"),
        ("2019", micro(2019, 1, 1), "a year"),
        (2019.0, micro(2019, 1, 1), "a year"),
        (20190315, micro(2019, 3, 15), "YYYYMMDD"),
        (" 20190315 ", micro(2019, 3, 15), "YYYYMMDD"),
        (SECONDS, SECONDS * 10**6, "seconds since 1970"),
        (SECONDS + 0.25, SECONDS * 10**6 + 250_000, "seconds since 1970"),
        (f"{SECONDS}.0", SECONDS * 10**6, "seconds since 1970"),
        (SECONDS * 1000, SECONDS * 10**6, "milliseconds since 1970"),
        (SECONDS * 10**6 + 7, SECONDS * 10**6 + 7, "microseconds since 1970"),
        (str(SECONDS * 10**9 + 7_000), SECONDS * 10**6 + 7, "nanoseconds since 1970"),
    ],
)
def test_a_date_is_read_by_its_own_value(value: Any, moment: int, reading: str) -> None:
    assert read_date(value) == (moment, reading)


@pytest.mark.parametrize(
    "value",
    [0, 86_400, -1, 43_539, 201_903, 20_191_345, 20_190_315_123_000, 5 * 10**10, 10**20, 2019.5, True, "next Tuesday"],
)
def test_a_value_that_is_no_date_or_several_is_a_fault_that_names_it(value: Any) -> None:
    with pytest.raises(FaultyRow, match="unreadable date: '.*', wanted ISO 8601") as fault:
        read_date(value)
    assert str(value) in str(fault.value)


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_no_date_is_a_fault(value: Any) -> None:
    with pytest.raises(FaultyRow, match="missing date"):
        read_date(value)


@pytest.mark.parametrize(("first", "second"), [(SECONDS, SECONDS * 1000), (2019, 20190315), ("2019-03-15", SECONDS)])
def test_a_second_reading_in_one_table_is_refused(first: Any, second: Any) -> None:
    column = DateColumn()
    column.read(first)
    with pytest.raises(DataError, match=r"data\.date: .* one table wants one") as fault:
        column.read(second)
    assert repr(str(first)) in str(fault.value) and repr(str(second)) in str(fault.value)


def test_until_counts_to_the_end_of_its_day_or_includes_its_moment() -> None:
    assert end_of("2019-03-15") == end_of("20190315") == micro(2019, 3, 16)
    assert end_of("2019-03-15T12:30:00") == SECONDS * 10**6 + 1


def prepare(folder: Path, name: str, **settings: Any) -> DatasetSplits:
    return prepare_dataset(DataConfig(source=name, date="when", **settings), folder / "home/datasets", folder)


def write(folder: Path, form: str, dates: list[Any]) -> str:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2], "when": date} for i, date in enumerate(dates)]
    name = f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    elif form == "jsonl":
        (folder / name).write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        with open(folder / name, "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return name


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda day: day.year,
        lambda day: day.year * 10_000 + 315,
        lambda day: f"{day.year}0315",
        lambda day: int(day.timestamp()),
        lambda day: int(day.timestamp()) * 1_000,
        lambda day: int(day.timestamp()) * 10**9,
        lambda day: day,
    ],
    ids=["year", "YYYYMMDD", "YYYYMMDD as text", "seconds", "milliseconds", "nanoseconds", "timestamp"],
)
def test_until_cuts_the_same_rows_in_every_spelling_and_format(
    form: str, spell: Callable[[dt.datetime], Any], tmp_path: Path
) -> None:
    days = [dt.datetime(2019 + i % 7, 3, 15, tzinfo=dt.UTC) for i in range(350)]
    data = prepare(tmp_path, write(tmp_path, form, [spell(day) for day in days]), until="2022-12-31")
    kept = {text for split in SPLITS for text in data.table(split)["text"].to_pylist()}
    assert kept == {f"row {i}" for i in range(350) if i % 7 < 4} and data.report.rows_filtered == 150


def test_a_table_of_two_readings_ends_the_run_and_a_stray_number_is_quarantined(tmp_path: Path) -> None:
    dates: list[Any] = [SECONDS + i for i in range(200)]
    with pytest.raises(DataError, match="is milliseconds since 1970; one table wants one"):
        prepare(tmp_path, write(tmp_path, "csv", [*dates, SECONDS * 1000]))
    data = prepare(tmp_path, write(tmp_path, "jsonl", [*dates, 0]))
    assert data.report.reasons == {"unreadable date": 1} and data.report.rows_used == 200
