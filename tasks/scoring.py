"""Score a file with a registered version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bertft_core.errors import InputError
from bertft_core.mlflow_config import MlflowConfig


def predict_file(
    model: str, source: Path, target: Path, config: MlflowConfig, home: Path, *, text: str | None, text_pair: str | None
) -> dict[str, Any]:
    """Score a file with a registered version or an artefact folder; every input column is kept.

    Raises InputError for a missing file, column or unknown kind; the output appears whole or not at all.
    """
    import pandas as pd

    from bertft_core.serving.predictor import Predictor
    from tasks.registry import resolve_model
    from tasks.tracking import open_store

    frame = _read_frame(source)
    uri, folder = resolve_model(open_store(config, home), model)
    predictor = Predictor.load(folder)
    scored = predictor.predict_frame(frame, text=text, text_pair=text_pair)
    clash = [c for c in scored.columns if c in frame.columns]
    kept = frame.rename(columns={c: f"input_{c}" for c in clash})
    result = pd.concat([kept, scored], axis=1).assign(model=uri)
    _write_frame(result, target)
    return {"model": uri, "rows": len(result), "output": str(target), "classes": list(predictor.classes)}


def _read_frame(path: Path) -> Any:
    import pandas as pd

    if not path.is_file():
        raise InputError(f"--input {path}: no such file")
    kind = path.suffix.lower()
    try:
        if kind in {".csv", ".tsv"}:
            return _read_csv(path, "\t" if kind == ".tsv" else None)
        if kind == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        if kind == ".parquet":
            return pd.read_parquet(path)
    except (ValueError, UnicodeError) as fault:
        raise InputError(f"--input {path}: not readable as {kind[1:]} ({str(fault)[:200]})") from fault
    raise InputError(f"--input {path}: unknown kind {kind or '(none)'}; wanted .csv, .tsv, .jsonl or .parquet")


def _read_csv(path: Path, separator: str | None) -> Any:
    """Every field as text ("NA" too); UTF-8, else latin-1; the header's commonest of , ; tab | separates."""
    import pandas as pd

    with open(path, encoding="latin-1") as handle:
        header = handle.readline()
    sep = separator or max(",;\t|", key=header.count)
    try:
        return pd.read_csv(path, encoding="utf-8-sig", sep=sep, keep_default_na=False, dtype=str)
    except UnicodeDecodeError:
        return pd.read_csv(path, encoding="latin-1", sep=sep, keep_default_na=False, dtype=str)


def _write_frame(frame: Any, target: Path) -> None:
    kind = target.suffix.lower()
    if kind not in {".csv", ".tsv", ".jsonl", ".parquet"}:
        raise InputError(f"--output {target}: unknown kind {kind or '(none)'}; wanted .csv, .tsv, .jsonl or .parquet")
    if not target.parent.is_dir():
        raise InputError(f"--output {target}: the folder {target.parent} does not exist")
    part = target.with_name(f".{target.name}.part")
    if kind == ".parquet":
        frame.to_parquet(part, index=False)
    elif kind == ".jsonl":
        frame.to_json(part, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_csv(part, index=False, sep="\t" if kind == ".tsv" else ",")
    os.replace(part, target)
