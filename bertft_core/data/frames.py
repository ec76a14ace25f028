"""Rows in memory as a source: a DataFrame, a `datasets.Dataset`, an Arrow table or a pair of lists.

They are written once as JSON lines under home/frames, named by their content, and read from there like any file: by the
same reader, data gate and splits, by a fit that goes on after a kill, and by a promotion in another process later on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import DataError
from bertft_core.base.files import replacing
from bertft_core.data.formats import cell
from bertft_core.data.readers import named_classes, require_columns

if TYPE_CHECKING:
    from bertft_core.config.run import DataConfig

FOLDER, FILE = "frames", "frame.jsonl"
_WANTED = "a pandas DataFrame, a datasets.Dataset, a pyarrow Table or a pair (texts, labels)"


def is_frame(value: Any) -> bool:
    """Whether a source is rows in memory rather than a place to read from."""
    return value is not None and not isinstance(value, str | Path)


def column_names(rows: Any) -> list[str]:
    """The columns of rows in memory; none of a pair (texts, labels). Raises DataError for what holds no rows."""
    kind = _kind(rows)
    if kind == "pair":
        return []
    return [str(name) for name in (rows.columns if kind == "pandas" else rows.column_names)]


def store_frame(rows: Any, config: DataConfig, home: Path) -> str:
    """Write the columns that `config` names under home/frames, once per content; the file's path, relative to home.

    Other columns, the index and the kind of frame are no part of the content. NaN, NaT and NA are missing values. A
    label of type ClassLabel is its name. Raises DataError for a missing column (naming those found), for texts and
    labels of different lengths, for an empty frame.
    """
    wanted, kind = list(config.columns), _kind(rows)
    if kind == "pair":
        require_columns([config.text, *config.label_columns], config, "a pair (texts, labels)")
        texts, labels = (_cells(part) for part in rows)
        if len(texts) != len(labels):
            raise DataError(f"data: {len(texts)} texts but {len(labels)} labels: one label per text is wanted")
        columns = {config.label_columns[0]: labels, config.text: texts}  # in the order of config.columns
    else:
        require_columns(column_names(rows), config, "the frame")
        columns = {name: _cells(_column(rows, kind, name)) for name in wanted}
        if kind == "datasets" and isinstance(config.label, str):
            columns[config.label] = named_classes(columns[config.label], rows.features[config.label])
    lines = (json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in zip(*columns.values(), strict=True))
    content = "".join(lines).encode("ascii")
    if not content:
        raise DataError("data: the frame holds no rows; wanted labelled rows")
    name = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:32]}/{FILE}"
    target = home / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            part.write_bytes(content)
    return name


def _kind(rows: Any) -> str:
    """pandas, datasets, pyarrow or pair, told without importing the libraries."""
    library, name = type(rows).__module__.partition(".")[0], type(rows).__name__
    if (library, name) in {("pandas", "DataFrame"), ("datasets", "Dataset"), ("pyarrow", "Table")}:
        return library
    if isinstance(rows, tuple | list) and len(rows) == 2 and not any(isinstance(part, str) for part in rows):
        return "pair"
    found = f"{library}.{name}" if library != "builtins" else name
    hint = ': give one split, or data={"train": …, "validation": …, "test": …}' if name.endswith("DatasetDict") else ""
    raise DataError(f"data: wanted {_WANTED}, or a path; found {found}{hint}")


def _column(rows: Any, kind: str, name: str) -> Any:
    if kind == "datasets":
        return rows.with_format(None)[name]
    return next(rows[own] for own in rows.columns if str(own) == name) if kind == "pandas" else rows[name]


def _cells(column: Any) -> list[Any]:
    """The values of a column as JSON holds them."""
    for method in ("to_pylist", "tolist"):
        if hasattr(column, method):
            column = getattr(column, method)()
            break
    return [cell(value) for value in column]
