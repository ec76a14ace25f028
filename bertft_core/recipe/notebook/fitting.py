"""From labelled rows in memory, or a file, to a fitted model in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertft_core.base.errors import ConfigError, DataError
from bertft_core.base.home import open_home
from bertft_core.data.frames import column_names, is_frame
from bertft_core.recipe.chain import OnStage, complete, read_config
from bertft_core.recipe.notebook.progress import ProgressLine
from bertft_core.recipe.notebook.result import NAME, FitResult

_COLUMNS = ("text", "label")  # what they are called where nobody says otherwise


def default_home() -> str:
    """BERTFT_HOME, else .bertft in the working directory, as for the commands."""
    return os.environ.get("BERTFT_HOME") or ".bertft"


def fit(
    rows: Any,
    /,
    text: str | None = None,
    label: str | list[str] | None = None,
    *,
    model: str | Mapping[str, Any],
    home: Path | str | None = None,
    progress: bool | OnStage = True,
    **sections: Any,
) -> FitResult:
    """Split, fine-tune and judge a classifier; the same call again is answered from disk, an interrupted one goes on.

    rows: a pandas DataFrame, a datasets.Dataset, a pyarrow Table, a pair (texts, labels), or what `data.source` names
    (a CSV, JSON or Parquet file, a folder, package://, hf://). text, label: its columns, where they are not called so;
    several label columns are the classes of a multi-label model. model: the encoder, a folder, package://NAME/path or a
    hub id, or the section `model` with what the head reads of it. home: where everything is kept (BERTFT_HOME, else
    .bertft here). progress: a moving line, nothing (False), or a function of (stage, share done, facts).

    sections: the other keys of a configuration (docs/configuration.md), such as training={"epochs": 3},
    search={"trials": 20}, tokenization={"max_length": 128}, data={"group": "customer"}, preset="fast", name="reviews".

    Raises ConfigError, DataError and ModelError, naming key, column or row, what was wanted and what was found.

    >>> result = fit(frame, text="review", label="stars", model="my-encoder")  # doctest: +SKIP
    >>> result.predict(["a fine film"])  # doctest: +SKIP
    """
    given = sections.pop("data", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"data: the rows are the first argument; data= takes further keys, was {type(given).__name__}"
        )
    columns = dict(zip(_COLUMNS, (text, label), strict=True))
    if is_frame(rows) and (found := column_names(rows)):
        missing = [name for name, column in columns.items() if column is None and name not in found]
        if missing:
            raise DataError(
                f"{' and '.join(f'{name}=' for name in missing)}: which column is it? Found: {', '.join(found)}"
            )
    source = rows if is_frame(rows) else os.fspath(rows)
    tree: dict[str, Any] = {"name": NAME, **sections}
    tree["data"] = {"source": source, **{k: v for k, v in columns.items() if v is not None}, **given}
    tree["model"] = {"pretrained": model} if isinstance(model, str) else model
    root = open_home(home or default_home())
    on_stage = (ProgressLine() if progress else None) if isinstance(progress, bool) else progress
    return FitResult(finished=complete(read_config(tree, root), root, on_stage=on_stage))
