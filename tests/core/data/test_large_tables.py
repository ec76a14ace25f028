"""What a row costs in memory, stage by stage: numbers of a few bytes each, never a text, its ids or an object."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.tokens.batching import epoch_batches
from bertft_core.data.tokens.twins import RowTraits, find_twins

SMALL, LARGE = 2_000, 6_000
WORDS = 30  # of a row: about 150 bytes of text, 128 bytes of ids


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[int, DatasetSplits]:
    """The same kind of table in two sizes, split."""
    folder, rng, found = tmp_path_factory.mktemp("tables"), np.random.default_rng(0), {}
    for rows in (SMALL, LARGE):
        texts = [" ".join(map(str, row)) for row in rng.integers(100, 999, size=(rows, WORDS))]
        table = pa.table({"text": texts, "label": [f"class {i % 2}" for i in range(rows)]})
        parquet.write_table(table, folder / f"{rows}.parquet")
        found[rows] = prepare_dataset(DataConfig(source=f"{rows}.parquet"), folder / "data", folder)
    return found


def traced(work: Callable[[], Any]) -> int:
    """The most bytes that Python and numpy held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def a_row(work: Callable[[int], Any]) -> float:
    """Bytes that a further row costs; work is given the number of rows."""
    work(SMALL)  # what is imported and cached once
    small, large = (traced(lambda rows=rows: work(rows)) for rows in (SMALL, LARGE))
    return (large - small) / (LARGE - SMALL)


def test_texts_are_read_and_not_kept(tables: dict[int, DatasetSplits]) -> None:
    assert a_row(lambda rows: sum(map(len, tables[rows].joined_texts("train")))) < 20
    assert a_row(lambda rows: tables[rows].joined_texts("train").at(range(10))) < 20


def test_the_batches_of_an_epoch_take_a_few_numbers_a_row() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=LARGE)
    assert a_row(lambda rows: epoch_batches(lengths[:rows], lengths[:rows] % 2, 32, seed=1, epoch=1)) < 60


def test_twins_are_found_by_a_few_numbers_a_row() -> None:
    """Whatever the number of ids."""

    def find(rows: int) -> Any:
        keys, flags = np.arange(2 * rows, dtype=np.uint64).reshape(-1, 2), np.ones(rows, dtype=bool)
        rows_of = RowTraits(keys=keys, is_certain=flags, is_empty=~flags)
        return find_twins([], [rows_of, RowTraits.joined([]), RowTraits.joined([])], [~flags, flags[:0], flags[:0]])

    assert a_row(find) < 150


def test_rows_read_from_disk_are_those_of_the_whole_split(tables: dict[int, DatasetSplits]) -> None:
    dataset = tables[SMALL]
    whole = dataset.table("train")
    texts, places = whole["text"].to_pylist(), [dataset.n_train - 1, 0, 17, 17, 500]
    assert list(dataset.joined_texts("train")) == texts
    assert dataset.joined_texts("train").at(places) == [texts[i] for i in places]
    assert dataset.joined_texts("train")[3:6] == texts[3:6]
    assert dataset.texts("train")[-1] == texts[-1]
    assert dataset.sources("train")[7] == f"{SMALL}.parquet:{whole['row'][7]}"
    assert dataset.rows("train", [2, 1], "label", "text").to_pylist() == [
        {"label": whole["label"][i].as_py(), "text": texts[i]} for i in (2, 1)
    ]
    assert dataset.joined_texts("train").at([]) == []
