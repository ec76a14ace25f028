"""Score a file with a registered version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertft_core.config.store import Store
from bertft_core.registry.artifacts import resolve_model
from bertft_core.serving.tables import TableSettings, score_table


def predict_file(
    model: str,
    source: Path,
    target: Path,
    store: Store,
    settings: TableSettings,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score a file with a registered version or an artefact folder. Raises as `score_table` does."""
    from bertft_core.serving.predictor import Predictor

    uri, folder = resolve_model(store, model)
    predictor = Predictor.load(folder)
    scored = score_table(predictor, source, target, model=uri, settings=settings, on_rows=on_rows)
    faulty = sum(scored.faults.values())
    counts = {"rows": scored.rows, "scored": scored.rows - faulty, "not_scored": faulty, "faults": scored.faults}
    counts |= {"formulas": scored.formulas} if scored.formulas else {}
    return {"model": uri, **counts, "output": str(target), "classes": list(predictor.classes)}
