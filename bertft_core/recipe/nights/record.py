"""A night as MLflow and a person read it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bertft_core.base.files import write_json, write_text
from bertft_core.base.text import plain
from bertft_core.config.store import Store
from bertft_core.evaluation.drift.report import DriftReport, draw_drift
from bertft_core.recipe.nights.log import FAILED, REJECTED, Night
from bertft_core.registry import artifacts
from bertft_core.tracking import store as tracking


def log_night(night: Night, name: str, store: Store, prefect_run: str, drift: DriftReport | None) -> str:
    """Write the night's MLflow run, once; its id."""
    tags = {
        "bertft.name": name,
        "bertft.night": night.night,
        "bertft.outcome": night.outcome,
        "bertft.reason": night.reason[:5000],
        "bertft.pipeline_run": night.run_id or "",
        "bertft.version": night.version or "",
        "prefect.flow_run_id": prefect_run,
        tracking.NOTE: f"{night.outcome}: {plain(night.reason)}"[:5000],
    }
    key = f"{name} {night.started}"
    run_id = tracking.find_or_create_run(store, key, "night", name=f"{name} night {night.night}", tags=tags)
    numbers = {k: float(v) for k, v in night.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    tracking.log_metrics(store, run_id, {"seconds": night.seconds, **numbers})
    if drift is not None:
        with tempfile.TemporaryDirectory(dir=store.home, prefix=artifacts.SCRATCH) as scratch:
            folder = Path(scratch)
            write_json(folder / "drift.json", drift.to_json())
            write_text(folder / "drift.md", drift.to_markdown() + "\n![](drift.png)\n")
            draw_drift(drift).savefig(folder / "drift.png")
            tracking.log_files(store, run_id, [folder], "drift")
    tracking.finish_run(store, run_id, failed=night.outcome in (FAILED, REJECTED))
    return run_id


def as_markdown(night: Night, name: str) -> str:
    """What a person reads in Prefect."""
    trained = [] if night.version is None else [("version", night.version), ("run", night.run_id)]
    facts = [(key.replace("_", " "), _shown(value)) for key, value in night.facts.items()]
    rows = "".join(
        f"| {key} | {plain(str(value))} |\n" for key, value in [*trained, *facts, ("seconds", _shown(night.seconds))]
    )
    title = f"# {plain(name)}, night {night.night}: {night.outcome}"
    return f"{title}\n\n{plain(night.reason)}\n\n| fact | value |\n|---|---:|\n{rows}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
