"""Score a file with a registered version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertft_core.config.store import Store
from bertft_core.registry.artifacts import resolve_model


def predict_file(
    model: str,
    source: Path,
    target: Path,
    store: Store,
    *,
    text: str | None,
    text_pair: str | None,
    encoding: str | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score a file with a registered version or an artefact folder. Raises as `score_table` does."""
    from bertft_core.serving.predictor import Predictor
    from bertft_core.serving.tables import score_table

    uri, folder = resolve_model(store, model)
    predictor = Predictor.load(folder)
    rows = score_table(
        predictor, source, target, model=uri, text=text, text_pair=text_pair, encoding=encoding, on_rows=on_rows
    )
    return {"model": uri, "rows": rows, "output": str(target), "classes": list(predictor.classes)}
