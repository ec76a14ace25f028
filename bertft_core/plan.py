"""`bertft check`: what a run would do, without training. Imports neither prefect nor mlflow."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertft_core import recipe
from bertft_core.config import RunConfig
from bertft_core.mlflow_config import MlflowConfig
from bertft_core.model.pretrained import layer_count
from bertft_core.state import mask_uri


def plan(config: RunConfig, home: Path, store: MlflowConfig) -> dict[str, Any]:
    """Rows per split, token lengths, rows cut, rate and phase per layer, steps, and what would be registered."""
    from bertft_core.training.unfreezing import rates_table

    prepared = recipe.prepare(config, home)
    dataset, tokens = prepared.dataset, prepared.tokens
    training, search = config.training, config.search
    counts = {s: getattr(dataset, f"n_{s}") for s in ("train", "validation", "test")}
    trials = search.trials if search else 0
    depth = layer_count(Path(prepared.pretrained))
    rates = rates_table(depth, training.lr, training.alpha, training.weight_decay, training.unfreezing)
    sampled = min(search.rows or counts["train"], counts["train"]) if search else counts["train"]
    return {
        "name": config.name,
        "data": f"{dataset.report.rows_read} rows read, {dataset.report.rows_used} used, "
        f"{dataset.report.duplicates_dropped} duplicates dropped, {dataset.report.rows_quarantined} quarantined",
        "classes": list(dataset.classes),
        "splits": [
            {"split": s, "rows": n, "cut": tokens.rows_cut[s], **tokens.percentiles[s]} for s, n in counts.items()
        ],
        "layers": [asdict(row) for row in rates],
        "steps": training.epochs * math.ceil(counts["train"] / training.batch_size),
        "search": f"{trials} trials on {sampled} rows each" if trials else "none: the training values are used",
        "register": f"{store.model_name(config.name)} at {mask_uri(store.store(home).tracking_uri)}, "
        f"experiment {store.experiment}; alias {store.aliases.champion} if the rule holds",
        "warnings": list(dataset.report.warnings),
    }  # fmt: skip
